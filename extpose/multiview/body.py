"""A body fitted to one person's keypoints in all views at once.

Axes    c cameras   t frames   k COCO's 17 keypoints   j 23 joint rotations
Units   metres, radians, pixels
Frames  `_world`, that of the cameras' calibration
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64
from scipy.spatial.transform import Rotation
from torch import Tensor

from extpose.body_model import BodyModel
from extpose.keypoints import COCO17_OF_BODY44
from extpose.multiview.cameras import Camera
from extpose.multiview.gaps import nearest_known
from extpose.rotations import axis_angle_to_matrix

STAGES = ((150, 0.05), (250, 0.02))
"""Steps and step sizes of Adam: to the points in space, then also to the pictures."""
POSE_WEIGHT, SHAPE_WEIGHT, TREMBLE_WEIGHT, PICTURE_WEIGHT = 0.01, 0.02, 1.0, 0.4
FACE_WEIGHT = 0.2
"""Eyes, ears and nose of bodies differ from those of detectors."""
HIP_WEIGHT = 0.4
ROBUST_METRES = 0.06
SHOULDERS, HIPS, LIMBS = (5, 6), (11, 12), slice(5, 17)
MIN_LIMBS = 8
PART, OVERLAP = 600, 30
"""Frames that are fitted at once, and that two neighbours share."""


@dataclass(frozen=True, kw_only=True)
class FittedBody:
    """SMPL-format parameters in the world."""

    global_orient: Float32[np.ndarray, "t 3"]
    pose: Float32[np.ndarray, "t 23 3"]
    betas: Float32[np.ndarray, " 10"]
    transl: Float32[np.ndarray, "t 3"]
    keypoints_world: Float32[np.ndarray, "t 17 3"]
    has_pose: Bool[np.ndarray, " t"]
    """Whether enough was seen (`is_posed`); elsewhere the priors alone have made a pose."""


def is_posed(points_world: Float64[np.ndarray, "t 17 3"]) -> Bool[np.ndarray, " t"]:
    """Frames whose points tell a pose: shoulders, hips, and `MIN_LIMBS` of the 12 limb joints."""
    known = np.isfinite(points_world).all(-1)
    return known[:, [*SHOULDERS, *HIPS]].all(1) & (known[:, LIMBS].sum(1) >= MIN_LIMBS)


def fit_body(
    cameras: Sequence[Camera],
    keypoints: Float[np.ndarray, "c t 17 3"],
    points_world: Float64[np.ndarray, "t 17 3"],
    *,
    body: BodyModel,
    scale: float,
) -> FittedBody:
    """One shape, and a pose a frame; `scale` is the error in pixels that loses weight.

    Long recordings are fitted in parts that overlap, with the shape of the one that is seen best.
    Raises ValueError where no frame has shoulders and hips.
    """
    orient, pelvis = start_pose(points_world)
    posed = is_posed(points_world)
    parts = split_frames(len(posed))
    best = max(parts, key=lambda part: int(posed[part].sum()))

    def fit(part: slice, betas: Float32[np.ndarray, " 10"] | None) -> FittedBody:
        views = [_View(c, seen) for c, seen in zip(cameras, keypoints[:, part], strict=True)]
        problem = _Problem(points_world[part], views, body=body, scale=scale)
        return problem.solve(orient[part], pelvis[part], betas)

    first = fit(best, None)
    return join_parts([first if part == best else fit(part, first.betas) for part in parts])


def split_frames(num_frames: int) -> list[slice]:
    """Parts of at most `PART` frames and nearly equal length; neighbours share `OVERLAP`."""
    own = num_frames - OVERLAP
    count = max(1, -(-own // (PART - OVERLAP)))
    cuts = [own * i // count for i in range(count + 1)]
    return [slice(a, b + OVERLAP) for a, b in pairwise(cuts)]


def join_parts(parts: Sequence[FittedBody]) -> FittedBody:
    """Parts as one: where two overlap, the first goes over into the second."""
    whole = parts[0]
    share = np.arange(1, OVERLAP + 1) / (OVERLAP + 1)
    for part in parts[1:]:
        joined = {}
        for name in ("global_orient", "pose", "transl", "keypoints_world"):
            mix = _turn if name in ("global_orient", "pose") else _shift
            a, b = getattr(whole, name), getattr(part, name)
            weight = share.reshape(-1, *[1] * (a.ndim - 1))
            between = mix(a[-OVERLAP:], b[:OVERLAP], weight).astype(np.float32)
            joined[name] = np.concatenate([a[:-OVERLAP], between, b[OVERLAP:]])
        has_pose = np.concatenate([whole.has_pose, part.has_pose[OVERLAP:]])
        whole = FittedBody(**joined, betas=whole.betas, has_pose=has_pose)
    return whole


def _shift(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return a + weight * (b - a)


def _turn(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    first, last = (Rotation.from_rotvec(x.reshape(-1, 3)) for x in (a, b))
    way = (first.inv() * last).as_rotvec().reshape(a.shape)
    return (
        (first * Rotation.from_rotvec((weight * way).reshape(-1, 3))).as_rotvec().reshape(a.shape)
    )


class _Problem:
    """The points and pictures of some frames, and the body that comes near them."""

    def __init__(
        self, points_world: np.ndarray, views: Sequence["_View"], *, body: BodyModel, scale: float
    ) -> None:
        self.views, self.body, self.scale = views, body, scale
        self.has_pose = is_posed(points_world)
        self.known = torch.from_numpy(np.isfinite(points_world).all(-1)).float()
        self.target = torch.from_numpy(np.nan_to_num(points_world)).float()
        self.weight = torch.ones(17)
        self.weight[:5], self.weight[list(HIPS)] = FACE_WEIGHT, HIP_WEIGHT

    def solve(
        self, orient: np.ndarray, pelvis: np.ndarray, betas: Float32[np.ndarray, " 10"] | None
    ) -> FittedBody:
        """Pose and place from the start on, the shape with them where none is given."""
        shape = torch.zeros(10) if betas is None else torch.from_numpy(betas)
        pose = torch.zeros(len(orient), 23, 3, requires_grad=True)
        turn = torch.from_numpy(orient).float().requires_grad_(True)
        move = torch.from_numpy(pelvis).float() - self.body.joints_template[0]
        free = [pose, turn, move.requires_grad_(True)]
        if betas is None:
            free = [shape.requires_grad_(True), *free]
        # Where nobody was seen there is nothing to fit.
        for stage, (steps, size) in enumerate(STAGES if self.has_pose.any() else ()):
            optimiser = torch.optim.Adam(free, lr=size)
            for _ in range(steps):
                points = self.place(shape, pose, turn, move)
                loss = self.loss(points, shape, pose, is_final=stage > 0)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        with torch.inference_mode():
            points = self.place(shape, pose, turn, move)
        return FittedBody(
            global_orient=turn.detach().numpy(),
            pose=pose.detach().numpy(),
            betas=shape.detach().numpy(),
            transl=move.detach().numpy(),
            keypoints_world=points.numpy(),
            has_pose=self.has_pose,
        )

    def place(self, betas: Tensor, pose: Tensor, turn: Tensor, move: Tensor) -> Tensor:
        """COCO's keypoints in the world."""
        points = self.body.find_keypoints(
            axis_angle_to_matrix(turn), axis_angle_to_matrix(pose), betas.expand(len(pose), 10)
        )
        return points[:, list(COCO17_OF_BODY44)] + move[:, None]

    def loss(self, points: Tensor, betas: Tensor, pose: Tensor, *, is_final: bool) -> Tensor:
        """Distance from the points, in the end from the pictures too, and the priors."""
        away = (points - self.target).square().sum(-1) / ROBUST_METRES**2
        # At first limbs are far from where they belong: what is far must still pull.
        far = away / (1 + away) if is_final else (away + 0.01).sqrt()
        loss = (self.known * self.weight * far).mean()
        if is_final:
            pictures = sum(view.loss(points, self.weight, self.scale) for view in self.views)
            loss = loss + PICTURE_WEIGHT * pictures
        loss = loss + POSE_WEIGHT * pose.square().sum(-1).mean()
        loss = loss + SHAPE_WEIGHT * betas.square().mean()
        if len(pose) > 2:
            loss = loss + TREMBLE_WEIGHT * pose.diff(n=2, dim=0).square().sum(-1).mean()
            loss = loss + (points / ROBUST_METRES).diff(n=2, dim=0).square().sum(-1).mean()
        return loss


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
    trunk = trunk[nearest_known(known)]
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
