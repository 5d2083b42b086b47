"""`extpose calibrate` on clips whose detector is known to be bold."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from extpose.data.shards import write_shard
from extpose.detect.calibration import COCO_FALLOFF, CalibrationError, load_calibration
from extpose.keypoints import COCO17_OF_BODY44
from extpose.schema import Clip
from pipelines.calibrate import calibrate, read_evidence
from tests.clips import random_clip


def bold(seed: int) -> Clip:
    """Confidence 0.9 or 0.3; the sure keypoints lie at similarity 0.6, the unsure at 0.2."""
    clip = random_clip(seed, 8, labelled=True)
    assert clip.targets is not None
    rng = np.random.default_rng(seed)
    truth = clip.targets.keypoints_2d.copy()
    truth[..., :2] = rng.uniform(40, 80, truth[..., :2].shape)
    truth[..., 2] = 1
    sure = rng.random((8, 17)) < 0.5
    area = (clip.bbox_xyxy[:, 2:] - clip.bbox_xyxy[:, :2]).prod(-1)[:, None]
    wanted = np.where(sure, 0.6, 0.2)
    distance = np.sqrt(-2 * np.log(wanted) * area) * COCO_FALLOFF
    found = truth[:, list(COCO17_OF_BODY44)].copy()
    found[..., 0] += distance
    found[..., 2] = np.where(sure, 0.9, 0.3)
    return replace(
        clip,
        keypoints_2d=found.astype(np.float32),
        targets=replace(clip.targets, keypoints_2d=truth),
        meta=replace(clip.meta, detector="bold+boxes"),
    )


def shard(folder: Path, clips: list[Clip]) -> Path:
    folder.mkdir()
    write_shard(folder / "a.tar", clips)
    return folder


def test_what_confidence_is_worth(tmp_path: Path) -> None:
    fit = shard(tmp_path / "fit", [bold(seed) for seed in range(30)])
    held_out = shard(tmp_path / "held", [bold(seed) for seed in range(30, 35)])
    report = calibrate([fit], [held_out], tmp_path / "out.json", origin="a test")
    made = load_calibration(tmp_path / "out.json", "bold")
    assert made.origin == "a test"
    points = np.zeros((2, 17, 3), np.float32)
    points[0, :, 2], points[1, :, 2] = 0.9, 0.3
    np.testing.assert_allclose(made.apply(points)[0, :, 2], 0.6, atol=0.02)
    np.testing.assert_allclose(made.apply(points)[1, :, 2], 0.2, atol=0.02)
    assert [row.role for row in report.rows] == ["fitted on", "held out"]
    for row in report.rows:
        assert row.before == pytest.approx(0.2, abs=0.02)
        assert row.after < 0.02
    assert "| held out |" in report.table()


def test_labels_outside_the_picture_do_not_count(tmp_path: Path) -> None:
    clip = bold(0)
    assert clip.targets is not None
    truth = clip.targets.keypoints_2d.copy()
    truth[:, COCO17_OF_BODY44[0], 0] = -3
    clip = replace(clip, targets=replace(clip.targets, keypoints_2d=truth))
    evidence = read_evidence(shard(tmp_path / "a", [clip]))
    assert not evidence.is_labelled[:, 0].any()
    assert evidence.is_labelled[:, 1:].all()


def test_what_cannot_be_fitted_is_refused(tmp_path: Path) -> None:
    unlabelled = shard(tmp_path / "a", [random_clip(0, 3, labelled=False)])
    with pytest.raises(CalibrationError, match="not a labelled clip"):
        calibrate([unlabelled], [], tmp_path / "out.json")
    few = shard(tmp_path / "b", [bold(0)])
    with pytest.raises(CalibrationError, match="136 labelled detections, at least 200"):
        calibrate([few], [], tmp_path / "out.json")
    other = replace(bold(1), meta=replace(bold(1).meta, detector="other"))
    two = shard(tmp_path / "c", [other])
    with pytest.raises(CalibrationError, match=r"different detectors: \['bold', 'other'\]"):
        calibrate([few], [two], tmp_path / "out.json")
