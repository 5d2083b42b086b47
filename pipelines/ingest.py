"""`extpose ingest`: a labelled data set, as downloaded, to shards.

    extpose ingest 3dpw --root /data/3DPW --split test --out data/3dpw-test

    list units --> read records --> check --> cut, crop, draw, encode --> shard, then its marker

A unit (a sequence, or a few hundred images) makes one shard. Units that have a marker are done: a
run that was killed goes on with the others, and the bytes are the same each time. Units of which
something was quarantined are tried again, for the files may be whole now. Every frame that
a source yields ends as written, filtered (with the reason) or quarantined (with the error).

Below `out`: the shards, `manifest.json`, `quarantine.jsonl`, `done/` (a marker a unit).
"""

import functools
import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from tqdm import tqdm

from extpose import __version__
from extpose.config import IngestConfig
from extpose.data.shards import ShardWriter
from extpose.detect.plugs import FILE_SETTINGS, detector_identity
from extpose.errors import ExtPoseError
from extpose.schema import MAX_CLIP_FRAMES, SCHEMA_VERSION, Split
from pipelines.committed import (
    MANIFEST,
    QUARANTINE,
    Committed,
    WriteError,
    clear_for,
    marker_of,
    remove,
    survey,
    write_marker,
    write_text,
)
from pipelines.cutting import ClipCutter, find_people, short_name
from pipelines.locking import open_output
from pipelines.records import (
    Damaged,
    Filtered,
    Picture,
    Record,
    Source,
    SourceError,
    check_record,
)
from pipelines.runtime import ray_session
from pipelines.source_files import note_file, noting_files, read_files, shorten, write_files

log = logging.getLogger(__name__)
INGEST_VERSION = 1
"""Raised whenever the same files and settings give other bytes."""


@dataclass(frozen=True, kw_only=True)
class UnitOutcome(Committed):
    """What became of a unit: the content of its marker."""

    frames: int = 0
    """= written + filtered + quarantined."""
    written: int = 0
    filtered: dict[str, int] = field(default_factory=dict)
    """Frames by reason."""
    quarantined: int = 0
    records: dict[str, int] = field(default_factory=dict)
    """What the source yielded (people, hands, samples that it cannot read), each once: `written`
    whole, `filtered`, or `quarantined`. Of what cannot be read nobody knows the frames."""
    notes: dict[str, int] = field(default_factory=dict)
    """Written frames of which labels were set aside, by what the source says of it."""
    errors: list[dict[str, Any]] = field(default_factory=list)
    """Of quarantined records: name, frames, message."""
    seconds: float = 0.0


def ingest(config: IngestConfig, source: Source) -> int:
    """Do what is missing in `config.out`; 0, or 3 when something was quarantined.

    Raises:
        SourceError: the data set's files are not where they should be.
        WriteError: the output cannot be written.
        ExtPoseError: the split or a unit is not known, or the folder holds other shards.
    """
    units = plan_units(config, source)
    settings = settings_of(config, source)
    with open_output(config.out):
        identities = {unit: identity_of(unit, settings) for unit in units}
        names = {unit: shard_name(source, config.split, unit) for unit in units}
        by_name = {names[unit]: identities[unit] for unit in units}
        found = survey(config.out, by_name, UnitOutcome, settings)
        clear_for(found, settings, redo=config.redo, prune=config.prune)
        whole = {name for name, last in found.done.items() if not last.errors}
        changed = find_changed([name for name in by_name if name in whole], config)
        missing = [u for u in units if names[u] not in whole or names[u] in changed]
        if missing:
            remove(config.out / MANIFEST)
        for name in changed:  # or a run that is killed leaves old markers to new shards
            remove(marker_of(config.out, name))
        log.info("%s %s: %d units, %d to do", source.name, config.split, len(units), len(missing))
        work = functools.partial(ingest_unit, config=config, source=source)
        rows = [{"unit": unit, "identity": identities[unit]} for unit in missing]
        progress = tqdm(total=len(rows), desc="ingest", unit="unit", disable=not rows)
        with progress:
            for row in _run(work, rows, config.workers):
                if row["write_error"]:
                    raise WriteError(row["write_error"])
                progress.update()
        done = survey(config.out, by_name, UnitOutcome, settings).done
        return _write_summary(config, settings, [done[names[unit]] for unit in units])


def find_changed(names: list[str], config: IngestConfig) -> dict[str, list[str]]:
    """Finished units of which files of the data set are gone or have another content; and these."""
    changed = {}
    for name in names:
        known = read_files(config.out, name)
        if known and (files := known.changed(config.root)):
            changed[name] = files
            log.warning("%s is made again: changed: %s", name, shorten(files))
    return changed


def plan_units(config: IngestConfig, source: Source) -> list[str]:
    """The units asked for. Raises ExtPoseError for a split or unit that there is not."""
    if config.split not in source.splits:
        raise ExtPoseError(f"{source.name} has splits {source.splits}, not {config.split!r}")
    if not 1 <= config.clip_frames <= MAX_CLIP_FRAMES:
        raise ExtPoseError(
            f"clip_frames is {config.clip_frames}, allowed 1 to {MAX_CLIP_FRAMES} (the schema's)"
        )
    if source.needs_detector and (config.evidence, config.boxes) != ("source", "source"):
        raise ExtPoseError(
            f"{source.name}: --evidence {config.evidence} --boxes {config.boxes}: there are no "
            "labels; the detector gives both"
        )
    if not config.root.is_dir():
        raise SourceError(f"{config.root}: no such folder; {source.name} needs\n{source.layout}")
    known = source.list_units(config.root, config.split)
    if strangers := sorted(set(config.units) - set(known)):
        raise ExtPoseError(f"{config.root}: no units {strangers} in {config.split}")
    if not known:
        raise SourceError(f"{config.root}: no units of {source.name} {config.split}")
    return [unit for unit in known if not config.units or unit in config.units]


def settings_of(config: IngestConfig, source: Source) -> dict[str, Any]:
    """What decides the content of shards, besides the data set's files."""
    settings = asdict(config)
    for name in ("root", "out", "units", "workers", "redo", "prune"):
        del settings[name]
    for name in FILE_SETTINGS:
        del settings["detect"][name]  # their content decides
    if source.needs_detector or "detector" in (config.evidence, config.boxes):
        settings["detector"] += f" {detector_identity(config.detector, config.detect)}"
    versions = {"code": __version__, "schema": SCHEMA_VERSION, "ingest": INGEST_VERSION}
    return {"versions": versions, "source": source.name, **settings}


def identity_of(unit: str, settings: dict[str, Any]) -> str:
    """Of a unit: a hash of its name and of the settings. Its files are known only when it is made:
    `pipelines/source_files.py` looks after them."""
    return hashlib.sha256(json.dumps([unit, settings], sort_keys=True).encode()).hexdigest()


def shard_name(source: Source, split: Split, unit: str) -> str:
    """Of a unit, without `.tar`."""
    return short_name(f"{source.name}-{split}-{unit}")


def _run(
    work: Callable[[dict[str, Any]], dict[str, Any]], rows: list[dict[str, Any]], workers: int
) -> Iterator[dict[str, Any]]:
    if workers == 0 or not rows:
        yield from map(work, rows)
        return
    # Only here, so that the plain path needs no Ray.
    import ray

    with ray_session():
        ray.data.DataContext.get_current().enable_progress_bars = False
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            work, compute=ray.data.TaskPoolStrategy(size=min(workers, len(rows)))
        )
        yield from dataset.iter_rows()


def ingest_unit(row: dict[str, Any], *, config: IngestConfig, source: Source) -> dict[str, Any]:
    """Shard and marker of a unit; `write_error` says whether the output could not be written."""
    try:
        outcome = Ingestion(config, source).make_shard(row["unit"], row["identity"])
        write_marker(config.out, outcome)
    except WriteError as error:
        return {"unit": row["unit"], "write_error": str(error)}
    return {"unit": row["unit"], "write_error": ""}


class Ingestion:
    """Units to shards."""

    def __init__(self, config: IngestConfig, source: Source) -> None:
        self.config, self.source = config, source
        self.cutter = ClipCutter(config, source.name)

    def make_shard(self, unit: str, identity: str) -> UnitOutcome:
        """Read, check, cut and write. An error of a record ends in the outcome. WriteError."""
        start, name = time.monotonic(), shard_name(self.source, self.config.split, unit)
        filtered: Counter[str] = Counter()
        dropped: list[str] = []
        notes: Counter[str] = Counter()
        errors: list[dict[str, Any]] = []
        written, whole = 0, 0
        path = self.config.out / f"{name}.tar"
        try:
            with ShardWriter(path) as writer, noting_files() as files:
                for record in self._read(unit, filtered, dropped, errors):
                    kept, error = self._add(writer, record)
                    files.update(frame.path for frame in record.frames)
                    written, whole = written + kept, whole + (not error)
                    notes.update(dict.fromkeys(record.notes, kept))
                    if error:
                        lost = len(record.frames) - kept
                        errors.append({"name": record.name, "frames": lost, "message": error})
                info = writer.close() if written else None
                if info is None:
                    writer.abort()
        except OSError as error:
            raise WriteError(f"{path}: cannot be written ({error})") from error
        write_files(self.config.out, name, self.config.root, files)
        quarantined = sum(error["frames"] for error in errors)
        return UnitOutcome(
            name=name,
            identity=identity,
            frames=written + filtered.total() + quarantined,
            written=written,
            filtered=dict(sorted(filtered.items())),
            quarantined=quarantined,
            records={"written": whole, "filtered": len(dropped), "quarantined": len(errors)},
            notes=dict(sorted(notes.items())),
            errors=errors,
            clips=info.num_clips if info else 0,
            sha256=info.sha256 if info else "",
            num_bytes=info.num_bytes if info else 0,
            seconds=round(time.monotonic() - start, 3),
        )

    def _read(
        self,
        unit: str,
        filtered: Counter[str],
        dropped: list[str],
        errors: list[dict[str, Any]],
    ) -> Iterator[Record]:
        """The records of a unit; what the source leaves out is counted."""
        try:
            for item in self.source.read_unit(self.config.root, self.config.split, unit):
                if isinstance(item, Filtered):
                    filtered[item.reason] += item.num_frames
                    dropped.append(item.name)
                elif isinstance(item, Damaged):
                    error = {"name": item.name, "frames": item.num_frames}
                    errors.append(error | {"message": item.message})
                elif isinstance(item, Picture):
                    yield from self._find_people(item, filtered, dropped, errors)
                else:
                    yield item
        except Exception as raised:
            # One broken file must not stop the other units, whatever a source did not foresee in
            # it. How many frames it would have had is not known.
            errors.append({"name": unit, "frames": 0, "message": _describe(raised)})
            log.debug("%s", unit, exc_info=True)

    def _find_people(
        self,
        picture: Picture,
        filtered: Counter[str],
        dropped: list[str],
        errors: list[dict[str, Any]],
    ) -> Iterator[Record]:
        """The people of a picture without labels. Nobody there: it is filtered."""
        note_file(picture.path)
        try:
            found = find_people(picture, self.cutter.open_detector("smpl"), self.config)
        except SourceError as error:
            errors.append({"name": picture.name, "frames": 1, "message": str(error)})
            return
        for item in found:
            if isinstance(item, Filtered):
                filtered[item.reason] += item.num_frames
                dropped.append(item.name)
            else:
                yield item

    def _add(self, writer: ShardWriter, record: Record) -> tuple[int, str]:
        """Frames that were written, and the error that ended it."""
        written = 0
        try:
            check_record(record)
            for clip in self.cutter.cut(record):
                writer.add(clip)
                written += clip.num_frames
        except (ExtPoseError, ValueError) as error:
            return written, str(error)
        return written, ""


def _describe(error: Exception) -> str:
    """Errors of this project say what is wrong; of others the kind must be said too."""
    return str(error) if isinstance(error, ExtPoseError) else f"{type(error).__name__}: {error}"


def _write_summary(
    config: IngestConfig, settings: dict[str, Any], outcomes: list[UnitOutcome]
) -> int:
    """Manifest and quarantine list, from the markers alone."""
    filtered: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    for outcome in outcomes:
        filtered.update(outcome.filtered)
        notes.update(outcome.notes)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "source": settings["source"],
        "split": config.split,
        "settings": settings,
        "clips": sum(o.clips for o in outcomes),
        "frames": sum(o.written for o in outcomes),
        "frame_counts": {
            "frames": sum(o.frames for o in outcomes),
            "written": sum(o.written for o in outcomes),
            "filtered": dict(sorted(filtered.items())),
            "quarantined": sum(o.quarantined for o in outcomes),
        },
        "record_counts": {
            name: sum(o.records.get(name, 0) for o in outcomes)
            for name in ("written", "filtered", "quarantined")
        },
        "label_counts": dict(sorted(notes.items())),
        "shards": [
            {"name": f"{o.name}.tar", "clips": o.clips, "frames": o.written, "sha256": o.sha256}
            for o in outcomes
            if o.sha256
        ],
    }
    rows = [{"unit": o.name, **error} for o in outcomes for error in o.errors]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(config.out / QUARANTINE, lines)
    write_text(config.out / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    for row in rows:
        log.warning("quarantined: %s: %s", row["name"], row["message"])
    log.info("%s", summary_line(manifest))
    return 3 if rows else 0


def summary_line(manifest: dict[str, Any]) -> str:
    """What became of the frames, for people: an output without clips must not look like one."""
    counts = manifest["frame_counts"]
    reasons = ", ".join(f"{count} {reason}" for reason, count in counts["filtered"].items())
    labels = manifest.get("label_counts", {})
    notes = "".join(f"; {count} {note}" for note, count in labels.items())
    lost = manifest.get("record_counts", {}).get("quarantined", 0)
    return (
        f"{manifest['clips']} clips of {counts['written']} frames written; filtered: "
        f"{reasons or 'none'}; quarantined: {counts['quarantined']}"
        + (f" of {lost} records" if lost else "")
        + notes
    )
