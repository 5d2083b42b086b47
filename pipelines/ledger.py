"""What is to be done with videos, and what became of it.

A *unit* is a range of frames of one video. Its marker (`pipelines.committed`) accounts for
everything that went in, once each:

    frames = written + filtered (by reason) + quarantined
    num_tracks = written + filtered (by reason)    people
    num_hands  = written + filtered (by reason)    stretches of hands, of the written people

`clips` are the pieces of the written people, or of the written hands where hands are cut.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from extpose.storage import Location
from pipelines.committed import MANIFEST as MANIFEST
from pipelines.committed import QUARANTINE as QUARANTINE
from pipelines.committed import Committed, is_whole, read_marker, write_marker
from pipelines.committed import WriteError as WriteError
from pipelines.committed import write_text as write_text
from pipelines.locking import open_output as open_output

Status = Literal["written", "filtered", "quarantined"]


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
    detection_identity: str = ""
    """SHA-256 of everything that decides what the detector finds."""
    index: str = ""
    """`VideoIndex.to_text` of its frames; empty: whoever reads them reads the whole file first."""

    @property
    def num_frames(self) -> int:
        """Frames of the unit."""
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class Outcome(Committed):
    """What became of a unit: the content of its marker."""

    status: Status
    frames: int
    """Of the video; = written + filtered + quarantined."""
    written: int = 0
    """Frames that are in at least one clip."""
    filtered: dict[str, int] = field(default_factory=dict)
    """Frames in no clip, by reason."""
    quarantined: int = 0
    num_tracks: int = 0
    """People that were tracked; = written_tracks + filtered_tracks."""
    written_tracks: int = 0
    filtered_tracks: dict[str, int] = field(default_factory=dict)
    """Tracks that were dropped, by reason."""
    num_hands: int = 0
    """Stretches of frames with and without a hand; = written_hands + filtered_hands."""
    written_hands: int = 0
    filtered_hands: dict[str, int] = field(default_factory=dict)
    """Stretches without a hand, or with one that was not kept, by reason."""
    empty_detections: int = 0
    """Without an area inside the picture, so in no track."""
    track_quality: list[dict[str, Any]] = field(default_factory=list)
    """Of each kept person: frames, quality, first and last box (`pipelines/track_report.py`)."""
    hands: list[dict[str, Any]] = field(default_factory=list)
    """Of each side of each person, where hands are cut: `extpose.detect.hand_tracks.HandCount`."""
    clip_frames: int = 0
    """Sum of the clips' lengths: a frame counts once for each person."""
    frame_spans: list[tuple[int, int, str]] = field(default_factory=list)
    """Every frame: first, behind the last, and `written` or the reason."""
    track_spans: list[tuple[int, int, str]] = field(default_factory=list)
    """Every filtered track: first frame, behind the last, reason."""
    environment: str = ""
    """Which of `versions.json` made it."""
    reason: str = ""
    message: str = ""
    traceback: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time by stage."""
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    """CPU time by stage: what it costs, whatever else the machine did."""


def read_outcome(out: Location, unit: Unit) -> Outcome | None:
    """The marker of a unit whose work is done and still there; None: to be done (again).

    Raises ExtPoseError for a marker that cannot be read.
    """
    outcome = read_marker(out, unit.name, Outcome)
    if outcome is None or outcome.identity != unit.identity:
        return None
    return outcome if is_whole(out, outcome) else None


def write_outcome(out: Location, outcome: Outcome) -> None:
    """Write the marker of a unit; the last thing that happens to it."""
    write_marker(out, outcome)


def imbalance(outcome: Outcome) -> str:
    """What does not add up in a marker; empty where all does."""
    sums = {
        "frames": (outcome.frames, outcome.written, outcome.filtered, outcome.quarantined),
        "num_tracks": (outcome.num_tracks, outcome.written_tracks, outcome.filtered_tracks, 0),
        "num_hands": (outcome.num_hands, outcome.written_hands, outcome.filtered_hands, 0),
    }
    for name, (whole, written, filtered, quarantined) in sums.items():
        found = written + sum(filtered.values()) + quarantined
        if found != whole:
            return f"{name} is {whole}, written, filtered and quarantined are {found}"
    spans = sum(stop - start for start, stop, _ in outcome.frame_spans)
    if outcome.status != "quarantined" and spans != outcome.frames:
        return f"frames is {outcome.frames}, frame_spans cover {spans}"
    return ""


def add_counts(outcomes: list[Outcome]) -> dict[str, Any]:
    """Sums over units, in the manifest's words."""
    sums = {
        "frames": sum(o.frames for o in outcomes),
        "written": sum(o.written for o in outcomes),
        "filtered": _add_reasons(o.filtered for o in outcomes),
        "quarantined": sum(o.quarantined for o in outcomes),
        "clips": sum(o.clips for o in outcomes),
        "clip_frames": sum(o.clip_frames for o in outcomes),
        "num_tracks": sum(o.num_tracks for o in outcomes),
        "written_tracks": sum(o.written_tracks for o in outcomes),
        "filtered_tracks": _add_reasons(o.filtered_tracks for o in outcomes),
        "empty_detections": sum(o.empty_detections for o in outcomes),
    }
    if hands := sum(o.num_hands for o in outcomes):
        sums["num_hands"] = hands
        sums["written_hands"] = sum(o.written_hands for o in outcomes)
        sums["filtered_hands"] = _add_reasons(o.filtered_hands for o in outcomes)
    return sums


def _add_reasons(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))
