"""Whether a noise model draws what the detector says: both side by side on the same truth.

Axes    n clips   t frames   k keypoints
Units   errors in percent of the person's size
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from extpose.synth.noise import HIDDEN, KIND, KINDS, OPPOSITE, OUTSIDE, VISIBLE, DetectorNoise
from extpose.synth.noise_errors import Errors, measure, second_difference, side_duration, simulate
from extpose.synth.observed import Observed

SURE = 0.2
"""Confidence below which a keypoint counts as missed."""
BINS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
VIEWS = ("visible", "hidden", "outside")
NOWHERE = -1
"""View of keypoints that do not count."""
Row = tuple[str, float, float]
"""What is measured, of the detector, of the model."""


def compare_noise(
    observed: Observed,
    noise: DetectorNoise,
    *,
    fps: float,
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
) -> list[Row]:
    """Detector and model by every measure of this table; not a number where nothing counts.

    Only keypoints of these `kinds` count.
    """
    drawn = simulate(observed, noise, fps=fps, seed=seed)
    real, model = (_only(measure(seen), kinds) for seen in (observed, drawn))
    rows: list[Row] = []

    def add(name: str, of: Callable[[Errors], float]) -> None:
        rows.append((name, of(real), of(model)))

    for v in (VISIBLE, HIDDEN, OUTSIDE):
        for title, part in (
            (f"{VIEWS[v]}, median error %", 50),
            ("p75", 75),
            ("p90", 90),
            ("p97", 97),
        ):
            add(f"{VIEWS[v]} {title}" if part != 50 else title, _percentile(v, part))
    for kind in kinds:
        add(f"visible {kind}, median error %", _percentile(VISIBLE, 50, KINDS.index(kind)))
        add(f"visible {kind}, p90", _percentile(VISIBLE, 90, KINDS.index(kind)))
    add("pairs exchanged %", lambda e: 100 * _rate(_both(e), _asked(e)))
    add("taken for the other side %", lambda e: 100 * _rate(e.is_other & ~_both(e), _asked(e)))
    add("frames that a mistaken side lasts", side_duration)
    add("people missed %", lambda e: 100 * float(1 - e.is_found.mean()))
    for v in (VISIBLE, HIDDEN, OUTSIDE):
        add(f"{VIEWS[v]}, below confidence {SURE:g} %", _unsure(v))
    for low, high in pairwise(BINS):
        add(f"confidence {low:g} to {high:g}, share %", _bin_share(low, high))
        add(f"confidence {low:g} to {high:g}, median error %", _bin_error(low, high))
    for lag in (1, 4):
        add(f"correlation of errors, {lag} frames", _autocorrelation(lag))
    add("median second difference %", lambda e: 100 * second_difference(e))
    add("p90 of the second difference %", lambda e: 100 * second_difference(e, 90))
    add("median over clips of the mean error %", lambda e: _clip_error(e, 50))
    add("p90 over clips of the mean error %", lambda e: _clip_error(e, 90))
    return rows


def format_rows(rows: list[Row], titles: tuple[str, str] = ("detector", "model")) -> str:
    """Text for a terminal."""
    width = max(len(name) for name, _, _ in rows)
    lines = [f"{'':<{width}}  {titles[0]:>9} {titles[1]:>9}"]
    lines += [f"{name:<{width}}  {real:>9.2f} {model:>9.2f}" for name, real, model in rows]
    return "\n".join(lines)


def _only(errors: Errors, kinds: Sequence[str]) -> Errors:
    counts = np.isin(KIND, [KINDS.index(kind) for kind in kinds])
    return replace(
        errors,
        view=np.where(counts, errors.view, NOWHERE),
        is_apart=errors.is_apart & counts,
    )


def _alive(errors: Errors, view: int) -> np.ndarray:
    return errors.is_found[..., None] & (errors.view == view)


def _percentile(view: int, part: int, kind: int | None = None) -> Callable[[Errors], float]:
    def of(errors: Errors) -> float:
        use = _alive(errors, view)
        if kind is not None:
            use = use & (kind == KIND)
        return 100 * float(np.percentile(errors.away[use], part)) if use.any() else float("nan")

    return of


def _asked(errors: Errors) -> np.ndarray:
    return errors.is_apart & errors.is_found[..., None]


def _both(errors: Errors) -> np.ndarray:
    return errors.is_other & errors.is_other[..., OPPOSITE]


def _rate(flag: np.ndarray, of: np.ndarray) -> float:
    return float((flag & of).sum() / of.sum()) if of.any() else float("nan")


def _unsure(view: int) -> Callable[[Errors], float]:
    limit = np.log(SURE / (1 - SURE))

    def of(errors: Errors) -> float:
        use = _alive(errors, view)
        return 100 * _rate(errors.odds < limit, use)

    return of


def _inside(errors: Errors) -> np.ndarray:
    return _alive(errors, VISIBLE) | _alive(errors, HIDDEN)


def _in_bin(errors: Errors, low: float, high: float) -> np.ndarray:
    confidence = 1 / (1 + np.exp(-errors.odds))
    return _inside(errors) & (confidence >= low) & (confidence < high)


def _bin_share(low: float, high: float) -> Callable[[Errors], float]:
    def of(errors: Errors) -> float:
        return 100 * _rate(_in_bin(errors, low, high), _inside(errors))

    return of


def _bin_error(low: float, high: float) -> Callable[[Errors], float]:
    def of(errors: Errors) -> float:
        use = _in_bin(errors, low, high)
        return 100 * float(np.median(errors.away[use])) if use.any() else float("nan")

    return of


def _autocorrelation(lag: int) -> Callable[[Errors], float]:
    """Of errors in units of their kind's median, bounded so that a few do not decide."""

    def of(errors: Errors) -> float:
        use = _alive(errors, VISIBLE)
        bounded = errors.along * np.minimum(1, 0.05 / np.maximum(errors.away, 1e-9))[..., None]
        both = use[:, lag:] & use[:, :-lag]
        a, b = bounded[:, lag:][both], bounded[:, :-lag][both]
        norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
        return float((a * b).sum() / norm) if norm > 0 else float("nan")

    return of


def _clip_error(errors: Errors, part: int) -> float:
    use = _alive(errors, VISIBLE)
    known = use.any((1, 2))
    total = np.where(use, np.minimum(errors.away, 0.1), 0).sum((1, 2))[known]
    return 100 * float(np.percentile(total / use.sum((1, 2))[known], part))
