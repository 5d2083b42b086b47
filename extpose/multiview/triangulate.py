"""Points in space from several views: robust, weighted by confidence, with an uncertainty each.

Axes    c cameras   n points   t frames   k keypoints
Units   metres, pixels
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64
from scipy.signal import butter, filtfilt

from extpose.multiview.cameras import Camera
from extpose.multiview.gaps import nearest_known

MIN_CONFIDENCE = 0.15
ROUNDS = 8
MAX_UNCERTAINTY = 0.08
"""Metres; a point that is less certain counts as not found."""
CUTOFF_HZ = 7.0
MAX_GAP_SECONDS = 0.15
"""Longer stretches without a point stay empty."""


@dataclass(frozen=True, kw_only=True)
class Triangulated:
    """Points of one person."""

    points_world: Float64[np.ndarray, "t k 3"]
    """Not a number where fewer than two views agree, or one that saw it has it behind."""
    uncertainty: Float64[np.ndarray, "t k"]
    """Metres, one standard deviation by leaving out one camera at a time."""
    reprojection: Float64[np.ndarray, "c t k"]
    """Pixels between what was seen and the projected point; not a number where nothing was."""
    left_out: Float64[np.ndarray, "c t k"]
    """The same for the point that the other cameras find without this one."""


def triangulate(
    cameras: Sequence[Camera], keypoints: Float[np.ndarray, "c t k 3"], *, scale: float
) -> Triangulated:
    """Keypoints (x y confidence, pixels) of one person in all views.

    `scale` is the error in pixels from which a view loses weight. Raises ValueError for another
    number of cameras.
    """
    if len(cameras) != len(keypoints):
        raise ValueError(f"{len(cameras)} cameras, keypoints of {len(keypoints)}")
    shape = keypoints.shape[1:3]
    seen = keypoints.reshape(len(cameras), -1, 3).astype(np.float64)
    use = (seen[..., 2] >= MIN_CONFIDENCE) & np.isfinite(seen).all(-1)
    points = intersect(cameras, seen, use, scale=scale)
    others = []
    for i in range(len(cameras)):
        without = use.copy()
        without[i] = False
        others.append(intersect(cameras, seen, without, scale=scale))
    jackknife = np.stack(others)
    known = np.isfinite(jackknife).all(-1) & use
    count = known.sum(0)
    centre = np.where(known[..., None], jackknife, 0).sum(0) / np.maximum(count, 1)[:, None]
    squared = np.where(known, ((jackknife - centre) ** 2).sum(-1), 0).sum(0)
    spread = np.sqrt(squared * np.maximum(count - 1, 0) / np.maximum(count, 1))
    reprojection, left_out = _distances(cameras, seen, use, points, jackknife)
    depth = np.stack([camera.to_camera(points)[..., 2] / camera.focal for camera in cameras])
    metres = reprojection * depth
    measured = np.isfinite(metres) & use
    pixel = np.where(measured, metres, 0).sum(0) / np.maximum(measured.sum(0), 1)
    # Two views have nobody to leave out: what they disagree by, in metres.
    uncertainty = np.where(count >= 3, spread, 2 * pixel)
    # Rays go forward only: who saw a point cannot have it behind.
    behind = (use & np.isnan(reprojection)).any(0)
    bad = ~np.isfinite(points).all(-1) | behind | (uncertainty > MAX_UNCERTAINTY)
    points = np.where(bad[:, None], np.nan, points)
    return Triangulated(
        points_world=points.reshape(*shape, 3),
        uncertainty=np.where(bad, np.nan, uncertainty).reshape(shape),
        reprojection=reprojection.reshape(-1, *shape),
        left_out=left_out.reshape(-1, *shape),
    )


def intersect(
    cameras: Sequence[Camera],
    seen: Float64[np.ndarray, "c n 3"],
    use: Bool[np.ndarray, "c n"],
    *,
    scale: float,
) -> Float64[np.ndarray, "n 3"]:
    """Where the rays meet: linear, then reweighted by reprojection (Cauchy, `scale` pixels)."""
    rays = np.stack([c.normalise(points[:, :2]) for c, points in zip(cameras, seen, strict=True)])
    rays = np.where(use[..., None], rays, 0)
    weight = np.where(use, seen[..., 2], 0)
    is_enough = use.sum(0) >= 2
    points = np.full((seen.shape[1], 3), np.nan)
    factor = weight.copy()
    for _ in range(ROUNDS):
        points = np.where(is_enough[:, None], _solve(cameras, rays, factor), np.nan)
        for i, camera in enumerate(cameras):
            local = camera.to_camera(points)
            depth = np.maximum(local[:, 2], 0.1)
            error = np.linalg.norm(local[:, :2] / depth[:, None] - rays[i], axis=-1) * camera.focal
            robust = 1 / (1 + (np.nan_to_num(error, nan=0) / scale) ** 2)
            # Algebraic errors grow with depth, geometric ones do not.
            factor[i] = weight[i] * np.sqrt(robust) * camera.focal / np.nan_to_num(depth, nan=1)
    return points


def _solve(cameras: Sequence[Camera], rays: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Linear triangulation, in world coordinates: least squares of `(x R3 - R1) X = t1 - x t3`."""
    R = np.stack([camera.R for camera in cameras])[:, None]
    t = np.stack([camera.t for camera in cameras])[:, None]
    rows = rays[..., None] * R[..., 2:, :] - R[..., :2, :]
    right = t[..., :2] - rays * t[..., 2:]
    w = weight[..., None] ** 2
    normal = np.einsum("cnai,cnaj,cna->nij", rows, rows, np.broadcast_to(w, right.shape))
    side = np.einsum("cnai,cna,cna->ni", rows, right, np.broadcast_to(w, right.shape))
    ridge = 1e-9 * (np.trace(normal, axis1=1, axis2=2) + 1e-9)[:, None, None] * np.eye(3)
    return np.linalg.solve(normal + ridge, side[..., None])[..., 0]


def _distances(
    cameras: Sequence[Camera],
    seen: np.ndarray,
    use: np.ndarray,
    points: np.ndarray,
    jackknife: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    pairs = list(zip(cameras, seen, jackknife, strict=True))
    reprojection = [np.linalg.norm(c.project(points) - s[:, :2], axis=-1) for c, s, _ in pairs]
    left_out = [np.linalg.norm(c.project(other) - s[:, :2], axis=-1) for c, s, other in pairs]
    hidden = ~use
    return (
        np.where(hidden, np.nan, np.stack(reprojection)),
        np.where(hidden, np.nan, np.stack(left_out)),
    )


def smooth(points: Float64[np.ndarray, "t k 3"], *, fps: float) -> Float64[np.ndarray, "t k 3"]:
    """A low-pass without delay (second order, `CUTOFF_HZ`); short gaps are bridged."""
    num_frames = len(points)
    out = points.copy()
    if num_frames < 15 or fps <= 2.5 * CUTOFF_HZ:
        return out
    b, a = butter(2, CUTOFF_HZ / (fps / 2))
    frames = np.arange(num_frames)
    for k in range(points.shape[1]):
        known = np.isfinite(points[:, k]).all(-1)
        if known.sum() < 4:
            continue
        filled = np.stack([np.interp(frames, frames[known], x) for x in points[known, k].T], -1)
        bridged = np.abs(frames - nearest_known(known)) <= MAX_GAP_SECONDS * fps / 2
        out[:, k] = np.where(bridged[:, None], filtfilt(b, a, filled, axis=0), np.nan)
    return out
