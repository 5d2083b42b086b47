"""Detections of a unit to people over time."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from extpose.config import DetectConfig
from extpose.detect.people import Detections
from extpose.detect.track import TrackingResult, link_tracks
from pipelines.rows import fail, pack_arrays, unpack_arrays


def track(row: dict[str, Any], *, config: DetectConfig) -> dict[str, Any]:
    """Replaces `detections` by `tracks`, a bundle of arrays, and counts what was filtered."""
    if row.get("error"):
        return row
    start, cpu = time.monotonic(), time.process_time()
    try:
        detections = unpack_arrays(row["detections"])
        result = link_tracks(
            _frames(detections, row["start"]), config, (row["height"], row["width"])
        )
        bundle = pack_arrays(**_bundle(result, len(detections["counts"])))
    except Exception as error:
        return fail(row, error)
    rest = {name: value for name, value in row.items() if name != "detections"}
    seconds = {
        "seconds_track": time.monotonic() - start,
        "cpu_track": time.process_time() - cpu,
    }
    return rest | {"tracks": bundle} | seconds


def _frames(arrays: dict[str, np.ndarray], start: int) -> Iterator[tuple[int, float, Detections]]:
    """The detections frame by frame again."""
    ends = np.cumsum(arrays["counts"])
    for i, (count, end) in enumerate(zip(arrays["counts"], ends, strict=True)):
        part = slice(int(end - count), int(end))
        detections = Detections(
            bbox_xyxy=arrays["bbox_xyxy"][part],
            scores=arrays["scores"][part],
            keypoints_2d=arrays["keypoints_2d"][part],
        )
        yield start + i, float(arrays["timestamps"][i]), detections


def _bundle(result: TrackingResult, num_frames: int) -> dict[str, np.ndarray]:
    """Tracks as numbered arrays; the filtered ones as a table."""
    arrays: dict[str, np.ndarray] = {"num_frames": np.array(num_frames)}
    arrays["ids"] = np.array([[t.track_id, t.first_frame] for t in result.tracks], np.int64)
    for i, t in enumerate(result.tracks):
        for name in ("bbox_xyxy", "keypoints_2d", "timestamps", "is_detected"):
            arrays[f"{name}.{i}"] = getattr(t, name)
    spans = [[t.first_frame, t.num_frames] for t in result.filtered]
    arrays["filtered_spans"] = np.array(spans, np.int64).reshape(-1, 2)
    arrays["filtered_reasons"] = np.array([t.reason for t in result.filtered], np.str_)
    return arrays
