"""A box that covers a part of every picture of a clip and drifts in a straight line.

Axes    h w pixels
Units   fractions of the side of the augmented crop; velocity a frame
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8


@dataclass(frozen=True, kw_only=True)
class Occluder:
    """One box, the same in all frames but for its place."""

    start: tuple[float, float]
    """Its centre in the first frame, x and y."""
    velocity: tuple[float, float]
    size: tuple[float, float]
    """Width and height."""
    cells: UInt8[np.ndarray, "h w 3"]
    """Its picture, enlarged without smoothing; one cell: one colour."""


def cover(image: UInt8[np.ndarray, "h w 3"], occluder: Occluder, frame: int) -> None:
    """Draw the box into the picture of a frame, in place."""
    side = image.shape[0]
    x0, y0 = (
        round(side * (start + frame * moved - length / 2))
        for start, moved, length in zip(
            occluder.start, occluder.velocity, occluder.size, strict=True
        )
    )
    width, height = (max(round(side * length), 1) for length in occluder.size)
    left, top = max(x0, 0), max(y0, 0)
    right, bottom = min(x0 + width, side), min(y0 + height, side)
    if left >= right or top >= bottom:
        return
    box = cv2.resize(occluder.cells, (width, height), interpolation=cv2.INTER_NEAREST)
    image[top:bottom, left:right] = box[top - y0 : bottom - y0, left - x0 : right - x0]
