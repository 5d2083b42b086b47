"""Reading other people's pickles without running them.

SMPL and MANO files, and the annotation files of several data sets, are Python 2 pickles of numpy
arrays, scipy matrices and chumpy objects. A pickle is a program; here it may only build containers,
numbers, text and *descriptions* of arrays, from which plain numpy arrays are made afterwards. No
class of numpy, scipy or chumpy takes part in the reading, so none of them needs to be of the
version that wrote the file, and chumpy need not be installed.
"""

import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from extpose.errors import AssetError

_DTYPE = re.compile(r"[<>=|]?([biufcSUV]\d+|\?|O\d?)")


def read_pickle(path: Path) -> Any:
    """The content of a pickle file as containers, numbers, text and numpy arrays.

    Text and arrays of Python 2 are read as latin-1. Sparse CSC matrices become dense arrays;
    chumpy objects become the array they hold.

    Raises:
        AssetError: the file is missing, broken, or asks for anything but arrays; the message
            names the file and, in the last case, what it asked for.
    """
    try:
        with path.open("rb") as file:
            return _load(file, str(path))
    except FileNotFoundError:
        raise AssetError(f"{path}: no such file") from None


def parse_pickle(data: bytes, where: str) -> Any:
    """The same of a pickle in memory; `where` is what messages call it. Raises AssetError."""
    return _load(io.BytesIO(data), where)


def _load(file: io.BufferedIOBase, where: str) -> Any:
    try:
        return _to_plain(_ArraysOnly(file, where).load())
    except (
        pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, KeyError,
        IndexError, RecursionError, MemoryError, OverflowError,
    ) as error:  # fmt: skip
        raise AssetError(f"{where}: not a readable pickle of arrays ({error})") from error


class _Stub:
    """Stands in for an object: keeps what the pickle says about it."""

    def __init__(self, *args: Any) -> None:
        self.args = args
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def plain(self) -> Any:
        raise ValueError(f"a bare {type(self).__name__[1:]} is not an array")


class _Dtype(_Stub):
    """`numpy.dtype(name, align, copy)`, then a state whose second item is the byte order."""

    def plain(self) -> np.dtype:
        name = _to_text(self.args[0])
        if not _DTYPE.fullmatch(name) or (self.state and self.state[3] is not None):
            raise ValueError(f"unsupported array type {name!r}")
        order = _to_text(self.state[1]) if self.state and name[0] not in "<>=|" else ""
        return np.dtype(order + name)


class _Array(_Stub):
    """`numpy.ndarray`: state (version, shape, dtype, is Fortran order, bytes or list)."""

    def plain(self) -> np.ndarray:
        shape, dtype, is_fortran, data = self.state[-4:]
        return _make_array(data, dtype, shape, "F" if is_fortran else "C")


class _Scalar(_Stub):
    """`scalar(dtype, bytes)`: a numpy number."""

    def plain(self) -> Any:
        return _make_array(self.args[1], self.args[0], (), "C")[()]


class _BufferArray(_Stub):
    """`_frombuffer(bytes, dtype, shape, order)`: an array of pickle protocol 5."""

    def plain(self) -> np.ndarray:
        data, dtype, shape, order = self.args
        return _make_array(data, dtype, shape, _to_text(order))


class _Csc(_Stub):
    """`scipy.sparse.csc_matrix`: made dense without scipy, so indices are checked by numpy."""

    def plain(self) -> np.ndarray:
        data, rows, starts = (_to_plain(self.state[k]) for k in ("data", "indices", "indptr"))
        shape = _to_plain(self.state["_shape"] if "_shape" in self.state else self.state["shape"])
        columns = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        dense = np.zeros(shape, data.dtype)
        np.add.at(dense, (rows, columns), data)
        return dense


class _Ch(_Stub):
    """`chumpy.ch.Ch`: holds its array as `x`."""

    def plain(self) -> np.ndarray:
        return np.asarray(_to_plain(self.state["x"]))


class _Select(_Stub):
    """`chumpy.reordering.Select`: elements `idxs` of `a`, reshaped (a slice of another array)."""

    def plain(self) -> np.ndarray:
        source, indices = _to_plain(self.state["a"]), _to_plain(self.state["idxs"])
        selected = np.asarray(source).ravel()[indices]
        shape = self.state.get("preferred_shape")
        return selected if shape is None else selected.reshape(_to_plain(shape))


def _reconstruct_array(kind: type, *_: Any) -> _Array:
    if kind is not _Array:
        raise pickle.UnpicklingError(f"an array of class {kind!r}")
    return _Array()


def _reconstruct_object(kind: type, *_: Any) -> _Stub:
    """Python 2's `copy_reg._reconstructor`, for the stand-ins only."""
    if not (isinstance(kind, type) and issubclass(kind, _Stub)):
        raise pickle.UnpicklingError(f"an object of class {kind!r}")
    return kind()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How Python 3 writes bytes for readers of Python 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in encoding {encoding!r}")
    return text.encode("latin1")


def _empty_bytes() -> bytes:
    return b""


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    **{
        (f"numpy.{core}.{module}", name): stub
        for core in ("core", "_core")
        for module, name, stub in (
            ("multiarray", "_reconstruct", _reconstruct_array),
            ("multiarray", "scalar", _Scalar),
            ("numeric", "_frombuffer", _BufferArray),
        )
    },
    ("scipy.sparse.csc", "csc_matrix"): _Csc,
    ("scipy.sparse._csc", "csc_matrix"): _Csc,
    ("scipy.sparse._csc", "csc_array"): _Csc,
    ("chumpy.ch", "Ch"): _Ch,
    ("chumpy", "Ch"): _Ch,
    ("chumpy.reordering", "Select"): _Select,
    ("copy_reg", "_reconstructor"): _reconstruct_object,
    ("copyreg", "_reconstructor"): _reconstruct_object,
    ("__builtin__", "object"): _Stub,
    ("builtins", "object"): _Stub,
    ("__builtin__", "set"): set,
    ("builtins", "set"): set,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _empty_bytes,
    ("builtins", "bytes"): _empty_bytes,
}


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that knows the names of `_ALLOWED` and refuses every other."""

    def __init__(self, file: io.BufferedIOBase, where: str) -> None:
        # Python 2's names are kept as they are written, so that one table is the whole rule.
        super().__init__(file, fix_imports=False, encoding="latin1")
        self.where = where

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise AssetError(
                f"{self.where}: refused, the pickle asks for `{module}.{name}`; "
                "only numbers, text, numpy arrays, CSC matrices and chumpy arrays are read"
            )
        return _ALLOWED[module, name]


def _to_text(value: str | bytes) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else value


def _make_array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """An array from raw bytes (Python 2: latin-1 text), or from a list of objects."""
    kind: np.dtype = _to_plain(dtype)
    if kind.hasobject:
        objects = np.empty(len(data), object)
        for i, item in enumerate(data):
            objects[i] = _to_plain(item)
        return objects.reshape(shape, order=order)
    raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
    return np.frombuffer(raw, kind).reshape(shape, order=order).copy()


def _to_plain(value: Any) -> Any:
    """Replace every stand-in inside `value` by what it describes."""
    if isinstance(value, _Stub):
        return value.plain()
    if isinstance(value, dict):
        return {_to_plain(k): _to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)(_to_plain(v) for v in value)
    return value
