"""How good a pose sequence is: accuracy and temporal quality.

Every function works in float64 and returns one number a frame (a triple or quadruple of frames for
temporal ones): not a number where a frame is not `valid`. `evaluate_sequence` collects them for one
clip, `aggregate` pools all frames of all clips and converts to mm.

Axes    * clips and frames   t frames   k 3D keypoints   v vertices
Units   metres in, metres out; only `Metrics` is in mm, m/s^2 and 10 m/s^3
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from extpose.geometry import align_similarity


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
) -> Float64[Tensor, "*frames"]:
    """Mean distance after the best rotation, scale and translation of each frame (Procrustes).

    Reflections are not allowed (the body protocols; FreiHAND's allows them).
    """
    found, target = _prepare(found, valid), _prepare(target, valid)
    return _hide(_distance(align_similarity(found, target), target).mean(-1), valid)


def mpvpe(
    found: Float[Tensor, "*frames v 3"],
    target: Float[Tensor, "*frames v 3"],
    *,
    found_root: Float[Tensor, "*frames 3"],
    target_root: Float[Tensor, "*frames 3"],
    valid: Bool[Tensor, "*frames"] | None = None,
) -> Float64[Tensor, "*frames"]:
    """Mean distance of vertices, each side relative to its root point (WHAM: the hips' middle)."""
    found = _prepare(found, valid) - _prepare(found_root[..., None, :], valid)
    target = _prepare(target, valid) - _prepare(target_root[..., None, :], valid)
    return _hide(_distance(found, target).mean(-1), valid)


def pa_mpvpe(
    found: Float[Tensor, "*frames v 3"],
    target: Float[Tensor, "*frames v 3"],
    *,
    valid: Bool[Tensor, "*frames"] | None = None,
) -> Float64[Tensor, "*frames"]:
    """`pa_mpjpe` of vertices, aligned by the vertices themselves (FreiHAND, HO3D)."""
    return pa_mpjpe(found, target, valid=valid)


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
    points, labelled = target[..., :2].double(), target[..., 2] > min_confidence
    is_near = _distance(found.double(), points) < threshold * scale.double()[..., None]
    counts = labelled.sum(-1)
    return (is_near & labelled).sum(-1).double() / counts.double()


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
    difference = _prepare(found, valid) - _prepare(target, valid)
    return _hide(difference.diff(n=2, dim=-3).norm(dim=-1).mean(-1), _runs(valid, 3))


def jitter(
    points: Float[Tensor, "*clips t k 3"], *, valid: Bool[Tensor, "*clips t"] | None = None
) -> Float64[Tensor, "*clips t_minus_3"]:
    """Mean over keypoints of `|x_{t+3} - 3 x_{t+2} + 3 x_{t+1} - x_t|`, m/frame^3.

    Times fps^3 / 10: the 10 m/s^3 of WHAM. The truth's own jitter belongs beside it.
    """
    return _hide(_prepare(points, valid).diff(n=3, dim=-3).norm(dim=-1).mean(-1), _runs(valid, 4))


@dataclass(frozen=True, kw_only=True)
class SequenceErrors:
    """One clip: metres a frame; temporal ones in seconds, or in frames where the name says it."""

    mpjpe: Float64[Tensor, " t"]
    pa_mpjpe: Float64[Tensor, " t"]
    mpvpe: Float64[Tensor, " t"]
    pa_mpvpe: Float64[Tensor, " t"]
    accel: Float64[Tensor, " t_minus_2"]
    accel_per_frame: Float64[Tensor, " t_minus_2"]
    jitter: Float64[Tensor, " t_minus_3"]
    target_jitter: Float64[Tensor, " t_minus_3"]


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Means over all frames of all clips; not a number where there was nothing to average."""

    mpjpe_mm: float
    pa_mpjpe_mm: float
    mpvpe_mm: float
    pa_mpvpe_mm: float
    accel_m_s2: float
    """Acceleration error of root-relative keypoints."""
    accel_mm_frame2: float
    jitter_10m_s3: float
    """Jitter of the prediction's root-relative keypoints, in units of 10 m/s^3."""
    target_jitter_10m_s3: float
    """Jitter of the truth: what a perfect prediction has."""
    num_clips: int
    num_frames: int
    """Valid frames."""


def evaluate_sequence(
    found_keypoints: Float[Tensor, "t k 3"],
    target_keypoints: Float[Tensor, "t k 3"],
    *,
    found_vertices: Float[Tensor, "t v 3"],
    target_vertices: Float[Tensor, "t v 3"],
    root: tuple[int, ...],
    fps: float,
    valid: Bool[Tensor, " t"] | None = None,
) -> SequenceErrors:
    """All errors of one clip of consecutive frames; `root` keypoints centre points and vertices."""
    if fps <= 0:
        raise ValueError(f"fps is {fps}, must be positive")
    roots = [_root(points, root) for points in (found_keypoints, target_keypoints)]
    found, target = (
        points.double() - centre.double()[:, None]
        for points, centre in zip((found_keypoints, target_keypoints), roots, strict=True)
    )
    per_frame = acceleration_error(found, target, valid=valid)
    return SequenceErrors(
        mpjpe=mpjpe(found, target, root=root, valid=valid),
        pa_mpjpe=pa_mpjpe(found, target, valid=valid),
        mpvpe=mpvpe(
            found_vertices,
            target_vertices,
            found_root=roots[0],
            target_root=roots[1],
            valid=valid,
        ),
        pa_mpvpe=pa_mpvpe(found_vertices, target_vertices, valid=valid),
        accel=per_frame * fps**2,
        accel_per_frame=per_frame,
        jitter=jitter(found, valid=valid) * fps**3,
        target_jitter=jitter(target, valid=valid) * fps**3,
    )


def aggregate(errors: Iterable[SequenceErrors]) -> Metrics:
    """Pool the frames of all clips: a long clip counts more than a short one (WHAM's rule)."""
    clips = list(errors)
    means = {
        field.name: float(torch.cat([getattr(clip, field.name) for clip in clips]).nanmean())
        if clips
        else float("nan")
        for field in fields(SequenceErrors)
    }
    return Metrics(
        mpjpe_mm=1000 * means["mpjpe"],
        pa_mpjpe_mm=1000 * means["pa_mpjpe"],
        mpvpe_mm=1000 * means["mpvpe"],
        pa_mpvpe_mm=1000 * means["pa_mpvpe"],
        accel_m_s2=means["accel"],
        accel_mm_frame2=1000 * means["accel_per_frame"],
        jitter_10m_s3=means["jitter"] / 10,
        target_jitter_10m_s3=means["target_jitter"] / 10,
        num_clips=len(clips),
        num_frames=sum(int((~clip.mpjpe.isnan()).sum()) for clip in clips),
    )


def _root(points: Float[Tensor, "*frames k 3"], root: tuple[int, ...]) -> Tensor:
    return points[..., list(root), :].double().mean(-2)


def _distance(found: Tensor, target: Tensor) -> Tensor:
    return (found - target).norm(dim=-1)


def _prepare(points: Tensor, valid: Tensor | None) -> Tensor:
    """Float64, and zeros in invalid frames, whose contents may be anything."""
    points = points.double()
    return points if valid is None else torch.where(valid[..., None, None], points, 0)


def _hide(values: Tensor, valid: Tensor | None) -> Tensor:
    return values if valid is None else torch.where(valid, values, torch.nan)


def _runs(valid: Tensor | None, length: int) -> Tensor | None:
    """Whether each window of `length` consecutive frames is valid throughout."""
    if valid is None:
        return None
    if valid.shape[-1] < length:
        return valid[..., :0]
    return valid.unfold(-1, length, 1).all(-1)
