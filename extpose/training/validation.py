"""Metrics on held-out clips during training, and the best weights so far.

The network that is scored is a copy made of the consolidated weights, so nothing of the training
changes: no weight, no random number. Which metrics there are is decided by the function that is
handed in (`pipelines/held_out.py`).
"""

import csv
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from extpose.config import TrainConfig
from extpose.data.shards import ShardIndex
from extpose.errors import TrainingError
from extpose.model.ablations import build_network
from extpose.model.extpose import ExtPose
from extpose.model.weights import read_metadata, save_model
from extpose.storage import Location
from extpose.training.engine import Engine
from extpose.training.workers import Workers

BEST_BY = "pa_mpjpe"
BEST = "best.safetensors"
TABLE = "validation.csv"
logger = logging.getLogger(__name__)


@runtime_checkable
class Score(Protocol):
    """Says how good a network is on held-out clips."""

    @property
    def shards(self) -> tuple[Location, ...]:
        """Where the clips are."""
        ...

    def __call__(self, model: ExtPose, workers: Workers) -> Mapping[str, float]:
        """Metrics by name; every worker calls it with the same network, and gets the same."""
        ...


class Validation:
    """Called with every step; every worker calls it."""

    def __init__(
        self, config: TrainConfig, engine: Engine, score: Score, *, start_step: int
    ) -> None:
        self.config, self.engine, self.score = config, engine, score
        self.table, self.best = config.out / TABLE, config.out / BEST
        self.done = -1
        if engine.workers.rank == 0:
            drop_rows_after(self.table, start_step)

    def __call__(self, step: int, *, is_last: bool = False) -> Mapping[str, float] | None:
        """The metrics when this step is one to validate at."""
        if step == self.done or (step % self.config.validate_every and not is_last):
            return None
        self.done = step
        state = self.engine.consolidated_state_dict()
        with torch.random.fork_rng(devices=[]):
            model = build_network(self.config.model)
        model.load_state_dict(state)
        values = self.score(model.to(self.engine.workers.device).eval(), self.engine.workers)
        if self.engine.workers.rank == 0:
            try:
                self._keep(step, model, values)
            except OSError as error:
                # A full disk: the next one may find room.
                logger.error("step %d: the validation is not kept: %s", step, error)
        self.engine.workers.barrier()
        return values

    def _keep(self, step: int, model: ExtPose, values: Mapping[str, float]) -> None:
        append_row(self.table, {"step": step, **values})
        logger.info("step %d  held-out: %s", step, metrics_line(values))
        value = values.get(BEST_BY)
        if value is None or not value < read_best(self.best):
            return
        save_model(self.best, model, {"best_by": BEST_BY, "value": repr(value), "step": str(step)})


def refuse_overlap(held_out: tuple[Location, ...], index: ShardIndex) -> None:
    """Raises TrainingError where a held-out shard is one of those that are trained on."""
    trained = {index.path_of(i) for i in range(len(index))}
    if both := sorted(trained & set(held_out)):
        raise TrainingError(f"{both[0]}: held out for validation, but also in the training data")


def read_best(path: Path) -> float:
    """The metric of `best.safetensors`, infinite where there is none."""
    return float(read_metadata(path)["value"]) if path.exists() else math.inf


def metrics_line(values: Mapping[str, float]) -> str:
    """For people."""
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())


def append_row(path: Path, values: Mapping[str, object]) -> None:
    """Add a line to a table; the first one makes the header. With OSError it adds nothing."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(values))
            if not size:
                writer.writeheader()
            writer.writerow({name: repr(value) for name, value in values.items()})
    except OSError:
        # Not half a line: the next one would be added to it.
        if path.exists():
            os.truncate(path, size)
        raise


def drop_rows_after(path: Path, step: int) -> int:
    """Forget the lines of later steps, and one that was cut off; returns how many it forgot.

    Atomic: a process that ends in here leaves the old table or the new one.
    """
    if not path.exists():
        return 0
    header, *lines = path.read_text().splitlines(keepends=True) or [""]
    kept = [line for line in lines if line.endswith("\n") and int(line.split(",")[0]) <= step]
    if not kept:
        path.unlink()
    elif len(kept) < len(lines):
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text("".join([header, *kept]))
        partial.replace(path)
    return len(lines) - len(kept)
