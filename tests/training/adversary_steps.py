"""Three steps of the discriminator by one worker and by two; prints losses and a sum of weights."""

import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch import multiprocessing

sys.path.insert(0, str(Path(__file__).parents[2]))

from extpose.params import PoseParams, Prediction
from extpose.training.adversary import Adversary
from tests.training.test_adversary import FULL, B, batch_with, make_adversary, predict


def run(adversary: Adversary, rank: int, size: int) -> None:
    own = slice(rank * B // size, (rank + 1) * B // size)
    numbers = []
    for step in range(3):
        prediction = predict(step)
        params = prediction.params
        part = Prediction(
            params=PoseParams(
                global_orient=params.global_orient[own],
                pose=params.pose[own],
                betas=params.betas[own],
            ),
            crop_cam=prediction.crop_cam[own],
        )
        adversary.term(part, batch_with(FULL.valid[own]))
        numbers.append(adversary.step(step))
    total = sum(float(p.double().abs().sum()) for p in adversary.discriminator.parameters())
    if rank == 0:
        print("STEPS", *(repr(number) for number in [*numbers, total]), flush=True)


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/join", rank=rank, world_size=2)
    run(make_adversary(), rank, 2)
    dist.destroy_process_group()


if __name__ == "__main__":
    run(make_adversary(), 0, 1)
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(worker, (folder,), nprocs=2)
