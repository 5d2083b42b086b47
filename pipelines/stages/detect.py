"""Frames of a unit to detections. The detector lives in child processes of this stage's actors.

A detector that raises or gives arrays that cannot be true costs its unit; so does one that hangs
or takes its process down, again and again. In each case the unit's error names the frame.
"""

import functools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
from jaxtyping import UInt8

from extpose.config import DetectConfig
from extpose.detect.people import Detections, IdentifiedDetections
from extpose.detect.plugs import BatchDetector, VideoDetector, start_video
from extpose.errors import ExtPoseError
from extpose.storage import Location, make_location
from extpose.video import Frame, probe
from extpose.video_index import VideoIndex
from pipelines.rows import Failure, fail_with, failure_of, pack_arrays, read_unit
from pipelines.watched import Beat, Watched, WorkDied

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
    """Importable by name: it is called in another process."""
    identity_of: Callable[[Location], str] | None = None
    """What of a single video decides besides: the content of its precomputed keypoints."""


class DetectorError(ExtPoseError):
    """A detector gave something that cannot be true."""


class Detect:
    """Adds the detections of a unit's frames to its row."""

    def __init__(
        self, config: DetectConfig, spec: DetectorSpec, *, limit: float = 120.0, tries: int = 3
    ) -> None:
        """`limit`: seconds for one frame; `tries`: deaths of the detector that a unit may cause.

        Raises ExtPoseError when the detector cannot be built.
        """
        build = functools.partial(_build, config, spec)
        self.detector = Watched(build, limit=limit, tries=tries)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Unit to unit with `detections`, a bundle of arrays; or with an error."""
        start = time.monotonic()
        try:
            result = self.detector(row)
        except WorkDied as error:
            result = Failure(
                reason=f"detector_{error.reason}", message=str(error), traceback=error.where
            )
        return add_detections(row, result) | {"seconds_detect": time.monotonic() - start}

    def close(self) -> None:
        """End the detector's process."""
        self.detector.close()


def _build(config: DetectConfig, spec: DetectorSpec) -> Callable[[Any, Beat], "Detected | Failure"]:
    return functools.partial(detect_unit, spec.build(config))


@dataclass(frozen=True, kw_only=True)
class Detected:
    """What was found in a unit."""

    bundle: bytes
    """The detections of its frames, as arrays."""
    cpu_seconds: float
    """Of this process, on all its cores."""


def add_detections(row: dict[str, Any], found: Detected | Failure) -> dict[str, Any]:
    """The row with `detections`, or with an error."""
    if isinstance(found, Failure):
        return fail_with(row, found)
    return row | {"detections": found.bundle, "cpu_detect": found.cpu_seconds}


def detect_unit(
    detector: Detector | VideoDetector, row: dict[str, Any], beat: Beat
) -> Detected | Failure:
    """The detections of the unit's frames, or why there are none.

    A detector that takes several frames at once is given its `batch_size`.
    """
    start = time.process_time()
    times: list[float] = []
    people: list[Detections] = []
    size = detector.batch_size if isinstance(detector, BatchDetector) else 1
    try:
        # While it skips, nothing else beats: the first frame is being waited for.
        read = read_unit(row, on_skip=lambda index: beat(f"frame {index}: decoder"))
        frames = prefetch(read, max(PREFETCH, size))
        find = open_video(detector, row)
    except Exception as error:
        return failure_of(error)
    # Counted from the unit's start: who shares a forward pass decides last bits.
    for first in range(row["start"], row["stop"], size):
        try:
            group = take_frames(frames, range(first, min(first + size, row["stop"])), beat)
        except Exception as error:
            return failure_of(error)
        if not group:  # containers may promise a few frames too many
            break
        found = find_people(find, group, beat)
        if isinstance(found, Failure):
            return found
        times += [frame.timestamp for frame in group]
        people += found
    bundle = pack_arrays(
        timestamps=np.array(times, np.float64),
        counts=np.array([len(p.scores) for p in people], np.int64),
        bbox_xyxy=np.concatenate([p.bbox_xyxy for p in people]),
        scores=np.concatenate([p.scores for p in people]),
        keypoints_2d=np.concatenate([p.keypoints_2d for p in people]),
        **given_ids(people),
    )
    return Detected(bundle=bundle, cpu_seconds=time.process_time() - start)


def take_frames(frames: Iterator[Frame], wanted: range, beat: Beat) -> list[Frame]:
    """The frames of those indices; fewer where the video ends."""
    taken: list[Frame] = []
    for index in wanted:
        beat(f"frame {index}: decoder")
        if (frame := next(frames, None)) is None:
            break
        taken.append(frame)
    return taken


def find_people(
    find: Callable[[np.ndarray], Detections] | BatchDetector, frames: list[Frame], beat: Beat
) -> list[Detections] | Failure:
    """The people of each frame: in one call where the detector takes several.

    After an error the frames go one by one, to name the one that is to blame.
    """
    if not isinstance(find, BatchDetector):
        return _one_by_one(find, frames, beat)
    name = f"frames {frames[0].index} to {frames[-1].index}"
    beat(f"{name}: detector")
    try:
        found = find.detect_batch([frame.rgb for frame in frames])
        if len(found) != len(frames):
            raise DetectorError(f"{len(found)} answers to {len(frames)} frames")
        for one in found:
            check_detections(one)
    except Exception as error:
        failure = failure_of(error)
        alone = _one_by_one(find, frames, beat) if callable(find) else []
        if isinstance(alone, Failure):
            return alone
        # What each gives alone is not taken: it has other last bits than a unit without errors.
        return replace(failure, message=f"{name} together: {failure.message}")
    return found


def _one_by_one(
    find: Callable[[np.ndarray], Detections], frames: list[Frame], beat: Beat
) -> list[Detections] | Failure:
    people = []
    for frame in frames:
        beat(f"frame {frame.index}: detector")
        try:
            found = find(frame.rgb)
            check_detections(found)
        except Exception as error:
            failure = failure_of(error)
            return replace(failure, message=f"frame {frame.index}: {failure.message}")
        people.append(found)
    return people


def check_detections(detections: Detections) -> None:
    """Raises DetectorError, which names the field, for shapes or values that cannot be true."""
    num, num_keypoints = len(detections.scores), (*detections.keypoints_2d.shape, 0, 0)[1]
    shapes = {"scores": (num,), "bbox_xyxy": (num, 4), "keypoints_2d": (num, num_keypoints, 3)}
    for name, shape in shapes.items():
        value = getattr(detections, name)
        if value.shape != shape:
            raise DetectorError(f"{name} has shape {value.shape}, expected {shape}")
        if value.dtype != np.float32:
            raise DetectorError(f"{name} is {value.dtype}, expected float32")
        if not np.isfinite(value).all():
            raise DetectorError(f"{name} has {int((~np.isfinite(value)).sum())} values not finite")


def open_video(
    detector: Detector | VideoDetector, row: Mapping[str, Any]
) -> Callable[[np.ndarray], Detections]:
    """What finds the people of the unit's frames, called in their order."""
    path, num_frames = make_location(row["path"]), 0
    if isinstance(detector, VideoDetector):
        text = row.get("index")
        info = VideoIndex.from_text(text, path).info if text else probe(path)
        num_frames = info.num_frames
    return start_video(detector, path, first_frame=row["start"], num_frames=num_frames)


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
