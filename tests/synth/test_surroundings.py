"""Places seen by a moving camera: the right way round, floors that lie still, motion blur."""

from dataclasses import replace

import numpy as np
import pytest

from extpose.synth.background import paint_backdrop
from extpose.synth.surroundings import Backdrop, coarse_camera, coarsen_detail, look_around, smear
from extpose.synth.world import Camera
from tests.synth.photographs_made import make_photographs

SIZE = (60, 80)
K = np.array([[40.0, 0, 39.5], [0, 40, 29.5], [0, 0, 1]])
AHEAD = np.diag([-1.0, -1, 1])
"""A level camera that looks along +z: +x is on its left."""
EYE = np.array([0.0, 1.6, 0.0])


@pytest.fixture
def place() -> Backdrop:
    """Red tells the column of the panorama, green the row."""
    panorama = np.zeros((90, 180, 3), np.uint8)
    panorama[..., 0] = np.arange(180)
    panorama[..., 1] = np.arange(90)[:, None]
    return Backdrop(
        panorama=panorama,
        heading=0.0,
        centre=np.zeros(2),
        height=1.6,
        radius=30.0,
        detail=coarsen_detail(np.full((64, 64), 128, np.uint8)),
        tile=2.0,
        sun_world=None,
        tint=np.ones(3),
    )


def look(place: Backdrop, R: np.ndarray = AHEAD, position: np.ndarray = EYE) -> np.ndarray:
    return look_around(place, K, R, position, image_size=SIZE).astype(int)


def test_a_panorama_is_looked_up_the_right_way_round(place: Backdrop) -> None:
    """Its middle is ahead, what is towards +x in its left half; the sky is above."""
    seen = look(place)
    assert seen.shape == (30, 40, 3)
    np.testing.assert_allclose(seen[14:16, 19:21, :2].mean((0, 1)), [89.5, 44.5], atol=1)
    assert (np.diff(seen[15, :, 0]) >= 0).all()
    assert (np.diff(seen[:, 20, 1]) >= 0).all()
    left = look(place, AHEAD @ np.array([[0.0, 0, -1], [0, 1, 0], [1, 0, 0]]))
    np.testing.assert_allclose(left[15, 19:21, 0].mean(), 44.5, atol=1)
    turned = look(replace(place, heading=np.pi / 2))
    np.testing.assert_allclose(turned[15, 19:21, 0].mean(), 134.5, atol=1)


def test_a_floor_lies_still_under_a_camera_that_is_carried_along(place: Backdrop) -> None:
    """A point of the floor keeps its colour; a floor that stuck to the camera would not."""
    rng = np.random.default_rng(0)
    detail = np.kron(rng.integers(60, 200, (8, 8)), np.ones((16, 16))).astype(np.uint8)
    place = replace(
        place,
        panorama=np.full_like(place.panorama, 120),
        detail=np.stack([detail] * 5),
        tile=6.0,
    )
    down = np.array([[-1.0, 0, 0], [0, -0.8, -0.6], [0, -0.6, 0.8]])
    points = np.stack([rng.uniform(-1.5, 1.5, 300), np.zeros(300), rng.uniform(2, 4, 300)], -1)
    colors = []
    for x in (0.0, 0.7):
        position = EYE + np.array([x, 0, 0])
        seen = look(place, down, position)[..., 0]
        at = (points - position) @ down.T @ coarse_camera(K).T
        column, row = np.rint(at[:, :2] / at[:, 2:]).astype(int).T
        assert column.min() >= 0
        assert column.max() < 40
        colors.append(seen[row, column])
    assert np.ptp(colors[0]) > 60
    assert np.median(np.abs(colors[0] - colors[1])) <= 6
    stuck = look(place, down)[..., 0][row, column]
    assert np.abs(colors[0] - stuck).mean() > 15


def test_motion_smears_along_its_direction() -> None:
    image = np.zeros((21, 21, 3), np.uint8)
    image[10, 10] = 255
    np.testing.assert_array_equal(smear(image, np.array([0.5, 0.0])), image)
    smeared = smear(image, np.array([6.0, 0.0]))[..., 0].astype(int)
    assert smeared[[8, 12]].max() == 0
    assert 6 <= (smeared[10] > 20).sum() <= 8
    assert smeared.sum() == pytest.approx(255, rel=0.1)


def test_rooms_are_large_enough_for_what_happens_in_them() -> None:
    """With photographs and without; the same random numbers paint the same place."""
    photographs = make_photographs(has_floor=False)
    path = np.linspace([0.0, 0, 0], [9.0, 0, 0], 4)
    camera = Camera(K=K, R=np.tile(AHEAD, (4, 1, 1)), position=np.tile(EYE, (4, 1)))
    suns = set()
    for seed in range(6):
        for given in (photographs, None):
            first, again = (
                paint_backdrop(camera, path, photographs=given, rng=np.random.default_rng(seed))
                for _ in range(2)
            )
            assert first.radius > 9
            np.testing.assert_array_equal(first.panorama, again.panorama)
            np.testing.assert_array_equal(first.detail, again.detail)
            assert first.detail.mean() == pytest.approx(128, abs=30)
            assert first.panorama[-1].std(0).max() == 0  # the floor under the camera
            suns.add(first.sun_world is None)
    assert suns == {True, False}
