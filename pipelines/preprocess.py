"""`extpose preprocess`: videos to shards, on Ray Data.

    extpose preprocess --source.path videos/ --out data/walk

    plan --units--> Detect --detections--> track --tracks--> Pack --> shard, then its marker

A unit is a range of frames of one video. Only unit descriptions and small arrays travel between
stages, never frames: memory does not grow with the videos. Units run in any order on any number of
workers, killed runs go on where they were, and the shards have the same bytes every time.

Below `out`: `<video>-<first frame>.tar`, `manifest.json` (what became of every video and frame),
`quarantine.jsonl` (what could not be used, and why), `done/` (a marker a unit).
"""

import functools
import hashlib
import json
import logging
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
    write_text,
)
from pipelines.plan import PlannedVideo, make_manifest, plan_videos, quarantine_rows, settings_of
from pipelines.runtime import ray_session
from pipelines.sources.folder import find_videos
from pipelines.stages.detect import Detect, Detector, DetectorSpec
from pipelines.stages.pack import pack
from pipelines.stages.track import track
from pipelines.track_report import say_tracks

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
    with open_output(config.out):
        videos = plan_videos(tqdm(videos_found, desc="plan", unit="video"), config, settings)
        units = [unit for video in videos for unit in video.units]
        _refuse_strangers(units, config)
        missing = [unit for unit in units if read_outcome(config.out, unit) is None]
        missing += [unit for unit in units if _is_quarantined(config, unit)]
        log.info("%d units, %d to do", len(units), len(missing))
        if missing:
            with ray_session():
                _run(missing, config, spec)
        return _write_summary(videos, config, settings)


def build_graph(units: list[Unit], config: PreprocessConfig, spec: DetectorSpec) -> Dataset:
    """The line: units in, what `pack` says of each out."""
    size = min(config.num_detectors, len(units))
    return (
        ray.data.from_items([asdict(unit) for unit in units], override_num_blocks=len(units))
        .map(
            Detect,
            fn_constructor_args=(config.detect, spec),
            compute=ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1),
            num_cpus=CPUS_PER_DETECTOR,
            num_gpus=config.gpus_per_detector or None,
        )
        .map(functools.partial(track, config=config.detect), compute=TaskPoolStrategy(size=size))
        .map(
            functools.partial(pack, config=config, detector=spec.name),
            compute=TaskPoolStrategy(size=size),
        )
    )


def _run(units: list[Unit], config: PreprocessConfig, spec: DetectorSpec) -> None:
    DataContext.get_current().enable_progress_bars = False
    total = sum(unit.num_frames for unit in units)
    try:
        with tqdm(total=total, desc="preprocess", unit="frame") as bar:
            for row in build_graph(units, config, spec).iter_rows():
                if row["write_error"]:
                    raise WriteError(row["write_error"])
                bar.update(row["frames"])
    except RayError as error:
        raise ExtPoseError(f"preprocessing stopped: {error}") from error


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
    num_links = sum(len(video.get("continued_tracks", ())) for video in manifest["videos"])
    log.info("%s", say_tracks(manifest["track_counts"], num_links))
    return 3 if rows else 0
