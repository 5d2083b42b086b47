"""Training: one process on its own, or the workers of Ray Train around the same function.

Checkpoints are the run folder's own (`extpose.training.checkpoint`), on storage that all workers
see; Ray starts a new group of workers after a failure, and they go on from the newest one.
"""

import csv
import logging
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from extpose.config import TrainConfig
from extpose.errors import ExtPoseError, TrainingError
from extpose.storage import absolute

POLL_SECONDS = 1.0
logger = logging.getLogger(__name__)


def train(config: TrainConfig) -> Path:
    """Train, or go on with the run in `config.out`; returns the path of `model.safetensors`.

    Raises TrainingError for a config that cannot work, a loss that is not finite, and workers
    that failed more than `config.max_failures` times.
    """
    config = _with_absolute_paths(config)
    config.out.mkdir(parents=True, exist_ok=True)
    if config.num_workers < 1 or config.batch % config.num_workers:
        raise TrainingError(
            f"batch={config.batch} cannot be shared out evenly to num_workers={config.num_workers}"
        )
    if config.launcher == "ray":
        _train_on_ray(config)
    elif config.num_workers != 1:
        raise TrainingError(f"launcher local is one process, num_workers is {config.num_workers}")
    else:
        from extpose.training.run import run_worker
        from pipelines.held_out import open_held_out

        run_worker(config, open_held_out(config))
    return config.out / "model.safetensors"


PATHS = ("out", "init", "body_model", "mocap", "validation")


def _with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """Workers have another current folder."""
    given = {name: getattr(config, name) for name in PATHS}
    paths: dict[str, Any] = {name: absolute(path) for name, path in given.items() if path}
    adversary = config.adversary
    if adversary.init is not None:
        adversary = replace(adversary, init=adversary.init.expanduser().resolve())
    data = tuple(absolute(folder) for folder in config.data)
    return replace(config, data=data, adversary=adversary, **paths)


def _train_on_ray(config: TrainConfig) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    from pipelines.runtime import ray_session

    # A name of its own for each start: Ray must not resume, the run folder does.
    storage = config.out / "ray"
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"config": config},
        scaling_config=ScalingConfig(
            num_workers=config.num_workers,
            use_gpu=config.use_gpu,
            resources_per_worker={"CPU": 1, "GPU": 1} if config.use_gpu else {"CPU": 1},
        ),
        run_config=RunConfig(
            name=uuid.uuid4().hex,
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=config.max_failures),
        ),
    )
    with ray_session(), _progress_lines(config):
        try:
            result = trainer.fit()
        except TrainingFailedError as error:
            raise TrainingError(f"{config.out}: the workers failed: {error}") from error
    shutil.rmtree(storage, ignore_errors=True)
    if result.return_value:
        raise TrainingError(result.return_value)


def _worker(settings: dict[str, TrainConfig]) -> str:
    """One Ray Train worker. Returns why the run must not be tried again, or an empty string."""
    from extpose.training.run import run_worker
    from pipelines.held_out import open_held_out

    try:
        run_worker(settings["config"], open_held_out(settings["config"]))
    except ExtPoseError as error:
        return str(error)
    return ""


@contextmanager
def _progress_lines(config: TrainConfig) -> Iterator[None]:
    """Tell in this process what rank 0 appends to the log, every `log_every` steps."""
    done = threading.Event()
    thread = threading.Thread(target=_follow, args=(config, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _follow(config: TrainConfig, done: threading.Event) -> None:
    path, told = config.out / "log.csv", 0
    while not done.wait(POLL_SECONDS):
        if not path.exists():
            continue
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("data_wait")]
        step = int(rows[-1]["step"]) if rows else 0
        if step // config.log_every != told // config.log_every:
            told, row = step, rows[-1]
            logger.info(
                "step %s/%s  %.0f s  loss %.4f  lr %.2e  %.0f frames/s",
                step,
                config.steps,
                *(float(row[n]) for n in ("seconds", "loss", "lr", "frames_per_second")),
            )
