"""Quaternions, mirrors, cameras and alignment: pure functions on torch tensors.

What of rotations the network itself needs is in `rotations.py`.

Axes    ... any leading axes   n points   3 3 rotation matrices that act on column vectors
Units   radians, metres, pixels; OpenCV camera axes (x right, y down, z forward)
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

CROP_FOCAL_LENGTH = 5000.0
CROP_SIZE = 256.0
"""HMR2.0's assumed focal length, 5000 pixels for a crop of 256."""


def matrix_to_axis_angle(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Inverse of `axis_angle_to_matrix`; the angle is in [0, pi]."""
    quaternion = matrix_to_quaternion(matrix)
    w, xyz = quaternion[..., :1], quaternion[..., 1:]
    norm = xyz.norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(norm, w)
    factor = torch.where(norm < 1e-7, torch.full_like(norm, 2.0), angle / norm.clamp_min(1e-12))
    return xyz * factor


def matrix_to_quaternion(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """Unit quaternion (w, x, y, z) with w >= 0, by the largest of its four squared components."""
    m = matrix
    m00, m11, m22 = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    squares = torch.stack(
        [1 + m00 + m11 + m22, 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22], -1
    )
    wx, wy, wz = (m[..., i, j] - m[..., j, i] for i, j in ((2, 1), (0, 2), (1, 0)))
    xy, xz, yz = (m[..., i, j] + m[..., j, i] for i, j in ((0, 1), (0, 2), (1, 2)))
    rows = torch.stack(
        [
            torch.stack([squares[..., 0], wx, wy, wz], -1),
            torch.stack([wx, squares[..., 1], xy, xz], -1),
            torch.stack([wy, xy, squares[..., 2], yz], -1),
            torch.stack([wz, xz, yz, squares[..., 3]], -1),
        ],
        -2,
    )
    best = squares.argmax(-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    quaternion = F.normalize(rows.gather(-2, best).squeeze(-2), dim=-1)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def quaternion_to_matrix(quaternion: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Quaternion (w, x, y, z) of any length but zero to the rotation of its direction."""
    w, x, y, z = F.normalize(quaternion, dim=-1).unbind(-1)
    rows = [
        torch.stack([w * w + x * x - y * y - z * z, 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), w * w - x * x + y * y - z * z, 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z], -1),
    ]
    return torch.stack(rows, -2)


def project_to_rotations(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The rotations nearest to any matrices (Frobenius norm), by SVD."""
    u, _, vh = torch.linalg.svd(matrix)
    signs = matrix.new_ones(matrix.shape[:-1])
    signs[..., 2] = torch.linalg.det(u @ vh)
    return (u * signs[..., None, :]) @ vh


def mirror_points(points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """x changes its sign: a right hand becomes a left one. Also of translations."""
    return points * points.new_tensor([-1.0, 1.0, 1.0])


def mirror_rotations(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotations of the mirrored object: `M R M` with M = diag(-1, 1, 1).

    (y and z of an axis-angle change their sign.) Of a hand these are all its rotations; those of a
    body's left and right joints also change places.
    """
    signs = matrix.new_tensor([-1.0, 1.0, 1.0])
    return matrix * signs[:, None] * signs


def crop_cam_to_transl(
    crop_cam: Float[Tensor, "*batch 3"], focal_length: float = CROP_FOCAL_LENGTH
) -> Float[Tensor, "*batch 3"]:
    """Weak perspective (s, tx, ty) to a translation in front of the crop's own camera."""
    scale, tx, ty = crop_cam.unbind(-1)
    return torch.stack([tx, ty, 2 * focal_length / (CROP_SIZE * scale + 1e-9)], -1)


def crop_cam_to_full(
    crop_cam: Float[Tensor, "*batch 3"],
    box: Float[Tensor, "*batch 3"],
    image_size: Float[Tensor, "*batch 2"],
    focal_length: Float[Tensor, "*batch"] | float,
) -> Float[Tensor, "*batch 3"]:
    """Weak perspective in the crop to a translation in the full image's camera.

    `box` is centre x, centre y and side of the crop in pixels, `image_size` height and width; the
    principal point is the image's centre (HMR2.0's `cam_crop_to_full`).
    """
    scale, tx, ty = crop_cam.unbind(-1)
    cx, cy, side = box.unbind(-1)
    height, width = image_size.unbind(-1)
    size = side * scale + 1e-9
    depth = 2 * focal_length / size
    return torch.stack(
        [2 * (cx - width / 2) / size + tx, 2 * (cy - height / 2) / size + ty, depth], -1
    )


def default_focal_length(image_size: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch"]:
    """HMR2.0's assumption for an unknown camera, pixels: 5000 / 256 * max(height, width)."""
    return CROP_FOCAL_LENGTH / CROP_SIZE * image_size.amax(-1)


def project(
    points_cam: Float[Tensor, "*batch n 3"],
    focal_length: Float[Tensor, "*batch 2"] | float,
    center: Float[Tensor, "*batch 2"] | float = 0.0,
) -> Float[Tensor, "*batch n 2"]:
    """Points in front of a pinhole camera to its image, in the units of the focal length."""
    plane = points_cam[..., :2] / points_cam[..., 2:]
    if isinstance(focal_length, Tensor):
        focal_length = focal_length[..., None, :]
    if isinstance(center, Tensor):
        center = center[..., None, :]
    return focal_length * plane + center


def project_to_crop(
    points: Float[Tensor, "*batch n 3"], crop_cam: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch n 2"]:
    """Body-centred points to the crop, [-0.5, 0.5] inside it (HMR2.0's projection)."""
    points_cam = points + crop_cam_to_transl(crop_cam)[..., None, :]
    return project(points_cam, CROP_FOCAL_LENGTH / CROP_SIZE)


@dataclass(frozen=True)
class Similarity:
    """`scale * rotation @ x + translation`, one per element of the batch."""

    scale: Float[Tensor, "*batch"]
    rotation: Float[Tensor, "*batch 3 3"]
    """Orthogonal; its determinant is -1 where a reflection was allowed and fits better."""
    translation: Float[Tensor, "*batch 3"]

    def __call__(self, points: Float[Tensor, "*batch n 3"]) -> Float[Tensor, "*batch n 3"]:
        """Points that are moved."""
        turned = self.scale[..., None, None] * (points @ self.rotation.mT)
        return turned + self.translation[..., None, :]


def find_similarity(
    source: Float[Tensor, "*batch n 3"],
    target: Float[Tensor, "*batch n 3"],
    *,
    has_point: Bool[Tensor, "*batch n"] | None = None,
    reflection: bool = False,
) -> Similarity:
    """The similarity that takes `source` nearest to `target` (least squares; Procrustes).

    With X, Y the centred points and `X^T Y = U S V^T`: `rotation = V D U^T`, `scale = tr(D S) /
    |X|^2`. D makes the determinant +1 (body protocols: HMR, WHAM, 3DPW, EMDB); with `reflection`
    it is the identity, which is `scipy.linalg.orthogonal_procrustes` between point sets that were
    divided by their Frobenius norms plus 1e-8 (FreiHAND, HO3D).

    Only points with `has_point` decide. What is not finite there must be replaced before.
    """
    if has_point is None:
        mean_source, mean_target = source.mean(-2), target.mean(-2)
        x, y = source - mean_source[..., None, :], target - mean_target[..., None, :]
    else:
        weight = has_point.to(source.dtype)[..., None]
        count = weight.sum(-2).clamp_min(1)
        mean_source, mean_target = (
            (weight * source).sum(-2) / count,
            (weight * target).sum(-2) / count,
        )
        x = weight * (source - mean_source[..., None, :])
        y = weight * (target - mean_target[..., None, :])
    u, s, vh = torch.linalg.svd(x.mT @ y)
    sign = torch.ones_like(s)
    if not reflection:
        sign[..., -1] = torch.sign(torch.linalg.det(u) * torch.linalg.det(vh))
    rotation = vh.mT @ (sign[..., None] * u.mT)
    size = x.norm(dim=(-2, -1)) + 1e-8 if reflection else x.norm(dim=(-2, -1)).clamp_min(1e-6)
    scale = (s * sign).sum(-1) / size.square()
    translation = mean_target - scale[..., None] * (rotation @ mean_source[..., None])[..., 0]
    return Similarity(scale, rotation, translation)


def align_similarity(
    source: Float[Tensor, "*batch n 3"],
    target: Float[Tensor, "*batch n 3"],
    *,
    has_point: Bool[Tensor, "*batch n"] | None = None,
    reflection: bool = False,
) -> Float[Tensor, "*batch n 3"]:
    """`source` moved onto `target` by `find_similarity`, per element of the batch."""
    return find_similarity(source, target, has_point=has_point, reflection=reflection)(source)
