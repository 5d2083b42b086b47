"""When and what a run saves: on the way, at the end, and when somebody asks for it.

Whoever makes the file `save-now` in the run folder gets a checkpoint after the next step; the file
is gone when that checkpoint is complete. A scheduler that is about to stop healthy workers asks
so, and loses no step; a person may too.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from extpose.config import TrainConfig
from extpose.training.adversary import Adversary
from extpose.training.checkpoint import CheckpointMeta, CheckpointWriter
from extpose.training.engine import Engine
from extpose.training.facts import config_hash
from extpose.training.loop import Progress
from extpose.training.source_code import code_version
from extpose.training.state import EXTRA

CHECKPOINTS = "checkpoints"
REQUEST = "save-now"
logger = logging.getLogger(__name__)


class Saver:
    """Saves the state of a run; collective, and leaves with the last checkpoint complete."""

    def __init__(
        self,
        config: TrainConfig,
        engine: Engine,
        adversary: Adversary | None,
        *,
        inputs: Mapping[str, str],
        start_step: int,
    ) -> None:
        """`inputs` is what the run reads (`extpose.training.inputs`)."""
        self.config, self.engine, self.adversary = config, engine, adversary
        self.inputs = dict(inputs)
        self.request = config.out / REQUEST
        self.writer: CheckpointWriter | None = None
        engine.workers.first_does(lambda: self._open(start_step))

    @property
    def is_asked(self) -> bool:
        """Whether somebody waits for a checkpoint; only rank 0 looks."""
        return self.writer is not None and self.request.exists()

    def __call__(self, progress: Progress) -> None:
        """Write a checkpoint while training goes on; where one was asked for, wait for it."""
        state = self.engine.gather_state()
        if self.adversary is not None:
            state |= {EXTRA + name: value for name, value in self.adversary.state().items()}
        meta = CheckpointMeta(
            step=progress.step,
            seconds=progress.seconds,
            world_size=self.engine.workers.size,
            backend=self.config.engine.backend,
            zero_stage=self.config.engine.zero_stage,
            config_hash=config_hash(self.config),
            version=code_version(),
            model_config=asdict(self.config.model),
            inputs=self.inputs,
        )
        self._together(lambda writer: writer.save(state, meta))
        if self.engine.workers.from_first(self.is_asked):
            self.finish()
            self._answer(progress.step)

    def finish(self) -> None:
        """Wait for the last one. Raises TrainingError on every worker where it failed."""
        self._together(CheckpointWriter.finish)

    def close(self) -> None:
        """Whatever happened: let the thread end what it is writing."""
        if self.writer is not None:
            self.writer.close()
            self.request.unlink(missing_ok=True)

    def _open(self, start_step: int) -> None:
        self.writer = CheckpointWriter(
            self.config.out / CHECKPOINTS, keep=self.config.keep_checkpoints, start_step=start_step
        )
        self.request.unlink(missing_ok=True)

    def _answer(self, step: int) -> None:
        if self.writer is not None:
            self.request.unlink(missing_ok=True)
            logger.info("step %d: saved, as %s asked for", step, self.request)

    def _together(self, act: Callable[[CheckpointWriter], None]) -> None:
        writer = self.writer
        self.engine.workers.first_does(lambda: act(writer) if writer is not None else None)


def ask_to_save(out: Path) -> Path:
    """Ask the run in a folder for a checkpoint; the file that is returned goes when it is there."""
    request = out / REQUEST
    request.touch()
    return request
