"""In which fields two results of a stage differ, and by how much."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def compare(expected: Mapping[str, Any], got: Mapping[str, Any], *, tolerance: float) -> list[str]:
    """A line for each field that differs, with its name."""
    lines = [f"{name}: missing" for name in expected if name not in got]
    lines += [f"{name}: new" for name in got if name not in expected]
    for name in expected:
        if name in got and (line := _difference(expected[name], got[name], tolerance)):
            lines.append(f"{name}: {line}")
    return lines


def _difference(was: Any, now: Any, tolerance: float) -> str:
    if isinstance(was, float) and isinstance(now, float):
        was, now = np.array(was), np.array(now)
    if not isinstance(was, np.ndarray) or not isinstance(now, np.ndarray):
        if was == now:
            return ""
        short = [repr(v) if len(repr(v)) < 60 else f"{type(v).__name__}" for v in (was, now)]
        return f"was {short[0]}, is {short[1]}"
    if was.shape != now.shape or was.dtype != now.dtype:
        return f"was {was.dtype} {was.shape}, is {now.dtype} {now.shape}"
    if was.dtype.kind != "f":
        differs = was != now
        return f"{int(differs.sum())} of {was.size} values differ" if differs.any() else ""
    gap = np.where(np.isnan(was) & np.isnan(now), 0.0, np.abs(was.astype(np.float64) - now))
    differs = ~(gap <= tolerance)
    if not differs.any():
        return ""
    first = tuple(int(i) for i in np.argwhere(differs)[0])
    return (
        f"{int(differs.sum())} of {was.size} values differ, by up to {gap.max():.3g}; the first at "
        f"{first}: was {was[first]:.6g}, is {now[first]:.6g}"
    )
