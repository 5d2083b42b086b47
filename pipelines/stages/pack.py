"""Tracks of a unit to its shard, and the unit's marker: the end of the line."""

import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from extpose.config import PreprocessConfig
from extpose.data.clip import ClipOrigin, FrameSizeError, MissingFramesError, cut_clips
from extpose.data.shards import ShardInfo, ShardWriter
from extpose.detect.people import Track
from extpose.errors import ExtPoseError, VideoError
from extpose.schema import Clip
from pipelines.ledger import Outcome, Unit, WriteError, write_outcome
from pipelines.rows import Failure, failure_of, quarantine, read_unit, unit_of, unpack_arrays
from pipelines.track_rows import unbundle_tracks


def pack(
    row: dict[str, Any], *, config: PreprocessConfig, detector: str, environment: str = ""
) -> dict[str, Any]:
    """Writes shard and marker of a unit; returns its name, its frames and `write_error`.

    `environment` is the name of the run's (`pipelines/environment.py`). `write_error` is empty, or
    says that the output cannot be written: the run must stop. A value, and not an exception,
    because what becomes of exceptions on their way out of Ray is Ray's affair.
    """
    written = {"name": row["name"], "frames": row["stop"] - row["start"], "write_error": ""}
    try:
        Packer(config=config, detector=detector, environment=environment).finish(row)
    except WriteError as error:
        return written | {"write_error": str(error)}
    return written


@dataclass(frozen=True, kw_only=True)
class Packer:
    """What all units of a run share."""

    config: PreprocessConfig
    detector: str
    environment: str = ""

    def finish(self, row: dict[str, Any]) -> None:
        """Any error of the unit ends in its marker. Raises WriteError, and nothing else."""
        start, cpu, unit = time.monotonic(), time.process_time(), unit_of(row)
        failure = Failure(**json.loads(row["error"])) if row.get("error") else None
        outcome = None
        if failure is None:
            try:
                outcome = self._pack(unit, unpack_arrays(row["tracks"]))
            except WriteError:
                raise
            except Exception as error:
                failure = failure_of(error)
        if outcome is None or failure is not None:
            outcome = quarantine(unit, failure)
        stages = ("detect", "track", *(("hands",) if self.config.body == "mano" else ()))
        seconds, cpu_seconds = _seconds(row, "seconds", stages), _seconds(row, "cpu", stages)
        seconds["pack"] = round(time.monotonic() - start, 3)
        cpu_seconds["pack"] = round(time.process_time() - cpu, 3)
        outcome = replace(
            outcome, seconds=seconds, cpu_seconds=cpu_seconds, environment=self.environment
        )
        write_outcome(self.config.out, outcome)

    def _pack(self, unit: Unit, arrays: dict[str, np.ndarray]) -> Outcome:
        num_frames = int(arrays["num_frames"])
        tracks = list(unbundle_tracks(arrays))
        fates = frame_fates(unit.start, num_frames, tracks, arrays)
        written, filtered = count_fates(fates)
        info = self._write_shard(unit, tracks) if tracks else None
        people_frames = sum(track.num_frames for track in tracks)
        if info and info.num_frames != people_frames:
            raise ExtPoseError(f"clips hold {info.num_frames} frames of {people_frames}")
        people, hands = _count_tracks(arrays, len(tracks))
        return Outcome(
            name=unit.name,
            identity=unit.identity,
            status="written" if info else "filtered",
            frames=num_frames,
            written=written,
            filtered=filtered,
            num_tracks=people.whole,
            written_tracks=people.written,
            filtered_tracks=people.filtered,
            num_hands=hands.whole,
            written_hands=hands.written,
            filtered_hands=hands.filtered,
            empty_detections=int(arrays["num_empty"]),
            track_quality=json.loads(str(arrays["entries"])) if "entries" in arrays else [],
            frame_spans=_runs(unit.start, fates),
            track_spans=_track_spans(arrays),
            hands=json.loads(str(arrays["hands"])) if "hands" in arrays else [],
            clips=info.num_clips if info else 0,
            clip_frames=info.num_frames if info else 0,
            sha256=info.sha256 if info else "",
            num_bytes=info.num_bytes if info else 0,
        )

    def _write_shard(self, unit: Unit, tracks: list[Track]) -> ShardInfo:
        path = self.config.out / f"{unit.name}.tar"
        try:
            with ShardWriter(path) as writer:
                for clip in self._make_clips(unit, tracks):
                    writer.add(clip)
                return writer.close()
        except OSError as error:
            raise WriteError(f"{path}: cannot be written ({error})") from error

    def _make_clips(self, unit: Unit, tracks: list[Track]) -> Iterator[Clip]:
        """One pass over the frames feeds all people."""
        origin = ClipOrigin(
            source="video",
            split=self.config.split,
            video_id=unit.video_id,
            fps=unit.fps,
            image_size=(unit.height, unit.width),
            detector=self.detector,
            body=self.config.body,
            keypoint_set="coco17" if self.config.body == "smpl" else "hand21",
        )
        try:
            yield from cut_clips(
                _frames_of(unit),
                tracks,
                origin=origin,
                crop=self.config.crop,
                skeleton=self.config.skeleton,
                max_frames=self.config.clip_frames,
            )
        except MissingFramesError as error:
            raise VideoError(unit.path, "truncated", str(error)) from error
        except FrameSizeError as error:
            raise VideoError(unit.path, "size_changed", str(error)) from error
        except ValueError as error:
            raise VideoError(unit.path, "bad_track", str(error)) from error


def _seconds(row: dict[str, Any], kind: str, stages: tuple[str, ...]) -> dict[str, float]:
    """Of the stages before; 0 where a stage did nothing."""
    return {name: round(float(row.get(f"{kind}_{name}") or 0), 3) for name in stages}


def _frames_of(unit: Unit) -> Iterator[tuple[int, np.ndarray]]:
    """The unit's frames; an `OSError` of the source must not look like one of the output."""
    try:
        for frame in read_unit(vars(unit)):
            yield frame.index, frame.rgb
    except OSError as error:
        raise VideoError(unit.path, "truncated", str(error)) from error


def frame_fates(
    start: int, num_frames: int, tracks: list[Track], arrays: dict[str, np.ndarray]
) -> list[str]:
    """Of each frame: `written` when it is in at least one clip, else why not.

    A frame in no clip has the reason of the first filtered track that covers it, else `no_people`.
    """
    fates = np.full(num_frames, "no_people", dtype=object)
    for first, stop, why in reversed(_track_spans(arrays)):
        fates[first - start : stop - start] = why
    for track in tracks:
        first = track.first_frame - start
        fates[first : first + track.num_frames] = "written"
    return list(fates)


def count_fates(fates: list[str]) -> tuple[int, dict[str, int]]:
    """Frames in at least one clip, and the others by reason."""
    counts = Counter(fates)
    written = counts.pop("written", 0)
    return written, dict(sorted(counts.items()))


@dataclass(frozen=True, kw_only=True)
class _Count:
    """Tracks of one kind."""

    written: int
    filtered: dict[str, int]

    @property
    def whole(self) -> int:
        return self.written + sum(self.filtered.values())


def _count_tracks(arrays: dict[str, np.ndarray], num_tracks: int) -> tuple[_Count, _Count]:
    """Of people, and of the hands that took their place."""
    reasons = arrays["filtered_reasons"].tolist()
    if "people" not in arrays:
        return _count(num_tracks, reasons), _count(0, [])
    kept, dropped = arrays["people"].tolist()
    return _count(kept, reasons[:dropped]), _count(num_tracks, reasons[dropped:])


def _count(written: int, reasons: list[str]) -> _Count:
    return _Count(written=written, filtered=dict(sorted(Counter(reasons).items())))


def _track_spans(arrays: dict[str, np.ndarray]) -> list[tuple[int, int, str]]:
    spans, reasons = arrays["filtered_spans"].tolist(), arrays["filtered_reasons"].tolist()
    return [(f, f + n, why) for (f, n), why in zip(spans, reasons, strict=True)]


def _runs(start: int, fates: list[str]) -> list[tuple[int, int, str]]:
    """Neighbours of the same fate as one span."""
    spans: list[tuple[int, int, str]] = []
    for fate, group in itertools.groupby(fates):
        stop = start + len(list(group))
        spans.append((start, stop, fate))
        start = stop
    return spans
