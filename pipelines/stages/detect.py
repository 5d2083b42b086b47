"""Frames of a unit to detections. The detector lives in this stage's actors and nowhere else."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from jaxtyping import UInt8

from extpose.config import DetectConfig
from extpose.detect.people import Detections, IdentifiedDetections
from extpose.detect.plugs import VideoDetector, start_video
from extpose.storage import Location, make_location
from extpose.video import probe, read_frames
from pipelines.rows import fail, pack_arrays

T = TypeVar("T")
PREFETCH = 4
"""Frames that are decoded ahead of the detector."""


class Detector(Protocol):
    """Finds the people of a frame."""

    def __call__(self, rgb: UInt8[np.ndarray, "h w 3"]) -> Detections:
        """All people of an RGB frame."""
        ...


@dataclass(frozen=True, kw_only=True)
class DetectorSpec:
    """How an actor gets its detector, and what the detector is called in clips and hashes."""

    name: str
    identity: str
    """Hash of the weights."""
    build: Callable[[DetectConfig], Detector | VideoDetector]
    identity_of: Callable[[Location], str] | None = None
    """What of a single video decides besides: the content of its precomputed keypoints."""


class Detect:
    """Adds the detections of a unit's frames to its row."""

    def __init__(self, config: DetectConfig, spec: DetectorSpec) -> None:
        self.detector = spec.build(config)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Unit to unit with `detections`, a bundle of arrays; or with an error."""
        start = time.monotonic()
        try:
            video = make_location(row["path"])
            frames = prefetch(read_frames(video, row["start"], row["stop"]), PREFETCH)
            find = open_video(self.detector, video, row["start"])
            found = [(frame.timestamp, find(frame.rgb)) for frame in frames]
        except Exception as error:
            return fail(row, error)
        people = [detections for _, detections in found]
        bundle = pack_arrays(
            timestamps=np.array([timestamp for timestamp, _ in found], np.float64),
            counts=np.array([len(p.scores) for p in people], np.int64),
            bbox_xyxy=np.concatenate([p.bbox_xyxy for p in people]),
            scores=np.concatenate([p.scores for p in people]),
            keypoints_2d=np.concatenate([p.keypoints_2d for p in people]),
            **given_ids(people),
        )
        return row | {"detections": bundle, "seconds_detect": time.monotonic() - start}


def open_video(
    detector: Detector | VideoDetector, video: Location, start: int
) -> Callable[[np.ndarray], Detections]:
    """What finds the people of the video's frames from `start` on, called in their order."""
    num_frames = probe(video).num_frames if isinstance(detector, VideoDetector) else 0
    return start_video(detector, video, first_frame=start, num_frames=num_frames)


def given_ids(people: list[Detections]) -> dict[str, np.ndarray]:
    """Who is who, where the detector has said so of every frame."""
    ids = [p.track_ids for p in people if isinstance(p, IdentifiedDetections)]
    return {"track_ids": np.concatenate(ids)} if ids and len(ids) == len(people) else {}


def prefetch(items: Iterator[T], depth: int) -> Iterator[T]:
    """The same items, made by a thread that is at most `depth` ahead. Errors arrive in place."""
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(kind: str, value: Any) -> None:
        while not stopped.is_set():
            try:
                ready.put((kind, value), timeout=0.1)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            for item in items:
                put("item", item)
                if stopped.is_set():
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        stopped.set()
        thread.join()
