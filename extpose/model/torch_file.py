"""Tensors from other people's torch files, without running them.

A torch file is a pickle beside raw storages, and a pickle is a program. PyTorch's own safe loader
refuses a whole file for one config object of its training (yacs, OmegaConf); here such objects
become stand-ins that do nothing, and the tensors are mapped from the file.
"""

import pickle
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from extpose.errors import CheckpointError


def read_torch(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict in a file of `torch.save`, mapped from the file.

    The state dict is the content itself or its `state_dict`; config objects beside it become
    inert stand-ins. Raises CheckpointError where the file is missing, broken, or holds no tensors.
    """
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
    # By dict's own methods: a pickle can put attributes of these names on an OrderedDict.
    if isinstance(content, dict) and isinstance(dict.get(content, "state_dict"), dict):
        content = dict.get(content, "state_dict")
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a state dict")
    # Without what a Parameter is: a buffer that became one would be trained.
    tensors = {key: value for key, value in dict.items(content) if isinstance(value, Tensor)}
    if not tensors:
        kinds = {str(key): type(value).__name__ for key, value in dict.items(content)}
        raise CheckpointError(
            f"{path}: no tensors in its state dict, which is the file's content or its "
            f"`state_dict`; there is {dict(list(kinds.items())[:10])}"
        )
    return {str(key): value.detach() for key, value in tensors.items()}


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
    AssertionError,
    ArithmeticError,
    MemoryError,
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
