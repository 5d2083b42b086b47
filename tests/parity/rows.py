"""One line of the parity table: how far a number is from the reference's."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).parents[1] / "data"
ATOL = 5e-6
"""Of features, rotations and points, in fp32."""
RTOL = 1e-6
"""Of sums, and of what is far from 1; relative to the largest expected number."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """An item, its largest difference, and what is allowed."""

    item: str
    difference: float
    tolerance: float
    is_relative: bool = False

    @property
    def passed(self) -> bool:
        """Not a number never passes."""
        return self.difference <= self.tolerance


def stored(name: str) -> dict[str, np.ndarray]:
    """The arrays of one file of `tests/data`."""
    with np.load(DATA / f"{name}.npz") as archive:
        return {key: archive[key] for key in archive.files}


def compare(
    item: str, found: Tensor | np.ndarray, expected: np.ndarray, *, tolerance: float = ATOL
) -> Row:
    """Absolute differences."""
    return Row(item=item, difference=_gap(found, expected), tolerance=tolerance)


def compare_relative(
    item: str, found: Tensor | np.ndarray, expected: np.ndarray, *, tolerance: float = RTOL
) -> Row:
    """Differences over the largest expected number."""
    difference = _gap(found, expected) / float(np.abs(expected).max())
    return Row(item=item, difference=difference, tolerance=tolerance, is_relative=True)


def _gap(found: Tensor | np.ndarray, expected: np.ndarray) -> float:
    array = found.detach().cpu().numpy() if isinstance(found, Tensor) else found
    if array.shape != expected.shape:
        raise AssertionError(f"shape {array.shape}, the reference has {expected.shape}")
    return float(np.abs(array.astype(np.float64) - expected).max())


def to_tensor(array: np.ndarray) -> Tensor:
    """Float32."""
    return torch.from_numpy(array.astype(np.float32))
