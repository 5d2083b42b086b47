"""Data sets of single images beside data sets of video: padding counts nothing, no frame twice."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from extpose.config import AugmentConfig, DataConfig, TrainConfig
from extpose.data.loader import ClipDataset, open_folders
from extpose.data.sampler import Draw
from extpose.data.shards import write_shard
from pipelines.train import train
from tests.pipelines.train_runs import LOSS, MODEL, config_for, read_log
from tests.plain_clips import synthetic_clip

WINDOW = 2
PLAIN = DataConfig(
    num_frames=WINDOW,
    workers=0,
    augment=AugmentConfig(enabled=False),
    mask_rgb=0.0,
    mask_skeleton=0.0,
)
TERMS = ("keypoints_3d", "keypoints_2d", "global_orient", "pose", "betas")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One image, and one clip as long as a window."""
    root = tmp_path_factory.mktemp("sets")
    for seed, (name, num_frames) in enumerate((("image", 1), ("video", WINDOW))):
        (root / name).mkdir()
        clip = synthetic_clip(name, num_frames=num_frames, seed=seed)
        write_shard(root / name / "0.tar", [clip])
    return root / "image", root / "video"


def config_of(folders: Sequence[Path], out: Path, **changes: object) -> TrainConfig:
    """One step whose loss is a plain sum over everything that is labelled."""
    config = config_for(folders[0], out, steps=1, batch=len(folders), loader=PLAIN, log_every=1)
    mix = (1.0,) * len(folders) if len(folders) > 1 else ()
    model, loss = (
        replace(MODEL, drop_path=0.0),
        replace(LOSS, reduction="sum", clips_per_sum=len(folders)),
    )
    return replace(config, data=tuple(folders), mix=mix, model=model, loss=loss, **changes)


def first_terms(config: TrainConfig) -> dict[str, float]:
    train(config)
    log = read_log(config.out)
    return {name: float(log[name][0]) for name in ("loss", *TERMS)}


def test_a_mixed_step_is_the_image_once_and_the_video(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    image, video = folders
    # Alone, the image is a window of one frame: nothing of it is padding.
    alone = first_terms(config_of([image], tmp_path / "image", loader=replace(PLAIN, num_frames=1)))
    moving = first_terms(config_of([video], tmp_path / "video"))
    mixed = first_terms(config_of([image, video], tmp_path / "mixed"))
    for name in ("loss", *TERMS):
        assert alone[name] > 1e-3, name
        assert mixed[name] == pytest.approx(alone[name] + moving[name], rel=1e-4), name


def test_the_mean_is_over_frames_not_over_places(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    """Of three frames in four places each has a third of the weight."""
    image, video = folders
    summed = first_terms(config_of([image, video], tmp_path / "sum"))
    config = config_of([image, video], tmp_path / "mean")
    mean = first_terms(replace(config, loss=replace(config.loss, reduction="mean")))
    # The shape is one of a clip, in every one of its frames.
    for name, count in (("pose", 3), ("global_orient", 3), ("keypoints_2d", 3)):
        assert mean[name] == pytest.approx(summed[name] / count, rel=1e-4), name


def test_padding_is_marked_and_carries_no_labels(folders: tuple[Path, Path]) -> None:
    index, sizes = open_folders(folders)
    config = replace(PLAIN, num_frames=5)
    dataset = ClipDataset(index, config, body="smpl", size=32, sizes=sizes)
    batch = dataset.__getitems__([Draw(0, 0), Draw(0, 1)])
    np.testing.assert_array_equal(batch.valid.sum(1), [1, WINDOW])
    assert batch.valid[:, 0].all()
    assert batch.targets is not None
    padding = ~batch.valid
    assert not batch.targets.has_pose[padding].any()
    assert not batch.targets.keypoints_2d[padding][..., 2].any()
    assert not batch.targets.keypoints_3d[padding][..., 3].any()
    assert torch.isfinite(batch.rgb).all()
