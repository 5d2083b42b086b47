"""How good a pose sequence is: accuracy and temporal quality, one function a metric.

Every function works in float64 and keeps the leading axes: one number a frame (or a joint, a pair,
triple or quadruple of frames), not a number where a frame is not `valid` or a point is not
labelled. What is pooled how is a protocol's matter (`extpose/protocols.py`, `extpose/scoring.py`);
F-scores of surfaces are in `extpose/surface.py`.

Axes    * clips and frames   t frames   k 3D keypoints   v vertices   n rotations
Units   metres and radians in; metres, degrees, fractions out, a frame where the name says so
"""

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from extpose.geometry import align_similarity

AUC_RANGE = 0.05
AUC_STEPS = 100
"""FreiHAND and HO3D: the PCK curve at 100 thresholds from 0 to 50 mm."""
CONTACT_SPEED = 0.3
"""m/s: below it a foot of the truth stands (WHAM: 1 cm a frame at 30 fps)."""


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
    found, target = _prepare(found, valid, has_point), _prepare(target, valid, has_point)
    found = found - _prepare(found_root[..., None, :], valid)
    target = target - _prepare(target_root[..., None, :], valid)
    return _hide_points(_distance(found, target), valid, has_point)


def aligned_errors(
    found: Float[Tensor, "*frames k 3"],
    target: Float[Tensor, "*frames k 3"],
    *,
    valid: Bool[Tensor, "*frames"] | None = None,
    has_point: Bool[Tensor, "*frames k"] | None = None,
    reflection: bool = False,
) -> Float64[Tensor, "*frames k"]:
    """Distance of each point after the best similarity of its frame."""
    found, target = _prepare(found, valid, has_point), _prepare(target, valid, has_point)
    aligned = align_similarity(found, target, has_point=has_point, reflection=reflection)
    return _hide_points(_distance(aligned, target), valid, has_point)


def auc_shares(errors: Float[Tensor, "*points"]) -> Float64[Tensor, "*points"]:
    """What each error in metres adds to the area under the PCK curve: 1 at 0 mm, 0 above 50 mm.

    The curve of FreiHAND and HO3D is `PCK(x) = mean(error <= x)` at `linspace(0, 0.05, 100)`, its
    area (trapezoids, divided by the range) is taken per point and averaged over points. The area
    is linear in the indicators, so the mean of these shares over samples and points *is* it.
    """
    thresholds = torch.linspace(0, AUC_RANGE, AUC_STEPS, dtype=torch.float64, device=errors.device)
    first = torch.searchsorted(thresholds, errors.double().contiguous())
    # Trapezoids: every threshold counts one step, the two ends half of one.
    shares = (AUC_STEPS - 0.5 - first).clamp_min(0) / (AUC_STEPS - 1)
    shares = torch.where(first == 0, 1, torch.where(first < AUC_STEPS, shares, 0))
    return torch.where(errors.isnan(), torch.nan, shares.double())


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
    points, wanted = _prepare(found, None, has_point), _prepare(target, None, has_point)
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
    # |R - I| is exact near zero, where the arc cosine of the trace is not.
    chord = (difference - torch.eye(3, dtype=difference.dtype)).flatten(-2).norm(dim=-1)
    angles = torch.rad2deg(2 * torch.asin((chord / 8**0.5).clamp(max=1)))
    return _hide_points(angles, valid, None)


def acceleration_error(
    found: Float[Tensor, "*clips t k 3"],
    target: Float[Tensor, "*clips t k 3"],
    *,
    valid: Bool[Tensor, "*clips t"] | None = None,
) -> Float64[Tensor, "*clips t_minus_2"]:
    """Mean over keypoints of `|a_found - a_target|`, `a_t = x_{t-1} - 2 x_t + x_{t+1}`, m/frame^2.

    A triple with a frame that is not valid is not a number: nothing is differenced across a gap.
    Times fps^2: m/s^2 (WHAM, GVHMR); times 1000: mm/frame^2 (VIBE prints it as "mm/s^2").
    """
    return acceleration_errors(found, target, valid=valid).mean(-1)


def acceleration_errors(
    found: Float[Tensor, "*clips t k 3"],
    target: Float[Tensor, "*clips t k 3"],
    *,
    valid: Bool[Tensor, "*clips t"] | None = None,
    has_point: Bool[Tensor, "*clips t k"] | None = None,
) -> Float64[Tensor, "*clips t_minus_2 k"]:
    """`acceleration_error` of each keypoint; all three frames must have it."""
    difference = _prepare(found, valid, has_point) - _prepare(target, valid, has_point)
    sizes = difference.diff(n=2, dim=-3).norm(dim=-1)
    return _hide_points(sizes, _runs(valid, 3), _runs(has_point, 3, dim=-2))


def jitter(
    points: Float[Tensor, "*clips t k 3"], *, valid: Bool[Tensor, "*clips t"] | None = None
) -> Float64[Tensor, "*clips t_minus_3"]:
    """Mean over keypoints of `|x_{t+3} - 3 x_{t+2} + 3 x_{t+1} - x_t|`, m/frame^3.

    Times fps^3 / 10: the 10 m/s^3 of WHAM. The truth's own jitter belongs beside it.
    """
    return jerks(points, valid=valid).mean(-1)


def jerks(
    points: Float[Tensor, "*clips t k 3"],
    *,
    valid: Bool[Tensor, "*clips t"] | None = None,
    has_point: Bool[Tensor, "*clips t k"] | None = None,
) -> Float64[Tensor, "*clips t_minus_3 k"]:
    """`jitter` of each keypoint; all four frames must have it."""
    sizes = _prepare(points, valid, has_point).diff(n=3, dim=-3).norm(dim=-1)
    return _hide_points(sizes, _runs(valid, 4), _runs(has_point, 4, dim=-2))


def foot_sliding(
    found: Float[Tensor, "*clips t f 3"],
    target: Float[Tensor, "*clips t f 3"],
    *,
    threshold: float,
    valid: Bool[Tensor, "*clips t"] | None = None,
) -> Float64[Tensor, "*clips t_minus_1 f"]:
    """How far a foot moves from one frame to the next while the *truth's* foot stands, m/frame.

    A foot point stands when the truth moves it by less than `threshold` metres in that frame; not a
    number elsewhere. WHAM's and GVHMR's definition: big toes and heels (`left_big_toe`,
    `left_heel`, `right_big_toe`, `right_heel` of `body44`: vertices 3216, 3387, 6617, 6787 of
    SMPL), 1 cm a frame at 30 fps. Both sides are in the world, or in a camera that stands still.
    """
    moved, stood = (_prepare(points, valid).diff(dim=-3).norm(dim=-1) for points in (found, target))
    stands = stood < threshold
    runs = _runs(valid, 2)
    return torch.where(stands if runs is None else stands & runs[..., None], moved, torch.nan)


def _root(points: Float[Tensor, "*frames k 3"], root: tuple[int, ...]) -> Tensor:
    return points[..., list(root), :].double().mean(-2)


def _distance(found: Tensor, target: Tensor) -> Tensor:
    return (found - target).norm(dim=-1)


def _prepare(points: Tensor, valid: Tensor | None, has_point: Tensor | None = None) -> Tensor:
    """Float64, and zeros where a frame or a point does not count: there may be anything."""
    points = points.double()
    if valid is not None:
        points = torch.where(valid[..., None, None], points, 0)
    return points if has_point is None else torch.where(has_point[..., None], points, 0)


def _hide_points(values: Tensor, valid: Tensor | None, has_point: Tensor | None) -> Tensor:
    values = values if has_point is None else torch.where(has_point, values, torch.nan)
    return values if valid is None else torch.where(valid[..., None], values, torch.nan)


def _runs(flags: Tensor | None, length: int, *, dim: int = -1) -> Tensor | None:
    """Whether each window of `length` consecutive frames is flagged throughout."""
    if flags is None:
        return None
    if flags.shape[dim] < length:
        return flags.narrow(dim, 0, 0)
    return flags.unfold(dim, length, 1).all(-1)
