"""Finds the parameters of `noise.py` in what a detector said of people whose truth is known.

Each part is fitted by itself: sides taken for each other are found first and left out of the rest;
bias and the two widths of the jitter by expectation maximisation; memories from correlations at
one and four frames; confidence by regression on the error.

Axes    n clips   t frames   k keypoints   g kinds   v visible, hidden, outside
Units   fractions of the person's size
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float64

from extpose.errors import ExtPoseError
from extpose.synth.noise import (
    FLOOR,
    HIDDEN,
    KIND,
    KINDS,
    NAMES,
    OPPOSITE,
    OUTSIDE,
    SHOULDERS,
    VISIBLE,
    WHOLE,
    DetectorNoise,
    is_inside,
)
from extpose.synth.noise_errors import Errors, measure, second_difference, side_duration, simulate
from extpose.synth.noise_jitter import MIN_SAMPLES, clip_factors, find_memory, fit_jitter, residual
from extpose.synth.observed import Observed

MIN_FRAMES = 6
"""Shorter clips say nothing about memory."""
HOLDS = (0.0, 0.3, 0.55, 0.7, 0.8, 0.88, 0.94, 0.97)
BURSTS = (0.0, 0.4, 0.8, 1.2, 1.5)
MAX_HOLD = 0.98


@dataclass(frozen=True, kw_only=True)
class Sides:
    """How often left and right are mistaken; fields as in `DetectorNoise`."""

    collapse: Float64[np.ndarray, "9 2"]
    swap: Float64[np.ndarray, " 9"]
    turn: float


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """How boxes err; fields as in `DetectorNoise`, without `box_`."""

    bias: Float64[np.ndarray, " 4"]
    clip: Float64[np.ndarray, " 4"]
    frame: Float64[np.ndarray, " 4"]
    decay: float


def fit_noise(
    observed: Observed, *, detector: str, detector_identity: str, world_version: int, fps: float
) -> DetectorNoise:
    """All parameters. Raises ExtPoseError for too few or too short clips."""
    noise = replace(
        estimate_noise(observed, detector=detector, fps=fps),
        detector_identity=detector_identity,
        world_version=world_version,
    )
    return calibrate(noise, observed)


def estimate_noise(observed: Observed, *, detector: str, fps: float) -> DetectorNoise:
    """What can be read off the errors; events do not hold and the white part is even.

    Raises ExtPoseError for too few or too short clips.
    """
    num_clips, num_frames = observed.is_found.shape
    if num_clips < 2 or num_frames < MIN_FRAMES:
        raise ExtPoseError(
            f"{num_clips} clips of {num_frames} frames; a noise model is fitted to 2 or more clips "
            f"of {MIN_FRAMES} or more frames"
        )
    if not observed.is_found.any():
        raise ExtPoseError(f"the detector {detector} found nobody in {num_clips} clips")
    errors = measure(observed)
    factors, clip_scale = clip_factors(errors)
    errors = replace(errors, along=errors.along / factors[:, None, None, None])
    bias, core, tail, share = fit_jitter(errors)
    rest = residual(errors, bias, core)
    seen = errors.is_found[..., None] & ~errors.is_other & (errors.view == VISIBLE)
    confidence, confidence_memory = _fit_confidence(errors)
    miss, miss_hold = _fit_misses(observed)
    sides, boxes = _fit_sides(errors), _fit_boxes(observed)
    return DetectorNoise(
        detector=detector,
        detector_identity="",
        world_version=0,
        fps=fps,
        bias=bias,
        core=core,
        tail=tail,
        tail_share=share,
        tail_hold=0.0,
        memory=np.stack([find_memory(rest, seen & (g == KIND)) for g in range(len(KINDS))]),
        bursts=0.0,
        clip_scale=clip_scale,
        collapse=sides.collapse,
        swap=sides.swap,
        turn=sides.turn,
        side_hold=0.0,
        confidence=confidence,
        confidence_memory=confidence_memory,
        miss=miss,
        miss_hold=miss_hold,
        box_bias=boxes.bias,
        box_clip=boxes.clip,
        box_frame=boxes.frame,
        box_decay=boxes.decay,
    )


def calibrate(
    noise: DetectorNoise,
    observed: Observed,
    *,
    holds: tuple[float, ...] = HOLDS,
    bursts: tuple[float, ...] = BURSTS,
) -> DetectorNoise:
    """Choose how long events hold and how uneven the white part is by drawing: what the found
    keypoints show of them is blurred by the jitter itself.
    """
    real = measure(observed)
    trials: tuple[tuple[str, tuple[float, ...], Callable[[Errors], float]], ...] = (
        ("side_hold", holds, side_duration),
        ("tail_hold", holds, lambda errors: second_difference(errors, 90)),
        ("bursts", bursts, second_difference),
    )
    for name, values, statistic in trials:
        target = statistic(real)
        changes: list[dict[str, Any]] = [{name: value} for value in values]
        drawn = [replace(noise, **change) for change in changes]
        found = [statistic(measure(simulate(observed, d, fps=noise.fps))) for d in drawn]
        noise = drawn[int(np.argmin(np.abs(np.array(found) - target)))]
    return noise


def _hold(flag: np.ndarray, use: np.ndarray, chance: np.ndarray) -> float:
    """Probability that the draw behind a flag stays: the correlation of the flag over a frame."""
    both = use[:, 1:] & use[:, :-1]
    rest = np.where(use, flag - chance, 0.0)
    spread = (chance * (1 - chance))[:, 1:][both].sum()
    moved = (rest[:, 1:] * rest[:, :-1])[both].sum()
    return float(np.clip(moved / spread, 0.0, MAX_HOLD)) if spread > 0 else 0.0


def _fit_sides(errors: Errors) -> Sides:
    """Pairs exchanged, all pairs exchanged, and keypoints at the opposite one's place."""
    found = errors.is_found[..., None]
    asked = errors.is_apart & found
    both = errors.is_other & errors.is_other[..., OPPOSITE] & found
    limbs = np.array([i for i, name in enumerate(NAMES) if i >= SHOULDERS[0] and "left" in name])
    known = asked[..., limbs].sum(-1) >= 3
    turned = known & (both[..., limbs].sum(-1) >= 0.75 * asked[..., limbs].sum(-1))
    alone = ~turned[..., None]
    one = errors.is_other & ~both
    collapse, swap = np.zeros((len(KINDS), 2)), np.zeros(len(KINDS))
    for g in range(len(KINDS)):
        own = asked & alone & (g == KIND)
        swap[g] = _share(both, own)
        for v in (VISIBLE, HIDDEN):
            collapse[g, v] = _share(one, own & (errors.view == v))
    return Sides(collapse=collapse, swap=swap, turn=_share(turned, known))


def _share(flag: np.ndarray, of: np.ndarray) -> float:
    return float((flag & of).sum() / max(of.sum(), 1))


def _fit_confidence(errors: Errors) -> tuple[np.ndarray, np.ndarray]:
    """Offset, slope and deviation for each kind and view; and the memory of the rest."""
    out = np.zeros((len(KINDS), 3, 3))
    logs = np.log(errors.away + FLOOR)
    rest = np.zeros_like(logs)
    found = np.broadcast_to(errors.is_found[..., None], errors.view.shape)
    for v in (VISIBLE, HIDDEN, OUTSIDE):
        for g in range(len(KINDS)):
            own = found & (errors.view == v) & (g == KIND)
            use = own if own.sum() >= MIN_SAMPLES else found & (errors.view == v)
            if use.sum() < MIN_SAMPLES:
                use = found
            x, y = logs[use], errors.odds[use]
            spread = x.var()
            slope = float(((x - x.mean()) * y).mean() / spread) if spread > 0 else 0.0
            offset = float(y.mean() - slope * x.mean())
            width = float((y - offset - slope * x).std())
            out[g, v] = offset, slope, width
            rest[own] = (errors.odds[own] - offset - slope * logs[own]) / max(width, 1e-9)
    return out, find_memory(rest[..., None], found)


def _fit_misses(observed: Observed) -> tuple[np.ndarray, float]:
    inside = np.stack(
        [
            is_inside(points, (int(size[0]), int(size[1])))
            for points, size in zip(observed.truth, observed.image_size, strict=True)
        ]
    )
    band = np.digitize((inside & observed.is_visible).mean(-1), WHOLE)
    missed = ~observed.is_found
    miss = np.array([_share(missed, band == i) for i in range(len(WHOLE) + 1)])
    return miss, _hold(missed, np.ones_like(missed), miss[band])


def _fit_boxes(observed: Observed) -> Boxes:
    """Of the sides of boxes that the picture does not cut: elsewhere the truth is not known."""
    size = (observed.boxes[..., 2:] - observed.boxes[..., :2]).max(-1)[..., None]
    error = (observed.found_boxes - observed.boxes).astype(np.float64) / np.maximum(size, 1)
    limit = np.concatenate([observed.image_size[:, ::-1]] * 2, -1)[:, None] - 2
    is_whole = (observed.boxes > 1) & (observed.boxes < limit) & observed.is_found[..., None]
    middle, constant, moving = np.zeros(4), np.zeros(4), np.zeros(4)
    products, squares = 0.0, 0.0
    for side in range(4):
        use = is_whole[..., side].all(1)
        if use.sum() < 2:
            use = observed.is_found.all(1)
        if use.sum() < 2:
            continue
        values = error[use, :, side]
        middle[side] = np.median(values)
        clip = np.median(values, 1)
        rest = np.clip(values - clip[:, None], -0.3, 0.3)
        constant[side] = 1.4826 * np.median(np.abs(clip - middle[side]))
        moving[side] = 1.4826 * np.median(np.abs(rest))
        products += float((rest[:, 1:] * rest[:, :-1]).sum())
        squares += float((rest[:, 1:] ** 2).sum())
    decay = float(np.clip(products / squares, 0.0, 0.95)) if squares > 0 else 0.0
    return Boxes(bias=middle, clip=constant, frame=moving, decay=decay)
