"""Training: one process on its own, or the workers of Ray Train around the same function.

Checkpoints are the run folder's own (`extpose.training.checkpoint`), on storage that all workers
see; Ray starts a new group of workers after a failure, and they go on from the newest one. With
`min_workers` their number follows what the cluster has room for (`pipelines.elastic`).
"""

import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extpose.config import TrainConfig
from extpose.errors import TrainingError
from extpose.storage import absolute
from pipelines.locking import hold

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

POLL_SECONDS = 1.0
TAIL = 4096
"""Bytes in which the last line of the log lies."""
WAITING_SECONDS = 30.0
"""From one warning that the cluster has no room to the next."""
logger = logging.getLogger(__name__)


def train(config: TrainConfig) -> Path:
    """Train, or go on with the run in `config.out`; returns the path of `model.safetensors`.

    Raises TrainingError for a config that cannot work, a loss that is not finite, workers that
    failed more than `config.max_failures` times without a new checkpoint, and a Ray that died;
    ExtPoseError where another run writes to the folder.
    """
    config = _with_absolute_paths(config)
    _check_workers(config)
    _check_counts(config)
    with hold(config.out):
        if config.launcher == "ray":
            _train_on_ray(config)
        else:
            from extpose.training.run import run_worker
            from pipelines.held_out import open_held_out

            run_worker(config, open_held_out(config))
    return config.out / "model.safetensors"


def _check_workers(config: TrainConfig) -> None:
    most, least = config.num_workers, config.min_workers
    if config.launcher == "local" and (most != 1 or least):
        raise TrainingError(
            f"launcher local is one process, num_workers is {most}, min_workers {least}"
        )
    if not 0 <= least <= most:
        raise TrainingError(f"min_workers={least} is not between 0 and num_workers={most}")
    if most < 1 or (not least and config.batch % most):
        raise TrainingError(
            f"batch={config.batch} cannot be shared out evenly to num_workers={most}"
        )


def _check_counts(config: TrainConfig) -> None:
    for name in ("steps", "checkpoint_every", "keep_checkpoints", "log_every"):
        if (value := getattr(config, name)) < 1:
            raise TrainingError(f"{name} is {value}, at least 1")
    if config.loss.clips_per_sum < 1:
        raise TrainingError(f"loss.clips_per_sum is {config.loss.clips_per_sum}, at least 1")


PATHS = ("out", "init", "body_model", "mocap", "validation")


def _with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """Workers have another current folder."""
    given = {name: getattr(config, name) for name in PATHS}
    paths: dict[str, Any] = {name: absolute(path) for name, path in given.items() if path}
    adversary = config.adversary
    if adversary.init is not None:
        adversary = replace(adversary, init=_resolved(adversary.init))
    data = tuple(absolute(folder) for folder in config.data)
    files = tuple(path.expanduser().resolve() for path in config.files)
    held_out = replace(
        config.held_out,
        body_male=_resolved(config.held_out.body_male),
        body_female=_resolved(config.held_out.body_female),
    )
    return replace(config, data=data, files=files, adversary=adversary, held_out=held_out, **paths)


def _resolved(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser().resolve()


def _train_on_ray(config: TrainConfig) -> None:
    from ray.exceptions import RayError
    from ray.train import TrainingFailedError

    from extpose.training.checkpoint import last_written, newest_step
    from extpose.training.saving import CHECKPOINTS
    from pipelines.elastic import find_refusal, missing_resources
    from pipelines.runtime import ray_session

    storage, checkpoints = config.out / "ray", config.out / CHECKPOINTS
    with ray_session(), _progress_lines(config):
        missing = missing_resources(config)
        if missing and not os.environ.get("RAY_ADDRESS"):
            raise TrainingError(f"this machine is too small: {missing}")
        while True:
            before = last_written(checkpoints)
            try:
                _make_trainer(config, storage).fit()
                break
            except TrainingFailedError as error:
                if (refusal := find_refusal(error)) is not None:
                    raise TrainingError(str(refusal)) from error
                # By time, not by step: after damaged checkpoints a run goes on from an earlier one.
                if last_written(checkpoints) <= before:
                    raise TrainingError(f"{config.out}: the workers failed: {error}") from error
                step = newest_step(checkpoints)
                logger.warning("the workers failed, but got to step %d: starts anew", step)
            except RayError as error:
                what = str(error).strip().splitlines()[0]
                raise TrainingError(
                    f"{config.out}: Ray is lost ({type(error).__name__}: {what}); the newest "
                    f"checkpoint is of step {newest_step(checkpoints)}, another start goes on there"
                ) from error
    shutil.rmtree(storage, ignore_errors=True)


def _make_trainer(config: TrainConfig, storage: Path) -> "TorchTrainer":
    from ray.train import FailureConfig, RunConfig
    from ray.train.torch import TorchTrainer

    from pipelines.elastic import EndOnRefusal, SaveBeforeStop, scaling_config

    return TorchTrainer(
        _worker,
        train_loop_config={"config": config},
        scaling_config=scaling_config(config),
        run_config=RunConfig(
            # A name of its own for each start: Ray must not resume, the run folder does.
            name=uuid.uuid4().hex,
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=config.max_failures),
            callbacks=[SaveBeforeStop(config.out), EndOnRefusal()],
        ),
    )


def _worker(settings: dict[str, TrainConfig]) -> None:
    """One Ray Train worker. An error on one of them ends all: the others may wait for it."""
    from extpose.training.run import run_worker
    from pipelines.held_out import open_held_out

    run_worker(settings["config"], open_held_out(settings["config"]))


@contextmanager
def _progress_lines(config: TrainConfig) -> Iterator[None]:
    """Tell in this process what rank 0 appends to the log, every `log_every` steps; and starts."""
    from extpose.training.starts import read_starts

    done = threading.Event()
    old = len(read_starts(config.out))
    thread = threading.Thread(target=_follow, args=(config, done, old), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _follow(config: TrainConfig, done: threading.Event, starts: int) -> None:
    from extpose.training.starts import read_starts

    path, told, warned = config.out / "log.csv", 0, time.monotonic()
    before = starts
    while not done.wait(POLL_SECONDS):
        for start in (new := read_starts(config.out)[starts:]):
            logger.info("%s", start)
        starts += len(new)
        if time.monotonic() - warned > WAITING_SECONDS:
            warned = time.monotonic()
            _warn_of_waiting(config, has_begun=starts > before)
        row = _last_row(path)
        step = int(row["step"]) if row else 0
        if step // config.log_every != told // config.log_every:
            told = step
            logger.info(
                "step %s/%s  %.0f s  loss %.4f  lr %.2e  %.0f frames/s",
                step,
                config.steps,
                *(float(row[n]) for n in ("seconds", "loss", "lr", "frames_per_second")),
            )


def _warn_of_waiting(config: TrainConfig, *, has_begun: bool) -> None:
    """Nobody else tells: Ray waits for ever for a cluster that may grow, or for other jobs."""
    from ray.exceptions import RayError

    from pipelines.elastic import missing_resources, tell_free

    with suppress(RayError):  # told by the main thread
        if missing := missing_resources(config):
            logger.warning("waits for a larger cluster: %s", missing)
        elif not has_begun:
            logger.warning("no worker has begun yet: %s", tell_free(config))


def _last_row(path: Path) -> dict[str, str]:
    """Of a table, the last whole line; nothing without one. Reads only the ends of the file."""
    if not path.exists():
        return {}
    with path.open("rb") as file:
        header = file.readline()
        file.seek(max(len(header), path.stat().st_size - TAIL))
        lines = file.read().split(b"\n")[:-1]
    if not lines:
        return {}
    names, values = header.decode().strip().split(","), lines[-1].decode().strip().split(",")
    return dict(zip(names, values, strict=True)) if len(names) == len(values) else {}
