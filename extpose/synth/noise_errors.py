"""A detector's findings as errors in the person's own axes, and the same of a model's draws.

Axes    n clips   t frames   k keypoints   v visible, hidden, outside
Units   fractions of the person's size
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64, Int64

from extpose.synth.noise import (
    OPPOSITE,
    OUTSIDE,
    SIDE,
    VISIBLE,
    DetectorNoise,
    aim,
    bias_features,
    draw_evidence,
    person_size,
    stance,
)
from extpose.synth.observed import Observed, join_observed

APART = 0.06
"""Left and right that are nearer to each other cannot be told from jitter."""
REPEATS = 3
"""Times that every clip is drawn for a comparison with the model."""
MIN_CONFIDENCE = 0.003


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Observations as errors of left keypoints of a person that stands upright."""

    along: Float64[np.ndarray, "n t k 2"]
    """Sideways and up; of the right side mirrored."""
    away: Float64[np.ndarray, "n t k"]
    features: Float64[np.ndarray, "n t k 3"]
    view: Int64[np.ndarray, "n t k"]
    is_other: Bool[np.ndarray, "n t k"]
    """Found at the opposite side's place."""
    is_apart: Bool[np.ndarray, "n t k"]
    """Far enough from the opposite side to tell."""
    odds: Float64[np.ndarray, "n t k"]
    """Logarithm of the odds that the confidence stands for."""
    is_found: Bool[np.ndarray, "n t"]


def simulate(
    observed: Observed, noise: DetectorNoise, *, fps: float, seed: int = 0, repeats: int = REPEATS
) -> Observed:
    """The same people, each `repeats` times, as the model says that the detector sees them."""
    parts = []
    for repeat in range(repeats):
        drawn = [
            draw_evidence(
                observed.truth[i],
                observed.depth[i],
                observed.is_visible[i],
                boxes=observed.boxes[i],
                image_size=(int(observed.image_size[i, 0]), int(observed.image_size[i, 1])),
                fps=fps,
                noise=noise,
                rng=np.random.default_rng([seed, repeat, i]),
            )
            for i in range(len(observed))
        ]
        parts.append(
            replace(
                observed,
                found=np.stack([evidence.keypoints for evidence in drawn]),
                found_boxes=np.stack([evidence.boxes for evidence in drawn]).astype(np.float32),
                is_found=np.stack([evidence.is_detected for evidence in drawn]),
            )
        )
    return join_observed(parts)


def measure(observed: Observed) -> Errors:
    """Errors of all clips in the person's own axes."""
    parts: dict[str, list[np.ndarray]] = {}
    for i in range(len(observed)):
        image_size = (int(observed.image_size[i, 0]), int(observed.image_size[i, 1]))
        truth = observed.truth[i].astype(np.float64)
        size = person_size(observed.boxes[i])
        target, view = aim(truth, observed.is_visible[i], image_size)
        axes, heading = stance(truth, observed.depth[i].astype(np.float64), size)
        found = observed.found[i, ..., :2].astype(np.float64)
        error = (found - target) / size[:, None, None]
        along = error @ np.swapaxes(axes, -1, -2)
        along[..., 0] *= SIDE
        away = np.linalg.norm(error, axis=-1)
        across = np.linalg.norm(found - target[:, OPPOSITE], axis=-1) / size[:, None]
        distance = np.linalg.norm(target - target[:, OPPOSITE], axis=-1) / size[:, None]
        inside = view != OUTSIDE
        is_apart = (distance > APART) & inside & inside[:, OPPOSITE]
        values = {
            "along": along,
            "away": away,
            "features": bias_features(heading),
            "view": view,
            "is_other": is_apart & (across < 0.5 * away) & (across < APART),
            "is_apart": is_apart,
            "odds": _log_odds(observed.found[i, ..., 2].astype(np.float64)),
            "is_found": observed.is_found[i],
        }
        for name, value in values.items():
            parts.setdefault(name, []).append(value)
    return Errors(**{name: np.stack(listed) for name, listed in parts.items()})


def side_duration(errors: Errors) -> float:
    """Mean frames that a mistaken side lasts, cut at the ends of clips; 0 where there is none."""
    flag = errors.is_other & errors.is_apart & errors.is_found[..., None]
    starts = flag[:, :1].sum() + (flag[:, 1:] & ~flag[:, :-1]).sum()
    return float(flag.sum() / max(starts, 1))


def second_difference(errors: Errors, part: int = 50) -> float:
    """A percentile of the second difference of errors over time, of visible keypoints."""
    use = errors.is_found[..., None] & (errors.view == VISIBLE)
    three = use[:, 2:] & use[:, 1:-1] & use[:, :-2]
    size = np.linalg.norm(np.diff(errors.along, 2, axis=1), axis=-1)[three]
    return float(np.percentile(size, part)) if len(size) else 0.0


def _log_odds(confidence: np.ndarray) -> np.ndarray:
    kept = np.clip(confidence, MIN_CONFIDENCE, 1 - MIN_CONFIDENCE)
    return np.log(kept / (1 - kept))
