"""The engines agree with each other, whatever the number of micro-batches."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from extpose.batch import Batch
from extpose.config import EngineConfig, ModelConfig
from extpose.errors import TrainingError
from extpose.model.extpose import ExtPose
from extpose.params import PoseParams, Prediction
from extpose.training.engine import (
    checkpoint_blocks,
    create_engine,
    learning_rate,
)
from extpose.training.zero_settings import deepspeed_settings

PLAIN = EngineConfig(backend="plain", lr=1e-2, clip_grad_norm=0.5)


class Toy(nn.Module):
    """Something small that predicts."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 9)

    def forward(self, rgb: torch.Tensor, skeleton: torch.Tensor, valid: torch.Tensor) -> Prediction:
        out = self.linear(rgb.mean((-1, -2)))
        rotation = out.unflatten(-1, (3, 3))
        return Prediction(
            params=PoseParams(
                global_orient=rotation,
                pose=rotation[:, :, None],
                betas=torch.zeros(len(rgb), 10),
            ),
            crop_cam=out[..., :3],
        )


def toy_batch(seed: int, clips: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(clips, 2, 3, 4, 4, generator=generator)
    return Batch(
        keys=tuple(str(i) for i in range(clips)),
        rgb=images,
        skeleton=images,
        valid=torch.ones(clips, 2, dtype=torch.bool),
        crop_box_img=torch.ones(clips, 2, 3),
        keypoints_crop=torch.zeros(clips, 2, 17, 3),
        image_size=torch.ones(clips, 2),
        targets=None,
    )


def part(batch: Batch, rows: slice) -> Batch:
    return replace(
        batch,
        keys=batch.keys[rows],
        **{n: getattr(batch, n)[rows] for n in
           ("rgb", "skeleton", "valid", "crop_box_img", "keypoints_crop", "image_size")},
    )  # fmt: skip


def weights_after(accumulation: int) -> tuple[torch.Tensor, list[float]]:
    torch.manual_seed(0)
    model, norms = Toy(), []
    engine = create_engine(
        model, PLAIN, accumulation=accumulation, micro_batch=4 // accumulation, use_gpu=False
    )
    for step in range(3):
        batch, size = toy_batch(step, 4), 4 // accumulation
        for first in range(0, 4, size):
            prediction = engine(part(batch, slice(first, first + size)))
            engine.backward(prediction.params.global_orient.square().mean())
        norms.append(engine.step(1e-2))
    return engine.consolidated_state_dict()["linear.weight"], norms


def test_accumulated_micro_batches_are_one_batch() -> None:
    (one, norms_one), (four, norms_four) = weights_after(1), weights_after(4)
    torch.testing.assert_close(one, four, atol=1e-6, rtol=0)
    assert norms_one == pytest.approx(norms_four, rel=1e-5)


def test_schedule() -> None:
    config = EngineConfig(lr=1.0, warmup_steps=4, decay=True)
    assert [learning_rate(config, s, 0.0) for s in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert learning_rate(config, 100, 0.5) == pytest.approx(0.5)
    assert learning_rate(config, 100, 1.2) == pytest.approx(0.0)
    assert learning_rate(replace(config, decay=False), 100, 0.9) == 1.0


def test_fp16_needs_a_gpu() -> None:
    config = replace(PLAIN, precision="fp16")
    with pytest.raises(TrainingError, match="fp16 needs a GPU"):
        create_engine(Toy(), config, accumulation=1, micro_batch=1, use_gpu=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_missing_gpu_is_told() -> None:
    with pytest.raises(TrainingError, match="no CUDA device"):
        create_engine(Toy(), PLAIN, accumulation=1, micro_batch=1, use_gpu=True)


def test_settings_of_deepspeed() -> None:
    config = EngineConfig(zero_stage=3, precision="bf16", clip_grad_norm=0.5)
    settings = deepspeed_settings(config, accumulation=3, micro_batch=2)
    assert settings["zero_optimization"]["stage"] == 3
    assert settings["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}
    assert settings["gradient_accumulation_steps"] == 3
    assert "optimizer" not in settings


def test_activation_checkpointing_changes_no_gradient(tiny_model_config: ModelConfig) -> None:
    def gradient(*, recompute: bool) -> torch.Tensor:
        torch.manual_seed(0)
        model = ExtPose(replace(tiny_model_config, drop_path=0.5)).train()
        if recompute:
            checkpoint_blocks(model)
        images = torch.randn(1, 2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        torch.manual_seed(2)
        prediction = model(images, images, None)
        (prediction.params.pose.sum() + prediction.crop_cam.square().sum()).backward()
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return torch.cat(grads)

    kept, recomputed = gradient(recompute=False), gradient(recompute=True)
    assert kept.abs().max() > 0
    torch.testing.assert_close(kept, recomputed, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offload": "optimizer"}, "backend is 'plain'"),
        ({"backend": "deepspeed", "zero_stage": 0, "offload": "optimizer"}, "zero_stage 1 or more"),
        ({"backend": "deepspeed", "zero_stage": 2, "offload": "parameters"}, "3 or more; it is 2"),
    ],
)
def test_offloading_of_what_is_not_sharded_is_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        create_engine(
            Toy(), replace(PLAIN, **changes), accumulation=1, micro_batch=1, use_gpu=False
        )


def test_offloading_reaches_deepspeed() -> None:
    config = EngineConfig(zero_stage=3, offload="parameters")
    zero = deepspeed_settings(config, accumulation=1, micro_batch=1)["zero_optimization"]
    assert zero["offload_optimizer"] == zero["offload_param"] == {"device": "cpu"}
    config = replace(config, offload="optimizer")
    zero = deepspeed_settings(config, accumulation=1, micro_batch=1)["zero_optimization"]
    assert "offload_param" not in zero
