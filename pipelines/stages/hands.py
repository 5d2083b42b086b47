"""Tracked people of a unit to tracks of their hands. The networks live in this stage's actors.

On a cluster they live in child processes of the actors, as detectors do (`pipelines.watched`): one
that hangs or takes its process down, again and again, costs its unit, whose error names the frame.
"""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from extpose.config import DetectConfig, DetectorName
from extpose.detect.hand_tracks import track_hands
from extpose.detect.plugs import build_detector
from extpose.detect.wrist_hands import HandFinder, WristHands, open_hand_finder
from pipelines.rows import Failure, fail, fail_with, pack_arrays, read_unit, unpack_arrays
from pipelines.track_rows import bundle_tracks, unbundle_filtered, unbundle_tracks
from pipelines.watched import Beat, Watched, WorkDied


class FindHands:
    """Replaces the `tracks` of a row, those of people, by those of their hands. In this process."""

    def __init__(
        self, config: DetectConfig, detector: DetectorName, finder: HandFinder | None = None
    ) -> None:
        """Raises AssetError where the networks cannot be had."""
        self._config = config
        self._finder = finder or _open(config, detector)

    def __call__(self, row: dict[str, Any], beat: Beat = lambda _: None) -> dict[str, Any]:
        """Unit to unit; what was found of each person is in the bundle as `hands`, JSON.

        What the bundle said of the people is kept: `entries` of those whose hands were looked for,
        and `people`, their number and that of the filtered ones, which come first among the
        filtered.
        """
        if row.get("error"):
            return row
        start, cpu = time.monotonic(), time.process_time()
        try:
            arrays = unpack_arrays(row["tracks"])
            people, dropped = list(unbundle_tracks(arrays)), list(unbundle_filtered(arrays))
            frames = _read(row, beat) if people else []
            found = track_hands(frames, people, self._finder, self._config)
            filtered = [*dropped, *found.filtered]
            counts = {name: int(arrays[name]) for name in ("num_frames", "num_empty")}
            bundle = bundle_tracks(found.tracks, filtered, **counts)
            bundle["hands"] = np.array(json.dumps([count.as_row() for count in found.counts]))
            bundle["people"] = np.array([len(people), len(dropped)])
            bundle["entries"] = arrays["entries"]
        except Exception as error:
            return fail(row, error)
        return row | {
            "tracks": pack_arrays(**bundle),
            "seconds_hands": time.monotonic() - start,
            "cpu_hands": time.process_time() - cpu,
        }


class WatchedHands:
    """The same in a child process, which may crash or hang."""

    def __init__(self, build: Callable[[], FindHands], *, limit: float, tries: int) -> None:
        """`limit`: seconds for one frame; `tries`: deaths of the child that a unit may cause.

        `build` is importable by name. Raises ExtPoseError where the networks cannot be had.
        """
        self._work = Watched(build, limit=limit, tries=tries)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Unit to unit."""
        if row.get("error"):
            return row
        try:
            result: dict[str, Any] = self._work(row)
        except WorkDied as error:
            reason, message = f"hands_{error.reason}", str(error)
            return fail_with(row, Failure(reason=reason, message=message, traceback=error.where))
        return result

    def close(self) -> None:
        """End the child."""
        self._work.close()


def _read(row: dict[str, Any], beat: Beat) -> Iterator[tuple[int, np.ndarray]]:
    beat(f"frame {row['start']}: decoder")
    # While it skips, nothing else beats.
    for frame in read_unit(row, on_skip=lambda index: beat(f"frame {index}: decoder")):
        beat(f"frame {frame.index}: hands")
        yield frame.index, frame.rgb
        beat(f"frame {frame.index + 1}: decoder")


def _open(config: DetectConfig, detector: DetectorName) -> HandFinder:
    if config.hands == "mediapipe":
        return WristHands(config)
    return open_hand_finder(config, build_detector(detector, config))
