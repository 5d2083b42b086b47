"""The jitter of the noise model in measured errors: its widths, its bias, its memory.

Axes    n clips   t frames   k keypoints   g kinds   v visible, hidden, outside   m errors
Units   fractions of the person's size
"""

import numpy as np
from jaxtyping import Bool, Float64

from extpose.synth.noise import FLOOR, HIDDEN, KIND, KINDS, OUTSIDE, VISIBLE
from extpose.synth.noise_errors import Errors

MIN_SAMPLES = 60
"""Fewer errors of a kind and view than this are fitted together with those of all kinds."""
LAG = 4
"""Frames of the far correlation; the near one is of one frame."""
ITERATIONS = 60
BOUND = 3.0
"""Largest error in core widths that counts for memory."""


def clip_factors(errors: Errors) -> tuple[Float64[np.ndarray, " n"], float]:
    """How much larger the jitter of each clip is than usual, shrunk by what is known of it; and
    the deviation of the logarithm of that.
    """
    use = errors.is_found[..., None] & ~errors.is_other & (errors.view == VISIBLE)
    logs = np.where(use, np.log(errors.away + FLOOR / 4), np.nan)
    for g in range(len(KINDS)):
        part = logs[..., g == KIND]
        if np.isfinite(part).any():
            logs[..., g == KIND] = part - np.nanmean(part)
    # Frames of a clip are nearly copies of each other; keypoints are not.
    points = np.full(logs.shape[::2], np.nan)
    known = np.isfinite(logs).any(1)
    points[known] = (np.nansum(logs, 1) / np.maximum(np.isfinite(logs).sum(1), 1))[known]
    count = np.maximum(known.sum(1), 1)
    offset = np.where(known, points, 0).sum(1) / count
    within = np.where(known, points - offset[:, None], 0)
    spread = (within**2).sum(1) / np.maximum(count - 1, 1)
    sampling = float(np.median(spread)) / count
    scale = float(np.sqrt(max(offset.var() - sampling.mean(), 0.0)))
    shrunk = offset * scale**2 / (scale**2 + sampling + 1e-12)
    return np.exp(shrunk), scale


def fit_jitter(
    errors: Errors,
) -> tuple[
    Float64[np.ndarray, "9 2 2 3"],
    Float64[np.ndarray, "9 3"],
    Float64[np.ndarray, "9 3"],
    Float64[np.ndarray, "9 3"],
]:
    """Bias, both widths, and the tail's share; fields of `DetectorNoise`."""
    num = len(KINDS)
    bias = np.zeros((num, 2, 2, 3))
    core, tail, share = np.zeros((num, 3)), np.zeros((num, 3)), np.zeros((num, 3))
    alive = errors.is_found[..., None] & ~errors.is_other
    for v in (VISIBLE, HIDDEN, OUTSIDE):
        for g in range(num):
            own = alive & (errors.view == v) & (g == KIND)
            is_enough = own.sum() >= MIN_SAMPLES
            use = own if is_enough else alive & (errors.view == v)
            if use.sum() < MIN_SAMPLES:
                use = alive
            has_bias = bool(is_enough and v != OUTSIDE)
            coefficients, core[g, v], tail[g, v], share[g, v] = _mixture(
                errors.along[use], errors.features[use], has_bias=has_bias, centred=g == 0
            )
            if has_bias:
                bias[g, v] = coefficients
    return bias, core, tail, share


def _mixture(
    points: np.ndarray, features: np.ndarray, *, has_bias: bool, centred: bool
) -> tuple[np.ndarray, float, float, float]:
    """Two round normal distributions about one linear bias, by expectation maximisation."""
    coefficients = np.zeros((2, 3))
    square = (points**2).sum(-1) / 2
    core = max(float(np.median(square)), 1e-10)
    tail, share = 9 * core, 0.1
    chance = np.full(len(points), share)
    for _ in range(ITERATIONS):
        if has_bias:
            weight = (1 - chance) / core + chance / tail
            coefficients = _weighted_bias(points, features, weight, centred=centred)
        square = ((points - features @ coefficients.T) ** 2).sum(-1) / 2
        narrow = (1 - share) / core * np.exp(-square / core)
        wide = share / tail * np.exp(-square / tail)
        chance = wide / np.maximum(narrow + wide, 1e-300)
        share = float(np.clip(chance.mean(), 0.005, 0.5))
        core = max(float((square * (1 - chance)).sum() / max((1 - chance).sum(), 1e-9)), 1e-10)
        tail = max(float((square * chance).sum() / max(chance.sum(), 1e-9)), 4 * core)
    return coefficients, float(np.sqrt(core)), float(np.sqrt(tail)), share


def _weighted_bias(
    points: np.ndarray, features: np.ndarray, weight: np.ndarray, *, centred: bool
) -> np.ndarray:
    """Least squares with a small ridge; a keypoint in the middle has no side of its own."""
    out = np.zeros((2, 3))
    for axis in (0, 1):
        use = [2] if centred and axis == 0 else [0, 1] if centred else [0, 1, 2]
        x = features[:, use]
        normal = (x * weight[:, None]).T @ x + 0.01 * weight.sum() * np.eye(len(use))
        out[axis, use] = np.linalg.solve(normal, x.T @ (weight * points[:, axis]))
    return out


def residual(
    errors: Errors, bias: Float64[np.ndarray, "9 2 2 3"], core: Float64[np.ndarray, "9 3"]
) -> Float64[np.ndarray, "n t k 2"]:
    """Errors without their bias in core widths, bounded so that a few large ones do not decide."""
    use = bias[KIND, np.minimum(errors.view, HIDDEN)]
    expected = (use * errors.features[..., None, :]).sum(-1)
    rest = errors.along - np.where((errors.view != OUTSIDE)[..., None], expected, 0)
    rest /= core[KIND, errors.view][..., None]
    length = np.maximum(np.linalg.norm(rest, axis=-1), 1e-9)
    return rest * np.minimum(1, BOUND / length)[..., None]


def find_memory(
    unit: Float64[np.ndarray, "n t k c"], use: Bool[np.ndarray, "n t #k"]
) -> Float64[np.ndarray, " 2"]:
    """Share and decay of the slow part, from the correlation at one and at `LAG` frames."""
    near, far = (_correlation(unit, use, lag) for lag in (1, LAG))
    near = float(np.clip(near, 0.0, 0.99))
    far = float(np.clip(far, 1e-4, near))
    decay = float(np.clip((far / max(near, 1e-4)) ** (1 / (LAG - 1)), 0.05, 0.995))
    return np.array([min(near / decay, 1.0), decay])


def _correlation(unit: np.ndarray, use: np.ndarray, lag: int) -> float:
    both = use[:, lag:] & use[:, :-lag]
    a, b = unit[:, lag:][both], unit[:, :-lag][both]
    norm = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / norm) if norm > 0 else 0.0
