import colorsys
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extpose.config import SkeletonConfig
from extpose.data.skeleton import (
    COLORS,
    LIMBS,
    draw_skeleton,
    flip_keypoints,
)
from extpose.keypoints import FLIP_PAIRS, KEYPOINT_NAMES, NUM_KEYPOINTS

CONFIG = SkeletonConfig()
SETS = ("coco17", "hand21")


def keypoints(seed: int, keypoint_set: str = "coco17", *, size: int = 128) -> np.ndarray:
    rng = np.random.default_rng(seed)
    k = NUM_KEYPOINTS[keypoint_set]
    points = rng.uniform(-0.2 * size, 1.2 * size, (k, 2))
    return np.concatenate([points, rng.uniform(0, 1, (k, 1))], axis=1).astype(np.float32)


@pytest.mark.parametrize("keypoint_set", SETS)
def test_tables_agree(keypoint_set):
    k = NUM_KEYPOINTS[keypoint_set]
    assert len(KEYPOINT_NAMES[keypoint_set]) == len(COLORS[keypoint_set]) == k
    joined = {joint for limb in LIMBS[keypoint_set] for joint in limb}
    assert joined == set(range(k))
    for a, b in combinations(COLORS[keypoint_set], 2):
        assert np.linalg.norm(np.subtract(a, b)) >= 40, (a, b)


def test_left_is_warm_and_right_is_cool_and_pairs_are_left_and_right():
    names = KEYPOINT_NAMES["coco17"]
    for left, right in FLIP_PAIRS["coco17"]:
        assert names[left] == names[right].replace("right", "left")
        hues = [colorsys.rgb_to_hsv(*COLORS["coco17"][i])[0] * 360 for i in (left, right)]
        assert hues[0] <= 65 or hues[0] >= 300
        assert 100 <= hues[1] <= 265


def test_a_joint_has_its_colour_at_its_place():
    points = np.zeros((17, 3), np.float32)
    points[9] = 40, 70, 1
    image = draw_skeleton(points, "coco17", 128, CONFIG)
    np.testing.assert_array_equal(image[70, 40], COLORS["coco17"][9])
    rows, columns = np.nonzero(image.any(-1))
    assert abs(rows.mean() - 70) < 0.01
    assert abs(columns.mean() - 40) < 0.01
    assert rows.max() - rows.min() <= 2 * (CONFIG.joint_radius + 1)


def test_a_bone_runs_from_colour_to_colour_and_confidence_is_opacity():
    points = np.zeros((17, 3), np.float32)
    points[7], points[9] = (20, 64, 1.0), (108, 64, 0.5)
    image = draw_skeleton(points, "coco17", 128, CONFIG).astype(float)
    start, end = (np.array(COLORS["coco17"][i], float) for i in (7, 9))
    np.testing.assert_allclose(image[64, 64], (start + end) / 2 * 0.75, atol=1.5)
    np.testing.assert_allclose(image[64, 42], (start * 0.75 + end * 0.25) * 0.875, atol=1.5)
    assert not image[64 - 4, 64].any()


def test_nothing_is_drawn_below_the_threshold():
    points = keypoints(0)
    points[:, 2] = CONFIG.min_confidence - 0.01
    assert not draw_skeleton(points, "coco17", 128, CONFIG).any()
    points[5, 2] = 1  # one joint alone has no bone
    points[5, :2] = 64
    one = draw_skeleton(points, "coco17", 128, CONFIG)
    assert 0 < one.any(-1).sum() < 40


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from(SETS), st.sampled_from([64, 128]))
def test_pixels_lie_near_bones_and_only_there(seed, keypoint_set, size):
    points = keypoints(seed, keypoint_set, size=size)
    image = draw_skeleton(points, keypoint_set, size, CONFIG)
    np.testing.assert_array_equal(image, draw_skeleton(points, keypoint_set, size, CONFIG))
    rows, columns = np.mgrid[:size, :size]
    nearest = np.full((size, size), np.inf)
    seen = points[:, 2] >= CONFIG.min_confidence
    joints = [(i, i) for i in range(len(points))]
    for a, b in [*LIMBS[keypoint_set], *joints]:
        if seen[a] and seen[b]:
            start, way = points[a, :2].astype(float), (points[b, :2] - points[a, :2]).astype(float)
            offset = np.stack([columns, rows], -1) - start
            along = np.clip((offset @ way) / max(way @ way, 1e-9), 0, 1)
            radius = CONFIG.joint_radius if a == b else CONFIG.bone_width / 2
            distance = np.linalg.norm(offset - along[..., None] * way, axis=-1)
            nearest = np.minimum(nearest, distance - max(radius, 0.5))
    drawn = image.any(-1)
    assert not drawn[nearest > 0.5].any()
    assert drawn[nearest < 0].all()


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_a_mirrored_skeleton_is_not_a_mirrored_drawing(seed):
    points = keypoints(seed)
    points[:, 2] = 1
    flipped = flip_keypoints(points, "coco17", 128)
    np.testing.assert_allclose(flip_keypoints(flipped, "coco17", 128), points, atol=1e-4)
    image = draw_skeleton(points, "coco17", 128, CONFIG)
    again = draw_skeleton(flipped, "coco17", 128, CONFIG)
    mirrored = image[:, ::-1]
    outline = np.mean(again.any(-1) != mirrored.any(-1))
    assert outline < 0.01  # the same shape
    assert (again != mirrored).any()  # in other colours


def test_a_mirrored_hand_keeps_its_joints():
    points = keypoints(3, "hand21")
    flipped = flip_keypoints(points, "hand21", 128)
    np.testing.assert_allclose(flipped[:, 0], 127 - points[:, 0], atol=1e-5)
    np.testing.assert_array_equal(flipped[:, 1:], points[:, 1:])


def test_far_and_degenerate_points_are_harmless():
    points = np.full((17, 3), 1e7, np.float32)
    assert not draw_skeleton(points, "coco17", 64, CONFIG).any()
    points = np.full((17, 3), 1.0, np.float32)
    points[:, :2] = 30
    assert draw_skeleton(points, "coco17", 64, CONFIG).any()


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match=r"21 given, coco17 has 17"):
        draw_skeleton(keypoints(0, "hand21"), "coco17", 64, CONFIG)
    points = keypoints(0)
    points[3, 0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        draw_skeleton(points, "coco17", 64, CONFIG)
