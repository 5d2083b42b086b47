"""BlazePose: its geometry by itself, and the real network on a packaged video."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from extpose.config import DetectConfig
from extpose.detect.blazepose import INPUT, BlazePose, _crop_to_img, refine_points
from extpose.keypoints import FLIP_PAIRS
from extpose.video import read_frames

CENTRE = np.array([300.0, 200.0])


@pytest.mark.parametrize(
    ("up", "above", "right"),
    [
        ((0.0, -50.0), (300.0, 150.0), (350.0, 200.0)),
        ((50.0, 0.0), (350.0, 200.0), (300.0, 250.0)),
    ],
    ids=["upright", "head to the right"],
)
def test_the_square_stands_upright_for_the_person(
    up: tuple[float, float], above: tuple[float, float], right: tuple[float, float]
) -> None:
    affine = _crop_to_img(CENTRE, np.array(up))

    def place(x: float, y: float) -> np.ndarray:
        return affine[:, :2] @ [x, y] + affine[:, 2]

    np.testing.assert_allclose(place(INPUT / 2, INPUT / 2), CENTRE)
    np.testing.assert_allclose(place(INPUT / 2, 0), above)
    np.testing.assert_allclose(place(INPUT, INPUT / 2), right)


def test_points_move_to_the_middle_of_the_heat() -> None:
    heat = np.zeros((64, 64, 3), np.float32)
    heat[20, 30:32, 0] = 0.9
    heat[40, 10, 1] = 0.3
    heat[10, 10, 2] = 0.9
    points = np.array([[118.0, 82.0], [41.0, 161.0], [-9.0, 40.0]])
    found = refine_points(points, heat)
    np.testing.assert_allclose(found[0], [30.5 * 4, 20 * 4])
    np.testing.assert_allclose(found[1], points[1])  # too cold
    np.testing.assert_allclose(found[2], points[2])  # outside


@pytest.mark.assets
def test_left_and_right_are_the_persons_own(asset: Callable[[str], Path]) -> None:
    """At the start the man on the roof faces the camera: his left is on the picture's right."""
    asset("blazepose-heavy")
    rgb = next(iter(read_frames(asset("video-walkers"), start=10, stop=11))).rgb
    pose = BlazePose(DetectConfig())
    box = np.array([[600, 75, 700, 455]], np.float32)
    (man,) = pose.find_keypoints(rgb, box)
    for left, right in FLIP_PAIRS["coco17"][2:]:
        assert man[left, 0] > man[right, 0] + 5
    assert man[[15, 16], 1].min() > man[0, 1] + 200  # ankles beneath the nose
    width = rgb.shape[1]
    other_box = np.array([[width - 1 - 700, 75, width - 1 - 600, 455]], np.float32)
    (other,) = pose.find_keypoints(np.ascontiguousarray(rgb[:, ::-1]), other_box)
    other[:, 0] = width - 1 - other[:, 0]
    for left, right in FLIP_PAIRS["coco17"]:
        other[[left, right]] = other[[right, left]]
    error = np.linalg.norm(other[:, :2] - man[:, :2], axis=-1)
    assert np.median(error) < 0.03 * np.ptp(man[:, 1])
