"""The labels of a batch: mirrored and rotated like the pictures, 2D points in the crop.

Where a clip or a frame has no label, the values are neutral (zeros, identity rotations) and its
`has_*` and confidences are 0.

Axes    b clips   t frames   k keypoints of the evidence   p keypoints of the labels
        j joint rotations without the root
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64

from extpose.batch import Targets
from extpose.data.augment import Augmentation, augment_targets
from extpose.data.crop import apply_affine, keypoints_to_crop
from extpose.keypoints import NUM_KEYPOINTS
from extpose.params import PoseParams
from extpose.rotations import axis_angle_to_matrix
from extpose.schema import NUM_ROTATIONS, TARGET_SET, Clip, ClipTargets


def make_targets(
    clips: Sequence[Clip],
    augmentations: Sequence[Augmentation],
    affines: Sequence[Float64[np.ndarray, "2 3"]],
    *,
    num_frames: int,
    size: int,
) -> Targets:
    """Collated labels of windows; `affines` take un-augmented crop pixels to augmented ones."""
    b, t = len(clips), num_frames
    j = NUM_ROTATIONS[clips[0].meta.body]
    p = NUM_KEYPOINTS[TARGET_SET[clips[0].meta.body]]
    global_orient, pose = np.zeros((b, t, 3), np.float32), np.zeros((b, t, j, 3), np.float32)
    betas, transl = np.zeros((b, 10), np.float32), np.zeros((b, t, 3), np.float32)
    keypoints_2d = np.zeros((b, t, p, 3), np.float32)
    keypoints_3d = np.zeros((b, t, p, 4), np.float32)
    has_pose, has_betas = np.zeros((b, t), bool), np.zeros(b, bool)
    for i, (clip, augmentation, affine) in enumerate(
        zip(clips, augmentations, affines, strict=True)
    ):
        if clip.targets is None:
            continue
        n = clip.num_frames
        targets = augment_targets(clip.targets, augmentation, body=clip.meta.body)
        global_orient[i, :n], pose[i, :n] = targets.global_orient, targets.pose
        betas[i], transl[i, :n] = targets.betas, targets.transl
        keypoints_2d[i, :n] = _normalised(targets, clip, affine, size=size)
        keypoints_3d[i, :n] = targets.keypoints_3d
        has_pose[i, :n], has_betas[i] = targets.has_pose, targets.has_betas
    params = PoseParams(
        global_orient=axis_angle_to_matrix(torch.from_numpy(global_orient)),
        pose=axis_angle_to_matrix(torch.from_numpy(pose)),
        betas=torch.from_numpy(betas),
    )
    arrays: dict[str, Any] = {
        "has_pose": has_pose,
        "has_betas": has_betas,
        "keypoints_2d": keypoints_2d,
        "keypoints_3d": keypoints_3d,
        "transl": transl,
    }
    return Targets(params=params, **{name: torch.from_numpy(a) for name, a in arrays.items()})


def points_to_crop(
    keypoints_img: Float32[np.ndarray, "t k 3"], clip: Clip, affine: Float64[np.ndarray, "2 3"]
) -> Float32[np.ndarray, "t k 3"]:
    """Points in source pixels to pixels of the augmented crop; the third column is kept."""
    meta = clip.meta
    points = keypoints_to_crop(
        keypoints_img,
        clip.crop_to_img,
        crop_size=meta.crop_size,
        skeleton_size=meta.skeleton_size,
    )
    points[..., :2] = apply_affine(points[..., :2], affine)
    return points


def _normalised(
    targets: ClipTargets, clip: Clip, affine: Float64[np.ndarray, "2 3"], *, size: int
) -> Float32[np.ndarray, "t p 3"]:
    """2D labels in the crop, [-0.5, 0.5]; neutral where there is none."""
    points = points_to_crop(targets.keypoints_2d, clip, affine)
    points[..., :2] = points[..., :2] / size - 0.5
    points[points[..., 2] == 0] = 0
    return points
