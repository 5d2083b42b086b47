"""`extpose preprocess`: videos to shards, on Ray Data.

    extpose preprocess --source.path videos/ --out data/walk

    plan --units--> Detect --detections--> track --tracks--> Pack --> shard, then its marker

With `--body mano` a stage between `track` and `pack` puts the hands in the people's place.

A unit is a range of frames of one video. Only unit descriptions and small arrays travel between
stages, never frames: memory does not grow with the videos. Units run in any order on any number of
workers, killed runs go on where they were, and the shards have the same bytes every time.

Below `out`, on a disk or in a store: `<video>-<first frame>.tar`, `manifest.json` (what became of
every video and frame), `quarantine.jsonl` (what could not be used, and why), `timing.json` (where
the time went), `done/` (a marker a unit), `detections/` (what the detector found), `settings.json`.
"""

import functools
import json
import logging
import time
import warnings
from dataclasses import asdict, replace
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, TaskPoolStrategy
from ray.exceptions import RayError
from tqdm import tqdm

from extpose.asset_table import ASSETS
from extpose.config import PreprocessConfig
from extpose.detect.plugs import HAND_WEIGHTS
from extpose.errors import ExtPoseError
from pipelines.committed import remove
from pipelines.detections import KeptDetect
from pipelines.detectors import detector_spec
from pipelines.ledger import (
    MANIFEST,
    QUARANTINE,
    Outcome,
    Unit,
    WriteError,
    open_output,
    write_outcome,
    write_text,
)
from pipelines.memory import WorkSize, size_of_work
from pipelines.plan import (
    PlannedVideo,
    clear_output,
    make_manifest,
    missing_units,
    plan_videos,
    quarantine_rows,
    settings_of,
    survey_units,
)
from pipelines.probing import read_probes, watched_scan, write_probes
from pipelines.rows import quarantine
from pipelines.runtime import ray_session
from pipelines.sources.folder import find_videos
from pipelines.stages.detect import Detect, DetectorSpec, add_detections, detect_unit
from pipelines.stages.hands import FindHands
from pipelines.stages.pack import pack
from pipelines.stages.track import track
from pipelines.timing import Clock, time_run, timing_table, write_timing
from pipelines.track_report import say_tracks
from pipelines.watching import lost, watched_rows

log = logging.getLogger(__name__)
CPUS_PER_DETECTOR = 0.5
"""Logical: Ray Data's own helpers need free CPUs next to the actors, or wait for ever."""


def preprocess(config: PreprocessConfig, *, detector: DetectorSpec | None = None) -> int:
    """Do what is missing in `config.out`; 0, or 3 when something was quarantined.

    `detector` is the one that `config.detector` names, unless another one is given.

    Raises:
        WriteError: the output cannot be written.
        ExtPoseError: the folder holds shards of other settings, or the run failed.
        AssetError: the detector's weights cannot be had.
    """
    if config.dry_run:
        raise ValueError("dry_run: `pipelines.dry_run.dry_run` makes the plan alone")
    config, spec, settings = decide(config, detector)
    videos_found = find_videos(config.source.path)
    if not videos_found:
        raise ExtPoseError(f"{', '.join(map(str, config.source.path))}: no videos")
    begun = time.monotonic()
    with open_output(config.out):
        known = {} if config.rehash else read_probes(config.out)
        with watched_scan() as scan:
            videos = plan_videos(videos_found, config, settings, known, spec.identity_of, scan=scan)
        write_probes(config.out, known, videos_found)
        units = [unit for video in videos for unit in video.units]
        found = survey_units(units, config, settings)
        clear_output(found, videos, config, settings)
        missing = missing_units(units, found)
        log.info("%d units, %d to do", len(units), len(missing))
        planned = started = time.monotonic()
        if missing:
            # While it is there, the folder is whole.
            remove(config.out / MANIFEST)
            size = size_of_work(missing, config)
            with ray_session(object_store_memory=size.object_store):
                started = time.monotonic()
                _run(missing, config, spec, size)
                clock = Clock(begun=begun, planned=planned, started=started, done=time.monotonic())
            done = survey_units(missing, config, settings).done
            for unit in missing:
                if unit.name not in done:
                    write_outcome(config.out, quarantine(unit, lost(config.tries)))
            timing = time_run(list(done.values()), clock, detectors=size.detectors)
            write_timing(config.out, timing)
            log.info("%s", timing_table(timing))
        return _write_summary(videos, survey_units(units, config, settings).done, config, settings)


def decide(
    config: PreprocessConfig, detector: DetectorSpec | None = None
) -> tuple[PreprocessConfig, DetectorSpec, dict[str, Any]]:
    """The config with its device, the detector, and the settings that decide the shards' bytes."""
    config = on_gpu(config)
    spec = detector or detector_spec(config.detector, config.detect)
    return config, spec, settings_of(config, f"{spec.name} {spec.identity}{hands_identity(config)}")


def make_unit(unit: Unit, config: PreprocessConfig, spec: DetectorSpec) -> dict[str, Any]:
    """One unit through the stages of the line, in this process; what `pack` says of it."""
    found = detect_unit(spec.build(config.detect), asdict(unit), lambda _: None)
    row = add_detections(asdict(unit), found)
    row = track(row, config=config.detect)
    if config.body == "mano":
        row = FindHands(config.detect, config.detector)(row)
    return pack(row, config=config, detector=evidence_name(config, spec))


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
    at_once, again = TaskPoolStrategy(size=size.most_detectors), config.tries - 1
    in_actors: dict[str, Any] = {
        "compute": ActorPoolStrategy(
            min_size=size.detectors, max_size=size.most_detectors, max_tasks_in_flight_per_actor=1
        ),
        "num_cpus": CPUS_PER_DETECTOR,
        "num_gpus": config.gpus_per_detector or None,
        "max_task_retries": again,
    }
    detect = functools.partial(
        Detect, config.detect, spec, limit=config.frame_seconds, tries=config.tries
    )
    where = config.out if config.keep_detections else None
    tracked = (
        ray.data.from_items([asdict(unit) for unit in units], override_num_blocks=len(units))
        .map(KeptDetect, fn_constructor_args=(detect, where), **in_actors)
        .map(
            functools.partial(track, config=config.detect),
            compute=at_once,
            max_retries=again,
        )
    )
    if config.body == "mano":
        tracked = tracked.map(
            FindHands, fn_constructor_args=(config.detect, config.detector), **in_actors
        )
    return tracked.map(
        functools.partial(pack, config=config, detector=evidence_name(config, spec)),
        compute=at_once,
        max_retries=again,
    )


def on_gpu(config: PreprocessConfig) -> PreprocessConfig:
    """Detectors that are given a part of a GPU run on it."""
    if config.gpus_per_detector > 0 and config.detect.device == "cpu":
        return replace(config, detect=replace(config.detect, device="cuda"))
    return config


def evidence_name(config: PreprocessConfig, spec: DetectorSpec) -> str:
    """What clips say of where their 2D keypoints are from."""
    if config.body == "smpl" or config.detect.hands == "wholebody":
        return spec.name
    return f"mediapipe-hands+{spec.name}"


def hands_identity(config: PreprocessConfig) -> str:
    """Of the hand networks' weights, where there are any besides the detector's."""
    if config.body == "smpl" or config.detect.hands == "wholebody":
        return ""
    members = [m.sha256 for name in HAND_WEIGHTS for m in ASSETS[name].members]
    return " " + " ".join(members)


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


def _write_summary(
    videos: list[PlannedVideo],
    done: dict[str, Outcome],
    config: PreprocessConfig,
    settings: dict[str, Any],
) -> int:
    """Manifest and quarantine list, from the markers alone."""

    def outcome_of(unit: Unit) -> Outcome:
        if unit.name not in done:
            raise ExtPoseError(f"{config.out}: unit {unit.name} has no marker after the run")
        return done[unit.name]

    manifest = make_manifest(videos, outcome_of, settings, config.split)
    rows = quarantine_rows(videos, outcome_of)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(config.out / QUARANTINE, lines)
    write_text(config.out / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    for row in rows:
        log.warning("quarantined: %s: %s: %s", row["path"], row["reason"], row["message"])
    num_links = sum(len(video.get("continued_tracks", ())) for video in manifest["videos"])
    log.info("%s", say_tracks(manifest["track_counts"], num_links))
    return 3 if rows else 0
