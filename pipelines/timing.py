"""Where the time of a run went: `timing.json`, beside the manifest, and the table of the log.

Times differ from run to run, so they are not in the manifest. A stage's are summed over the units
that this run finished, in whatever processes: wall time, which grows where other work takes the
cores, and CPU time, which hardly does.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from extpose.errors import ExtPoseError
from extpose.storage import Location
from pipelines.ledger import Outcome, write_text

TIMING = "timing.json"
STAGES = ("detect", "track", "hands", "pack")


@dataclass(frozen=True, kw_only=True)
class RunTiming:
    """One run. A run that found nothing to do has no units."""

    cores: int
    """Of the machine of the driver."""
    detectors: int
    units: int
    frames: int
    """Of the source videos."""
    clips: int
    num_bytes: int
    """Of the shards."""
    plan_seconds: float
    start_seconds: float
    """Until Ray is there."""
    run_seconds: float
    """From the first unit handed out to the last one finished."""
    stages: dict[str, float]
    """Wall seconds."""
    cpu: dict[str, float]
    """CPU seconds."""

    @property
    def of_floor(self) -> float:
        """The stages' CPU time by what the cores could have given: 1 is a run without overhead."""
        return sum(self.cpu.values()) / max(self.cores * self.run_seconds, 1e-9)

    @property
    def frames_per_second(self) -> float:
        """Source frames, over the whole run but for planning and Ray's start."""
        return self.frames / self.run_seconds if self.run_seconds > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class Clock:
    """When a run began, was planned, had its cluster and was done: seconds of one clock."""

    begun: float
    planned: float
    started: float
    done: float


def time_run(outcomes: Iterable[Outcome], clock: Clock, *, detectors: int) -> RunTiming:
    """Sums over the units of this run."""
    finished = [outcome for outcome in outcomes if outcome.seconds]
    known = set().union(*(outcome.seconds for outcome in finished), {"detect", "track", "pack"})
    stages = [stage for stage in STAGES if stage in known]
    return RunTiming(
        cores=len(os.sched_getaffinity(0)),
        detectors=detectors,
        units=len(finished),
        frames=sum(outcome.frames for outcome in finished),
        clips=sum(outcome.clips for outcome in finished),
        num_bytes=sum(outcome.num_bytes for outcome in finished),
        plan_seconds=round(clock.planned - clock.begun, 3),
        start_seconds=round(clock.started - clock.planned, 3),
        run_seconds=round(clock.done - clock.started, 3),
        stages={s: round(sum(o.seconds.get(s, 0.0) for o in finished), 3) for s in stages},
        cpu={s: round(sum(o.cpu_seconds.get(s, 0.0) for o in finished), 3) for s in stages},
    )


def write_timing(out: Location, timing: RunTiming) -> None:
    """Write `timing.json`. Raises WriteError."""
    write_text(out / TIMING, json.dumps(asdict(timing), indent=1) + "\n")


def read_timing(path: Path) -> RunTiming:
    """Inverse of `write_timing`; `path` is the file or its folder. Raises ExtPoseError."""
    file = path / TIMING if path.is_dir() else path
    try:
        return RunTiming(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ExtPoseError(f"{file}: not the timing of a run ({error})") from error


def timing_table(timing: RunTiming) -> str:
    """Lines for people: what each stage cost a frame, and how busy the run was."""
    if not timing.units:
        return "timing: nothing was to be done"
    total = max(sum(timing.cpu.values()), 1e-9)
    lines = [f"{'stage':<8}{'s':>9}{'CPU s':>9}{'CPU ms/frame':>14}{'share':>8}"]
    for name, cpu in timing.cpu.items():
        each = 1e3 * cpu / timing.frames
        lines.append(
            f"{name:<8}{timing.stages[name]:>9.1f}{cpu:>9.1f}{each:>14.1f}{cpu / total:>8.0%}"
        )
    lines.append(
        f"{timing.frames} frames of {timing.units} units in {timing.run_seconds:.1f} s: "
        f"{timing.frames_per_second:.1f} frames/s, {timing.of_floor:.2f} of what {timing.cores} "
        f"cores could do, {timing.detectors} detectors; planned in {timing.plan_seconds:.1f} s, "
        f"Ray there in {timing.start_seconds:.1f} s"
    )
    return "\n".join(lines)
