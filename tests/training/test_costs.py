"""What is counted before a run against what a run does: FLOPs, activations, model states."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from extpose.config import ModelConfig
from extpose.model import attention
from extpose.model.extpose import ExtPose
from extpose.model.kernels import MATH
from extpose.recipes import RECIPES, TINY
from extpose.training.flops import clip_flops, training_flops
from extpose.training.loop import StepRecord
from extpose.training.memory import activations, buffers, model_states, parameter_sizes
from extpose.training.throughput import find_peak, open_throughput
from tests.processes import run_together
from tests.training.saved import saved_bytes
from tests.training.zero_memory import MODEL

WIDE = replace(TINY, width=256, num_heads=8, image_size=96)


def _counted(config: ModelConfig, *, clips: int, num_frames: int, backward: bool) -> int:
    """torch's own count; every attention as plain products, because it does not know the CPU's
    fused kernel."""
    model, size = ExtPose(config).train(), config.image_size
    images = torch.rand(clips, num_frames, 3, size, size)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        prediction = model(images, images, None)
        if backward:
            (prediction.params.pose.sum() + prediction.crop_cam.sum()).backward()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("scope", ["union", "frame", "stream", "full", "sequential"])
@pytest.mark.parametrize("num_frames", [1, 3])
def test_flops_are_torchs_count(
    scope: str, num_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "choose_backend", lambda *_: MATH)
    for base in (TINY, replace(TINY, head_ief_iters=2, head_token="mean_shape", body="mano")):
        config = replace(base, scope=(scope,))
        counted = _counted(config, clips=2, num_frames=num_frames, backward=False)
        assert 2 * clip_flops(config, num_frames=num_frames) == pytest.approx(counted, rel=2e-3)


def test_a_training_step_is_three_forward_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the gradient of the pictures, which nobody needs; attention is recomputed."""
    monkeypatch.setattr(attention, "choose_backend", lambda *_: MATH)
    counted = _counted(WIDE, clips=1, num_frames=2, backward=True)
    assert training_flops(WIDE, num_frames=2) == pytest.approx(counted, rel=0.08)


def test_networks_with_more_modules_are_not_counted() -> None:
    with pytest.raises(ValueError, match="'controlnet'"):
        clip_flops(replace(TINY, fusion="controlnet"), num_frames=1)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("config", [TINY, WIDE, replace(TINY, scope=("sequential",))])
def test_activations_are_what_is_saved(
    config: ModelConfig, precision: str, checkpointing: bool
) -> None:
    counted = activations(
        config, clips=2, num_frames=4, precision=precision, checkpointing=checkpointing
    )
    measured = saved_bytes(
        config, clips=2, num_frames=4, precision=precision, checkpointing=checkpointing
    )
    kept = counted.total - counted.recomputed
    assert kept == pytest.approx(measured, rel=0.12)


@pytest.mark.slow
def test_model_states_are_those_of_two_workers(tmp_path: Path) -> None:
    script = str(Path(__file__).parent / "zero_memory.py")
    first, _ = run_together(*([script, rank, "2", str(tmp_path / "store")] for rank in "01"))
    lines = [line.split()[1:] for line in first.stdout.splitlines() if line.startswith("BYTES")]
    assert len(lines) == 5, first.stderr[-3000:]
    sizes = parameter_sizes(ExtPose(MODEL))
    for stage, accumulation, before, after in (map(int, line) for line in lines):
        states = model_states(sizes, zero_stage=stage, workers=2, accumulates=accumulation > 1)
        bucket = buffers(sizes, zero_stage=stage, workers=2)
        # Stages 1 and 2 free their bucket when the last gradient is averaged.
        counted = states.total + (bucket if stage == 3 or (stage, accumulation) == (1, 2) else 0.0)
        assert counted == pytest.approx(before, rel=0.07), (stage, accumulation)
        if stage < 3:
            assert states.total - states.gradients == pytest.approx(after, rel=0.03), stage


def test_plain_states_and_more_workers() -> None:
    sizes = parameter_sizes(ExtPose(TINY))
    assert model_states(sizes, zero_stage=None, workers=1).total == 16 * sizes.total
    totals = [model_states(sizes, zero_stage=2, workers=n).total for n in (1, 2, 8)]
    assert totals == sorted(totals, reverse=True)
    assert buffers(sizes, zero_stage=None, workers=1) == 0


def test_throughput_of_a_step() -> None:
    config = RECIPES["tiny"]
    found = open_throughput(config, torch.device("cpu"), workers=2)
    record = StepRecord(
        step=1, seconds=1.0, loss=1.0, terms={}, lr=1.0, grad_norm=1.0,
        frames_per_second=64.0, data_wait=0.125, skipped=0, num_frames=32,
    )  # fmt: skip
    values = found.values(record)
    assert values["clips_per_second"] == 32
    assert values["data_wait_share"] == 0.25
    expected = 32 * training_flops(config.model, num_frames=2) / (2 * found.peak.flops)
    assert values["mfu"] == pytest.approx(expected)
    assert "measured" in found.peak.source


def test_known_gpus_have_their_data_sheets_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100-SXM4-80GB")
    assert find_peak(torch.device("cuda"), "bf16").flops == 312e12
