"""Bytes of tensors that a step of each ZeRO stage holds: `python zero_memory.py RANK SIZE STORE`.

One worker of several; each prints `BYTES stage micro_batches before_update after_update`: the
storages of all tensors that the engine made, the most of them when a micro-batch's gradient was
added, and after the update. Communication buffers are in it while they live.
"""

import gc
import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[2]))

from extpose.config import EngineConfig
from extpose.model.extpose import ExtPose
from extpose.recipes import TINY
from extpose.training.engine import create_engine, import_deepspeed
from tests.engines.steps import batch_of

MODEL = replace(TINY, image_size=32, width=192, depth=4, num_heads=4, max_frames=2)


def tensor_bytes() -> dict[int, int]:
    """Bytes of every storage that lives, by address."""
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensors = [x for x in gc.get_objects() if isinstance(x, torch.Tensor)]
    storages = [x.untyped_storage() for x in tensors]
    return {s.data_ptr(): s.nbytes() for s in storages if s.nbytes() and s.device.type == "cpu"}


def measure(stage: int, accumulation: int) -> tuple[int, int]:
    """Bytes when gradients are complete, and after the update."""
    torch.manual_seed(0)
    batch = batch_of(0, slice(0, 2))
    before = tensor_bytes()
    model = ExtPose(MODEL)
    config = EngineConfig(backend="deepspeed", zero_stage=stage)  # type: ignore[arg-type]
    engine = create_engine(model, config, accumulation=accumulation, micro_batch=2, use_gpu=False)
    for _ in range(2):  # moments are made in the first step
        found = 0
        for _ in range(accumulation):
            prediction = engine(batch)
            engine.backward(prediction.params.pose.square().mean() + prediction.crop_cam.mean())
            del prediction
            found = max(found, sum(n for a, n in tensor_bytes().items() if a not in before))
        engine.step(1e-3)
    after = sum(n for at, n in tensor_bytes().items() if at not in before)
    return found, after


if __name__ == "__main__":
    rank, size, store = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": "0"}
    torch.set_num_threads(1)
    import_deepspeed(torch.device("cpu"))
    gc.freeze()  # what the imports made is no tensor of an engine, and takes long to look through
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    for zero_stage, micro_batches in ((0, 1), (1, 1), (1, 2), (2, 2), (3, 1)):
        print("BYTES", zero_stage, micro_batches, *measure(zero_stage, micro_batches), flush=True)
    os._exit(0)  # DeepSpeed keeps process groups that are not meant to be closed one by one
