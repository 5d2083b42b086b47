"""What Ray Train's controller is told: how many workers it may start, and what to do at their end.

Ray resizes by stopping all workers and starting another number of them, which go on from the
newest checkpoint. Its controller tells of a coming resize, or of a node that is about to be taken
away, through `SaveBeforeStop`, and the run saves first (`extpose.training.saving`). A node that is
lost without a word costs the steps since the last checkpoint. What another try would not change
ends the run (`EndOnRefusal`).
"""

import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.train import ScalingConfig, TrainingFailedError
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.state import (
    PreemptingState,
    ResizingState,
    RestartingState,
)

from extpose.config import TrainConfig
from extpose.errors import ExtPoseError
from extpose.training.saving import ask_to_save

START_SECONDS = 30
"""Ray first tries as many workers as before a node was lost, and waits so long in vain; its own
value is 60. What it waits for is room on nodes that are there, not for imports."""
PATIENCE = 120.0
"""Seconds that a resize waits for a checkpoint."""
PREEMPTION_SECONDS = 20.0
"""From one checkpoint to the next while a node is about to be taken away."""
POLL_SECONDS = 0.2
logger = logging.getLogger(__name__)


def worker_resources(config: TrainConfig) -> dict[str, float]:
    """What one worker asks the cluster for."""
    return {"CPU": 1, "GPU": 1} if config.use_gpu else {"CPU": 1}


def missing_resources(config: TrainConfig) -> str:
    """What the fewest workers that are asked for need beyond the whole cluster; for people."""
    has, wants = ray.cluster_resources(), _wanted(config)
    if all(has.get(name, 0) >= count for name, count in wants.items()):
        return ""
    return f"the workers ask for {_words(wants, wants)}, Ray has {_words(has, wants)}"


def tell_free(config: TrainConfig) -> str:
    """For people: what is asked for, and what nobody else uses of the cluster."""
    wants = _wanted(config)
    free = _words(ray.available_resources(), wants)
    return f"the workers ask for {_words(wants, wants)}, free are {free}"


def _wanted(config: TrainConfig) -> dict[str, float]:
    workers = config.min_workers or config.num_workers
    return {name: count * workers for name, count in worker_resources(config).items()}


def _words(resources: Mapping[str, float], names: Iterable[str]) -> str:
    return ", ".join(f"{resources.get(name, 0):g} {name}" for name in names)


def scaling_config(config: TrainConfig) -> ScalingConfig:
    """A fixed number of workers, or with `config.min_workers` from as few to `num_workers`."""
    resources = worker_resources(config)
    if not config.min_workers:
        return ScalingConfig(
            num_workers=config.num_workers,
            use_gpu=config.use_gpu,
            resources_per_worker=resources,
        )
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(START_SECONDS))
    return ScalingConfig(
        num_workers=(config.min_workers, config.num_workers),
        use_gpu=config.use_gpu,
        resources_per_worker=resources,
        elastic_resize_monitor_interval_s=config.resize_seconds,
    )


@dataclass
class SaveBeforeStop(ControllerCallback):
    """Runs in Ray Train's controller, which may be on any machine that sees the run folder."""

    out: Path
    patience: float = PATIENCE
    asked: float = field(default=float("-inf"))

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Called by Ray before it acts on what the new state says.

        An error in here would end the run: a run folder that cannot be written to is only told.
        """
        try:
            if isinstance(current_state, ResizingState):
                self.save_and_wait()
            elif isinstance(current_state, PreemptingState):
                self.save_again()
        except OSError as error:
            logger.warning("no checkpoint was asked for: %s: %s", type(error).__name__, error)

    def save_and_wait(self) -> None:
        """Workers are stopped next: wait for their checkpoint, but not for ever."""
        request, began = ask_to_save(self.out), time.monotonic()
        while request.exists():
            if time.monotonic() - began > self.patience:
                # Nobody answers: the next start must not find the question.
                request.unlink(missing_ok=True)
                logger.warning("no checkpoint within %.0f s, resized without", self.patience)
            time.sleep(POLL_SECONDS)

    def save_again(self) -> None:
        """A node goes soon; training goes on until then, so one checkpoint is not enough."""
        now = time.monotonic()
        if now - self.asked >= PREEMPTION_SECONDS:
            ask_to_save(self.out)
            self.asked = now


class EndOnRefusal(ControllerCallback):
    """Ends a run that Ray would start again, where a worker says what no other try would change.

    It may be one worker alone that met it (a clip of another body in its share of the step); Ray
    stops the others, which wait for it.
    """

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Called by Ray before it acts; an error in here ends the run."""
        if isinstance(current_state, RestartingState):
            refusal = find_refusal(current_state.training_failed_error)
            if refusal is not None:
                raise refusal


def find_refusal(error: TrainingFailedError) -> ExtPoseError | None:
    """What a worker refused, of the lowest rank; what the others say then is only its echo."""
    failures = dict(getattr(error, "worker_failures", {}))
    found = [failures[rank] for rank in sorted(failures)]
    found.append(getattr(error, "controller_failure", None))
    return next((one for one in found if isinstance(one, ExtPoseError)), None)
