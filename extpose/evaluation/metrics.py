"""How far a pose is from the truth, one function a metric.

Every function works in float64 and keeps the leading axes: one number a frame or a joint, not a
number where a frame is not `valid` or a point is not labelled. What is pooled how is a protocol's
matter (`extpose/evaluation/protocols.py`, `extpose/evaluation/scoring.py`); temporal quality is in
`extpose/evaluation/temporal.py`, F-scores of surfaces in `extpose/evaluation/surface.py`.

Axes    * clips and frames   k 3D keypoints   v vertices   n rotations
Units   metres and radians in; metres, degrees, fractions out, a frame where the name says so
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from extpose.geometry import align_similarity

AUC_RANGE = 0.05
AUC_STEPS = 100
"""FreiHAND and HO3D: the PCK curve at 100 thresholds from 0 to 50 mm."""


def mpjpe(
    found: Float[Tensor, "*frames k 3"],
    target: Float[Tensor, "*frames k 3"],
    *,
    root: tuple[int, ...],
    valid: Bool[Tensor, "*frames"] | None = None,
) -> Float64[Tensor, "*frames"]:
    """Mean distance of keypoints, each side relative to the mean of its `root` keypoints.

    `mean_k |(found_k - found_root) - (target_k - target_root)|`; Human3.6M, 3DPW (HMR, WHAM).
    """
    return mpvpe(
        found, target, found_root=_root(found, root), target_root=_root(target, root), valid=valid
    )


def pa_mpjpe(
    found: Float[Tensor, "*frames k 3"],
    target: Float[Tensor, "*frames k 3"],
    *,
    valid: Bool[Tensor, "*frames"] | None = None,
    reflection: bool = False,
) -> Float64[Tensor, "*frames"]:
    """Mean distance after the best rotation, scale and translation of each frame (Procrustes).

    The determinant is +1 in the body protocols; FreiHAND and HO3D allow a `reflection`.
    """
    return aligned_errors(found, target, valid=valid, reflection=reflection).mean(-1)


def mpvpe(
    found: Float[Tensor, "*frames v 3"],
    target: Float[Tensor, "*frames v 3"],
    *,
    found_root: Float[Tensor, "*frames 3"],
    target_root: Float[Tensor, "*frames 3"],
    valid: Bool[Tensor, "*frames"] | None = None,
) -> Float64[Tensor, "*frames"]:
    """Mean distance of vertices, each side relative to its root point (WHAM: the hips' middle).

    Also called PVE and MVE.
    """
    errors = rooted_errors(
        found, target, found_root=found_root, target_root=target_root, valid=valid
    )
    return errors.mean(-1)


def pa_mpvpe(
    found: Float[Tensor, "*frames v 3"],
    target: Float[Tensor, "*frames v 3"],
    *,
    valid: Bool[Tensor, "*frames"] | None = None,
    reflection: bool = False,
) -> Float64[Tensor, "*frames"]:
    """`pa_mpjpe` of vertices, aligned by the vertices themselves (FreiHAND, HO3D)."""
    return pa_mpjpe(found, target, valid=valid, reflection=reflection)


def rooted_errors(
    found: Float[Tensor, "*frames k 3"],
    target: Float[Tensor, "*frames k 3"],
    *,
    found_root: Float[Tensor, "*frames 3"],
    target_root: Float[Tensor, "*frames 3"],
    valid: Bool[Tensor, "*frames"] | None = None,
    has_point: Bool[Tensor, "*frames k"] | None = None,
) -> Float64[Tensor, "*frames k"]:
    """Distance of each point, each side relative to its root point."""
    found, target = (
        prepare_points(found, valid, has_point),
        prepare_points(target, valid, has_point),
    )
    found = found - prepare_points(found_root[..., None, :], valid)
    target = target - prepare_points(target_root[..., None, :], valid)
    return hide_points(_distance(found, target), valid, has_point)


def aligned_errors(
    found: Float[Tensor, "*frames k 3"],
    target: Float[Tensor, "*frames k 3"],
    *,
    valid: Bool[Tensor, "*frames"] | None = None,
    has_point: Bool[Tensor, "*frames k"] | None = None,
    reflection: bool = False,
) -> Float64[Tensor, "*frames k"]:
    """Distance of each point after the best similarity of its frame."""
    found, target = (
        prepare_points(found, valid, has_point),
        prepare_points(target, valid, has_point),
    )
    aligned = align_similarity(found, target, has_point=has_point, reflection=reflection)
    return hide_points(_distance(aligned, target), valid, has_point)


def auc_shares(errors: Float[Tensor, "*points"]) -> Float64[Tensor, "*points"]:
    """What each error in metres adds to the area under the PCK curve: 1 at 0 mm, 0 above 50 mm.

    The curve of FreiHAND and HO3D is `PCK(x) = mean(error <= x)` at `linspace(0, 0.05, 100)`, its
    area (trapezoids, divided by the range) is taken per point and averaged over points. The area
    is linear in the indicators, so the mean of these shares over samples and points *is* it.
    """
    thresholds = torch.from_numpy(np.linspace(0, AUC_RANGE, AUC_STEPS)).to(errors.device)
    first = torch.searchsorted(thresholds, errors.double().contiguous()).double()
    # Trapezoids: every threshold counts one step, the two ends half of one.
    shares = (AUC_STEPS - 0.5 - first).clamp_min(0) / (AUC_STEPS - 1)
    shares = torch.where(first == 0, 1, torch.where(first < AUC_STEPS, shares, 0))
    return torch.where(errors.isnan(), torch.nan, shares)


def auc(errors: Float[Tensor, "samples k"]) -> Float64[Tensor, ""]:
    """Area under the PCK curve of aligned errors in metres, mean over points (AUC_J, AUC_V)."""
    return auc_shares(errors).nanmean(0).nanmean()


def pck_hits(
    found: Float[Tensor, "*frames k 2"],
    target: Float[Tensor, "*frames k 2"],
    *,
    scale: Float[Tensor, "*frames"],
    threshold: float,
    has_point: Bool[Tensor, "*frames k"],
) -> Float64[Tensor, "*frames k"]:
    """1 where a 2D keypoint is nearer than `threshold` times `scale` to the truth, else 0.

    `scale` is the protocol's normaliser in the points' unit (the longer side of the labelled box).
    """
    points, wanted = prepare_points(found, None, has_point), prepare_points(target, None, has_point)
    hits = _distance(points, wanted) < threshold * scale.double()[..., None]
    return torch.where(has_point, hits.double(), torch.nan)


def pck(
    found: Float[Tensor, "*frames k 2"],
    target: Float[Tensor, "*frames k 3"],
    *,
    scale: Float[Tensor, "*frames"],
    threshold: float,
    min_confidence: float = 0.5,
) -> Float64[Tensor, "*frames"]:
    """Fraction of 2D keypoints nearer than `threshold` times `scale` (the box's side) to the truth.

    Only keypoints of a confidence above `min_confidence` count (HMR2.0's rule); not a number where
    a frame has none.
    """
    labelled = target[..., 2] > min_confidence
    hits = pck_hits(found, target[..., :2], scale=scale, threshold=threshold, has_point=labelled)
    return hits.nanmean(-1)


def mpjae(
    found: Float[Tensor, "*frames n 3 3"],
    target: Float[Tensor, "*frames n 3 3"],
    *,
    valid: Bool[Tensor, "*frames"] | None = None,
) -> Float64[Tensor, "*frames n"]:
    """Angle between two orientations in one frame of reference (not the parent's), degrees.

    3DPW's challenge and EMDB average it over 9 joints: pelvis, hips, knees, shoulders, elbows.
    """
    difference = found.double() @ target.double().mT
    # |R - I| = sqrt(8) sin(a/2) is exact near zero, where the arc cosine of the trace is not.
    chord = (difference - torch.eye(3).to(difference)).flatten(-2).norm(dim=-1)
    trace = difference.diagonal(dim1=-2, dim2=-1).sum(-1)
    half = torch.atan2(chord / 8**0.5, ((1 + trace) / 4).clamp_min(0).sqrt())
    angles = torch.rad2deg(2 * half)
    return hide_points(angles, valid, None)


def _root(points: Float[Tensor, "*frames k 3"], root: tuple[int, ...]) -> Tensor:
    return points[..., list(root), :].double().mean(-2)


def _distance(found: Tensor, target: Tensor) -> Tensor:
    return (found - target).norm(dim=-1)


def prepare_points(points: Tensor, valid: Tensor | None, has_point: Tensor | None = None) -> Tensor:
    """Float64, and zeros where a frame or a point does not count: there may be anything."""
    points = points.double()
    if valid is not None:
        points = torch.where(valid[..., None, None], points, 0)
    return points if has_point is None else torch.where(has_point[..., None], points, 0)


def hide_points(values: Tensor, valid: Tensor | None, has_point: Tensor | None) -> Tensor:
    """Not a number where a frame or a point does not count."""
    values = values if has_point is None else torch.where(has_point, values, torch.nan)
    return values if valid is None else torch.where(valid[..., None], values, torch.nan)
