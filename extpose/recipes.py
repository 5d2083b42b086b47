"""Named starting points of training: sizes of networks, and the paper's values."""

from dataclasses import replace

from extpose.config import (
    AdversaryConfig,
    AugmentConfig,
    DataConfig,
    EngineConfig,
    LossConfig,
    ModelConfig,
    TrainConfig,
)

HUGE = ModelConfig()
TINY = ModelConfig(
    image_size=64,
    width=160,
    depth=3,
    num_heads=4,
    drop_path=0.0,
    max_frames=4,
    head_width=160,
    head_depth=3,
    head_num_heads=8,
    head_dim=32,
    head_mlp_width=320,
    head_context="both",
)
SMALL = replace(HUGE, width=384, depth=12, num_heads=6, drop_path=0.1)
BASE = replace(HUGE, width=768, depth=12, num_heads=12, drop_path=0.3)


def _paper(model: ModelConfig) -> TrainConfig:
    """The paper's training (4.6): 50K iterations, batch 32, AdamW 1e-5, decay 1e-3, 8 GPUs."""
    augment = AugmentConfig(extreme_crop_probability=0.1 if model.body == "smpl" else 0.0)
    loader = DataConfig(num_frames=model.max_frames, augment=augment)
    return TrainConfig(model=model, loader=loader, use_gpu=True, num_workers=8)


def _own_size(model: ModelConfig, *, use_gpu: bool) -> TrainConfig:
    """Heads, and backbones without an HMR2.0 checkpoint, need larger steps than fine-tuning."""
    engine = EngineConfig(lr=1e-4, warmup_steps=1000, decay=True, clip_grad_norm=1.0)
    return replace(_paper(model), engine=engine, num_workers=1, use_gpu=use_gpu)


FREE = replace(TINY, width=192, depth=4, head_width=192, head_mlp_width=384, max_frames=16)
"""The packaged networks (extpose/free/networks.md): what two cores can train in an hour."""

_TINY_RUN = TrainConfig(
    steps=3000,
    batch=16,
    checkpoint_every=500,
    num_workers=2,
    model=TINY,
    loader=DataConfig(
        num_frames=2,
        stride=2,
        mask_skeleton=0.1,
        workers=0,
        augment=AugmentConfig(
            scale=0.1,
            rotation_probability=0.0,
            flip_probability=0.0,
            extreme_crop_probability=0.0,
        ),
    ),
    loss=LossConfig(
        keypoints_3d=5.0,
        keypoints_2d=5.0,
        global_orient=1.0,
        pose=1.0,
        betas=0.05,
        adversarial=0.001,
        reduction="mean",
    ),
    adversary=AdversaryConfig(lr=1e-4),
    engine=EngineConfig(
        lr=1e-3, warmup_steps=50, decay=True, clip_grad_norm=1.0, micro_batch=8, threads=1
    ),
)
_FREE_IMAGE = replace(
    _TINY_RUN,
    steps=6000,
    batch=64,
    num_workers=1,
    launcher="local",
    checkpoint_every=500,
    model=FREE,
    loader=replace(
        _TINY_RUN.loader,
        num_frames=1,
        stride=1,
        mask_skeleton=0.15,
        workers=1,
        augment=replace(_TINY_RUN.loader.augment, flip_probability=0.5),
    ),
    engine=replace(_TINY_RUN.engine, backend="plain", micro_batch=64, warmup_steps=100),
)
_FREE_VIDEO = replace(
    _FREE_IMAGE,
    steps=600,
    batch=16,
    checkpoint_every=100,
    loader=replace(_FREE_IMAGE.loader, num_frames=8),
    loss=replace(_FREE_IMAGE.loss, velocity=5.0, acceleration=3.0),
    engine=replace(_FREE_IMAGE.engine, lr=1.5e-4, micro_batch=8, warmup_steps=50),
)

RECIPES: dict[str, TrainConfig] = {
    "tiny": _TINY_RUN,
    "free-body": _FREE_IMAGE,
    "free-body-video": _FREE_VIDEO,
    "free-hand": replace(
        _FREE_IMAGE,
        steps=900,
        batch=32,
        model=replace(TINY, body="mano", max_frames=16),
        loader=replace(_TINY_RUN.loader, stride=4, mask_rgb=0.3, mask_skeleton=0.3, workers=1),
        engine=replace(_FREE_IMAGE.engine, micro_batch=16),
    ),
    "small": _own_size(SMALL, use_gpu=False),
    "base": _own_size(BASE, use_gpu=True),
    "huge": _paper(HUGE),
    "body-image": _paper(replace(HUGE, max_frames=1)),
    "body-video": _paper(HUGE),
    "hand-image": _paper(replace(HUGE, body="mano", max_frames=1)),
    "hand-video": _paper(replace(HUGE, body="mano")),
}
"""Named starting points. `body-*` and `hand-*` carry the paper's values and want `--init`, a HMR2.0
or HaMeR checkpoint. `tiny`, `small`, `base` and `huge` are the sizes of the body network: `huge` is
`body-video`; there are no image weights of the others, so they are trained faster; `tiny` and
`small` on CPUs, unless asked otherwise. `free-*` made the packaged networks of the free body and
hand; `free-body-video` goes on from `free-body`."""
