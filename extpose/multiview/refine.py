"""Cameras moved a little until the person's limbs agree in all views: bundle adjustment.

Only places and directions move; focal lengths are not known better from one person. Small priors
(`ANGLE`, `SHIFT`) hold the whole still, which nothing else would.

Axes    c cameras   n points
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float64
from scipy.optimize import least_squares
from scipy.sparse import lil_matrix
from scipy.spatial.transform import Rotation

from extpose.multiview.cameras import Camera
from extpose.multiview.triangulate import MIN_CONFIDENCE, intersect

ANGLE, SHIFT = np.deg2rad(1.7), 0.02
"""Radians and metres that a calibration is wrong by, usually."""
MAX_POINTS = 400
MIN_POINTS = 30
LIMBS = slice(5, 17)


def refine_cameras(
    cameras: Sequence[Camera], keypoints: Float64[np.ndarray, "c t k 3"], *, scale: float
) -> list[Camera]:
    """Cameras under which COCO's limb joints agree better; unchanged where too few are seen.

    `scale` is the error in pixels from which an observation loses weight.
    """
    seen = keypoints[:, :, LIMBS].reshape(len(cameras), -1, 3).astype(np.float64)
    use = (seen[..., 2] >= MIN_CONFIDENCE) & np.isfinite(seen).all(-1)
    enough = np.flatnonzero(use.sum(0) >= 3)
    if len(enough) < MIN_POINTS:
        return list(cameras)
    chosen = enough[np.linspace(0, len(enough) - 1, min(MAX_POINTS, len(enough))).astype(int)]
    seen, use = seen[:, chosen], use[:, chosen]
    start = intersect(cameras, seen, use, scale=scale)
    rays = np.stack([c.normalise(s[:, :2]) for c, s in zip(cameras, seen, strict=True)])
    weight = np.where(use, np.sqrt(np.clip(seen[..., 2], 0, 1)), 0)
    num_cameras, num_points = len(cameras), len(chosen)
    focal = np.array([camera.focal for camera in cameras])[:, None, None]

    def residuals(x: np.ndarray) -> np.ndarray:
        moved = move_cameras(cameras, x[: 6 * num_cameras].reshape(-1, 6))
        points = x[6 * num_cameras :].reshape(-1, 3)
        local = np.stack([camera.to_camera(points) for camera in moved])
        error = (local[..., :2] / np.maximum(local[..., 2:], 0.1) - rays) * focal
        error = error * weight[..., None] / scale
        prior = x[: 6 * num_cameras].reshape(-1, 6) / [*[ANGLE] * 3, *[SHIFT] * 3]
        return np.concatenate([error.ravel(), prior.ravel()])

    found = least_squares(
        residuals,
        np.concatenate([np.zeros(6 * num_cameras), start.ravel()]),
        jac_sparsity=_sparsity(num_cameras, num_points),
        loss="cauchy",
        x_scale="jac",
        max_nfev=40,
    )
    return move_cameras(cameras, found.x[: 6 * num_cameras].reshape(-1, 6))


def move_cameras(cameras: Sequence[Camera], steps: Float64[np.ndarray, "c 6"]) -> list[Camera]:
    """Cameras turned (axis times angle, in their own axes) and shifted."""
    return [
        replace(
            camera,
            R=Rotation.from_rotvec(step[:3]).as_matrix() @ camera.R,
            t=Rotation.from_rotvec(step[:3]).as_matrix() @ camera.t + step[3:],
        )
        for camera, step in zip(cameras, steps, strict=True)
    ]


def _sparsity(num_cameras: int, num_points: int) -> lil_matrix:
    """Which numbers each residual depends on."""
    rows = 2 * num_cameras * num_points
    matrix = lil_matrix((rows + 6 * num_cameras, 6 * num_cameras + 3 * num_points), dtype=int)
    places = np.arange(2 * num_points)
    for camera in range(num_cameras):
        first = camera * 2 * num_points
        matrix[first : first + 2 * num_points, 6 * camera : 6 * camera + 6] = 1
        for axis in range(3):
            matrix[first + places, 6 * num_cameras + 3 * (places // 2) + axis] = 1
    for i in range(6 * num_cameras):
        matrix[rows + i, i] = 1
    return matrix
