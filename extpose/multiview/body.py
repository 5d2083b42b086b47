"""A body fitted to one person's keypoints in all views at once.

Axes    c cameras   t frames   k COCO's 17 keypoints   j 23 joint rotations
Units   metres, radians, pixels
Frames  `_world`, that of the cameras' calibration
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from scipy.spatial.transform import Rotation
from torch import Tensor

from extpose.body_model import BodyModel
from extpose.keypoints import COCO17_OF_BODY44
from extpose.multiview.cameras import Camera
from extpose.rotations import axis_angle_to_matrix

STAGES = ((150, 0.05), (250, 0.02))
"""Steps and step sizes of Adam: to the points in space, then also to the pictures."""
POSE_WEIGHT, SHAPE_WEIGHT, TREMBLE_WEIGHT, PICTURE_WEIGHT = 0.01, 0.02, 1.0, 0.4
FACE_WEIGHT = 0.2
"""Eyes, ears and nose of bodies differ from those of detectors."""
HIP_WEIGHT = 0.4
ROBUST_METRES = 0.06
SHOULDERS, HIPS = (5, 6), (11, 12)


@dataclass(frozen=True, kw_only=True)
class FittedBody:
    """SMPL-format parameters in the world."""

    global_orient: Float32[np.ndarray, "t 3"]
    pose: Float32[np.ndarray, "t 23 3"]
    betas: Float32[np.ndarray, " 10"]
    transl: Float32[np.ndarray, "t 3"]
    keypoints_world: Float32[np.ndarray, "t 17 3"]


def fit_body(
    cameras: Sequence[Camera],
    keypoints: Float[np.ndarray, "c t 17 3"],
    points_world: Float64[np.ndarray, "t 17 3"],
    *,
    body: BodyModel,
    scale: float,
) -> FittedBody:
    """One shape, and a pose a frame; `scale` is the error in pixels that loses weight.

    Raises ValueError where no frame has shoulders and hips.
    """
    orient, pelvis = start_pose(points_world)
    num_frames = len(points_world)
    known = torch.from_numpy(np.isfinite(points_world).all(-1)).float()
    target = torch.from_numpy(np.nan_to_num(points_world)).float()
    weight = torch.ones(17)
    weight[:5], weight[list(HIPS)] = FACE_WEIGHT, HIP_WEIGHT
    views = [_View(camera, seen) for camera, seen in zip(cameras, keypoints, strict=True)]
    betas = torch.zeros(10, requires_grad=True)
    pose = torch.zeros(num_frames, 23, 3, requires_grad=True)
    turn = torch.from_numpy(orient).float().requires_grad_(True)
    move = (torch.from_numpy(pelvis).float() - body.joints_template[0]).requires_grad_(True)

    def pose_points() -> Tensor:
        points = body.find_keypoints(
            axis_angle_to_matrix(turn), axis_angle_to_matrix(pose), betas.expand(num_frames, 10)
        )
        return points[:, list(COCO17_OF_BODY44)] + move[:, None]

    for stage, (steps, size) in enumerate(STAGES):
        optimiser = torch.optim.Adam([betas, pose, turn, move], lr=size)
        for _ in range(steps):
            points = pose_points()
            away = (points - target).square().sum(-1) / ROBUST_METRES**2
            # At first limbs are far from where they belong: what is far must still pull.
            far = away / (1 + away) if stage else (away + 0.01).sqrt()
            loss = (known * weight * far).mean()
            if stage:
                loss = loss + PICTURE_WEIGHT * sum(v.loss(points, weight, scale) for v in views)
            loss = loss + POSE_WEIGHT * pose.square().sum(-1).mean()
            loss = loss + SHAPE_WEIGHT * betas.square().mean()
            if num_frames > 2:
                loss = loss + TREMBLE_WEIGHT * pose.diff(n=2, dim=0).square().sum(-1).mean()
                shaken = (points / ROBUST_METRES).diff(n=2, dim=0).square().sum(-1).mean()
                loss = loss + shaken
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    with torch.inference_mode():
        points = pose_points()
    return FittedBody(
        global_orient=turn.detach().numpy(),
        pose=pose.detach().numpy(),
        betas=betas.detach().numpy(),
        transl=move.detach().numpy(),
        keypoints_world=points.numpy(),
    )


def start_pose(
    points_world: Float64[np.ndarray, "t 17 3"],
) -> tuple[Float64[np.ndarray, "t 3"], Float64[np.ndarray, "t 3"]]:
    """Root rotations (axis times angle) and pelvis from shoulders and hips; gaps are filled.

    Raises ValueError where no frame has all four.
    """
    trunk = points_world[:, [*SHOULDERS, *HIPS]]
    known = np.isfinite(trunk).all((1, 2))
    if not known.any():
        raise ValueError("no frame has both shoulders and both hips")
    nearest = np.abs(np.arange(len(trunk))[:, None] - np.flatnonzero(known)[None]).argmin(1)
    trunk = trunk[known][nearest]
    hips = trunk[:, 2:].mean(1)
    left = trunk[:, 0] - trunk[:, 1] + trunk[:, 2] - trunk[:, 3]
    up = trunk[:, :2].mean(1) - hips
    up /= np.linalg.norm(up, axis=-1, keepdims=True)
    left -= up * (left * up).sum(-1, keepdims=True)
    left /= np.linalg.norm(left, axis=-1, keepdims=True)
    matrices = np.stack([left, up, np.cross(left, up)], -1)
    vectors = Rotation.from_matrix(matrices).as_rotvec()
    # An angle and its full turn less are one rotation: take those that follow each other.
    for i in range(1, len(vectors)):
        angle = np.linalg.norm(vectors[i])
        if angle > 1e-6:
            other = vectors[i] * (1 - 2 * np.pi / angle)
            if np.linalg.norm(other - vectors[i - 1]) < np.linalg.norm(vectors[i] - vectors[i - 1]):
                vectors[i] = other
    return vectors, hips


class _View:
    """What one camera saw, without the lens's distortion."""

    def __init__(self, camera: Camera, seen: np.ndarray) -> None:
        self.R = torch.from_numpy(camera.R).float()
        self.t = torch.from_numpy(camera.t).float()
        self.focal = camera.focal
        self.rays = torch.from_numpy(camera.normalise(seen[..., :2])).float()
        self.weight = torch.from_numpy(seen[..., 2]).float()

    def loss(self, points: Tensor, weight: Tensor, scale: float) -> Tensor:
        local = points @ self.R.T + self.t
        pixels = (local[..., :2] / local[..., 2:].clamp(min=0.1) - self.rays) * self.focal
        away = (pixels / scale).square().sum(-1)
        return (self.weight * weight * away / (1 + away)).mean()
