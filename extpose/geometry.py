"""Cameras and alignment: pure functions on torch tensors.

Axes    ... any leading axes   n points
Units   metres, pixels; OpenCV camera axes (x right, y down, z forward)
"""

import torch
from jaxtyping import Float
from torch import Tensor

CROP_FOCAL_LENGTH = 5000.0
CROP_SIZE = 256.0
"""HMR2.0's assumed focal length, 5000 pixels for a crop of 256."""


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


def align_similarity(
    source: Float[Tensor, "*batch n 3"], target: Float[Tensor, "*batch n 3"]
) -> Float[Tensor, "*batch n 3"]:
    """`source` moved onto `target` by the best rotation (det +1), scale and translation.

    The Procrustes alignment of PA-MPJPE (body protocols), per element of the batch.
    """
    mean_source, mean_target = source.mean(-2, keepdim=True), target.mean(-2, keepdim=True)
    x, y = source - mean_source, target - mean_target
    u, s, vh = torch.linalg.svd(x.mT @ y)
    sign = torch.ones_like(s)
    sign[..., -1] = torch.sign(torch.linalg.det(u) * torch.linalg.det(vh))
    rotation = vh.mT @ (sign[..., None] * u.mT)
    scale = (s * sign).sum(-1) / x.square().sum((-2, -1)).clamp_min(1e-12)
    return scale[..., None, None] * (x @ rotation.mT) + mean_target
