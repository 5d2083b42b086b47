"""Checkpoints of a running training: `step_000200/` folders that are complete or not there.

All workers write into `step_000200.tmp`; then rank 0 writes `meta.json` with every file's size and
checksum, makes it durable and renames the folder. What a crash leaves behind is recognised: a
folder that is not named `step_*` is ignored, one whose files do not match its `meta.json` is
skipped with a warning.

The order of samples and every random draw are functions of the step, so the step is all the state
that there is besides weights and optimiser.
"""

import json
import logging
import os
import re
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from extpose.errors import CheckpointError
from extpose.training.engine import Engine

META_FILE = "meta.json"
EXTRA_FILE = "extra.safetensors"
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
    backend: str
    zero_stage: int
    config_hash: str
    """Of the part of the config that decides the numbers; see `logs.config_hash`."""
    version: str
    """Of ExtPose."""


def save_checkpoint(
    root: Path,
    engine: Engine,
    meta: CheckpointMeta,
    *,
    keep: int,
    extra: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write one checkpoint and delete all but the newest `keep`. Every worker calls it.

    `extra` is state besides the engine's, the same on all workers.
    """
    final = root / f"step_{meta.step:06d}"
    partial = final.with_suffix(".tmp")
    is_first = engine.workers.rank == 0
    if is_first:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    engine.workers.barrier()
    engine.save_state(partial)
    engine.workers.barrier()
    if is_first:
        if extra:
            save_file(dict(extra), partial / EXTRA_FILE)
        _commit(partial, final, meta)
        for old in _folders(root)[keep:]:
            shutil.rmtree(old)
    engine.workers.barrier()
    return final


def find_latest(root: Path) -> tuple[Path, CheckpointMeta] | None:
    """The newest complete checkpoint; incomplete and damaged ones are named in a warning."""
    for folder in _folders(root):
        try:
            return folder, read_meta(folder)
        except CheckpointError as error:
            logger.warning("skipped: %s", error)
    return None


def read_extra(folder: Path) -> dict[str, Tensor]:
    """The `extra` state of a complete checkpoint; empty where it has none."""
    path = folder / EXTRA_FILE
    return load_file(path) if path.exists() else {}


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
    return sorted(found, key=lambda p: int(p.name.removeprefix("step_")), reverse=True)


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
