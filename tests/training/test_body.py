"""The body that a training fits with is the one that the labels are of."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from extpose.config import TrainConfig
from extpose.data.shards import write_shard
from extpose.errors import TrainingError
from extpose.training.body import check_labels, open_body
from extpose.training.losses import root_keypoints
from extpose.training.parts import open_dataset
from extpose.training.workers import Workers
from tests.pipelines.train_runs import config_for
from tests.plain_clips import synthetic_clip
from tests.test_body_model import synthetic_body, synthetic_regressor


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A body as the official files are: without the extra keypoints; and their regressor."""
    folder = tmp_path_factory.mktemp("body")
    np.savez(folder / "SMPL.npz", **synthetic_body())
    np.save(folder / "SMPL_to_J19.npy", synthetic_regressor())
    return {"body": folder / "SMPL.npz", "extra": folder / "SMPL_to_J19.npy"}


def config_of(source: str, folder: Path, **changes: object) -> TrainConfig:
    clip = synthetic_clip(num_frames=2)
    write_shard(folder / "0.tar", [replace(clip, meta=replace(clip.meta, source=source))])
    return config_for(folder, folder / "run", **changes)


def check(config: TrainConfig) -> None:
    dataset = open_dataset(config, Workers(torch.device("cpu")))
    check_labels(config, dataset, open_body(config))


def test_labels_of_another_body_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    config = config_of("3dpw", tmp_path)
    with pytest.raises(TrainingError, match=r"'3dpw'.* of SMPL, --body-model is none"):
        check(config)
    check(replace(config, body_model=files["body"]))
    config = config_of("synth", tmp_path)
    check(config)
    with pytest.raises(TrainingError, match=r"'synth'.* of the free body, --body-model is .*SMPL"):
        check(replace(config, body_model=files["body"]))


def test_labels_that_the_body_cannot_say_are_named(
    files: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of("3dpw", tmp_path, body_model=files["body"])
    with caplog.at_level(logging.WARNING):
        check(config)
    assert "19 of the labelled keypoints" in caplog.text
    assert "pelvis" in caplog.text
    caplog.clear()
    whole = replace(config, files=(files["extra"],))
    with caplog.at_level(logging.WARNING):
        check(whole)
    assert not caplog.text
    assert root_keypoints(open_body(whole)) != root_keypoints(open_body(config))


def test_files_without_an_effect_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    config = config_of("synth", tmp_path, files=(files["extra"],))
    with pytest.raises(TrainingError, match="with an SMPL file"):
        open_body(config)
    with pytest.raises(TrainingError, match="only SMPL_to_J19"):
        open_body(replace(config, body_model=files["body"], files=(tmp_path / "h36m.npy",)))
