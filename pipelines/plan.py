"""From source videos to the deterministic list of work units, and to the manifest of what came out.

A unit's identity is a hash of the video's content, of its range of frames and of everything that
decides the output: versions, settings, the detector's weights. Workers and paths are not in it.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

from extpose import __version__
from extpose.config import PreprocessConfig
from extpose.data.clip import make_video_id
from extpose.detect.plugs import FILE_SETTINGS
from extpose.errors import VideoError
from extpose.schema import MAX_CLIP_FRAMES, SCHEMA_VERSION
from extpose.storage import Location
from extpose.video_index import VideoIndex, scan
from pipelines.committed import Survey, clear_for, survey
from pipelines.detections import detection_settings
from pipelines.ledger import Outcome, Unit, add_counts
from pipelines.probing import Failed, Known, Probed, Scan, probe_videos, readable
from pipelines.track_report import link_units, sum_tracks

PIPELINE_VERSION = 2
"""Raised whenever the same settings give other bytes."""
CHEAP_SKIP = 1024
"""Frames that may be decoded and dropped before any unit: next to nothing beside detection."""
WORK_SETTINGS = (
    "num_detectors", "max_detectors", "gpus_per_detector", "num_hand_finders", "max_memory",
    "frame_seconds", "tries", "stall_seconds", "dry_run", "redo", "prune", "rehash",
    "keep_detections",
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


def settings_of(config: PreprocessConfig, detector: str, hands: str = "") -> dict[str, Any]:
    """What decides the content of shards, besides the videos.

    `detector` is its identity: the hash of its weights; its name alone is in the config. `hands` is
    that of the networks that find hands, where there are any besides the detector's.
    """
    settings = asdict(config)
    for name in FILE_SETTINGS:
        del settings["detect"][name]  # their content is in the detector's identity
    for name in ("source", "out", *WORK_SETTINGS):
        del settings[name]
    versions = {"code": __version__, "schema": SCHEMA_VERSION, "pipeline": PIPELINE_VERSION}
    identities = {"detector_identity": detector} | ({"hands_identity": hands} if hands else {})
    return {"versions": versions, **identities, **settings}


def plan_videos(
    paths: Sequence[Location],
    config: PreprocessConfig,
    settings: dict[str, Any],
    known: Known | None = None,
    identity_of: Callable[[Location], str] | None = None,
    *,
    scan: Scan = scan,
) -> list[PlannedVideo]:
    """Probe every video that is not `known`, by `scan`, and cut all into units.

    `identity_of` says what decides of a single video, besides its content. Raises ValueError for
    settings out of range.
    """
    for name, high in (("unit_frames", 1 << 20), ("clip_frames", MAX_CLIP_FRAMES)):
        if not 1 <= getattr(config, name) <= high:
            raise ValueError(f"{name} is {getattr(config, name)}, allowed 1 to {high}")
    for name in ("num_detectors", "tries", "frame_seconds", "stall_seconds"):
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} is {getattr(config, name)}, it must be above 0")
    seen: dict[str, str] = {}
    probed = zip(paths, probe_videos(paths, {} if known is None else known, scan), strict=True)
    return [
        _plan_video(path, found, config.unit_frames, settings, seen, identity_of)
        for path, found in probed
    ]


def _plan_video(
    path: Location,
    found: Probed | Failed,
    unit_frames: int,
    settings: dict[str, Any],
    seen: dict[str, str],
    identity_of: Callable[[Location], str] | None,
) -> PlannedVideo:
    if isinstance(found, Failed):
        return PlannedVideo(path=readable(path), quarantined=found.reason, message=found.message)
    try:
        own = [identity_of(path)] if identity_of else []
    except VideoError as error:
        return PlannedVideo(path=str(path), quarantined=error.reason, message=str(error))
    video_id = make_video_id(path.stem, found.sha256)
    first = seen.setdefault(found.sha256, str(path))
    video = PlannedVideo(
        path=str(path), video_id=video_id, sha256=found.sha256, num_frames=found.num_frames
    )
    if first != str(path):
        return replace(video, filtered="duplicate", message=f"same as {first}")
    index = VideoIndex.from_text(found.index, path)
    to_detect = detection_settings(settings)
    units = tuple(
        Unit(
            name=f"{video_id}-{start:06d}",
            path=str(path),
            video_id=video_id,
            start=start,
            stop=stop,
            fps=found.fps,
            height=found.height,
            width=found.width,
            identity=_hash_json([settings, found.sha256, path.stem, start, stop, *own]),
            detection_identity=_hash_json([to_detect, found.sha256, start, stop, *own]),
            index=index.part(start, stop).to_text(),
        )
        for start, stop in pairwise(cut_video(index, unit_frames))
    )
    return replace(video, units=units)


def cut_video(index: VideoIndex, unit_frames: int) -> list[int]:
    """Where units begin, and the end of the last.

    They are alike, and of at most `unit_frames`, where their frames can be had without decoding
    many others first. Where not (no keyframes, no seeking) those before every unit are at most as
    many as its own: a video that is decoded from its beginning is halved, and halved again. Else
    the cost would grow with the square of the length.
    """
    num_frames = index.info.num_frames
    num_units = -(-num_frames // unit_frames)
    cuts = [num_frames]
    for i in reversed(range(num_units)):
        start = num_frames * i // num_units
        if index.skip_before(start) <= max(cuts[-1] - start, CHEAP_SKIP):
            cuts.append(start)
    return cuts[::-1]


def _hash_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def survey_units(
    units: list[Unit], config: PreprocessConfig, settings: dict[str, Any]
) -> Survey[Outcome]:
    """What the output folder holds of them."""
    return survey(config.out, {unit.name: unit.identity for unit in units}, Outcome, settings)


def clear_output(
    found: Survey[Outcome],
    videos: list[PlannedVideo],
    config: PreprocessConfig,
    settings: dict[str, Any],
) -> None:
    """Refuse a folder of something else, or make room. Raises ExtPoseError and WriteError."""
    clear_for(
        found,
        settings,
        redo=config.redo,
        prune=config.prune,
        is_planned=is_other_cut(videos),
    )


def is_other_cut(videos: list[PlannedVideo]) -> Callable[[str], bool]:
    """Whether a unit's name is of one of these videos."""
    planned = {video.video_id for video in videos}
    return lambda name: name.rpartition("-")[0] in planned


def missing_units(units: list[Unit], found: Survey[Outcome]) -> list[Unit]:
    """Those that are to be done.

    Quarantined ones are tried again: the disk or the file may be better now.
    """
    kept = {name for name, outcome in found.done.items() if outcome.status != "quarantined"}
    return [unit for unit in units if unit.name not in kept]


def make_manifest(
    videos: list[PlannedVideo],
    outcome_of: Callable[[Unit], Outcome],
    settings: dict[str, Any],
    split: str,
    *,
    others: dict[str, int] | None = None,
) -> dict[str, Any]:
    """What the folder holds and what became of every video. The same for the same input.

    `others` are the files beside the videos that were left out, by suffix.
    """
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
        "left_out_files": {"not_a_video_name": others or {}},
        "frame_counts": totals,
        "track_counts": sum_tracks(
            [track for outcome in outcomes for track in outcome.track_quality]
        ),
        "videos": entries,
    }


def _video_entry(video: PlannedVideo, outcome_of: Callable[[Unit], Outcome]) -> dict[str, Any]:
    """One video of the manifest; its status is exactly one of three."""
    outcomes = [outcome_of(unit) for unit in video.units]
    entry: dict[str, Any] = {"path": video.path}
    entry |= {"video_id": video.video_id, "sha256": video.sha256}
    if video.quarantined or video.filtered:
        status = "quarantined" if video.quarantined else "filtered"
        return entry | {"status": status, "reason": video.quarantined or video.filtered}
    if hands := [hand for outcome in outcomes for hand in outcome.hands]:
        entry["hands"] = hands
    statuses = {outcome.status for outcome in outcomes}
    status = next(s for s in ("quarantined", "written", "filtered") if s in statuses)
    parts = zip(video.units, outcomes, strict=True)
    links = link_units([(unit.name, unit.start, outcome.track_quality) for unit, outcome in parts])
    return entry | {"status": status, **add_counts(outcomes), "continued_tracks": links}


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
