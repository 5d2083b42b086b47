"""Rotations and cameras against the reference, scipy, and by round trips."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from extpose.geometry import (
    CROP_FOCAL_LENGTH,
    align_similarity,
    crop_cam_to_full,
    crop_cam_to_transl,
    default_focal_length,
    matrix_to_axis_angle,
    matrix_to_quaternion,
    project_to_crop,
)
from extpose.rotations import axis_angle_to_matrix, matrix_to_rot6d, rot6d_to_matrix

NUMBERS = {
    name: torch.from_numpy(value)
    for name, value in np.load(Path(__file__).parent / "data" / "geometry.npz").items()
}
seeds = st.integers(0, 10_000)


def random_rotations(seed: int, count: int = 8) -> torch.Tensor:
    return torch.from_numpy(Rotation.random(count, random_state=seed).as_matrix())


def close(found: torch.Tensor, expected: torch.Tensor, atol: float) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def test_axis_angle_equals_the_reference():
    close(axis_angle_to_matrix(NUMBERS["aa"]), NUMBERS["aa_rotmat"], 2e-6)


def test_rot6d_equals_the_reference():
    close(rot6d_to_matrix(NUMBERS["rot6d"]), NUMBERS["rot6d_rotmat"], 2e-6)


def test_three_rotations_are_not_special():
    """The reference's cross product takes the batch for the axis where it has three rotations."""
    batch = rot6d_to_matrix(NUMBERS["rot6d_batch3"])
    for found, rot6d in zip(batch, NUMBERS["rot6d_batch3"], strict=True):
        close(found, rot6d_to_matrix(rot6d), 1e-7)
        close(found @ found.T, torch.eye(3), 1e-6)
        close(torch.linalg.det(found), torch.tensor(1.0), 1e-6)


def test_cameras_equal_the_reference():
    cam, size = NUMBERS["cam"], NUMBERS["box_size"]
    box = torch.cat([NUMBERS["box_center"], size[:, None]], -1)
    transl = crop_cam_to_transl(cam)
    torch.testing.assert_close(transl, NUMBERS["pred_cam_t"], rtol=1e-6, atol=1e-6)
    image_size = NUMBERS["img_size"].flip(-1)  # theirs is width, height
    for name, focal in (("cam_full", float(NUMBERS["scaled_focal"])), ("cam_full_f5000", 5000.0)):
        found = crop_cam_to_full(cam, box, image_size, focal)
        torch.testing.assert_close(found, NUMBERS[name], rtol=2e-6, atol=2e-6)


def test_projection_equals_the_reference():
    """Theirs is a general pinhole; ours is it with the focal length of the crop."""
    points, transl, focal = NUMBERS["pts"], NUMBERS["trans"], NUMBERS["focal"]
    points_cam = points + transl[:, None]
    pinhole = focal[:, None] * points_cam[..., :2] / points_cam[..., 2:]
    torch.testing.assert_close(pinhole, NUMBERS["proj"], rtol=2e-6, atol=2e-6)
    crop_cam = NUMBERS["cam"][:4]
    shifted = points + crop_cam_to_transl(crop_cam)[:, None]
    expected = CROP_FOCAL_LENGTH / 256 * shifted[..., :2] / shifted[..., 2:]
    torch.testing.assert_close(project_to_crop(points, crop_cam), expected)


def test_crop_and_full_image_show_the_same_pixels():
    """A point through the crop's camera and through the image's lands on the same spot."""
    generator = torch.Generator().manual_seed(0)
    points = 0.5 * torch.randn(6, 3, generator=generator)
    crop_cam, box = torch.tensor([0.9, 0.05, -0.1]), torch.tensor([500.0, 300.0, 200.0])
    image_size = torch.tensor([480.0, 640.0])
    # Weak perspective is the limit of a long lens, which both cameras need to agree exactly.
    focal = 1e7
    in_crop = crop_cam[0] * (points[:, :2] + crop_cam[1:]) / 2
    expected = in_crop * box[2] + box[:2]
    points_cam = points.double() + crop_cam_to_full(crop_cam, box, image_size, focal).double()
    found = focal * points_cam[:, :2] / points_cam[:, 2:] + image_size.flip(-1).double() / 2
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.1)
    close(project_to_crop(points, crop_cam), in_crop, 0.02)


def test_default_focal_length():
    found = default_focal_length(torch.tensor([[256.0, 100.0], [480.0, 640.0]]))
    close(found, torch.tensor([5000.0, 12500.0]), 1e-3)


@settings(max_examples=25)
@given(seeds)
def test_axis_angle_agrees_with_scipy(seed):
    vectors = np.random.default_rng(seed).normal(0, 2, (8, 3))
    expected = torch.from_numpy(Rotation.from_rotvec(vectors).as_matrix())
    close(axis_angle_to_matrix(torch.from_numpy(vectors)), expected, 1e-12)


@settings(max_examples=25)
@given(seeds)
def test_round_trips(seed):
    matrix = random_rotations(seed)
    close(axis_angle_to_matrix(matrix_to_axis_angle(matrix)), matrix, 1e-9)
    close(rot6d_to_matrix(matrix_to_rot6d(matrix)), matrix, 1e-12)
    quaternion = matrix_to_quaternion(matrix)
    again = Rotation.from_quat(quaternion.roll(-1, -1).numpy()).as_matrix()
    close(torch.from_numpy(again), matrix, 1e-12)
    assert (quaternion[..., 0] >= 0).all()


@pytest.mark.parametrize("axis", [(1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0), (0.6, 0, 0.8)])
@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-5, 1.0, np.pi - 1e-6, np.pi])
def test_angles_from_nothing_to_half_a_turn(axis, angle):
    vector = torch.tensor(axis, dtype=torch.float64) * angle
    matrix = axis_angle_to_matrix(vector)
    close(matrix, torch.from_numpy(Rotation.from_rotvec(vector.numpy()).as_matrix()), 1e-12)
    close(axis_angle_to_matrix(matrix_to_axis_angle(matrix)), matrix, 1e-7)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-3, 3.0])
def test_axis_angle_has_a_gradient_everywhere(angle):
    vector = torch.tensor([angle, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(axis_angle_to_matrix, (vector,))


@settings(max_examples=25)
@given(seeds, st.floats(0.1, 10))
def test_alignment_undoes_a_similarity(seed, scale):
    rng = np.random.default_rng(seed)
    target = torch.from_numpy(rng.normal(size=(2, 9, 3)))
    rotation = random_rotations(seed, 2)
    source = scale * target @ rotation.mT + torch.from_numpy(rng.normal(size=(2, 1, 3)))
    close(align_similarity(source, target), target, 1e-9)


def test_alignment_does_not_mirror():
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(9, 3, generator=generator)
    mirrored = target * torch.tensor([-1.0, 1, 1])
    aligned = align_similarity(mirrored, target)
    assert (aligned - target).norm(dim=-1).mean() > 0.1
    volume = torch.linalg.det(aligned[1:4] - aligned[0])
    assert torch.sign(volume) == -torch.sign(torch.linalg.det(target[1:4] - target[0]))
