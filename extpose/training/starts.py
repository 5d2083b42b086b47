"""Every start of a run, in `starts.csv`: what the one before it lost, and how long nothing went on.

Units   seconds; steps
"""

import csv
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from extpose.training.validation import append_row

TABLE = "starts.csv"
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Start:
    """One line of the table."""

    time: float
    """Since 1970."""
    step: int
    """Of the checkpoint that it went on from; 0: from the beginning."""
    workers: int
    lost: int
    """Steps that were done after that checkpoint, and are done again."""
    idle: float
    """Since the last of them."""

    def __str__(self) -> str:
        return (
            f"goes on from step {self.step} with {self.workers} workers; "
            f"{self.lost} steps are done again, {self.idle:.0f} s without a step"
        )


def silence_of(path: Path) -> float:
    """Seconds since a file was written to; 0 where there is none."""
    return time.time() - path.stat().st_mtime if path.exists() else 0.0


def note_start(out: Path, *, step: int, workers: int, lost: int, idle: float) -> int:
    """Add a line, and tell it; rank 0 calls it, before the first step. Returns the start's number,
    from 0.
    """
    _forget_half_line(out / TABLE)
    start = Start(time=time.time(), step=step, workers=workers, lost=lost, idle=idle)
    append_row(out / TABLE, asdict(start))
    if step or lost:
        logger.info("%s", start)
    return len(read_starts(out)) - 1


def read_starts(out: Path) -> list[Start]:
    """The lines of a run folder so far, whoever may be writing the next."""
    path = out / TABLE
    if not path.exists():
        return []
    lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [
        Start(
            time=float(row["time"]),
            step=int(row["step"]),
            workers=int(row["workers"]),
            lost=int(row["lost"]),
            idle=float(row["idle"]),
        )
        for row in csv.DictReader(lines)
    ]


def delete_leftovers(out: Path) -> None:
    """Weights that a killed process was writing: `extpose.model.weights.replaced` names them."""
    for leftover in out.glob(".*.safetensors.*"):
        leftover.unlink(missing_ok=True)


def _forget_half_line(path: Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if not whole:
        path.unlink()
    elif whole != content:
        path.write_bytes(whole)
