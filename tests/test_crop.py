import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extpose.config import CropConfig
from extpose.data.crop import (
    apply_affine,
    box_to_affine,
    compose_affine,
    crop_image,
    invert_affine,
    keypoints_to_crop,
    network_box,
    stored_border,
    stored_box,
    stored_size,
)

CONFIG = CropConfig()
numbers = st.floats(-500, 500, width=32)
sizes = st.floats(5, 900, width=32)


def box(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


def test_tall_box_keeps_its_height_and_wide_box_grows_to_3_by_4():
    np.testing.assert_allclose(network_box(box(10, 20, 40, 120), CONFIG), [[25, 70, 120]])
    np.testing.assert_allclose(network_box(box(0, 0, 90, 30), CONFIG), [[45, 15, 144]])


@pytest.mark.parametrize("bad", [(5, 5, 5, 9), (5, 5, 9, 1), (np.nan, 0, 1, 1)])
def test_bad_box_is_refused(bad):
    with pytest.raises(ValueError, match="bbox_xyxy"):
        network_box(box(*bad), CONFIG)


@given(numbers, numbers, sizes, st.sampled_from([128, 256]))
def test_affine_maps_the_centre_to_half_the_size_and_the_box_to_the_whole(cx, cy, side, size):
    affine = box_to_affine(np.array([cx, cy, side]), size)
    corners = np.array([[cx, cy], [cx - side / 2, cy - side / 2], [cx + side / 2, cy + side / 2]])
    expected = [[size / 2, size / 2], [0, 0], [size, size]]
    np.testing.assert_allclose(apply_affine(corners, affine), expected, atol=1e-6)


@given(numbers, numbers, sizes, st.floats(-3, 3), numbers, numbers)
def test_invert_and_compose(cx, cy, side, angle, x, y):
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s, 3.0], [s, c, -7.0]])
    affine = compose_affine(turn, box_to_affine(np.array([cx, cy, side]), 256))
    point = np.array([[x, y]])
    np.testing.assert_allclose(
        apply_affine(point, affine),
        apply_affine(apply_affine(point, box_to_affine(np.array([cx, cy, side]), 256)), turn),
        atol=1e-6,
    )
    np.testing.assert_allclose(
        apply_affine(apply_affine(point, affine), invert_affine(affine)), point, atol=1e-4
    )


def test_affine_without_inverse_is_refused():
    with pytest.raises(ValueError, match="inverted"):
        invert_affine(np.zeros((2, 3)))


def test_crop_by_an_integer_shift_is_a_slice():
    rgb = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    crop = crop_image(rgb, box_to_affine(np.array([40.0, 30.0, 32.0]), 32), 32)
    np.testing.assert_array_equal(crop, rgb[14:46, 24:56])


def test_a_dot_lands_where_its_keypoint_does():
    rgb = np.zeros((200, 300, 3), np.uint8)
    rgb[90:93, 120:123] = 255
    affine = box_to_affine(np.array([140.0, 100.0, 100.0]), 256)
    crop = crop_image(rgb, affine, 256).astype(float)[..., 0]
    rows, columns = np.mgrid[:256, :256]
    centre = [(crop * columns).sum() / crop.sum(), (crop * rows).sum() / crop.sum()]
    np.testing.assert_allclose(centre, apply_affine(np.array([121.0, 91.0]), affine), atol=0.1)


def test_outside_is_black_and_shrinking_blurs():
    rgb = np.full((100, 100, 3), 200, np.uint8)
    outside = crop_image(rgb, box_to_affine(np.array([900.0, 50.0, 40.0]), 64), 64)
    assert not outside.any()
    far = crop_image(rgb, box_to_affine(np.array([9000.0, 50.0, 400.0]), 64), 64)
    assert not far.any()
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[::2] = 255
    small = crop_image(stripes, box_to_affine(np.array([256.0, 256.0, 512.0]), 64), 64)
    assert abs(int(small[16:48, 16:48].min()) - int(small[16:48, 16:48].max())) < 10


def test_the_network_crop_is_the_middle_of_the_stored_crop():
    assert stored_size(CONFIG) == 384
    assert stored_border(CONFIG) == 64
    boxes = network_box(box(100, 50, 180, 220), CONFIG)
    stored = box_to_affine(stored_box(boxes, CONFIG)[0], 384)
    network = box_to_affine(boxes[0], 256)
    points = np.array([[100.0, 60.0], [150.0, 200.0]])
    np.testing.assert_allclose(
        apply_affine(points, stored) - 64, apply_affine(points, network), atol=1e-4
    )
    rgb = np.random.default_rng(1).integers(0, 256, (300, 300, 3), np.uint8)
    large, small = crop_image(rgb, stored, 384), crop_image(rgb, network, 256)
    difference = np.abs(large[64:-64, 64:-64].astype(int) - small.astype(int))
    assert np.quantile(difference, 0.99) <= 16  # warpAffine rounds coordinates to 1/32 pixel


def test_keypoints_to_crop_follows_the_crop_and_keeps_confidence():
    boxes = network_box(box(100, 50, 180, 220), CONFIG)
    crop_to_img = invert_affine(box_to_affine(stored_box(boxes, CONFIG)[0], 384)).astype(np.float32)
    keypoints = np.array([[120, 80, 0.5], [160, 190, 1.0]], np.float32)
    moved = keypoints_to_crop(keypoints, crop_to_img, crop_size=384, skeleton_size=256)
    expected = apply_affine(keypoints[:, :2], box_to_affine(boxes[0], 256))
    np.testing.assert_allclose(moved[:, :2], expected, atol=1e-3)
    np.testing.assert_array_equal(moved[:, 2], keypoints[:, 2])


def test_frames_at_once_are_the_frames_one_by_one() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(300, 200, (7, 17, 3)).astype(np.float32)
    affines = rng.normal(0, 3, (7, 2, 3)).astype(np.float32)
    sizes = {"crop_size": 385, "skeleton_size": 256}
    at_once = keypoints_to_crop(points, affines, **sizes)
    for frame in range(7):
        alone = keypoints_to_crop(points[frame], affines[frame], **sizes)
        moved = apply_affine(points[frame, :, :2], invert_affine(affines[frame])) - 64.5
        assert at_once[frame].tobytes() == alone.tobytes()
        assert alone[:, :2].tobytes() == moved.astype(np.float32).tobytes()
    affines[3, 0] = 0
    with pytest.raises(ValueError, match=r"affine \[\[0\.0, 0\.0, 0\.0\].* cannot be inverted"):
        keypoints_to_crop(points, affines, **sizes)
