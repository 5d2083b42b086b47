"""A few steps of the smallest network with each engine; prints losses and gradient norms.

With a discriminator beside it, whose losses are printed too.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from extpose.batch import Batch
from extpose.config import EngineConfig
from extpose.model.extpose import ExtPose
from extpose.recipes import TINY
from extpose.training.engine import create_engine
from tests.training.test_adversary import make_adversary

MODEL = replace(
    TINY, image_size=32, width=24, depth=2, num_heads=2, max_frames=2, head_width=24, head_depth=1,
    head_num_heads=2, head_dim=12, head_mlp_width=24,
)  # fmt: skip


def batch_of(step: int) -> Batch:
    images = torch.randn(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(step))
    return Batch(
        keys=("a", "b"),
        rgb=images,
        skeleton=images.flip(0),
        valid=torch.ones(2, 2, dtype=torch.bool),
        crop_box_img=torch.ones(2, 2, 3),
        keypoints_crop=torch.zeros(2, 2, 17, 3),
        image_size=torch.ones(2, 2),
        targets=None,
    )


def run(config: EngineConfig) -> list[float]:
    torch.manual_seed(0)
    engine = create_engine(ExtPose(MODEL), config, accumulation=2, micro_batch=2, use_gpu=False)
    adversary = make_adversary(weight=0.01, batch=4, workers=engine.workers)
    numbers = []
    for step in range(4):
        for micro in range(2):
            batch = batch_of(2 * step + micro)
            prediction = engine(batch)
            pose = prediction.params.pose - torch.eye(3)
            loss = pose.square().mean() + (prediction.crop_cam - 1).square().mean()
            loss = loss + adversary.term(prediction, batch)
            engine.backward(loss)
            numbers.append(float(loss.detach()))
        numbers.append(engine.step(1e-3 * (step + 1)))
        numbers.append(adversary.step(step))
    total = sum(float(v.double().abs().sum()) for v in engine.consolidated_state_dict().values())
    return [*numbers, total]


if __name__ == "__main__":
    for backend, stage, precision in (
        ("plain", 0, "fp32"),
        *(("deepspeed", stage, "fp32") for stage in range(4)),
        ("deepspeed", 2, "bf16"),
    ):
        config = EngineConfig(
            backend=backend, zero_stage=stage, precision=precision, clip_grad_norm=0.5
        )
        values = run(config)
        print("STEPS", f"{backend}-{stage}-{precision}", *(repr(v) for v in values))
