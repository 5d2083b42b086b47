"""Weights to and from files.

Own checkpoints are one safetensors file with the `ModelConfig` as JSON in its metadata. Foreign
ones are HMR2.0's and HaMeR's Lightning checkpoints, and ViTPose backbones: their tensors are
mapped from the file and assigned, and nothing in a file is ever executed.
"""

import json
import os
import pickle
import tempfile
import types
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from extpose.errors import CheckpointError
from extpose.model.ablations import build_network, copy_backbone
from extpose.model.extpose import ExtPose
from extpose.model_config import ModelConfig

FORMAT_VERSION = "1"
OPTIONAL_KEYS = frozenset({"temporal_embed"})
"""What the image models do not have; it keeps its initial zeros."""
ABLATION = "ablation."
"""Prefix of what an ablation adds to the image model; it keeps its initial values."""
IGNORED = ("initialized", "smpl.", "mano.", "discriminator.", "keypoint_head.")
"""Prefixes of foreign checkpoints that are not part of the network."""
_OWN_METADATA = ("extpose_version", "model_config")
_BACKBONE = "backbone."


def save_model(path: Path, model: ExtPose, extra: Mapping[str, str] | None = None) -> None:
    """Write the weights and the model's config; `extra` is added to the file's metadata.

    Atomic: another process sees the old file or the whole new one. A name in `extra` that the
    format itself uses raises ValueError.
    """
    if taken := set(_OWN_METADATA) & set(extra or {}):
        raise ValueError(f"{sorted(taken)} in the extra metadata, reserved for the format")
    metadata = dict(extra or {})
    metadata |= {
        "extpose_version": FORMAT_VERSION,
        "model_config": json.dumps(asdict(model.config), sort_keys=True),
    }
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        save_file(state, name, metadata=metadata)
        os.chmod(name, 0o644)
        with open(name, "rb") as file:
            os.fsync(file.fileno())
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def load_model(path: Path) -> ExtPose:
    """The network of a file of `save_model`, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: Not such a file, or keys or shapes do not fit the config that it carries.
    """
    config = read_config(path)
    try:
        with torch.device("meta"):
            model = build_network(config)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: its model_config is invalid: {error}") from error
    _assign(model, _read_safetensors(path), path, optional=frozenset())
    return model.eval()


def read_config(path: Path) -> ModelConfig:
    """The `ModelConfig` in a file of `save_model`."""
    metadata = read_metadata(path)
    if missing := [name for name in _OWN_METADATA if name not in metadata]:
        raise CheckpointError(f"{path}: not an ExtPose checkpoint: no {missing} in its metadata")
    if metadata["extpose_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: extpose_version {metadata['extpose_version']!r}, known: {FORMAT_VERSION!r}"
        )
    try:
        values: dict[str, Any] = json.loads(metadata["model_config"])
        names = {f.name for f in fields(ModelConfig)}
        if names != set(values):
            raise CheckpointError(
                f"{path}: model_config lacks {sorted(names - set(values))} "
                f"and has unknown {sorted(set(values) - names)}"
            )
        return ModelConfig(**values | {"scope": tuple(values["scope"])})
    except (json.JSONDecodeError, TypeError) as error:
        raise CheckpointError(f"{path}: model_config cannot be read: {error}") from error


def read_metadata(path: Path) -> dict[str, str]:
    """The text metadata of a safetensors file."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors: {error}") from error


def load_pretrained(model: ExtPose, path: Path) -> None:
    """Take the weights of `path` into `model`, whose config must fit.

    Reads HMR2.0 and HaMeR checkpoints, own files, safetensors with the same keys, and ViTPose
    backbones (which leave the head as it is). Every backbone and head key must be there; only
    `temporal_embed` may be missing, and keeps its value.

    Raises:
        CheckpointError: The file is missing or corrupt, or a key or shape does not fit.
    """
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    is_bare = not any(key.startswith(_BACKBONE) for key in state)
    is_vitpose = is_bare or any(key.startswith("keypoint_head.") for key in state)
    state = {key: value for key, value in state.items() if not key.startswith(IGNORED)}
    is_image_model = not any(key.startswith(ABLATION) for key in state)
    optional = OPTIONAL_KEYS
    if is_image_model:
        optional |= {key for key in model.state_dict() if key.startswith(ABLATION)}
    if is_bare:
        state = {_BACKBONE + key: value for key, value in state.items()}
    if is_vitpose:
        optional |= {key for key in model.state_dict() if not key.startswith(_BACKBONE)}
    _assign(model, state, path, optional=optional)
    if is_image_model:
        copy_backbone(model)


def _assign(
    model: ExtPose, state: dict[str, Tensor], path: Path, *, optional: frozenset[str]
) -> None:
    own = model.state_dict()
    optional -= {key for key in own.keys() - OPTIONAL_KEYS if own[key].is_meta}
    problems = [f"missing {key} {tuple(own[key].shape)}" for key in own.keys() - state - optional]
    problems += [f"unexpected {key} {tuple(state[key].shape)}" for key in state.keys() - own]
    problems += [
        f"{key}: {tuple(state[key].shape)} in the file, {tuple(own[key].shape)} in the model"
        for key in own.keys() & state
        if own[key].shape != state[key].shape
    ]
    if problems:
        shown = sorted(problems)[:20]
        rest = f"\n  and {len(problems) - len(shown)} more" if len(problems) > len(shown) else ""
        raise CheckpointError(f"{path} does not fit the model:\n  " + "\n  ".join(shown) + rest)
    fitting = {key: value.to(own[key].dtype) for key, value in state.items()}
    for key in own.keys() & OPTIONAL_KEYS - fitting.keys():
        if own[key].is_meta:
            fitting[key] = torch.zeros(own[key].shape, dtype=own[key].dtype)
    model.load_state_dict(fitting, strict=False, assign=True)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors: {error}") from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    """The tensors of a torch zip file, mapped; config objects inside become inert stand-ins."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path}: truncated, or not a file of torch.save (1.6 or later)")
    try:
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise CheckpointError(f"{path}: a TorchScript program, not a checkpoint")
        content = _load_tensors(path)
    except _READ_ERRORS as error:
        raise CheckpointError(f"{path}: cannot be read as a torch file: {error}") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a state dict")
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise CheckpointError(f"{path}: no tensors in its state dict")
    return state


_READ_ERRORS = (
    RuntimeError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)
"""What a broken or hostile pickle may raise."""


def _load_tensors(path: Path) -> Any:
    """PyTorch's own safe loader, and where a config object stops it, the stricter one below."""
    try:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError:
        return torch.load(
            path,
            map_location="cpu",
            mmap=True,
            weights_only=False,
            pickle_module=_tensor_pickle(),
        )


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}
"""The globals that a file of plain tensors needs."""


class _Inert:
    """Stands for any other global of a pickle; whatever is done to it, nothing happens."""

    def __new__(cls, *_args: object, **_kwargs: object) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *_args: object, **_kwargs: object) -> None: ...

    def __call__(self, *_args: object, **_kwargs: object) -> "_Inert":
        return self

    def __setstate__(self, _state: object) -> None: ...

    def __setitem__(self, _key: object, _value: object) -> None: ...

    def append(self, _value: object) -> None: ...

    def extend(self, _values: object) -> None: ...

    def add(self, _value: object) -> None: ...


class _TensorUnpickler(pickle.Unpickler):
    """Builds tensors and plain containers; every global that is not allowed becomes inert."""

    def find_class(self, module: str, name: str) -> Any:
        """Never imports anything."""
        return _ALLOWED.get((module, name), _Inert)


def _tensor_pickle() -> types.ModuleType:
    """What `torch.load` wants as its `pickle_module`."""
    module = types.ModuleType("tensor_pickle")
    module.Unpickler = _TensorUnpickler  # type: ignore[attr-defined]
    return module
