"""Arrays of npz archives: one reader for all files, which never unpickles and knows all damage.

`np.load` parses Python text for every array, which is most of what reading a small one costs; here
headers are parsed once. What one flipped bit of an archive raises is more than it documents.
"""

import functools
import io
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import numpy as np

NPY_1_0 = np.lib.format.magic(1, 0)
"""How members of nearly all archives begin; two bytes with the header's length follow."""
HEADER_START = len(NPY_1_0)
DAMAGE = (
    *(ValueError, EOFError, KeyError, TypeError, OverflowError, zlib.error, zipfile.BadZipFile),
    # "Encrypted", "version 11.3" and "compression method" of a damaged header.
    RuntimeError,
)


class PickledArrayError(ValueError):
    """An array of Python objects: reading it could run anything."""


def read_npz(file: Path | bytes, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """All arrays of an archive, or those called `names`, by name; each is its own memory.

    Raises:
        PickledArrayError: an array of objects.
        ValueError: anything else that cannot be read, or a name that is not there.
        OSError: the file cannot be read.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(file) if isinstance(file, bytes) else file) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist()}
            if missing := sorted(set(names or ()) - members.keys()):
                raise ValueError(f"no array {missing[0]!r}, has {sorted(members)}")
            wanted = members if names is None else names
            return {name: _read_array(archive.read(members[name])) for name in wanted}
    except PickledArrayError:
        raise
    except DAMAGE as error:
        raise ValueError(str(error)) from error


def _read_array(npy: bytes) -> np.ndarray:
    if npy[:HEADER_START] != NPY_1_0:
        found: np.ndarray = np.lib.format.read_array(io.BytesIO(npy), allow_pickle=False)
        return found
    start = HEADER_START + 2 + int.from_bytes(npy[HEADER_START : HEADER_START + 2], "little")
    shape, is_fortran, dtype = _parse_header(npy[HEADER_START:start])
    if dtype.hasobject:
        raise PickledArrayError("an array of pickled objects")
    order: Literal["C", "F"] = "F" if is_fortran else "C"
    return np.ndarray(shape, dtype, npy, start, order=order).copy(order)


@functools.lru_cache(maxsize=4096)
def _parse_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Few differ: arrays of one name, of clips of one length, have the same."""
    return np.lib.format.read_array_header_1_0(io.BytesIO(header))
