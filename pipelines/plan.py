"""From source videos to the deterministic list of work units, and to the manifest of what came out.

A unit's identity is a hash of the video's content, of its range of frames and of everything that
decides the output: versions, settings, the detector's weights. Workers and paths are not in it.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from extpose import __version__
from extpose.config import PreprocessConfig
from extpose.data.clip import make_video_id
from extpose.errors import VideoError
from extpose.schema import MAX_CLIP_FRAMES, SCHEMA_VERSION
from extpose.video import probe
from pipelines.ledger import Outcome, Unit, add_counts

PIPELINE_VERSION = 1
"""Raised whenever the same settings give other bytes."""
WORK_SETTINGS = (
    "num_detectors", "max_detectors", "gpus_per_detector", "max_memory", "frame_seconds", "tries",
    "stall_seconds",
)  # fmt: skip
"""How the work is done decides no byte."""


@dataclass(frozen=True, kw_only=True)
class PlannedVideo:
    """A source video: its units, or the reason why there are none."""

    path: str
    video_id: str = ""
    sha256: str = ""
    num_frames: int = 0
    units: tuple[Unit, ...] = ()
    quarantined: str = ""
    """Reason why it cannot be used."""
    filtered: str = ""
    """Reason why it is left out: `duplicate` (of an earlier video's content)."""
    message: str = ""


def settings_of(config: PreprocessConfig, detector: str) -> dict[str, Any]:
    """What decides the content of shards, besides the videos. `detector` is its identity."""
    settings = asdict(config)
    for name in ("source", "out", *WORK_SETTINGS):
        del settings[name]
    versions = {"code": __version__, "schema": SCHEMA_VERSION, "pipeline": PIPELINE_VERSION}
    return {"versions": versions, "detector": detector, **settings}


def plan_videos(
    paths: Iterable[Path], config: PreprocessConfig, settings: dict[str, Any]
) -> list[PlannedVideo]:
    """Probe every video and cut it into units. Raises ValueError for settings out of range."""
    for name, high in (("unit_frames", 1 << 20), ("clip_frames", MAX_CLIP_FRAMES)):
        if not 1 <= getattr(config, name) <= high:
            raise ValueError(f"{name} is {getattr(config, name)}, allowed 1 to {high}")
    for name in ("num_detectors", "tries", "frame_seconds", "stall_seconds"):
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} is {getattr(config, name)}, it must be above 0")
    seen: dict[str, str] = {}
    return [_plan_video(path, config.unit_frames, settings, seen) for path in paths]


def _plan_video(
    path: Path, unit_frames: int, settings: dict[str, Any], seen: dict[str, str]
) -> PlannedVideo:
    try:
        info = probe(path)
        content = _hash_file(path)
    except VideoError as error:
        return PlannedVideo(path=str(path), quarantined=error.reason, message=str(error))
    except OSError as error:
        message = f"{path}: unreadable ({error})"
        return PlannedVideo(path=str(path), quarantined="unreadable", message=message)
    video_id = make_video_id(path.stem, content)
    first = seen.setdefault(content, str(path))
    video = PlannedVideo(
        path=str(path), video_id=video_id, sha256=content, num_frames=info.num_frames
    )
    if first != str(path):
        return replace(video, filtered="duplicate", message=f"same as {first}")
    num_units = -(-info.num_frames // unit_frames)
    cuts = [info.num_frames * i // num_units for i in range(num_units + 1)]
    units = tuple(
        Unit(
            name=f"{video_id}-{start:06d}",
            path=str(path),
            video_id=video_id,
            start=start,
            stop=stop,
            fps=info.fps,
            height=info.height,
            width=info.width,
            identity=_hash_json([settings, content, path.stem, start, stop]),
        )
        for start, stop in pairwise(cuts)
    )
    return replace(video, units=units)


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def make_manifest(
    videos: list[PlannedVideo],
    outcome_of: Callable[[Unit], Outcome],
    settings: dict[str, Any],
    split: str,
) -> dict[str, Any]:
    """What the folder holds and what became of every video. The same for the same input."""
    entries = [_video_entry(video, outcome_of) for video in videos]
    outcomes = [outcome_of(unit) for video in videos for unit in video.units]
    left_out = [video for video in videos if video.filtered]
    totals = add_counts(outcomes)
    if left_out:
        frames = sum(video.num_frames for video in left_out)
        totals["frames"] += frames
        totals["filtered"]["duplicate"] = frames
    statuses = [entry["status"] for entry in entries]
    counts = {name: statuses.count(name) for name in ("written", "filtered", "quarantined")}
    return {
        "schema_version": SCHEMA_VERSION,
        "source": "video",
        "split": split,
        "settings": settings,
        "clips": totals["clips"],
        "frames": totals["clip_frames"],
        "shards": [
            {"name": f"{o.name}.tar", "clips": o.clips, "frames": o.clip_frames, "sha256": o.sha256}
            for o in outcomes
            if o.sha256
        ],
        "video_counts": {"videos": len(videos), **counts},
        "frame_counts": totals,
        "videos": entries,
    }


def _video_entry(video: PlannedVideo, outcome_of: Callable[[Unit], Outcome]) -> dict[str, Any]:
    """One video of the manifest; its status is exactly one of three."""
    outcomes = [outcome_of(unit) for unit in video.units]
    entry = {"path": video.path, "video_id": video.video_id, "sha256": video.sha256}
    if video.quarantined or video.filtered:
        status = "quarantined" if video.quarantined else "filtered"
        return entry | {"status": status, "reason": video.quarantined or video.filtered}
    statuses = {outcome.status for outcome in outcomes}
    status = next(s for s in ("quarantined", "written", "filtered") if s in statuses)
    return entry | {"status": status, **add_counts(outcomes)}


def quarantine_rows(
    videos: list[PlannedVideo], outcome_of: Callable[[Unit], Outcome]
) -> list[dict[str, Any]]:
    """One row for each video or range of frames that could not be used."""
    rows: list[dict[str, Any]] = []
    for video in videos:
        if video.quarantined:
            row = {"path": video.path, "reason": video.quarantined, "message": video.message}
            rows.append(row | {"start": 0, "stop": None})
        for unit in video.units:
            outcome = outcome_of(unit)
            if outcome.status == "quarantined":
                row = {"path": unit.path, "reason": outcome.reason, "message": outcome.message}
                rows.append(row | {"start": unit.start, "stop": unit.stop})
    return rows
