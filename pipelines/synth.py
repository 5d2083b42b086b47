"""`extpose synth`: synthetic clips with exact truth, written as shards.

    plan --one unit a shard--> make clips --> shard, then its marker --> manifest.json

A unit is finished when its marker `done/<unit>.json` is there (`pipelines.committed`); a run that
was killed goes on with the others. What a unit's shard holds is decided by its identity, a hash of
the settings and of the range of clips, so neither the workers nor a restart change a byte.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from extpose.assets import fetch
from extpose.config import DetectConfig, SynthConfig
from extpose.data.shards import write_shard
from extpose.detect.plugs import detector_identity, hand_detector_identity
from extpose.errors import ExtPoseError
from extpose.schema import MAX_CLIP_FRAMES, SCHEMA_VERSION
from extpose.synth.evidence import Observer
from extpose.synth.noise import FITTED, load_noise
from extpose.synth.photographs import load_photographs
from extpose.synth.render import Studio, make_synthetic_clip, open_studio
from extpose.synth.world import WORLD_VERSION
from pipelines.committed import (
    MANIFEST,
    Committed,
    WriteError,
    clear_for,
    remove,
    survey,
    write_marker,
    write_text,
)
from pipelines.locking import open_output

MIN_SIZE = 16
"""Pixels of a picture's or a crop's side at least."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One shard to make: the clips [start, stop)."""

    name: str
    """The shard's, without `.tar`."""
    start: int
    stop: int
    identity: str
    """Hash of everything that decides the shard's bytes."""


@dataclass(frozen=True, kw_only=True)
class Made(Committed):
    """A finished unit: the content of its marker."""

    frames: int = 0


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Folders of what worlds are made of; None for what a run does not need."""

    motion: Path | None
    panoramas: Path | None
    pictures: Path | None


class ShardMaker:
    """Makes shards in one process, of a Ray actor pool or this one; loads the body once."""

    def __init__(self, config: SynthConfig, sources: Sources) -> None:
        self.config = config
        photographs = None
        if sources.panoramas is not None and sources.pictures is not None:
            photographs = load_photographs(sources.panoramas, sources.pictures, config.split)
        self.studio: Studio = open_studio(
            config, sources.motion, _make_observer(config), photographs=photographs
        )

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Make one shard and its marker; `write_error` says why they cannot be written.

        A value, because what becomes of exceptions on their way out of Ray is Ray's affair.
        """
        unit = Unit(**row)
        clips = (
            make_synthetic_clip(self.studio, self.config, index)
            for index in range(unit.start, unit.stop)
        )
        path = self.config.out / f"{unit.name}.tar"
        try:
            info = write_shard(path, clips)
            made = Made(
                name=unit.name,
                identity=unit.identity,
                clips=info.num_clips,
                frames=info.num_frames,
                sha256=info.sha256,
                num_bytes=info.num_bytes,
            )
            write_marker(self.config.out, made)
        except (OSError, WriteError) as error:
            return {"name": unit.name, "write_error": f"{path}: cannot be written ({error})"}
        return {"name": unit.name, "write_error": ""}


def synthesize(config: SynthConfig) -> int:
    """Make what is missing of `config.num_clips` clips in `config.out`; the exit code, 0.

    `workers` = 0 runs in this process, without Ray.

    Raises:
        ExtPoseError: an option is out of its range, or the folder holds shards that were made with
            other settings.
        WriteError: the output cannot be written.
        AssetError: the motion clips or the photographs cannot be had.
    """
    units = plan_units(config)
    settings = _settings(config)
    with open_output(config.out):
        identities = {unit.name: unit.identity for unit in units}
        found = survey(config.out, identities, Made, settings)
        clear_for(found, settings, redo=config.redo, prune=config.prune)
        missing = [unit for unit in units if unit.name not in found.done]
        if missing:
            remove(config.out / MANIFEST)
            _make(missing, config)
        done = survey(config.out, identities, Made, settings).done
        _write_manifest([done[unit.name] for unit in units], config)
    return 0


def _make(units: list[Unit], config: SynthConfig) -> None:
    sources = Sources(
        motion=fetch("motion") if config.body == "body" else None,
        panoramas=fetch("panoramas") if config.photographs else None,
        pictures=fetch("photographs") if config.photographs else None,
    )
    rows = [asdict(unit) for unit in units]
    made = _make_here if config.workers == 0 else _make_on_ray
    for row in tqdm(made(rows, config, sources), total=len(rows), desc="synth", unit="shard"):
        if row["write_error"]:
            raise WriteError(row["write_error"])


def plan_units(config: SynthConfig) -> list[Unit]:
    """The shards to make. Raises ExtPoseError for an option that is out of its range."""
    check_options(config)
    units = []
    for start in range(0, config.num_clips, config.clips_per_shard):
        stop = min(start + config.clips_per_shard, config.num_clips)
        decisive = json.dumps([WORLD_VERSION, SCHEMA_VERSION, _settings(config), start, stop])
        units.append(
            Unit(
                name=f"synth-{config.split}-{start:06d}",
                start=start,
                stop=stop,
                identity=hashlib.sha256(decisive.encode()).hexdigest(),
            )
        )
    return units


def check_options(config: SynthConfig) -> None:
    """Raises ExtPoseError that names the option, its value and its range."""
    least = {
        **{"num_clips": 1, "num_frames": 1, "clips_per_shard": 1, "workers": 0, "seed": 0},
        **{"image_size": MIN_SIZE, "crop.size": MIN_SIZE},
    }
    values = asdict(config) | {
        "image_size": min(config.image_size),
        "crop.size": config.crop.size,
    }
    for name, bound in least.items():
        if values[name] < bound:
            option = name.replace("_", "-")
            raise ExtPoseError(f"--{option} is {values[name]}, it must be at least {bound}")
    if not 0 < config.fps < float("inf"):
        raise ExtPoseError(f"--fps is {config.fps}, it must be above 0 and finite")
    if config.num_frames > MAX_CLIP_FRAMES:
        raise ExtPoseError(
            f"--num-frames is {config.num_frames}, a clip has at most {MAX_CLIP_FRAMES}"
        )


def _settings(config: SynthConfig) -> dict[str, Any]:
    """What decides how a clip of a given index looks."""
    settings = asdict(config)
    for name in ("out", "workers", "num_clips", "clips_per_shard", "noise", "redo", "prune"):
        del settings[name]
    if config.keypoints == "noise":
        settings["noise_sha256"] = _hash_noise(config.noise or FITTED)
    if config.keypoints == "detector":
        settings["detector_identity"] = (
            hand_detector_identity()
            if config.body == "hand"
            else detector_identity("movenet", DetectConfig())
        )
    return settings


def _hash_noise(path: Path) -> str:
    """Of the noise model's parameters. Raises AssetError."""
    load_noise(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _make_here(
    rows: list[dict[str, Any]], config: SynthConfig, sources: Sources
) -> Iterator[dict[str, Any]]:
    return map(ShardMaker(config, sources), rows)


def _make_on_ray(
    rows: list[dict[str, Any]], config: SynthConfig, sources: Sources
) -> Iterator[dict[str, Any]]:
    # Only here, so that the plain path needs no Ray.
    import ray

    from pipelines.runtime import ray_session

    with ray_session():
        ray.data.DataContext.get_current().enable_progress_bars = False
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            ShardMaker,
            fn_constructor_args=(config, sources),
            concurrency=min(config.workers, len(rows)),
            num_cpus=1,
        )
        yield from dataset.iter_rows()


def _make_observer(config: SynthConfig) -> Observer | None:
    if config.keypoints != "detector":
        return None
    # Only here: detectors need their weights and an inference runtime.
    if config.body == "hand":
        from extpose.detect.hands import HandDetector

        return HandDetector(DetectConfig())
    from extpose.detect.movenet import PersonDetector

    return PersonDetector(DetectConfig())


def _write_manifest(units: list[Made], config: SynthConfig) -> None:
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "source": "synth",
        "split": config.split,
        "settings": _settings(config),
        "clips": sum(unit.clips for unit in units),
        "frames": sum(unit.frames for unit in units),
        "shards": [
            {"name": f"{u.name}.tar", "clips": u.clips, "frames": u.frames, "sha256": u.sha256}
            for u in units
        ],
    }
    write_text(config.out / MANIFEST, json.dumps(manifest, indent=1) + "\n")
