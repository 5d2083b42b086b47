"""`extpose preprocess`: videos to shards, on Ray Data.

    extpose preprocess --source.path videos/ --out data/walk

    plan --units--> Detect --detections--> track --tracks--> Pack --> shard, then its marker

With `--body mano` a stage between `track` and `pack` puts the hands in the people's place.

A unit is a range of frames of one video. Only unit descriptions and small arrays travel between
stages, never frames: memory does not grow with the videos. Units run in any order on any number of
workers, killed runs go on where they were, and the shards have the same bytes every time.

Below `out`, on a disk or in a store: `<video>-<first frame>.tar`, `manifest.json` (what became of
every video and frame), `quarantine.jsonl` (what could not be used, and why), `report.html`,
`timing.json` (where the time went), `versions.json` (with which libraries), `settings.json`,
`done/` (a marker a unit), `detections/` (what the detector found).
"""

import functools
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

from extpose.config import PreprocessConfig
from extpose.errors import ExtPoseError
from pipelines.committed import remove
from pipelines.detections import KeptDetect
from pipelines.detectors import detector_spec, evidence_name, hands_identity, on_gpu
from pipelines.environment import note_environment
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
from pipelines.preprocess_page import write_page
from pipelines.probing import read_probes, watched_scan, write_probes
from pipelines.resources import (
    CPUS_PER_ACTOR,
    WorkSize,
    check_cluster,
    hand_gpus,
    size_of_work,
)
from pipelines.rows import quarantine
from pipelines.runtime import ray_session
from pipelines.sources.folder import find_sources, say_others
from pipelines.stages.detect import Detect, DetectorSpec, add_detections, detect_unit
from pipelines.stages.hands import FindHands, WatchedHands
from pipelines.stages.pack import pack
from pipelines.stages.track import track
from pipelines.timing import Clock, time_run, timing_table, write_timing
from pipelines.track_report import say_tracks
from pipelines.watching import lost, watched_rows

log = logging.getLogger(__name__)


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
    sources = find_sources(config.source.path, config.out)
    begun = time.monotonic()
    with open_output(config.out):
        known = {} if config.rehash else read_probes(config.out)
        with watched_scan() as scan:
            videos = plan_videos(
                sources.videos, config, settings, known, spec.identity_of, scan=scan
            )
        write_probes(config.out, known, sources.videos)
        units = [unit for video in videos for unit in video.units]
        found = survey_units(units, config, settings)
        clear_output(found, videos, config, settings)
        missing = missing_units(units, found)
        log.info("%d units, %d to do", len(units), len(missing))
        planned = started = time.monotonic()
        if missing:
            # While it is there, the folder is whole.
            remove(config.out / MANIFEST)
            size, environment = size_of_work(missing, config), note_environment(config.out)
            with ray_session(object_store_memory=size.object_store):
                check_cluster(size, config)
                started = time.monotonic()
                _run(build_graph(missing, config, spec, size, environment), missing, config)
                clock = Clock(begun=begun, planned=planned, started=started, done=time.monotonic())
            done = survey_units(missing, config, settings).done
            for unit in missing:
                if unit.name not in done:
                    write_outcome(config.out, quarantine(unit, lost(config.tries)))
            timing = time_run(list(done.values()), clock, detectors=size.detectors)
            write_timing(config.out, timing)
            log.info("%s", timing_table(timing))
        outcomes = survey_units(units, config, settings).done
        return _write_summary(videos, outcomes, config, settings, sources.others)


def decide(
    config: PreprocessConfig, detector: DetectorSpec | None = None
) -> tuple[PreprocessConfig, DetectorSpec, dict[str, Any]]:
    """The config with its device, the detector, and the settings that decide the shards' bytes."""
    config = on_gpu(config)
    spec = detector or detector_spec(config.detector, config.detect)
    hands = hands_identity(config)
    return config, spec, settings_of(config, f"{spec.name} {spec.identity}", hands)


def make_unit(unit: Unit, config: PreprocessConfig, spec: DetectorSpec) -> dict[str, Any]:
    """One unit through the stages of the line, in this process; what `pack` says of it."""
    found = detect_unit(spec.build(config.detect), asdict(unit), lambda _: None)
    row = add_detections(asdict(unit), found)
    row = track(row, config=config.detect)
    if config.body == "mano":
        row = FindHands(config.detect, config.detector)(row)
    return pack(row, config=config, detector=evidence_name(config, spec))


def build_graph(
    units: list[Unit],
    config: PreprocessConfig,
    spec: DetectorSpec,
    size: WorkSize,
    environment: str = "",
) -> Dataset:
    """The line: units in, what `pack` says of each out."""
    finish = functools.partial(
        pack, config=config, detector=evidence_name(config, spec), environment=environment
    )
    _set_context(DataContext.get_current())  # a data set has a copy, made when it is
    with warnings.catch_warnings():
        # Ray tries a task for ever, and 2.60 has no other way to say how often.
        warnings.simplefilter("ignore", DeprecationWarning)
        return _tracked(units, config, spec, size).map(
            finish,
            compute=TaskPoolStrategy(size=size.most_detectors),
            max_retries=config.tries - 1,
        )


def _set_context(context: DataContext) -> None:
    context.enable_progress_bars = False
    # A block is a unit: one whose workers die again and again is dropped, and the others go on.
    context.max_errored_blocks = -1
    context.execution_no_progress_timeout_s = -1  # `watched_rows` sees more, and names the units
    # An actor has one task in flight, so a pool is never busier than this: it would not grow.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0


def _tracked(
    units: list[Unit], config: PreprocessConfig, spec: DetectorSpec, size: WorkSize
) -> Dataset:
    limits: dict[str, Any] = {"limit": config.frame_seconds, "tries": config.tries}
    detect = functools.partial(Detect, config.detect, spec, **limits)
    where = config.out if config.keep_detections else None
    tracked = (
        ray.data.from_items([asdict(unit) for unit in units], override_num_blocks=len(units))
        .map(
            KeptDetect,
            fn_constructor_args=(detect, where),
            **_actors(
                size.detectors, size.most_detectors, config, num_gpus=config.gpus_per_detector
            ),
        )
        .map(
            functools.partial(track, config=config.detect),
            compute=TaskPoolStrategy(size=size.most_detectors),
            max_retries=config.tries - 1,
        )
    )
    if config.body != "mano":
        return tracked
    return tracked.map(
        WatchedHands,
        fn_constructor_args=(functools.partial(FindHands, config.detect, config.detector),),
        fn_constructor_kwargs=limits,
        **_actors(size.hands, size.most_hands, config, num_gpus=hand_gpus(config)),
    )


def _actors(least: int, most: int, config: PreprocessConfig, *, num_gpus: float) -> dict[str, Any]:
    return {
        "compute": ActorPoolStrategy(
            min_size=least, max_size=most, max_tasks_in_flight_per_actor=1
        ),
        "num_cpus": CPUS_PER_ACTOR,
        "num_gpus": num_gpus or None,
        "max_task_retries": config.tries - 1,
    }


def _run(line: Dataset, units: list[Unit], config: PreprocessConfig) -> None:
    total = sum(unit.num_frames for unit in units)
    try:
        with tqdm(total=total, desc="preprocess", unit="frame") as bar:
            for row in watched_rows(line.iter_rows(), units, limit=config.stall_seconds):
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
    others: dict[str, int],
) -> int:
    """Manifest and quarantine list, from the markers and the plan alone."""

    def outcome_of(unit: Unit) -> Outcome:
        if unit.name not in done:
            raise ExtPoseError(f"{config.out}: unit {unit.name} has no marker after the run")
        return done[unit.name]

    manifest = make_manifest(videos, outcome_of, settings, config.split, others=others)
    rows = quarantine_rows(videos, outcome_of)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(config.out / QUARANTINE, lines)
    outcomes = (outcome_of(unit) for video in videos for unit in video.units)
    write_page(config.out, manifest, outcomes, rows)
    write_text(config.out / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    for row in rows:
        log.warning("quarantined: %s: %s: %s", row["path"], row["reason"], row["message"])
    if others:
        log.warning("left out, not videos by their names: %s", say_others(others))
    num_links = sum(len(video.get("continued_tracks", ())) for video in manifest["videos"])
    log.info("%s", say_tracks(manifest["track_counts"], num_links))
    return 3 if rows else 0
