"""Every start of a run, in `starts.csv`: what the one before it lost, and how long nothing went on.

Units   seconds; steps
"""

import logging
import time
from pathlib import Path

from extpose.training.validation import append_row

TABLE = "starts.csv"
logger = logging.getLogger(__name__)


def silence_of(path: Path) -> float:
    """Seconds since a file was written to; 0 where there is none."""
    return time.time() - path.stat().st_mtime if path.exists() else 0.0


def note_start(out: Path, *, step: int, workers: int, lost: int, idle: float) -> None:
    """Add a line, and tell it; rank 0 calls it, before the first step.

    `lost` is the number of steps that were done after the checkpoint and are done again, `idle`
    the time since the last of them.
    """
    values = {"time": time.time(), "step": step, "workers": workers, "lost": lost, "idle": idle}
    append_row(out / TABLE, values)
    if step or lost:
        logger.info(
            "goes on from step %d with %d workers; %d steps are done again, %.0f s without a step",
            *(step, workers, lost, idle),
        )


def delete_leftovers(out: Path) -> None:
    """Weights that a killed process was writing: `extpose.model.weights.replaced` names them."""
    for leftover in out.glob(".*.safetensors.*"):
        leftover.unlink(missing_ok=True)
