"""What `extpose plan` counts against what is measured: `python tests/benchmarks/bench_plan.py`.

Activations by torch's saved-tensor hooks; model states as bytes of live tensors of each ZeRO stage
with two workers (of gloo, on this machine); seconds of a training step with the rate of a matrix
product, which gives the MFU of this machine. No GPU is needed, and none is measured.
"""

import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from extpose.model.extpose import ExtPose
from extpose.recipes import SMALL, TINY
from extpose.training.flops import training_flops
from extpose.training.memory import activations, buffers, model_states, parameter_sizes
from extpose.training.throughput import find_peak
from tests.training.saved import saved_bytes
from tests.training.zero_memory import MODEL

MB = 1e6


def print_row(name: str, counted: float, measured: float) -> None:
    """One line."""
    print(f"{name:<44}{counted / MB:>10.2f}{measured / MB:>10.2f}{counted / measured - 1:>+8.1%}")


def print_activations() -> None:
    """Small networks, both precisions, with and without recomputation."""
    print(f"{'activations kept, MB (2 clips)':<44}{'counted':>10}{'measured':>10}{'error':>8}")
    small = replace(SMALL, depth=4, max_frames=4, drop_path=0.0)
    for name, config in (("tiny", TINY), ("small, 4 of 12 blocks", small)):
        for precision in ("fp32", "bf16"):
            for checkpointing in (False, True):
                settings = {"clips": 2, "num_frames": 4, "precision": precision}
                counted = activations(config, **settings, checkpointing=checkpointing)  # type: ignore[arg-type]
                measured = saved_bytes(config, **settings, checkpointing=checkpointing)  # type: ignore[arg-type]
                kept = counted.total - counted.recomputed
                recompute = ", recomputed" if checkpointing else ""
                print_row(f"{name}, {precision}{recompute}", kept, measured)


def print_states() -> None:
    """Two workers of every ZeRO stage."""
    print(f"\n{'model states, MB (2 workers)':<44}{'counted':>10}{'measured':>10}{'error':>8}")
    script = str(Path(__file__).parents[1] / "training" / "zero_memory.py")
    with tempfile.TemporaryDirectory() as folder:
        workers = [
            subprocess.Popen(
                [sys.executable, "-W", "ignore", script, str(rank), "2", f"{folder}/store"],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )
            for rank in range(2)
        ]  # fmt: skip
        out, _ = (worker.communicate()[0] for worker in workers)
    sizes = parameter_sizes(ExtPose(MODEL))
    for line in out.splitlines():
        if not line.startswith("BYTES"):
            continue
        stage, accumulation, before, after = map(int, line.split()[1:])
        states = model_states(sizes, zero_stage=stage, workers=2, accumulates=accumulation > 1)
        has_bucket = stage == 3 or (stage, accumulation) == (1, 2)
        bucket = buffers(sizes, zero_stage=stage, workers=2) if has_bucket else 0.0
        name = f"ZeRO {stage}, {accumulation} micro-batches"
        print_row(f"{name}, gradients complete", states.total + bucket, before)
        if stage < 3:
            print_row(f"{name}, after the update", states.total - states.gradients, after)


def print_step() -> None:
    """Forward and backward of one clip of `small`, 4 frames."""
    config, device = replace(SMALL, max_frames=4), torch.device("cpu")
    peak = find_peak(device, "fp32")
    model, images = ExtPose(config).train(), torch.rand(1, 4, 3, 256, 256)
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        prediction = model(images, images, None)
        (prediction.params.pose.sum() + prediction.crop_cam.sum()).backward()
        best = min(best, time.perf_counter() - began)
    flops = training_flops(config, num_frames=4)
    print(f"\none clip of `small`, 4 frames: {flops / 1e9:.0f} GFLOP in {best:.2f} s, "
          f"{flops / best / 1e9:.1f} GFLOP/s; {peak.source}: {peak.flops / 1e9:.1f} GFLOP/s; "
          f"MFU {flops / best / peak.flops:.0%}")  # fmt: skip


if __name__ == "__main__":
    print_activations()
    print_states()
    print_step()
