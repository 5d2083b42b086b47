"""A training that can be hurt: in a process of its own, slowed down, killed at a chosen place."""

import multiprocessing
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import extpose.training.run
import pipelines.train
from extpose.config import TrainConfig
from extpose.errors import ExtPoseError
from extpose.model import weights
from extpose.training import checkpoint, logs, validation

Place = Literal["step", "row", "rewrite", "state", "sync", "weights"]
PLACES: dict[Place, str] = {
    "step": "after the step's row",
    "row": "half a row of the log written",
    "state": "half of the checkpoint's state written",
    "sync": "while the checkpoint is made durable and renamed",
    "rewrite": "while the log is rewritten by the next start",
    "weights": "half of model.safetensors written",
}
PRELOADED = [__name__, "tests.chaos.preloaded"]
REFUSED = 3
FAST = "fast"
PATIENCE = 600.0


@dataclass(frozen=True, kw_only=True)
class Victim:
    """One start of a run."""

    config: TrainConfig
    place: Place | None = None
    """Where it kills itself, at the `count`-th time it gets there."""
    count: int = 1
    pace: float = 0.0
    """Seconds that each micro-batch takes longer, until the run folder has a file `fast`."""
    file_limit: int = 0
    """Bytes that a file may have; 0: no limit."""
    environment: Mapping[str, str] = field(default_factory=dict)

    def start(self) -> BaseProcess:
        """In a process of its own, in which everything is imported already."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        process = context.Process(target=_live, args=(self,))
        process.start()
        return process

    def run(self) -> int:
        """To its end: 0, the negative signal, or `REFUSED` for an error that was told."""
        process = self.start()
        process.join()
        assert process.exitcode is not None
        return process.exitcode

    @property
    def told(self) -> str:
        """What it wrote to standard error, all starts."""
        path = _errors_of(self.config)
        return path.read_text() if path.exists() else ""


def _errors_of(config: TrainConfig) -> Path:
    return config.out.with_name(f"{config.out.name}.err")


def _live(victim: Victim) -> None:
    errors = os.open(_errors_of(victim.config), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(errors, stream)
    os.environ.update(victim.environment)
    if victim.file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (victim.file_limit, victim.file_limit))
    if victim.place is not None:
        _set_trap(victim.place, victim.count)
    slow_down(victim.config, victim.pace)
    # By value: the workers of a cluster that was there before do not have this environment.
    pace = victim.pace
    pipelines.train._worker = lambda settings: slow_worker(settings, pace)
    try:
        pipelines.train.train(victim.config)
    except ExtPoseError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.stderr.flush()
        os._exit(REFUSED)
    except BaseException:
        traceback.print_exc()
        raise


def slow_worker(settings: dict[str, TrainConfig], pace: float) -> None:
    """In place of a Ray Train worker's function: leaves its process id, and takes its time."""
    from pipelines.train import _worker

    config = settings["config"]
    folder = config.out / "pids"
    folder.mkdir(exist_ok=True)
    (folder / str(os.getpid())).touch()
    slow_down(config, pace)
    _worker(settings)


def slow_down(config: TrainConfig, pace: float) -> None:
    """Each micro-batch of this process takes `pace` seconds longer."""
    real = extpose.training.run.compute_losses
    if not pace:
        return

    def slow(*args: Any) -> Any:
        if not (config.out / FAST).exists():
            time.sleep(pace)
        return real(*args)

    extpose.training.run.compute_losses = slow


def _set_trap(place: Place, count: int) -> None:
    """Kill this process at the `count`-th call of one function, before or after its effect."""
    left = [count]

    def is_due() -> bool:
        left[0] -= 1
        return left[0] == 0

    def wrap(module: Any, name: str, hurt: Callable[..., None]) -> None:
        real = getattr(module, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if is_due():
                hurt(real, *args, **kwargs)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        setattr(module, name, wrapped)

    if place == "step":
        wrap(logs, "append_row", lambda real, *args: real(*args))
    elif place == "row":
        wrap(logs, "append_row", _half_row)
    elif place == "rewrite":
        wrap(validation, "drop_rows_after", _half_rewrite)
        logs.drop_rows_after = validation.drop_rows_after
    elif place == "sync":
        wrap(checkpoint, "_sync", lambda real, path: None)
    else:
        wrap(checkpoint if place == "state" else weights, "save_file", _half_file)


def _half_row(real: Callable[..., None], path: Path, values: Mapping[str, object]) -> None:
    real(path, values)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2])


def _half_rewrite(_real: Callable[..., None], path: Path, _step: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.with_name(f"{path.name}.partial").write_bytes(b"".join(lines[: len(lines) // 2]))


def _half_file(real: Callable[..., None], tensors: Any, path: Path, **kwargs: Any) -> None:
    real(tensors, path, **kwargs)
    os.truncate(path, Path(path).stat().st_size // 2)


def wait_for(is_true: Callable[[], bool], process: BaseProcess) -> None:
    end = time.monotonic() + PATIENCE
    while not is_true():
        if not process.is_alive() or time.monotonic() > end:
            raise AssertionError(f"the driver ended (exit code {process.exitcode}), or hangs")
        time.sleep(0.1)
