"""What a run reads, as hashes: an exact resume needs the same clips and the same body.

The order of samples is a function of the number of clips, so one that is added or lost gives every
step others; another body changes the losses. A folder or file may move. In its own folders a run
keeps to the index that it began with (`run_index.py`); this tells whether other ones hold the same.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from extpose.config import TrainConfig
from extpose.data.shard_index import ShardIndex
from extpose.errors import TrainingError
from extpose.storage import hash_file

DIGITS = 16


def describe_inputs(config: TrainConfig, index: ShardIndex) -> dict[str, str]:
    """Every data set and file that decides the numbers, by name; equal if the content is."""
    own: dict[str, Path | None] = {"body_model": config.body_model}
    own |= {f"files {path.name}": path for path in config.files}
    inputs = {
        name: "the free one" if path is None else f"hash {hash_file(path)[:DIGITS]}"
        for name, path in own.items()
    }
    for number, folder in enumerate(config.data):
        inputs[f"data {number}"] = _describe_clips(f"{folder}/", index)
    return inputs


def _describe_clips(folder: str, index: ShardIndex) -> str:
    listed = [
        (str(index.path_of(i)).removeprefix(folder), key, index.num_frames(i))
        for i, key in enumerate(index.keys)
        if str(index.path_of(i)).startswith(folder)
    ]
    shards = {shard for shard, _, _ in listed}
    digest = hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:DIGITS]
    return f"{len(listed)} clips in {len(shards)} shards, hash {digest}"


def check_inputs(
    config: TrainConfig, where: Path, stored: Mapping[str, str], found: Mapping[str, str]
) -> None:
    """Raises TrainingError, with both values, where a run would go on with something else.

    `where` is the checkpoint that `stored` is of.
    """
    folders = {f"data {number}": str(folder) for number, folder in enumerate(config.data)}
    changed = [
        f"{folders.get(name, name)}: was {stored.get(name, 'not there')}, "
        f"is {found.get(name, 'not there')}"
        for name in sorted({*stored, *found})
        if stored.get(name) != found.get(name)
    ]
    if changed:
        raise TrainingError(
            f"{where}: the run was begun with other inputs, it cannot go on exactly: "
            f"{'; '.join(changed)}. Restore them, or choose another --out with --init {where}"
        )
