"""This project's checkpoints beside DeepSpeed's and its universal ones: `python FILE [--depth 6]`.

Two workers take three steps with ZeRO and save the same state both ways; one worker converts,
loads, and takes the fourth step. "Number" columns are the largest absolute differences: of what
was loaded from what was saved, and of the weights after the fourth step from those of the two
workers. Seconds are wall time on CPUs; `universal` needs `convert` as well, and both its folders.
"""

import argparse
import json
import subprocess
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
from extpose.recipes import SMALL
from extpose.training.checkpoint import CheckpointMeta, read_state, write_checkpoint
from extpose.training.engine import DeepSpeedEngine, create_engine
from extpose.training.state import MOMENTS, WEIGHTS
from tests.training.reshard_steps import CLIPS, batch_of

STEPS = 3
Numbers = dict[str, float]


def main() -> None:
    """Start two workers, then one, for each stage, and print what they found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--worker", nargs=4, help="(used by itself) FOLDER STAGE RANK WORKERS")
    options = parser.parse_args()
    if options.worker:
        folder, *numbers = options.worker
        run_worker(Path(folder), options.depth, *map(int, numbers))
        return
    print(
        f"{'':8}{'format':12}{'MB':>8}{'files':>7}{'save s':>8}{'convert s':>11}{'load s':>8}",
        end="",
    )
    print(f"{'loaded':>11}{'moments':>11}{'step 4':>11}")
    for stage in (2, 3):
        with tempfile.TemporaryDirectory() as folder:
            for workers in (2, 1):
                start_workers(Path(folder), stage, workers, options.depth)
            print_rows(Path(folder), stage)


def start_workers(folder: Path, stage: int, workers: int, depth: int) -> None:
    command = [sys.executable, "-W", "ignore", __file__, "--depth", str(depth), "--worker"]
    started = [
        subprocess.Popen(
            [*command, str(folder), str(stage), str(rank), str(workers)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(workers)
    ]
    for process in started:
        _, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(errors[-3000:])


def run_worker(folder: Path, depth: int, stage: int, rank: int, workers: int) -> None:
    """Save with two workers; convert, load and go on with one."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / f"store-{workers}"), workers)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=workers)
    engine = build(depth, stage, workers)
    found = save(folder, engine) if workers == 2 else load_both(folder, depth, stage, engine)
    if rank == 0:
        (folder / f"{workers}.json").write_text(json.dumps(found))


def build(depth: int, stage: int, workers: int) -> DeepSpeedEngine:
    torch.manual_seed(0)
    config = EngineConfig(zero_stage=stage, clip_grad_norm=0.5)
    model = ExtPose(replace(SMALL, depth=depth, max_frames=2, image_size=32, drop_path=0.0))
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
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


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


def load_both(folder: Path, depth: int, stage: int, engine: DeepSpeedEngine) -> dict[str, Any]:
    own = next((folder / "own").glob("step_*"))
    saved, fourth = read_state(own), load_file(folder / "fourth.safetensors")
    seconds = timed(lambda: engine.load_state(read_state(own)))
    ours = {"load": seconds, "convert": 0.0, **compare(engine, saved, fourth)}
    other = build(depth, stage, 1)
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
