"""What is to be done, what became of it, and how the two are kept on disk.

A *unit* is a range of frames of one video. When it is finished, its *marker* is written: one JSON
file below `done/`, after the unit's shard. Nothing else remembers progress; a run that was killed
at any moment goes on with the units that have no marker.

Frames are accounted for once each:  frames = written + filtered (by reason) + quarantined
"""

import fcntl
import json
import os
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from extpose.data.shards import sync_folder
from extpose.errors import ExtPoseError

MARKERS, MANIFEST, QUARANTINE = "done", "manifest.json", "quarantine.jsonl"
Status = Literal["written", "filtered", "quarantined"]


class WriteError(ExtPoseError):
    """The output cannot be written (disk full, no permission): the run stops."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """The frames [start, stop) of one video; makes at most one shard."""

    name: str
    """`<video id>-<start>`, the shard's name without `.tar`."""
    path: str
    video_id: str
    start: int
    stop: int
    fps: float
    height: int
    width: int
    identity: str
    """SHA-256 of everything that decides the shard's bytes."""

    @property
    def num_frames(self) -> int:
        """Frames of the unit."""
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a unit: the content of its marker."""

    name: str
    identity: str
    status: Status
    frames: int
    """Of the video; = written + filtered + quarantined."""
    written: int = 0
    """Frames that are in at least one clip."""
    filtered: dict[str, int] = field(default_factory=dict)
    """Frames in no clip, by reason."""
    quarantined: int = 0
    filtered_tracks: dict[str, int] = field(default_factory=dict)
    """Tracks that were dropped, by reason."""
    clips: int = 0
    clip_frames: int = 0
    """Sum of the clips' lengths: a frame counts once for each person."""
    sha256: str = ""
    """Of the shard; empty where there is none."""
    num_bytes: int = 0
    reason: str = ""
    message: str = ""
    traceback: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time by stage."""
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    """CPU time by stage: what it costs, whatever else the machine did."""


def read_outcome(out: Path, unit: Unit) -> Outcome | None:
    """The marker of a unit whose work is done and still there; None: to be done (again).

    Quarantined units are tried again. Raises ExtPoseError for a marker of other settings.
    """
    path = _marker(out, unit.name)
    try:
        outcome = Outcome(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise ExtPoseError(f"{path}: not a marker ({error}); delete it to do the unit again") from (
            error
        )
    if outcome.identity != unit.identity:
        raise ExtPoseError(
            f"{path}: made with other settings or another version (identity "
            f"{outcome.identity[:12]}, now {unit.identity[:12]}); choose another folder"
        )
    shard = out / f"{unit.name}.tar"
    is_there = not outcome.sha256 or (shard.is_file() and shard.stat().st_size == outcome.num_bytes)
    return outcome if is_there else None


def write_outcome(out: Path, outcome: Outcome) -> None:
    """Write the marker of a unit; the last thing that happens to it."""
    write_text(_marker(out, outcome.name), json.dumps(asdict(outcome), indent=1) + "\n")


def _marker(out: Path, name: str) -> Path:
    return out / MARKERS / f"{name}.json"


def write_text(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all. Raises WriteError."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise WriteError(f"{path}: cannot be written ({error})") from error


@contextmanager
def open_output(out: Path) -> Iterator[None]:
    """Make the folder, keep other runs out of it, and clear what a killed run left half-written."""
    try:
        (out / MARKERS).mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w")
    except OSError as error:
        raise WriteError(f"{out}: cannot be written ({error})") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ExtPoseError(f"{out}: another run is writing to this folder") from error
        for folder in (out, out / MARKERS):
            for path in folder.glob(".*.tmp"):
                path.unlink(missing_ok=True)
        yield


def add_counts(outcomes: list[Outcome]) -> dict[str, Any]:
    """Sums over units, in the manifest's words."""
    filtered: Counter[str] = Counter()
    tracks: Counter[str] = Counter()
    for outcome in outcomes:
        filtered.update(outcome.filtered)
        tracks.update(outcome.filtered_tracks)
    return {
        "frames": sum(o.frames for o in outcomes),
        "written": sum(o.written for o in outcomes),
        "filtered": dict(sorted(filtered.items())),
        "quarantined": sum(o.quarantined for o in outcomes),
        "clips": sum(o.clips for o in outcomes),
        "clip_frames": sum(o.clip_frames for o in outcomes),
        "filtered_tracks": dict(sorted(tracks.items())),
    }
