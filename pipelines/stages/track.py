"""Detections of a unit to people over time."""

import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from extpose.config import DetectConfig
from extpose.detect.people import Detections, IdentifiedDetections
from extpose.detect.quality import measure_tracks
from extpose.detect.track import link_tracks
from pipelines.rows import fail, pack_arrays, unpack_arrays
from pipelines.track_report import describe_track
from pipelines.track_rows import bundle_tracks


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
        num_frames = len(detections["counts"])
        quality = measure_tracks(
            result.tracks,
            image_size=(row["height"], row["width"]),
            frames=(row["start"], row["start"] + num_frames),
        )
        entries = list(map(describe_track, result.tracks, quality))
        arrays = bundle_tracks(
            result.tracks, result.filtered, num_frames, num_empty=result.num_empty
        )
        bundle = pack_arrays(**arrays, entries=np.array(json.dumps(entries)))
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
        if "track_ids" in arrays:
            detections = IdentifiedDetections(
                **vars(detections), track_ids=arrays["track_ids"][part]
            )
        yield start + i, float(arrays["timestamps"][i]), detections
