"""Frames without a measurement take that of the nearest frame which has one.

Axes    t frames
"""

import numpy as np
from jaxtyping import Bool, Int


def nearest_known(known: Bool[np.ndarray, " t"]) -> Int[np.ndarray, " t"]:
    """For each frame the nearest one that is known, the earlier of two.

    Raises ValueError where none is.
    """
    places = np.flatnonzero(known)
    if not len(places):
        raise ValueError(f"none of {len(known)} frames is known")
    frames = np.arange(len(known))
    right = np.searchsorted(places, frames).clip(max=len(places) - 1)
    left = (right - 1).clip(min=0)
    is_left = np.abs(frames - places[left]) <= np.abs(frames - places[right])
    return np.where(is_left, places[left], places[right])
