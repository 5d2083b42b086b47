"""Checkpoints of a running training: `step_000200/` folders that are complete or not there.

    state.safetensors    all state of network and optimiser by name (`extpose.training.state`)
    meta.json            step, config, and size and checksum of each file

Rank 0 writes, in a thread, while training goes on: into `step_000200.tmp`, which is made durable
and then renamed. What a crash leaves behind is recognised: a folder that is not named `step_*` is
ignored, one whose files do not match its `meta.json` is skipped with a warning, and renamed to
`step_000200.damaged` when the run goes on from an older one.

The order of samples and every random draw are functions of the step, so the step is all the state
that there is besides weights and optimiser. Nothing in a checkpoint is executed when it is read.
"""

import json
import logging
import os
import re
import shutil
import zlib
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from extpose.errors import CheckpointError

META_FILE = "meta.json"
STATE_FILE = "state.safetensors"
CHUNK = 1 << 22
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CheckpointMeta:
    """What a checkpoint is of."""

    step: int
    """Optimiser steps done."""
    seconds: float
    """Of training, over all starts of the run."""
    world_size: int
    """Of the run that wrote it, like the next two; any other can go on from it."""
    backend: str
    zero_stage: int
    config_hash: str
    """Of the part of the config that decides the numbers; see `logs.config_hash`."""
    version: str
    """Of ExtPose."""
    model_config: dict[str, Any]
    """JSON of the `ModelConfig`."""
    inputs: dict[str, str] = field(default_factory=dict)
    """What was read, by name; see `extpose.training.inputs`."""


class CheckpointWriter:
    """Writes in a thread, one checkpoint at a time; rank 0 has one, the other workers none.

    When one cannot be written (a full disk), training goes on and the next is written while it
    waits; if that fails too, CheckpointError is raised. Older checkpoints stay until a newer one
    is complete.
    """

    def __init__(self, root: Path, *, keep: int, start_step: int) -> None:
        """`start_step` is where the run goes on: what is newer was found to be damaged."""
        self.root, self.keep = root, keep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[Path] | None = None
        for leftover in root.glob("step_*.tmp"):
            shutil.rmtree(leftover)
        for folder in _folders(root):
            if step_of(folder) > start_step:
                _set_aside(folder)

    @property
    def is_writing(self) -> bool:
        """Whether a checkpoint is not complete yet."""
        return self._pending is not None and not self._pending.done()

    def save(self, state: Mapping[str, Tensor], meta: CheckpointMeta) -> None:
        """Write `state`, which nobody changes from here on, and forget all but the newest `keep`.

        Returns at once, except that it waits for the checkpoint before. Raises CheckpointError
        after two failures in a row.
        """
        failure = self._wait()
        self._pending = self._thread.submit(
            write_checkpoint, self.root, state, meta, keep=self.keep
        )
        if failure:
            logger.error("%s; trying again", failure)
            self.finish()

    def finish(self) -> None:
        """Wait for what is being written. Raises CheckpointError where it failed."""
        if failure := self._wait():
            last = find_latest(self.root)
            kept = f"the last one is {last[0]}" if last else "there is none before it"
            raise CheckpointError(f"a checkpoint cannot be written: {failure}; {kept}")

    def close(self) -> None:
        """Wait, without an error, and end the thread."""
        if failure := self._wait():
            logger.error("%s", failure)
        self._thread.shutdown()

    def _wait(self) -> str:
        """What went wrong with the pending one, or nothing."""
        pending, self._pending = self._pending, None
        error = pending.exception() if pending is not None else None
        if error is not None and not isinstance(error, OSError | SafetensorError):
            raise error
        return "" if error is None else f"{self.root}: {type(error).__name__}: {error}"


def write_checkpoint(
    root: Path, state: Mapping[str, Tensor], meta: CheckpointMeta, *, keep: int
) -> Path:
    """Write one checkpoint and delete all but the newest `keep`.

    Where it cannot be written the others stay, and OSError or SafetensorError is raised.
    """
    final = root / f"step_{meta.step:06d}"
    partial = final.with_suffix(".tmp")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        save_file(dict(state), partial / STATE_FILE)
        _commit(partial, final, meta)
    except (OSError, SafetensorError):
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for old in _folders(root)[keep:]:
        shutil.rmtree(old)
    return final


def read_state(folder: Path) -> dict[str, Tensor]:
    """The state in a checkpoint, mapped from its file. Raises CheckpointError."""
    path = folder / STATE_FILE
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: {type(error).__name__}: {error}") from error


def find_latest(root: Path) -> tuple[Path, CheckpointMeta] | None:
    """The newest complete checkpoint; incomplete and damaged ones are named in a warning."""
    for folder in _folders(root):
        try:
            return folder, read_meta(folder)
        except CheckpointError as error:
            logger.warning("skipped: %s", error)
    return None


def newest_step(root: Path) -> int:
    """Steps of the newest checkpoint by its name, without a look inside; 0 where there is none."""
    return max(map(step_of, _folders(root)), default=0)


def last_written(root: Path) -> float:
    """When the last checkpoint became complete, seconds since 1970; 0 where there is none."""
    files = [folder / META_FILE for folder in _folders(root)]
    return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)


def step_of(folder: Path) -> int:
    """Of a checkpoint, by its name."""
    return int(folder.name.removeprefix("step_"))


def read_meta(folder: Path) -> CheckpointMeta:
    """The meta data of a complete checkpoint. Raises CheckpointError where a file is damaged."""
    path = folder / META_FILE
    try:
        stored = json.loads(path.read_text())
        files: dict[str, list[int]] = stored.pop("files")
        meta = CheckpointMeta(**stored)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: {type(error).__name__}: {error}") from error
    for name, (size, checksum) in files.items():
        file = folder / name
        found = file.stat().st_size if file.exists() else -1
        if found != size:
            raise CheckpointError(f"{file}: {found} bytes, {META_FILE} says {size}")
        if _checksum(file) != checksum:
            raise CheckpointError(f"{file}: its checksum is not that of {META_FILE}")
    return meta


def _commit(partial: Path, final: Path, meta: CheckpointMeta) -> None:
    paths = sorted(p for p in partial.rglob("*") if p.is_file())
    files = {str(p.relative_to(partial)): [p.stat().st_size, _checksum(p)] for p in paths}
    (partial / META_FILE).write_text(json.dumps({**asdict(meta), "files": files}, indent=1))
    for path in [*paths, partial / META_FILE, partial]:
        _sync(path)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    _sync(final.parent)


def _folders(root: Path) -> list[Path]:
    """Folders of committed checkpoints, newest first."""
    if not root.is_dir():
        return []
    found = [p for p in root.iterdir() if p.is_dir() and re.fullmatch(r"step_\d{6,}", p.name)]
    return sorted(found, key=step_of, reverse=True)


def _set_aside(folder: Path) -> None:
    """So that it counts neither among those that are kept, nor as progress."""
    aside = folder.with_suffix(".damaged")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    logger.warning("damaged: %s is now %s; delete it when you have looked", folder, aside.name)


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            value = zlib.crc32(chunk, value)
    return value


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
