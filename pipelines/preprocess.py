"""`extpose preprocess`: videos to shards, on Ray Data.

    extpose preprocess --source.path videos/ --out data/walk

    plan --units--> Detect --detections--> track --tracks--> Pack --> shard, then its marker

A unit is a range of frames of one video. Only unit descriptions and small arrays travel between
stages, never frames: memory does not grow with the videos. Units run in any order on any number of
workers, killed runs go on where they were, and the shards have the same bytes every time.

Below `out`: `<video>-<first frame>.tar`, `manifest.json` (what became of every video and frame),
`quarantine.jsonl` (what could not be used, and why), `timing.json` (where the time went), `done/`
(a marker a unit).
"""

import functools
import hashlib
import json
import logging
import time
import warnings
from dataclasses import asdict
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, TaskPoolStrategy
from ray.exceptions import RayError
from tqdm import tqdm

from extpose.asset_table import ASSETS
from extpose.config import DetectConfig, PreprocessConfig
from extpose.errors import ExtPoseError
from pipelines.ledger import (
    MANIFEST,
    QUARANTINE,
    Outcome,
    Unit,
    WriteError,
    open_output,
    read_outcome,
    write_outcome,
    write_text,
)
from pipelines.memory import WorkSize, size_of_work
from pipelines.plan import PlannedVideo, make_manifest, plan_videos, quarantine_rows, settings_of
from pipelines.rows import quarantine
from pipelines.runtime import ray_session
from pipelines.sources.folder import find_videos
from pipelines.stages.detect import Detect, Detector, DetectorSpec
from pipelines.stages.pack import pack
from pipelines.stages.track import track
from pipelines.timing import Clock, time_run, timing_table, write_timing
from pipelines.watching import lost, watched_rows

log = logging.getLogger(__name__)
CPUS_PER_DETECTOR = 0.5
"""Logical: Ray Data's own helpers need free CPUs next to the actors, or wait for ever."""
WEIGHTS = ("movenet-thunder", "person-boxes")


def preprocess(config: PreprocessConfig, *, detector: DetectorSpec | None = None) -> int:
    """Do what is missing in `config.out`; 0, or 3 when something was quarantined.

    `detector` is MoveNet unless another one is given.

    Raises:
        WriteError: the output cannot be written.
        ExtPoseError: the folder holds shards of other settings, or the run failed.
        AssetError: the detector's weights cannot be had.
    """
    spec = detector or person_detector()
    videos_found = find_videos(config.source.path)
    if not videos_found:
        raise ExtPoseError(f"{', '.join(map(str, config.source.path))}: no videos")
    settings = settings_of(config, f"{spec.name} {spec.identity}")
    begun = time.monotonic()
    with open_output(config.out):
        videos = plan_videos(tqdm(videos_found, desc="plan", unit="video"), config, settings)
        units = [unit for video in videos for unit in video.units]
        _refuse_strangers(units, config)
        missing = [unit for unit in units if read_outcome(config.out, unit) is None]
        missing += [unit for unit in units if _is_quarantined(config, unit)]
        log.info("%d units, %d to do", len(units), len(missing))
        planned = started = time.monotonic()
        if missing:
            size = size_of_work(missing, config)
            with ray_session(object_store_memory=size.object_store):
                started = time.monotonic()
                _run(missing, config, spec, size)
                clock = Clock(begun=begun, planned=planned, started=started, done=time.monotonic())
            _write_timing(missing, config, clock, size)
        return _write_summary(videos, config, settings)


def build_graph(
    units: list[Unit], config: PreprocessConfig, spec: DetectorSpec, size: WorkSize
) -> Dataset:
    """The line: units in, what `pack` says of each out."""
    with warnings.catch_warnings():
        # Ray tries a task for ever, and 2.60 has no other way to say how often.
        warnings.simplefilter("ignore", DeprecationWarning)
        return _line(units, config, spec, size)


def _line(
    units: list[Unit], config: PreprocessConfig, spec: DetectorSpec, size: WorkSize
) -> Dataset:
    at_once = TaskPoolStrategy(size=size.most_detectors)
    again = config.tries - 1
    return (
        ray.data.from_items([asdict(unit) for unit in units], override_num_blocks=len(units))
        .map(
            Detect,
            fn_constructor_args=(config.detect, spec),
            fn_constructor_kwargs={"limit": config.frame_seconds, "tries": config.tries},
            compute=ActorPoolStrategy(
                min_size=size.detectors,
                max_size=size.most_detectors,
                max_tasks_in_flight_per_actor=1,
            ),
            num_cpus=CPUS_PER_DETECTOR,
            num_gpus=config.gpus_per_detector or None,
            max_task_retries=again,
        )
        .map(
            functools.partial(track, config=config.detect),
            compute=at_once,
            max_retries=again,
        )
        .map(
            functools.partial(pack, config=config, detector=spec.name),
            compute=at_once,
            max_retries=again,
        )
    )


def _run(units: list[Unit], config: PreprocessConfig, spec: DetectorSpec, size: WorkSize) -> None:
    context = DataContext.get_current()
    context.enable_progress_bars = False
    # A block is a unit: one whose workers die again and again is dropped, and the others go on.
    context.max_errored_blocks = -1
    context.execution_no_progress_timeout_s = -1  # `watched_rows` sees more, and names the units
    total = sum(unit.num_frames for unit in units)
    try:
        with tqdm(total=total, desc="preprocess", unit="frame") as bar:
            rows = build_graph(units, config, spec, size).iter_rows()
            for row in watched_rows(rows, units, limit=config.stall_seconds):
                if row["write_error"]:
                    raise WriteError(row["write_error"])
                bar.update(row["frames"])
    except RayError as error:
        raise ExtPoseError(f"preprocessing stopped: {error}") from error
    for unit in units:
        if read_outcome(config.out, unit) is None:
            write_outcome(config.out, quarantine(unit, lost(config.tries)))


def _write_timing(
    units: list[Unit], config: PreprocessConfig, clock: Clock, size: WorkSize
) -> None:
    outcomes = [outcome for unit in units if (outcome := read_outcome(config.out, unit))]
    timing = time_run(outcomes, clock, detectors=size.detectors)
    write_timing(config.out, timing)
    log.info("%s", timing_table(timing))


def person_detector() -> DetectorSpec:
    """MoveNet Thunder on CenterNet's boxes."""
    members = [(m.path, m.sha256) for name in WEIGHTS for m in ASSETS[name].members]
    return DetectorSpec(
        name="movenet-thunder",
        identity=hashlib.sha256(json.dumps(members).encode()).hexdigest(),
        build=_build_person_detector,
    )


def _build_person_detector(config: DetectConfig) -> Detector:
    # Only in the actors: the driver needs no inference runtime.
    from extpose.detect.movenet import PersonDetector

    return PersonDetector(config)


def _refuse_strangers(units: list[Unit], config: PreprocessConfig) -> None:
    """A folder holds one data set: shards that are not of this plan would be trained on."""
    planned = {f"{unit.name}.tar" for unit in units}
    for path in sorted(config.out.glob("*.tar")):
        if path.name not in planned:
            raise ExtPoseError(
                f"{path}: not a shard of these videos and settings; choose another folder"
            )


def _is_quarantined(config: PreprocessConfig, unit: Unit) -> bool:
    """Quarantined units are tried again: the disk or the file may be better now."""
    outcome = read_outcome(config.out, unit)
    return outcome is not None and outcome.status == "quarantined"


def _write_summary(
    videos: list[PlannedVideo], config: PreprocessConfig, settings: dict[str, Any]
) -> int:
    """Manifest and quarantine list, from the markers alone."""

    def outcome_of(unit: Unit) -> Outcome:
        outcome = read_outcome(config.out, unit)
        if outcome is None:
            raise ExtPoseError(f"{config.out}: unit {unit.name} has no marker after the run")
        return outcome

    manifest = make_manifest(videos, outcome_of, settings, config.split)
    rows = quarantine_rows(videos, outcome_of)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(config.out / QUARANTINE, lines)
    write_text(config.out / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    for row in rows:
        log.warning("quarantined: %s: %s: %s", row["path"], row["reason"], row["message"])
    return 3 if rows else 0
