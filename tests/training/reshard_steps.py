"""Steps of the smallest network, gone on with by another engine or another number of workers.

    python tests/training/reshard_steps.py FOLDER RANK WORKERS

The workers find each other in FOLDER, and there take over the states of another number of workers.
Prints for each run its losses, and for each that goes on whether that was exact.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[2]))

from extpose.batch import Batch
from extpose.config import EngineConfig
from extpose.model.extpose import ExtPose
from extpose.training.engine import Engine, create_engine
from tests.engines.steps import MODEL

CLIPS, HALF, STEPS = 4, 3, 6
ENGINES = {
    "plain": EngineConfig(backend="plain", clip_grad_norm=0.5),
    **{f"zero-{n}": EngineConfig(zero_stage=n, clip_grad_norm=0.5) for n in (1, 2, 3)},
    "offloaded": EngineConfig(zero_stage=3, offload="parameters", clip_grad_norm=0.5),
}
TAKEN_OVER = {
    "plain": "offloaded", "zero-1": "zero-1", "zero-2": "plain", "zero-3": "zero-3",
    "offloaded": "zero-2",
}  # fmt: skip
"""For each engine, whose state it goes on from at the other number of workers."""
State = dict[str, torch.Tensor]


def batch_of(step: int, rank: int, workers: int) -> Batch:
    """This worker's clips of a step; `CLIPS` over all workers."""
    generator = torch.Generator().manual_seed(step)
    share = CLIPS // workers
    images = torch.randn(CLIPS, 2, 3, 32, 32, generator=generator)
    images = images[rank * share : (rank + 1) * share]
    return Batch(
        keys=tuple(str(i) for i in range(share)),
        rgb=images,
        skeleton=images.flip(1),
        valid=torch.ones(share, 2, dtype=torch.bool),
        crop_box_img=torch.ones(share, 2, 3),
        keypoints_crop=torch.zeros(share, 2, 17, 3),
        image_size=torch.ones(share, 2),
        targets=None,
    )


def build(config: EngineConfig) -> Engine:
    workers = dist.get_world_size() if dist.is_initialized() else 1
    torch.manual_seed(0)
    model = ExtPose(replace(MODEL, depth=1))
    return create_engine(model, config, accumulation=1, micro_batch=CLIPS // workers, use_gpu=False)


def run(engine: Engine, steps: range) -> list[float]:
    """Mean losses of `steps`."""
    losses = []
    for step in steps:
        found = engine(batch_of(step, engine.workers.rank, engine.workers.size))
        loss = (found.params.pose - torch.eye(3)).square().mean()
        loss = loss + (found.crop_cam - 1).square().mean()
        engine.backward(loss)
        engine.step(1e-3)
        losses.append(float(engine.workers.mean(loss.detach()[None])))
    return losses


def is_same(found: State, expected: State) -> bool:
    """Bit by bit, for all that is expected (ZeRO also has moments of what got no gradient)."""
    return all(torch.equal(found[key], value) for key, value in expected.items())


def wait_for(path: Path) -> State:
    deadline = time.time() + 500
    while not path.exists():
        if time.time() > deadline:
            raise TimeoutError(path)
        time.sleep(0.05)
    return load_file(path)


def main(folder: Path, rank: int, workers: int) -> None:
    torch.set_num_threads(1)
    if workers > 1:
        store = dist.FileStore(str(folder / f"store-{workers}"), workers)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=workers)
    for name, config in ENGINES.items():
        engine, path = build(config), folder / f"{name}-on-{workers}.safetensors"
        losses = run(engine, range(HALF))
        half = engine.gather_state()
        if rank == 0:
            save_file(half, path.with_suffix(".partial"))
            path.with_suffix(".partial").rename(path)
        losses += run(engine, range(HALF, STEPS))
        resumed = build(config)
        resumed.load_state(wait_for(path))
        run(resumed, range(HALF, STEPS))
        last, again = engine.gather_state(), resumed.gather_state()
        if rank == 0:
            print("STRAIGHT", name, is_same(again, last), *(repr(v) for v in losses), flush=True)
    for name, config in ENGINES.items():
        engine = build(config)
        taken = wait_for(folder / f"{TAKEN_OVER[name]}-on-{3 - workers}.safetensors")
        engine.load_state(taken)
        loaded = engine.gather_state()
        losses = run(engine, range(HALF, STEPS))
        if rank == 0:
            print("RESUMED", name, is_same(loaded, taken), *(repr(v) for v in losses), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
