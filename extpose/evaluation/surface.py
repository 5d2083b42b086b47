"""How well two point sets cover each other: nearest neighbours and F-scores, exact and fast.

Axes    * frames   v, w vertices of the two sides
Units   metres
Source  Knapitsch et al., Tanks and Temples (2017); FreiHAND's and HO3D's evaluation scripts
"""

from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float, Float64
from scipy.spatial import cKDTree
from torch import Tensor

from extpose.compiled import compiled

F_THRESHOLDS = (0.005, 0.015)
"""F@5 and F@15, metres."""
_TREE_FROM_PAIRS = 4_000_000
"""Above so many pairs a tree is faster than trying all (hands: 0.6 million, bodies: 47)."""


def f_scores(
    found: Float[Tensor, "*frames v 3"],
    target: Float[Tensor, "*frames w 3"],
    *,
    thresholds: tuple[float, ...] = F_THRESHOLDS,
) -> Float64[Tensor, "*frames n"]:
    """F@t of each frame, one column a threshold: vertices should be aligned before.

    Recall is the share of found points with a target point nearer than t, precision the share of
    target points with a found point nearer than t (the names of the official scripts; F does not
    care), `F = 2 p r / (p + r)`, 0 where both are 0. Distances are compared in float64; a frame
    that is not finite has no score (not a number).
    """
    frames = found.shape[:-2]
    sides = [p.detach().cpu().double().reshape(-1, *p.shape[-2:]).numpy() for p in (found, target)]
    out = torch.full((len(sides[0]), len(thresholds)), torch.nan, dtype=torch.float64)
    for i, (a, b) in enumerate(zip(*sides, strict=True)):
        if np.isfinite(a).all() and np.isfinite(b).all():
            recall, precision = (
                (distances[:, None] < np.array(thresholds)).mean(0)
                for distances in nearest_distances(a, b)
            )
            both = recall + precision
            out[i] = torch.from_numpy(2 * recall * precision / np.where(both > 0, both, 1))
    return out.reshape(*frames, len(thresholds)).to(found.device)


def nearest_distances(
    a: Float64[np.ndarray, "v 3"], b: Float64[np.ndarray, "w 3"]
) -> tuple[Float64[np.ndarray, " v"], Float64[np.ndarray, " w"]]:
    """Distance of each point of either side to the nearest of the other side.

    One pass over all pairs in machine code serves both directions; large sets go through trees.
    """
    if len(a) * len(b) > _TREE_FROM_PAIRS:
        return cKDTree(b).query(a)[0], cKDTree(a).query(b)[0]
    squares = _nearest_squares(np.ascontiguousarray(a.T), np.ascontiguousarray(b.T))
    return np.sqrt(squares[0]), np.sqrt(squares[1])


@compiled
@no_type_check
def _nearest_squares(a, b):
    num_a, num_b = a.shape[1], b.shape[1]
    of_a, of_b = np.empty(num_a), np.full(num_b, np.inf)
    for i in range(num_a):
        x, y, z = a[0, i], a[1, i], a[2, i]
        best = np.inf
        for j in range(num_b):
            dx, dy, dz = x - b[0, j], y - b[1, j], z - b[2, j]
            square = dx * dx + dy * dy + dz * dz
            best = min(best, square)
            of_b[j] = min(of_b[j], square)
        of_a[i] = best
    return of_a, of_b
