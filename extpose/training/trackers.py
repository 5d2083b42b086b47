"""Where numbers go besides the run folder's tables: TensorBoard, Weights & Biases."""

import hashlib
import logging
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

from extpose.config import TrainConfig
from extpose.errors import TrainingError

logger = logging.getLogger(__name__)


@runtime_checkable
class Tracker(Protocol):
    """Takes numbers by name."""

    def add(self, values: Mapping[str, float], step: int) -> None:
        """The numbers of a step."""

    def close(self) -> None:
        """Nothing more comes."""


class TensorBoard:
    """Event files in `tensorboard/`."""

    def __init__(self, config: TrainConfig, *, start_step: int) -> None:
        """Raises ImportError where it is not installed."""
        from torch.utils.tensorboard import SummaryWriter

        folder = str(config.out / "tensorboard")
        self.writer: Any = SummaryWriter(folder, purge_step=start_step + 1)

    def add(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """See `Tracker`."""
        self.writer.close()


class WeightsAndBiases:
    """A run of the project `config.wandb`; the run folder decides which, so that it goes on."""

    def __init__(self, config: TrainConfig, settings: Mapping[str, Any]) -> None:
        name = str(config.out.resolve())
        self.run: Any = import_wandb().init(
            project=config.wandb,
            id=hashlib.sha256(name.encode()).hexdigest()[:16],
            name=config.out.name,
            dir=name,
            config=dict(settings),
            resume="allow",
        )

    def add(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracker`."""
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        """See `Tracker`."""
        self.run.finish()


def open_trackers(
    config: TrainConfig, settings: Mapping[str, Any], *, start_step: int
) -> list[Tracker]:
    """TensorBoard where it is installed, Weights & Biases where it is asked for."""
    trackers: list[Tracker] = []
    try:
        trackers.append(TensorBoard(config, start_step=start_step))
    except ImportError as error:
        logger.warning("no tensorboard/ is written: %s (pip install tensorboard)", error)
    if config.wandb:
        trackers.append(WeightsAndBiases(config, settings))
    return trackers


def check_trackers(config: TrainConfig) -> None:
    """Raises TrainingError where the package of a configured tracker is missing."""
    if config.wandb:
        import_wandb()


def import_wandb() -> Any:
    """The package `wandb`. Raises TrainingError, naming it, where it is not installed."""
    try:
        return import_module("wandb")
    except ImportError as error:
        raise TrainingError(
            "wandb is set, but the package 'wandb' is not installed: pip install wandb"
        ) from error
