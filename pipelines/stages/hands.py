"""Tracked people of a unit to tracks of their hands. The networks live in this stage's actors."""

import json
import time
from typing import Any

import numpy as np

from extpose.config import DetectConfig, DetectorName
from extpose.detect.hand_tracks import track_hands
from extpose.detect.plugs import build_detector
from extpose.detect.wrist_hands import HandFinder, WristHands, open_hand_finder
from pipelines.rows import fail, pack_arrays, read_unit, unpack_arrays
from pipelines.track_rows import bundle_tracks, unbundle_filtered, unbundle_tracks


class FindHands:
    """Replaces the `tracks` of a row, those of people, by those of their hands."""

    def __init__(
        self, config: DetectConfig, detector: DetectorName, finder: HandFinder | None = None
    ) -> None:
        """Raises AssetError where the networks cannot be had."""
        self._config = config
        self._finder = finder or _open(config, detector)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Unit to unit; what was found of each person is in the bundle as `hands`, JSON."""
        if row.get("error"):
            return row
        start, cpu = time.monotonic(), time.process_time()
        try:
            arrays = unpack_arrays(row["tracks"])
            people = list(unbundle_tracks(arrays))
            frames = ((frame.index, frame.rgb) for frame in read_unit(row))
            found = track_hands(frames if people else [], people, self._finder, self._config)
            filtered = [*unbundle_filtered(arrays), *found.filtered]
            counts = {name: int(arrays[name]) for name in ("num_frames", "num_empty")}
            bundle = bundle_tracks(found.tracks, filtered, **counts)
            bundle["hands"] = np.array(json.dumps([count.as_row() for count in found.counts]))
        except Exception as error:
            return fail(row, error)
        return row | {
            "tracks": pack_arrays(**bundle),
            "seconds_hands": time.monotonic() - start,
            "cpu_hands": time.process_time() - cpu,
        }


def _open(config: DetectConfig, detector: DetectorName) -> HandFinder:
    if config.hands == "mediapipe":
        return WristHands(config)
    return open_hand_finder(config, build_detector(detector, config))
