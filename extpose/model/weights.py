"""Weights to and from files.

Own checkpoints are one safetensors file with the `ModelConfig` as JSON in its metadata. Foreign
ones (`foreign.py`) are HMR2.0's and HaMeR's Lightning checkpoints, and ViTPose backbones. Tensors
are mapped from the file and assigned to a network that was built without memory, so that loading
costs what reading the file costs; and nothing in a file is ever executed.
"""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from extpose.errors import CheckpointError
from extpose.model.ablations import build_network, copy_backbone
from extpose.model.extpose import ExtPose
from extpose.model.foreign import (
    BACKBONE,
    ForeignCheckpoint,
    infer_config,
    name_differences,
    read_checkpoint,
)
from extpose.model_config import ModelConfig

FORMAT_VERSION = "1"
OPTIONAL_KEYS = frozenset({"temporal_embed"})
"""What the image models do not have; it keeps its initial zeros."""
ABLATION = "ablation."
"""Prefix of what an ablation adds to the image model; it keeps its initial values."""
PACKAGED: dict[str, Path] = {
    "smpl": Path(__file__).parents[1] / "free" / "body.safetensors",
    "mano": Path(__file__).parents[1] / "free" / "hand.safetensors",
}
"""Small networks of the free body and hand (extpose/free/README.md says what they can)."""
MAX_SHOWN = 20
_OWN_METADATA = ("extpose_version", "model_config")
_HEAD_COUNTS = ("num_heads", "head_num_heads")
"""Of the config, what decides the numbers and leaves no trace in shapes."""


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What became of the tensors of a file. Missing and unexpected ones are an error instead."""

    taken: dict[str, int]
    """Number by the first part of the name."""
    ignored: dict[str, int]
    """Number by prefix: known, and not part of the network."""
    kept: tuple[str, ...]
    """Keys of the network that the file need not have and has not: they stay as they were."""


def save_model(
    path: Path,
    model: ExtPose,
    extra: Mapping[str, str] | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write the weights and the model's config; `extra` is added to the file's metadata.

    `dtype` is what floating-point weights are stored in, where it is not their own. Atomic: another
    process sees the old file or the whole new one. Tensors that are mapped from another file are
    written from there, without a copy in memory. A name in `extra` that the format itself uses
    raises ValueError.
    """
    if taken := set(_OWN_METADATA) & set(extra or {}):
        raise ValueError(f"{sorted(taken)} in the extra metadata, reserved for the format")
    metadata = dict(extra or {})
    metadata |= {
        "extpose_version": FORMAT_VERSION,
        "model_config": json.dumps(asdict(model.config), sort_keys=True),
    }
    state = model.state_dict()
    if dtype is not None:
        state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    save_tensors(path, state, metadata)


def save_tensors(path: Path, state: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write one safetensors file, atomically. Raises OSError where it cannot."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    with replaced(path) as partial:
        try:
            save_file(tensors, partial, metadata=metadata)
        except SafetensorError as error:  # a full disk, among others
            raise OSError(f"{path}: {error}") from error


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes `path` when the block ends well, and is gone otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o644)
        with open(name, "rb") as file:
            os.fsync(file.fileno())
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def packaged_checkpoint(body: str, body_model: Path | None) -> Path:
    """The packaged network of `smpl` or `mano`.

    Raises CheckpointError beside a body file: it was trained on the free body or hand.
    """
    if body_model is not None:
        raise CheckpointError(
            f"no checkpoint is given, and the packaged network is of the free {body} model, not of "
            f"{body_model}"
        )
    return PACKAGED[body]


def load_model(path: Path) -> ExtPose:
    """The network of a checkpoint, on the CPU, in evaluation mode.

    The config of an own file (`save_model`) is in it; that of an HMR2.0 or HaMeR checkpoint is
    inferred (`foreign.infer_config`).

    Raises:
        CheckpointError: Not a checkpoint, a backbone alone, or keys or shapes do not fit.
    """
    own, checkpoint = is_own(path), read_checkpoint(path)
    config = read_config(path) if own else infer_config(checkpoint)
    if not own and not checkpoint.has_head:
        raise CheckpointError(
            f"{path}: a backbone without a head: `extpose train --init` starts from it, "
            "`extpose convert` adds an untrained head"
        )
    model = build_empty(config, path)
    _take(model, checkpoint, optional=frozenset() if own else OPTIONAL_KEYS)
    return model.eval()


def build_empty(config: ModelConfig, path: Path) -> ExtPose:
    """The network without memory for its weights; CheckpointError where `config` is invalid."""
    try:
        with torch.device("meta"):
            return build_network(config)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: its model_config is invalid: {error}") from error


def is_own(path: Path) -> bool:
    """Whether this is a file of `save_model` (broken or not)."""
    return path.suffix == ".safetensors" and bool(set(_OWN_METADATA) & set(read_metadata(path)))


def read_config(path: Path) -> ModelConfig:
    """The `ModelConfig` in a file of `save_model`.

    Fields that an older version did not have take their defaults; unknown ones are refused.
    """
    metadata = read_metadata(path)
    if missing := [name for name in _OWN_METADATA if name not in metadata]:
        raise CheckpointError(f"{path}: not an ExtPose checkpoint: no {missing} in its metadata")
    if metadata["extpose_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: extpose_version {metadata['extpose_version']!r}, known: {FORMAT_VERSION!r}"
        )
    try:
        values: dict[str, Any] = json.loads(metadata["model_config"])
        if unknown := sorted(values.keys() - {f.name for f in fields(ModelConfig)}):
            raise CheckpointError(
                f"{path}: model_config has {unknown}, which this version does not know: "
                "the file is of a newer one"
            )
        tuples = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return ModelConfig(**values | tuples)
    except (json.JSONDecodeError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: model_config cannot be read: {error}") from error


def read_metadata(path: Path) -> dict[str, str]:
    """The text metadata of a safetensors file."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors: {error}") from error


def load_pretrained(model: ExtPose, path: Path) -> LoadReport:
    """Take the weights of `path` into `model`, whose config must fit.

    Reads HMR2.0 and HaMeR checkpoints, own files, safetensors with the same keys, and ViTPose
    backbones (which leave the head as it is). Every backbone and head key must be there; only
    `temporal_embed` may be missing, and keeps its value.

    Raises:
        CheckpointError: The file is missing or corrupt, or a key or shape does not fit.
    """
    checkpoint = read_checkpoint(path)
    optional = OPTIONAL_KEYS
    if not checkpoint.has_head:
        optional |= {key for key in model.state_dict() if not key.startswith(BACKBONE)}
    is_image_model = not any(key.startswith(ABLATION) for key in checkpoint.network)
    if is_image_model:
        optional |= {key for key in model.state_dict() if key.startswith(ABLATION)}
    own_config = read_config(path) if is_own(path) else None
    report = _take(model, checkpoint, optional=optional, own_config=own_config)
    if is_image_model:
        copy_backbone(model)
    return report


def build_pretrained(config: ModelConfig, path: Path) -> ExtPose:
    """A network of `config` that starts from the weights of `path`, in training mode.

    Without memory for random weights, where the file replaces all of them.
    """
    model = build_empty(config, path)
    if model.state_dict().keys() - OPTIONAL_KEYS - read_checkpoint(path).network.keys():
        model = build_network(config)
    load_pretrained(model, path)
    return model


def _take(
    model: ExtPose,
    checkpoint: ForeignCheckpoint,
    *,
    optional: frozenset[str],
    own_config: ModelConfig | None = None,
) -> LoadReport:
    """Assign; what is optional and missing keeps its value, or is zero where it has none.

    `own_config` is the one in the file, where it has one.
    """
    own, state = model.state_dict(), checkpoint.network
    optional -= {key for key in own.keys() - OPTIONAL_KEYS if own[key].is_meta}
    problems = [f"missing {key} {tuple(own[key].shape)}" for key in own.keys() - state - optional]
    problems += [f"unexpected {key} {tuple(state[key].shape)}" for key in state.keys() - own]
    problems += [
        f"{key}: {tuple(state[key].shape)} in the file, {tuple(own[key].shape)} in the model"
        for key in own.keys() & state
        if own[key].shape != state[key].shape
    ]
    problems += [
        f"{key}: {state[key].dtype} in the file, {own[key].dtype} in the model"
        for key in own.keys() & state
        if own[key].is_floating_point() != state[key].is_floating_point()
    ]
    for name in _HEAD_COUNTS if own_config is not None else ():
        found, expected = getattr(own_config, name), getattr(model.config, name)
        if found != expected:
            problems.append(f"{name}: {found} in the file, {expected} in the model")
    if problems:
        raise CheckpointError(_describe_misfit(model.config, checkpoint, sorted(problems)))
    fitting = {key: value.to(own[key].dtype) for key, value in state.items()}
    kept = tuple(sorted(own.keys() - state))
    fitting |= {
        key: torch.zeros(own[key].shape, dtype=own[key].dtype) for key in kept if own[key].is_meta
    }
    model.load_state_dict(fitting, strict=False, assign=True)
    taken = Counter(key.split(".")[0] for key in state)
    return LoadReport(taken=dict(taken), ignored=checkpoint.count_ignored(), kept=kept)


def _describe_misfit(
    config: ModelConfig, checkpoint: ForeignCheckpoint, problems: list[str]
) -> str:
    """First what differs as a whole, then key by key."""
    try:
        found = infer_config(
            checkpoint, num_heads=config.num_heads, head_num_heads=config.head_num_heads
        )
        lines = name_differences(found, config)
    except CheckpointError:
        lines = []
    kinds = Counter(problem.split()[0] for problem in problems)
    missing, unexpected = kinds["missing"], kinds["unexpected"]
    lines.append(
        f"{missing} missing, {unexpected} unexpected, "
        f"{len(problems) - missing - unexpected} different"
    )
    lines += problems[:MAX_SHOWN]
    if (more := len(problems) - MAX_SHOWN) > 0:
        lines.append(f"and {more} more")
    return f"{checkpoint.path} does not fit the model:\n  " + "\n  ".join(lines)
