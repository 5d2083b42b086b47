"""One worker of the comparison: a few steps of the smallest network with every engine.

    python -m tests.engines.steps FOLDER RANK WORKERS NAME ...

Rank 0 writes `FOLDER/NAME.safetensors` for each way to run them (NAME among `WAYS`): `NUMBERS`, of
each step the loss (mean over its clips, adversarial term included), the norm of the gradient and
the discriminator's loss; and `STEP/...`, all weights after it. Every step has the same clips in the
same order, whatever the number of workers and of micro-batches.
"""

import os
import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from extpose.batch import Batch
from extpose.config import EngineConfig
from extpose.model.extpose import ExtPose
from extpose.recipes import TINY
from extpose.training.engine import Engine, create_engine, import_deepspeed
from tests.training.test_adversary import make_adversary

MODEL = replace(
    TINY, image_size=32, width=24, depth=2, num_heads=2, max_frames=2, head_width=24, head_depth=1,
    head_num_heads=2, head_dim=12, head_mlp_width=24,
)  # fmt: skip
CLIPS, STEPS = 4, 6
NUMBERS = "loss, norm, discriminator"
PLAIN = EngineConfig(backend="plain", zero_stage=0, clip_grad_norm=0.5)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way to take the same steps."""

    name: str
    config: EngineConfig
    accumulation: int = 1


def _ways() -> dict[str, Case]:
    zero = [replace(PLAIN, backend="deepspeed", zero_stage=stage) for stage in range(4)]
    recomputed = {"activation_checkpointing": True}
    ways = {
        "plain torch": (PLAIN, 1),
        "plain torch, 2 micro-batches": (PLAIN, 2),
        "plain torch, recomputed": (replace(PLAIN, **recomputed), 1),
        **{f"ZeRO {stage}": (config, 1) for stage, config in enumerate(zero)},
        **{f"ZeRO {stage}, 2 micro-batches": (config, 2) for stage, config in enumerate(zero)},
        "ZeRO 1, optimizer offloaded": (replace(zero[1], offload="optimizer"), 2),
        "ZeRO 2, optimizer offloaded": (replace(zero[2], offload="optimizer"), 2),
        "ZeRO 3, parameters offloaded": (replace(zero[3], offload="parameters"), 2),
        "ZeRO 2, recomputed": (replace(zero[2], **recomputed), 1),
        "ZeRO 3, recomputed": (replace(zero[3], **recomputed), 1),
        "plain torch, bf16": (replace(PLAIN, precision="bf16"), 1),
        "ZeRO 2, bf16": (replace(zero[2], precision="bf16"), 1),
    }
    return {
        name: Case(name=name, config=config, accumulation=count)
        for name, (config, count) in ways.items()
    }


WAYS = _ways()
"""What is compared; the first one, by a single worker, is what all others are compared with."""


def cases(workers: int, names: Collection[str]) -> list[Case]:
    """The ways of these names, and the first one; with the number of workers in their names."""
    chosen = [case for name, case in WAYS.items() if name in {*names, next(iter(WAYS))}]
    return [replace(c, name=f"{c.name}, {workers} worker{'s' * (workers > 1)}") for c in chosen]


def learning_rate(step: int) -> float:
    """It rises."""
    return 1e-3 * (step + 1)


def batch_of(step: int, clips: slice) -> Batch:
    """These clips of a step."""
    images = torch.randn(CLIPS, 2, 3, 32, 32, generator=torch.Generator().manual_seed(step))[clips]
    return Batch(
        keys=tuple("abcd"[clips]),
        rgb=images,
        skeleton=images.flip(1),
        valid=torch.ones(len(images), 2, dtype=torch.bool),
        crop_box_img=torch.ones(len(images), 2, 3),
        keypoints_crop=torch.zeros(len(images), 2, 17, 3),
        image_size=torch.ones(len(images), 2),
        targets=None,
    )


def take_steps(engine: Engine) -> dict[str, Tensor]:
    """Losses, norms and the weights after each step."""
    adversary = make_adversary(weight=0.01, batch=CLIPS, workers=engine.workers)
    share = CLIPS // engine.workers.size // engine.accumulation
    found: dict[str, Tensor] = {}
    numbers = []
    for step in range(STEPS):
        total = torch.zeros(1)
        for part in range(engine.accumulation):
            first = (engine.workers.rank * engine.accumulation + part) * share
            batch = batch_of(step, slice(first, first + share))
            prediction = engine(batch)
            pose = prediction.params.pose - torch.eye(3)
            loss = pose.square().mean() + (prediction.crop_cam - 1).square().mean()
            loss = loss + adversary.term(prediction, batch)
            engine.backward(loss)
            total += loss.detach() / engine.accumulation
        loss = float(engine.workers.mean(total))
        norm = engine.step(learning_rate(step))
        numbers.append(torch.tensor([loss, norm, adversary.step(step)]))
        weights = engine.consolidated_state_dict()
        found |= {f"{step}/{name}": value for name, value in weights.items()}
    return found | {NUMBERS: torch.stack(numbers)}


def main(folder: Path, rank: int, workers: int, names: list[str]) -> None:
    """These ways, by this number of workers."""
    torch.set_num_threads(1)
    if workers > 1:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(workers), "LOCAL_RANK": "0"}
        import_deepspeed(torch.device("cpu"))
        store = dist.FileStore(str(folder / "store"), workers)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=workers)
    for case in cases(workers, names):
        torch.manual_seed(0)
        engine = create_engine(
            ExtPose(MODEL),
            case.config,
            accumulation=case.accumulation,
            micro_batch=CLIPS // workers // case.accumulation,
            use_gpu=False,
        )
        found = take_steps(engine)
        if rank == 0:
            save_file(found, folder / f"{case.name}.safetensors")
    sys.stdout.flush()
    os._exit(0)  # DeepSpeed keeps process groups that are not meant to be closed one by one


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
