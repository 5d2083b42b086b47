"""`extpose preprocess --dry-run`: what a run would do. Writes nothing, starts nothing."""

from dataclasses import dataclass

from extpose.config import PreprocessConfig
from extpose.errors import ExtPoseError
from pipelines.committed import Survey, refuse
from pipelines.ledger import Outcome, Unit
from pipelines.plan import (
    PlannedVideo,
    is_other_cut,
    missing_units,
    plan_videos,
    survey_units,
)
from pipelines.preprocess import decide
from pipelines.probing import read_probes, watched_scan
from pipelines.sources.folder import Sources, find_sources, say_others
from pipelines.stages.detect import DetectorSpec

SECONDS_PER_FRAME, BYTES_PER_FRAME = 0.11, 30_000.0
"""Of one process, with MoveNet on one core; one person of 256 x 256 pixels. Where a folder has
finished units, theirs are taken."""


def dry_run(config: PreprocessConfig, *, detector: DetectorSpec | None = None) -> str:
    """The plan as text.

    Raises ExtPoseError where there are no videos, or a marker cannot be read.
    """
    config, spec, settings = decide(config, detector)
    sources = find_sources(config.source.path, config.out)
    known = {} if config.rehash else read_probes(config.out)
    with watched_scan() as scan:
        videos = plan_videos(sources.videos, config, settings, known, spec.identity_of, scan=scan)
    units = [unit for video in videos for unit in video.units]
    found = survey_units(units, config, settings)
    return describe_plan(videos, sources, missing_units(units, found), found, config)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the missing units will need."""

    seconds: float
    num_bytes: float
    is_measured: bool
    """On this folder's finished units; else the defaults are taken."""


def estimate(missing: list[Unit], done: list[Outcome], num_processes: int) -> Estimate:
    """From the seconds and bytes of a frame in the finished units."""
    measured = [o for o in done if o.seconds and o.status != "quarantined" and o.frames]
    frames = sum(o.frames for o in measured)
    seconds, num_bytes = SECONDS_PER_FRAME, BYTES_PER_FRAME
    if measured:
        seconds = sum(sum(o.seconds.values()) for o in measured) / frames
        num_bytes = sum(o.num_bytes for o in measured) / frames
    wanted = sum(unit.num_frames for unit in missing)
    return Estimate(
        seconds=seconds * wanted / num_processes,
        num_bytes=num_bytes * wanted,
        is_measured=bool(measured),
    )


def describe_plan(
    videos: list[PlannedVideo],
    sources: Sources,
    missing: list[Unit],
    found: Survey[Outcome],
    config: PreprocessConfig,
) -> str:
    """The plan as text: what was given, what is there, what is missing, time and bytes."""
    units = [unit for video in videos for unit in video.units]
    bad = [video for video in videos if video.quarantined]
    twice = [video for video in videos if video.filtered]
    again = [n for n, outcome in found.done.items() if outcome.status == "quarantined"]
    need = estimate(missing, list(found.done.values()), config.num_detectors)
    basis = "measured on the finished units" if need.is_measured else "assumed"
    frames = sum(video.num_frames for video in videos)
    lines = [
        f"out          {config.out}",
        f"videos       {len(videos)}: {len(bad)} cannot be used, {len(twice)} are duplicates",
        f"left out     {sum(sources.others.values())} files, not videos by their names"
        + (f": {say_others(sources.others)}" if sources.others else ""),
        f"frames       {frames}",
        f"units        {len(units)} of at most {config.unit_frames} frames",
        f"done         {len(units) - len(missing)}",
        f"quarantined  {len(again)} units, which are tried again",
        f"made anew    {len(found.changed)} units of other settings",
        f"missing      {len(missing)} units, {sum(u.num_frames for u in missing)} frames",
        f"time         {_duration(need.seconds)} with {config.num_detectors} processes ({basis})",
        f"bytes        {need.num_bytes / 2**20:.1f} MiB ({basis})",
    ]
    lines += [f"  cannot be used: {video.message}" for video in bad]
    lines += [f"  duplicate: {video.path}: {video.message}" for video in twice]
    lines += [f"  other setting: {difference}" for difference in found.differences]
    lines += [f"  not of this plan: {name}.tar" for name in found.strangers]
    return "\n".join(lines + _refusal(found, videos, config))


def _refusal(
    found: Survey[Outcome], videos: list[PlannedVideo], config: PreprocessConfig
) -> list[str]:
    try:
        refuse(found, redo=config.redo, prune=config.prune, is_planned=is_other_cut(videos))
    except ExtPoseError as error:
        return [f"would refuse  {error}"]
    return []


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{hours:.1f} hours"
