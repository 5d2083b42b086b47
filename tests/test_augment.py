"""Draws are pure functions; mirroring and rotating agree between pictures, 2D and 3D."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from extpose.body_model import load_body_model
from extpose.config import AugmentConfig
from extpose.data.augment import (
    Augmentation,
    crop_affine,
    draw_augmentation,
    draw_masking,
    draw_rng,
    flip_targets,
    no_augmentation,
    rotate_targets,
    swap_sides,
)
from extpose.data.crop import apply_affine
from extpose.keypoints import FLIP_PAIRS
from extpose.rotations import axis_angle_to_matrix
from extpose.schema import ClipTargets
from tests.plain_clips import synthetic_clip


def _targets(body: str = "smpl") -> ClipTargets:
    targets = synthetic_clip(body=body, seed=3).targets
    assert targets is not None
    return targets


def test_masking_statistics() -> None:
    draws = [draw_masking(draw_rng(0, 0, str(i), purpose="m"), rgb=0.5, skeleton=0.5)
             for i in range(6000)]  # fmt: skip
    shares = [
        np.mean([d.rgb and not d.skeleton for d in draws]),
        np.mean([d.skeleton and not d.rgb for d in draws]),
        np.mean([not d.skeleton and not d.rgb for d in draws]),
    ]
    np.testing.assert_allclose(shares, 1 / 3, atol=0.02)


def test_masking_that_can_never_end_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mask_rgb=1\.0"):
        draw_masking(np.random.default_rng(0), rgb=1.0, skeleton=1.0)


def test_a_draw_depends_on_seed_epoch_key_and_purpose() -> None:
    def numbers(*of: object) -> list[float]:
        seed, epoch, key, purpose = of
        return draw_rng(seed, epoch, key, purpose=purpose).random(3).tolist()

    base = numbers(1, 2, "a", "window")
    assert base == numbers(1, 2, "a", "window")
    for other in ((2, 2, "a", "window"), (1, 3, "a", "window"), (1, 2, "b", "window"),
                  (1, 2, "a", "noise")):  # fmt: skip
        assert numbers(*other) != base


def test_hands_are_mirrored_exactly_when_they_are_left() -> None:
    for key in range(20):
        for enabled in (True, False):
            for is_right in (True, False):
                draw = draw_augmentation(
                    draw_rng(0, 0, str(key), purpose="a"),
                    AugmentConfig(enabled=enabled),
                    is_right=is_right,
                )
                assert draw.is_flipped is not is_right


def test_augmentation_stays_in_its_ranges() -> None:
    draws = [
        draw_augmentation(draw_rng(0, 0, str(i), purpose="a"), AugmentConfig(), is_right=None)
        for i in range(500)
    ]
    assert all(0.7 <= d.scale <= 1.3 and abs(d.rotation) <= np.deg2rad(60) for d in draws)
    assert np.mean([d.is_flipped for d in draws]) == pytest.approx(0.5, abs=0.07)
    assert np.mean([d.rotation != 0 for d in draws]) == pytest.approx(0.6, abs=0.07)
    assert np.ptp([d.color for d in draws], axis=0).min() > 0.38


@pytest.mark.parametrize("body", ["smpl", "mano"])
def test_flip_twice_is_identity(body: str) -> None:
    targets = _targets(body)
    once = flip_targets(targets, body=body)
    twice = flip_targets(once, body=body)
    assert not np.array_equal(once.pose, targets.pose)
    for field in fields(targets):
        np.testing.assert_array_equal(getattr(twice, field.name), getattr(targets, field.name))


def _posed_keypoints(targets: ClipTargets) -> np.ndarray:
    """Root-relative keypoints of the free body in the pose of the targets."""
    body = load_body_model(None, "smpl")
    output = body(
        axis_angle_to_matrix(torch.from_numpy(targets.global_orient)),
        axis_angle_to_matrix(torch.from_numpy(targets.pose)),
        torch.zeros(len(targets.pose), 10),
        None,
    )
    return (output.keypoints - output.joints[:, :1]).numpy()


def test_flipped_pose_is_the_mirrored_person() -> None:
    """The free body is nearly, not exactly, symmetric."""
    targets = _targets()
    flipped = flip_targets(targets, body="smpl")
    mirrored = swap_sides(_posed_keypoints(targets), FLIP_PAIRS["body44"]) * [-1, 1, 1]
    np.testing.assert_allclose(_posed_keypoints(flipped), mirrored, atol=0.02)


def test_rotated_pose_is_the_rotated_person() -> None:
    targets, angle = _targets(), 0.4
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0],
                     [0, 0, 1]])  # fmt: skip
    rotated = rotate_targets(targets, angle)
    expected = _posed_keypoints(targets) @ turn.T
    np.testing.assert_allclose(_posed_keypoints(rotated), expected, atol=1e-5)
    np.testing.assert_allclose(
        rotated.keypoints_3d[..., :3], targets.keypoints_3d[..., :3] @ turn.T, atol=1e-5
    )


@settings(max_examples=40)
@given(
    scale=st.floats(0.7, 1.3), rotation=st.floats(-1, 1), is_flipped=st.booleans(),
    tx=st.floats(-0.1, 0.1), ty=st.floats(-0.1, 0.1),
)  # fmt: skip
def test_pictures_and_points_in_3d_move_alike(
    scale: float, rotation: float, is_flipped: bool, tx: float, ty: float
) -> None:
    """An orthographic camera: the crop's affine acts on x y as the augmented 3D points do."""
    draw = Augmentation(
        scale=scale, rotation=rotation, translation=(tx, ty), color=np.ones(3, np.float32),
        is_flipped=is_flipped, keypoint_noise=0.0, joint_dropout=0.0,
    )  # fmt: skip
    targets = _targets()
    points = targets.keypoints_3d * np.float32([-1, 1, 1, 1] if is_flipped else [1, 1, 1, 1])
    moved = rotate_targets(replace(targets, keypoints_3d=points), rotation)
    center = np.array([64 + 128 * tx, 64 + 128 * ty])
    points_crop = center + 100 * targets.keypoints_3d[..., :2]
    expected = 32 + 100 * 0.5 / scale * moved.keypoints_3d[..., :2]
    found = apply_affine(points_crop, crop_affine(draw, 128, size=64))
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_affine_without_augmentation_is_exactly_the_identity() -> None:
    np.testing.assert_array_equal(crop_affine(no_augmentation(), 256, size=256), np.eye(2, 3))
