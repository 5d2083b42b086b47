"""The index of a run's shards: made once, by one worker, and kept in the run folder.

Which clips a step sees depends on it, so a run that goes on takes the one that it began with: a
shard that broke meanwhile is damage like any other, and one that was added is not seen.
"""

import json
import logging
from collections.abc import Sequence

from extpose.config import TrainConfig
from extpose.data.loader import find_shards, open_folders
from extpose.data.shard_index import ShardIndex
from extpose.errors import TrainingError
from extpose.storage import Location, write_bytes
from extpose.training.checkpoint import newest_step
from extpose.training.saving import CHECKPOINTS
from extpose.training.workers import Workers

INDEX = "index.bin"
"""A line of JSON (of which folders it is), then `ShardIndex.to_bytes`."""
logger = logging.getLogger(__name__)


def open_index(config: TrainConfig, workers: Workers) -> tuple[ShardIndex, tuple[int, ...]]:
    """The clips of `config.data`, and how many each folder has; collective over the workers.

    Raises ShardError, StoreError and TrainingError, on rank 0 alone.
    """
    found = _read(config) if workers.rank == 0 else None
    if workers.rank == 0 and found is None:
        found = open_folders(config.data)
        _write(config, *found)
    opened: tuple[ShardIndex, tuple[int, ...]] = workers.from_first(found)
    return opened


def _read(config: TrainConfig) -> tuple[ShardIndex, tuple[int, ...]] | None:
    """None where the run has not begun, or with other folders."""
    if not newest_step(config.out / CHECKPOINTS):
        return None
    try:
        line, _, data = (config.out / INDEX).read_bytes().partition(b"\n")
        kept = json.loads(line)
        if kept["folders"] != [str(folder) for folder in config.data]:
            return None
        index = ShardIndex.from_bytes(data)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("%s: made anew, it cannot be read: %s", config.out / INDEX, error)
        return None
    _tell_changes(config.data, index)
    return index, tuple(kept["sizes"])


def _tell_changes(folders: Sequence[Location], index: ShardIndex) -> None:
    there = {path for folder in folders for path in find_shards(folder)}
    if added := sorted(map(str, there - set(index.paths))):
        logger.warning("not used, came after the run began: %d shards, %s", len(added), added[0])
    if gone := sorted(map(str, set(index.paths) - there)):
        logger.warning("gone since the run began: %d shards, %s", len(gone), gone[0])


def _write(config: TrainConfig, index: ShardIndex, sizes: tuple[int, ...]) -> None:
    path = config.out / INDEX
    kept = {"folders": [str(folder) for folder in config.data], "sizes": sizes}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, json.dumps(kept).encode() + b"\n" + index.to_bytes())
    except OSError as error:
        raise TrainingError(f"{path}: cannot be written ({error})") from error
