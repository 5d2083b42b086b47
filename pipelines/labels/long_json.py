"""Long JSON files, a part at a time.

FreiHAND's and HO-3D's annotations are lists of matrices (`[[[x, y, z], ...], ...]`) of up to
1.5 GB. The ends of the matrices are found once in the mapped file (one pass, no objects; 8 bytes a
matrix stay), and only the matrices that are asked for are parsed, one by one: a reader of 500
meshes needs some 50 MB beside the file's own pages, which the system takes back. Of COCO's kind of
file the objects of one list are parsed one after the other.

Axes    n matrices   r rows   c columns
"""

import json
import mmap
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from pipelines.records import SourceError, check_array
from pipelines.source_files import note_file

_NEXT = re.compile(r"\s*(?:,\s*|(?=\]))")
_END = re.compile(rb"\]\s*\]")


def count_matrices(path: Path) -> int:
    """How many matrices a file holds. Raises SourceError for a file that is missing or empty."""
    return len(_find_ends(path))


def read_matrices(
    path: Path, start: int, stop: int, *, shape: tuple[int, int]
) -> Float64[np.ndarray, "n r c"]:
    """The matrices [start, stop) of a file.

    Raises SourceError naming the file and both values where there are fewer, or where one is not a
    matrix of finite numbers of that shape.
    """
    ends = _find_ends(path)
    if not 0 <= start < stop <= len(ends):
        raise SourceError(f"{path}: matrices {start} to {stop} of a list of {len(ends)}")
    bounds = np.concatenate([[0], ends])[start : stop + 1] - (ends[start - 1] if start else 0)
    with path.open("rb") as file:
        file.seek(int(ends[start - 1]) if start else 0)
        text = file.read(int(bounds[-1]))
    matrices = []
    for i, (first, last) in enumerate(pairwise(bounds), start=start):
        try:
            # Without the list's own bracket, or the comma that follows the matrix before.
            value = json.loads(text[first:last].lstrip()[1:])
        except ValueError as error:
            raise SourceError(f"{path}: [{i}] is not a JSON matrix ({error})") from error
        matrices.append(check_array(path, f"[{i}]", value, shape=shape))
    return np.stack(matrices)


def read_rows(
    path: Path, rows: Int64[np.ndarray, " n"], *, shape: tuple[int, int]
) -> Float64[np.ndarray, "n r c"]:
    """The matrices at sorted places, which should mostly be neighbours."""
    cuts = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) != 1)
    parts = np.split(rows, cuts[1:])
    return np.concatenate(
        [read_matrices(path, int(part[0]), int(part[-1]) + 1, shape=shape) for part in parts]
    )


def iterate_objects(path: Path, key: str) -> Iterator[dict[str, Any]]:
    """The objects of the list under a key of the outermost object: `{"annotations": [{...}, ...]}`.

    Holds the text, and one object at a time. Raises SourceError for a file that is missing, lacks
    the key or is not JSON.
    """
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise SourceError(f"{path}: no such file") from None
    start = re.search(rf'"{re.escape(key)}"\s*:\s*\[\s*', text)
    if start is None:
        raise SourceError(f"{path}: lacks a list {key}")
    position, decode = start.end(), json.JSONDecoder().raw_decode
    while not text.startswith("]", position):
        try:
            value, position = decode(text, position)
        except ValueError as error:
            raise SourceError(f"{path}: {key} is not JSON ({error})") from error
        if not isinstance(value, dict):
            raise SourceError(f"{path}: {key} holds a {type(value).__name__}, expected objects")
        yield value
        following = _NEXT.match(text, position)
        if following is None:
            raise SourceError(f"{path}: {key} is cut off at {position}")
        position = following.end()


def _find_ends(path: Path) -> Int64[np.ndarray, " n"]:
    """The position behind each matrix."""
    try:
        state = note_file(path).stat()
    except FileNotFoundError:
        raise SourceError(f"{path}: no such file") from None
    return _scan(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=16)
def _scan(path: Path, _size: int, _time: int) -> Int64[np.ndarray, " n"]:
    """Once for each state of the file."""
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
        ):
            return np.array([match.end() for match in _END.finditer(text)], np.int64)
    except ValueError:
        raise SourceError(f"{path}: an empty file") from None
