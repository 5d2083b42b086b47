"""What `extpose multiview` works on: a recording, and the people in it.

Axes    c cameras   t frames   17 keypoints of COCO
Units   metres, pixels
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Float64

from extpose.multiview.body import FittedBody
from extpose.multiview.cameras import Camera
from extpose.multiview.triangulate import Triangulated


@dataclass(frozen=True, kw_only=True)
class Recording:
    """The videos, in the order of the cameras."""

    cameras: list[Camera]
    paths: list[Path]
    first: list[int]
    """The frame of each video that is frame 0 of all."""
    num_frames: int
    fps: float


@dataclass(frozen=True, kw_only=True)
class Person:
    """One person in all views."""

    keypoints: Float64[np.ndarray, "c t 17 3"]
    """x y confidence."""
    boxes: Float32[np.ndarray, "c t 4"]
    """The nearest frame's where the person was not found."""
    is_detected: Bool[np.ndarray, "c t"]
    found: Triangulated
    points_world: Float64[np.ndarray, "t 17 3"]
    """Smoothed; not a number where unknown."""
    body: FittedBody | None
