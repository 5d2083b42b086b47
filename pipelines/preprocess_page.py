"""`report.html` of a preprocessing folder: its accounts, stage times and tracks, on one page.

Made from what the folder says of itself; it can be made again at any time.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from extpose.report import Report
from extpose.storage import Location
from pipelines.committed import MANIFEST, QUARANTINE, SETTINGS, read_json, write_text
from pipelines.environment import VERSIONS, read_environments
from pipelines.ledger import Outcome
from pipelines.timing import TIMING, RunTiming, timing_table
from pipelines.track_report import say_tracks

PAGE = "report.html"
MAX_ROWS = 50
"""Of a table; the files have the rest."""
SUSPECTS = ("num_switches", "num_jumps", "num_breaks", "num_conflicts", "longest_gap")
"""Of a track: what should be looked at, the worst first."""
FILES = {
    MANIFEST: "what became of every video and frame",
    QUARANTINE: "what could not be used, and why",
    SETTINGS: "every setting that decides bytes",
    TIMING: "the times of the last run that did something",
    VERSIONS: "libraries and commit of each run",
}


def write_page(
    out: Location,
    manifest: Mapping[str, Any],
    outcomes: Iterable[Outcome],
    quarantined: Sequence[Mapping[str, Any]],
) -> None:
    """Write the page of the finished folder. Raises WriteError."""
    report = Report(title=f"Preprocessing {out.name}", folder=Path())
    counts = manifest["frame_counts"]
    _add_accounts(report, manifest, counts)
    _add_tracks(report, manifest, outcomes)
    report.heading("Stage times")
    timing = read_json(out / TIMING)
    report.code(timing_table(RunTiming(**timing)) if timing else "No run has done anything yet.")
    if quarantined:
        report.heading("Quarantined")
        rows = [
            (row["path"], f"{row['start']} to {row['stop'] or 'the end'}", row["message"])
            for row in quarantined[:MAX_ROWS]
        ]
        report.table(("video", "frames", "why"), rows)
        report.text(f"{len(quarantined)} in all; they are tried again by every later run.")
    report.heading("Made with")
    for name, versions in read_environments(out).items():
        report.text(f"{name}: " + ", ".join(f"{key} {value}" for key, value in versions.items()))
    report.heading("Files")
    report.links({Path(name): text for name, text in FILES.items()})
    write_text(out / PAGE, report.page())


def _add_accounts(report: Report, manifest: Mapping[str, Any], counts: Mapping[str, Any]) -> None:
    videos = manifest["video_counts"]
    rows = [
        ("videos", *(videos[name] for name in ("videos", "written", "filtered", "quarantined"))),
        ("frames", *_sums(counts, "frames", "written", "filtered", counts["quarantined"])),
        ("people", *_sums(counts, "num_tracks", "written_tracks", "filtered_tracks", "")),
    ]
    if "num_hands" in counts:
        hands = _sums(counts, "num_hands", "written_hands", "filtered_hands", "")
        rows.append(("stretches of hands", *hands))
    report.heading("Accounts")
    report.table(("", "in all", "written", "filtered", "quarantined"), rows)
    report.text(
        f"{manifest['clips']} clips of {manifest['frames']} frames in "
        f"{len(manifest['shards'])} shards, split {manifest['split']}."
    )
    reasons = [
        (what, reason, number)
        for what, field in (
            ("frames", "filtered"), ("people", "filtered_tracks"), ("hands", "filtered_hands")
        )
        for reason, number in counts.get(field, {}).items()
    ]  # fmt: skip
    if reasons:
        report.table(("filtered", "reason", "number"), reasons)


def _sums(
    counts: Mapping[str, Any], whole: str, written: str, filtered: str, quarantined: object
) -> tuple[object, ...]:
    return counts[whole], counts[written], sum(counts[filtered].values()), quarantined


def _add_tracks(report: Report, manifest: Mapping[str, Any], outcomes: Iterable[Outcome]) -> None:
    report.heading("Tracks of people")
    links = sum(len(video.get("continued_tracks", ())) for video in manifest["videos"])
    report.text(f"{say_tracks(manifest['track_counts'], links)}.")
    tracks = [(unit.name, track) for unit in outcomes for track in unit.track_quality]
    suspects = [row for row in tracks if any(row[1][name] for name in SUSPECTS)]
    suspects.sort(key=lambda row: [-row[1][name] for name in SUSPECTS])
    if not suspects:
        return
    rows = [
        (name, track["track_id"], track["num_frames"], f"{track['detected']:.0%}",
         *(track[field] for field in SUSPECTS))
        for name, track in suspects[:MAX_ROWS]
    ]  # fmt: skip
    names = (field.removeprefix("num_").replace("_", " ") for field in SUSPECTS)
    report.table(("unit", "track", "frames", "detected", *names), rows)
    report.text(f"To look at, the worst first: {len(suspects)} of {len(tracks)} tracks.")
