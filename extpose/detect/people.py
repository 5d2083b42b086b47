"""What detection and tracking hand on: plain arrays of one frame, and of one person over time."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64


@dataclass(frozen=True, kw_only=True)
class Detections:
    """All people (or hands) of one frame, surest first. Source pixels."""

    bbox_xyxy: Float32[np.ndarray, "p 4"]
    scores: Float32[np.ndarray, " p"]
    keypoints_2d: Float32[np.ndarray, "p k 3"]
    """x y confidence."""


@dataclass(frozen=True, kw_only=True)
class IdentifiedDetections(Detections):
    """Detections of which somebody else has said who is who."""

    track_ids: Int64[np.ndarray, " p"]
    """One a person, the same in all frames; different within a frame."""


@dataclass(frozen=True, kw_only=True)
class Track:
    """One person over t consecutive frames, gaps bridged. Source pixels."""

    track_id: int
    first_frame: int
    bbox_xyxy: Float32[np.ndarray, "t 4"]
    keypoints_2d: Float32[np.ndarray, "t k 3"]
    """Confidence 0 in bridged frames."""
    timestamps: Float64[np.ndarray, " t"]
    is_detected: Bool[np.ndarray, " t"]

    @property
    def num_frames(self) -> int:
        """Frames from the first to the last detection."""
        return len(self.bbox_xyxy)


@dataclass(frozen=True, kw_only=True)
class HandTrack(Track):
    """One hand of a tracked person; `track_id` is twice the person's, plus 1 for a right hand."""

    is_right: bool
    """The person's own right hand."""
