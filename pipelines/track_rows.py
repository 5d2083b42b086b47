"""Tracks as the arrays of a row, on their way from stage to stage."""

from collections.abc import Iterator, Sequence

import numpy as np

from extpose.detect.people import HandTrack, Track
from extpose.detect.track import FilteredTrack


def bundle_tracks(
    tracks: Sequence[Track],
    filtered: Sequence[FilteredTrack],
    num_frames: int,
    *,
    num_empty: int,
) -> dict[str, np.ndarray]:
    """Tracks as numbered arrays; the filtered ones as a table.

    `num_empty` detections had no area, and are in no track.
    """
    arrays: dict[str, np.ndarray] = {
        "num_frames": np.array(num_frames),
        "num_empty": np.array(num_empty),
    }
    arrays["ids"] = np.array([[t.track_id, t.first_frame] for t in tracks], np.int64)
    for i, t in enumerate(tracks):
        for name in ("bbox_xyxy", "keypoints_2d", "timestamps", "is_detected"):
            arrays[f"{name}.{i}"] = getattr(t, name)
        if isinstance(t, HandTrack):
            arrays[f"is_right.{i}"] = np.array(t.is_right)
    spans = [[t.first_frame, t.num_frames] for t in filtered]
    arrays["filtered_spans"] = np.array(spans, np.int64).reshape(-1, 2)
    arrays["filtered_reasons"] = np.array([t.reason for t in filtered], np.str_)
    return arrays


def unbundle_tracks(arrays: dict[str, np.ndarray]) -> Iterator[Track]:
    """The tracks again."""
    for i, (track_id, first_frame) in enumerate(arrays["ids"].tolist()):
        track = Track(
            track_id=track_id,
            first_frame=first_frame,
            bbox_xyxy=arrays[f"bbox_xyxy.{i}"],
            keypoints_2d=arrays[f"keypoints_2d.{i}"],
            timestamps=arrays[f"timestamps.{i}"],
            is_detected=arrays[f"is_detected.{i}"],
        )
        if f"is_right.{i}" in arrays:
            track = HandTrack(**vars(track), is_right=bool(arrays[f"is_right.{i}"]))
        yield track


def unbundle_filtered(arrays: dict[str, np.ndarray]) -> Iterator[FilteredTrack]:
    """The filtered tracks again, without their ids."""
    spans, reasons = arrays["filtered_spans"].tolist(), arrays["filtered_reasons"].tolist()
    for (first, length), reason in zip(spans, reasons, strict=True):
        yield FilteredTrack(track_id=-1, first_frame=first, num_frames=length, reason=reason)
