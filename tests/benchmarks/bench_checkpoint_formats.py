"""This project's checkpoints beside DeepSpeed's and its universal ones: `python FILE`.

Two workers take three steps with ZeRO and save the same state both ways; one worker converts,
loads, and takes the fourth step. "Loaded" and "moments" are the largest absolute differences of
what was loaded from what was saved, "step 4" that of the weights one step on from those of the two
workers. Seconds are CPU time of the first worker, so that a busy machine changes them little.
`universal` needs `convert`, and both its folders.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[2]))

from extpose.config import EngineConfig
from extpose.model.extpose import ExtPose
from extpose.recipes import TINY
from extpose.training.checkpoint import CheckpointMeta, read_state, write_checkpoint
from extpose.training.engine import DeepSpeedEngine, create_engine, import_deepspeed
from extpose.training.state import MOMENTS, WEIGHTS
from tests.training.reshard_steps import CLIPS, batch_of

STEPS = 3
Numbers = dict[str, float]


def main() -> None:
    """Start two workers, then one, for each stage, and print what they found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=TINY.width, help="of the backbone")
    options = parser.parse_args()
    # Once for all workers, which are forked: it takes longer than what is measured.
    import_deepspeed(torch.device("cpu"))
    print(
        f"{'':8}{'format':12}{'MB':>8}{'files':>7}{'save s':>8}{'convert s':>11}{'load s':>8}"
        f"{'loaded':>11}{'moments':>11}{'step 4':>11}",
        flush=True,
    )
    for stage in (2, 3):
        with tempfile.TemporaryDirectory() as folder:
            for workers in (2, 1):
                start_workers(Path(folder), stage, workers, options.width)
            print_rows(Path(folder), stage)


def start_workers(folder: Path, stage: int, workers: int, width: int) -> None:
    """Run them to their end. Raises RuntimeError with what the first that failed wrote."""
    context = multiprocessing.get_context("fork")
    started = [
        context.Process(target=run_worker, args=(folder, width, stage, rank, workers))
        for rank in range(workers)
    ]
    for process in started:
        process.start()
    for rank, process in enumerate(started):
        process.join()
        if process.exitcode:
            told = told_by(folder, rank, workers).read_text()
            raise RuntimeError(f"ZeRO-{stage}, worker {rank} of {workers}: {told[-3000:]}")


def told_by(folder: Path, rank: int, workers: int) -> Path:
    return folder / f"worker-{rank}-of-{workers}.txt"


def run_worker(folder: Path, width: int, stage: int, rank: int, workers: int) -> None:
    """Save with two workers; convert, load and go on with one."""
    told = os.open(told_by(folder, rank, workers), os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(told, stream)
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / f"store-{workers}"), workers)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=workers)
    engine = build(width, stage, workers)
    found = save(folder, engine) if workers == 2 else load_both(folder, width, stage, engine)
    if rank == 0:
        (folder / f"{workers}.json").write_text(json.dumps(found))


def build(width: int, stage: int, workers: int) -> DeepSpeedEngine:
    torch.manual_seed(0)
    config = EngineConfig(zero_stage=stage, clip_grad_norm=0.5)
    model = ExtPose(replace(TINY, width=width, max_frames=2, image_size=32))
    settings = {"accumulation": 1, "micro_batch": CLIPS // workers, "use_gpu": False}
    engine = create_engine(model, config, **settings)
    assert isinstance(engine, DeepSpeedEngine)
    return engine


def take_step(engine: DeepSpeedEngine, step: int) -> None:
    found = engine(batch_of(step, engine.workers.rank, engine.workers.size))
    loss = (found.params.pose - torch.eye(3)).square().mean()
    engine.backward(loss + (found.crop_cam - 1).square().mean())
    engine.step(1e-3)


def timed(act: Callable[[], Any]) -> float:
    began = time.process_time()
    act()
    return time.process_time() - began


def save(folder: Path, engine: DeepSpeedEngine) -> Numbers:
    for step in range(STEPS):
        take_step(engine, step)
    own = timed(lambda: save_own(folder / "own", engine))
    theirs = timed(lambda: engine.engine.save_checkpoint(str(folder / "deepspeed"), tag="it"))
    take_step(engine, STEPS)
    state = engine.gather_state()
    if engine.workers.rank == 0:
        save_file(state, folder / "fourth.safetensors")
    return {"own": own, "deepspeed": theirs}


def save_own(root: Path, engine: DeepSpeedEngine) -> None:
    state = engine.gather_state()
    if engine.workers.rank == 0:
        names = {"backend": "deepspeed", "config_hash": "", "version": "", "model_config": {}}
        numbers = {"step": STEPS, "seconds": 0.0, "world_size": 2, "zero_stage": 2}
        write_checkpoint(root, state, CheckpointMeta(**names, **numbers), keep=1)
    engine.workers.barrier()


def load_both(folder: Path, width: int, stage: int, engine: DeepSpeedEngine) -> dict[str, Any]:
    own = next((folder / "own").glob("step_*"))
    saved, fourth = read_state(own), load_file(folder / "fourth.safetensors")
    seconds = timed(lambda: engine.load_state(read_state(own)))
    ours = {"load": seconds, "convert": 0.0, **compare(engine, saved, fourth)}
    other = build(width, stage, 1)
    convert = timed(lambda: convert_to_universal(folder))
    seconds = timed(lambda: load_universal(other, folder / "universal"))
    theirs = {"load": seconds, "convert": convert, **compare(other, saved, fourth)}
    return {"own": ours, "universal": theirs}


def convert_to_universal(folder: Path) -> None:
    from deepspeed.checkpoint import ds_to_universal

    words = ["--input_folder", str(folder / "deepspeed" / "it")]
    words += ["--output_folder", str(folder / "universal" / "it"), "--inject_missing_state"]
    words += ["--num_extract_workers", "1", "--num_merge_workers", "1"]
    given, sys.argv = sys.argv, ["ds_to_universal", *words]
    try:
        ds_to_universal.main(ds_to_universal.parse_arguments())
    finally:
        sys.argv = given
    for name in ("latest", "latest_universal"):
        (folder / "universal" / name).write_text("it")


def load_universal(engine: DeepSpeedEngine, folder: Path) -> None:
    engine.engine._config.load_universal_checkpoint = True
    path, _ = engine.engine.load_checkpoint(str(folder))
    engine.engine._config.load_universal_checkpoint = False
    assert path is not None


def compare(
    engine: DeepSpeedEngine, saved: dict[str, torch.Tensor], fourth: dict[str, torch.Tensor]
) -> Numbers:
    """Differences from what was saved, then, one step on, from the two workers' fourth step."""
    loaded = engine.gather_state()
    numbers = {
        "weights": difference(loaded, saved, (WEIGHTS,)),
        "moments": difference(loaded, saved, ("step/", *MOMENTS)),
    }
    take_step(engine, STEPS)
    return numbers | {"fourth": difference(engine.gather_state(), fourth, (WEIGHTS,))}


def difference(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], prefixes: tuple[str, ...]
) -> float:
    names = [name for name in expected if name.startswith(prefixes)]
    return max(float((found[name] - expected[name]).abs().max()) for name in names)


def print_rows(folder: Path, stage: int) -> None:
    saved, loaded = (json.loads((folder / f"{n}.json").read_text()) for n in (2, 1))
    for name, folders, save_seconds in (
        ("own", ("own",), saved["own"]),
        ("universal", ("deepspeed", "universal"), saved["deepspeed"]),
    ):
        files = [p for part in folders for p in (folder / part).rglob("*") if p.is_file()]
        size, found = sum(p.stat().st_size for p in files) / 1e6, loaded[name]
        row = f"ZeRO-{stage}  {name:12}{size:8.1f}{len(files):7}{save_seconds:8.2f}"
        row += f"{found['convert']:11.2f}{found['load']:8.2f}"
        print(
            row + "".join(f"{found[n]:11.1e}" for n in ("weights", "moments", "fourth")), flush=True
        )


if __name__ == "__main__":
    main()
