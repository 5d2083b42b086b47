"""A few steps of partly frozen networks with each engine; prints a sum of all weights.

Checks on the way that every trained parameter has moved and no bit of any other.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from extpose.batch import Batch
from extpose.config import EngineConfig, Trainable
from extpose.training.engine import create_engine
from tests.training.test_trainable import check_moved, clone, make

CASES: dict[str, tuple[Trainable, dict[str, str]]] = {
    "qk": ("qk", {}),
    "first_half": ("first_half", {}),
    "controlnet": ("added", {"fusion": "controlnet", "head_context": "image"}),
    "coordinates": ("all", {"skeleton_input": "coordinates", "head_context": "image"}),
    "heatmap": ("all", {"skeleton_input": "heatmap"}),
}
PLAIN = EngineConfig(backend="plain", zero_stage=0, weight_decay=0.1)


def batch_of(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(2, 2, 3, 32, 32, generator=generator)
    return Batch(
        keys=("a", "b"),
        rgb=images,
        skeleton=images.flip(0),
        valid=torch.ones(2, 2, dtype=torch.bool),
        crop_box_img=torch.ones(2, 2, 3),
        keypoints_crop=torch.rand(2, 2, 17, 3, generator=generator) - 0.2,
        image_size=torch.ones(2, 2),
        targets=None,
    )


def run(case: str, config: EngineConfig) -> float:
    trainable, changes = CASES[case]
    model = make(trainable, **changes)
    before, given = clone(model), model.config.skeleton_input
    engine = create_engine(
        model, config, accumulation=1, micro_batch=2, use_gpu=False, skeleton_input=given
    )
    for step in range(3):
        found = engine(batch_of(step))
        loss = (found.params.pose - torch.eye(3)).square().mean() + found.crop_cam.square().mean()
        loss = loss + found.params.betas.square().mean() + found.params.global_orient[..., 0].mean()
        engine.backward(loss)
        engine.step(1e-2)
    after = engine.consolidated_state_dict()
    check_moved(before, after, trainable)
    state = engine.gather_state()
    loss = engine(batch_of(3)).params.pose.square().mean()
    engine.backward(loss)
    engine.step(1e-2)
    engine.load_state(state)
    restored = engine.consolidated_state_dict()
    assert all(torch.equal(restored[key], value) for key, value in after.items())
    return sum(float(value.double().abs().sum()) for value in after.values())


if __name__ == "__main__":
    for case in CASES:
        stages = (0, 1, 2, 3) if case == "qk" else (2, 3)
        print("STEPS", case, "plain-0", repr(run(case, PLAIN)))
        for stage in stages:
            config = replace(PLAIN, backend="deepspeed", zero_stage=stage)
            print("STEPS", case, f"deepspeed-{stage}", repr(run(case, config)))
