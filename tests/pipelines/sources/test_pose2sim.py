"""The free benchmark: labels that lie on the man in all four views."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.cutting import read_pictures
from pipelines.records import check_record, slice_record
from pipelines.sources.pose2sim import CAMERAS, SOURCE

pytestmark = pytest.mark.assets


@pytest.mark.parametrize("camera", CAMERAS)
def test_labels_lie_on_the_man(camera: str) -> None:
    (record,) = SOURCE.read_unit(Path(), "test", camera)
    check_record(record)
    assert len(record.frames) == 100
    labelled = record.targets.keypoints_2d[..., 2] > 0
    assert labelled[:, [2, 5, 9, 12, 10, 13, 11, 14]].all()  # shoulders, hips, knees, ankles
    height, width = record.image_size
    points = record.targets.keypoints_2d[labelled][:, :2]
    assert (points >= 0).all()
    assert (points <= [width, height]).all()
    # What the detectors saw is near the labels, which were triangulated from it.
    seen = record.track.keypoints_2d
    own = record.targets.keypoints_2d[:, [5, 2, 12, 9]]
    distance = np.linalg.norm(seen[:, [5, 6, 11, 12], :2] - own[..., :2], axis=-1)
    assert np.median(distance) < 0.03 * height
    hip, ankle = record.targets.keypoints_2d[:, 12, 1], record.targets.keypoints_2d[:, 14, 1]
    assert (ankle > hip).all()
    (picture,) = read_pictures(slice_record(record, 3, 4).frames)
    assert picture.shape[:2] == record.image_size


def test_the_cameras_see_one_man() -> None:
    """Distances between joints do not depend on the camera."""
    points = []
    for camera in CAMERAS:
        (record,) = SOURCE.read_unit(Path(), "test", camera)
        points.append(record.targets.keypoints_3d[:, [5, 2, 12, 9, 14, 11], :3])
    lengths = [np.linalg.norm(p[:, :1] - p[:, 1:], axis=-1) for p in points]
    for other in lengths[1:]:
        np.testing.assert_allclose(lengths[0], other, atol=1e-4)
