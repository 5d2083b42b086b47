"""How values become one number: running sums, pooled means, and their bootstrap.

Axes    n frames, or windows of them   c columns (joints)   s sequences   b bootstrap draws
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from torch import Tensor

from extpose.evaluation.protocol import Pooling

_DRAWS_AT_ONCE = 100


@dataclass
class Sums:
    """Running sums of one metric of one sequence: of its rows' means, and of its columns."""

    rows: float = 0.0
    num_rows: int = 0
    columns: Float64[np.ndarray, " c"] | float = 0.0
    num_columns: Float64[np.ndarray, " c"] | float = 0.0

    def add(self, values: Float64[Tensor, "n c"]) -> None:
        """Take in the values of one clip; not a number where they do not count."""
        array = values.double().cpu().numpy()
        labelled = ~np.isnan(array)
        filled, counts = np.where(labelled, array, 0), labelled.sum(1)
        self.rows += float((filled.sum(1) / np.maximum(counts, 1)).sum())
        self.num_rows += int((counts > 0).sum())
        self.columns = self.columns + filled.sum(0)
        self.num_columns = self.num_columns + labelled.sum(0)

    def pooled(self, pooling: Pooling) -> tuple[np.ndarray, np.ndarray]:
        """Sums and counts, one column for each thing that is averaged by itself."""
        if pooling == "keypoints":
            return np.atleast_1d(self.columns), np.atleast_1d(self.num_columns)
        if pooling == "points":
            return np.array([np.sum(self.columns)]), np.array([np.sum(self.num_columns)])
        if pooling == "frames":
            return np.array([self.rows]), np.array([float(self.num_rows)])
        is_there = self.num_rows > 0
        return np.array([self.rows / max(self.num_rows, 1)]), np.array([float(is_there)])


def draw_sequences(num_sequences: int, bootstrap: int, seed: int) -> Int64[np.ndarray, "b s"]:
    """How often each sequence is drawn (b s); the same for all metrics."""
    if num_sequences < 2 or bootstrap < 1:
        return np.zeros((0, num_sequences), np.int64)
    shares = np.full(num_sequences, 1 / num_sequences)
    return np.random.default_rng(seed).multinomial(num_sequences, shares, size=bootstrap)


def pooled_means(
    weights: Float64[np.ndarray, "b s"],
    sums: Float64[np.ndarray, "s c"],
    counts: Float64[np.ndarray, "s c"],
) -> Float64[np.ndarray, " b"]:
    """Mean of each column, then over the columns that have something."""
    totals, divisors = weights @ sums, weights @ counts
    has = divisors > 0
    means = np.where(has, totals / np.where(has, divisors, 1), 0)
    num = has.sum(1)
    return np.where(num > 0, means.sum(1) / np.maximum(num, 1), np.nan)


def bootstrap_interval(
    draws: Int64[np.ndarray, "b s"],
    sums: Float64[np.ndarray, "s c"],
    counts: Float64[np.ndarray, "s c"],
) -> tuple[float, float]:
    """95 % percentile interval of the pooled mean over the draws."""
    parts = np.split(draws.astype(float), range(_DRAWS_AT_ONCE, len(draws), _DRAWS_AT_ONCE))
    means = np.concatenate([pooled_means(part, sums, counts) for part in parts])
    low, high = np.nanpercentile(means, [2.5, 97.5])
    return float(low), float(high)
