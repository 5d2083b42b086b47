"""Which files of a labelled data set a unit was made of, and whether they are still the same.

Readers call `note_file` for every file of labels that they look into, also where a cache spares
them the reading; pictures are known from the records. Below the output: `sources/<unit>.json`, of
each file its size, time of change and SHA-256. A later run asks for sizes and times alone, and
reads again only what has others: a copy of a data set is the same data set.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from extpose import storage
from extpose.errors import ExtPoseError
from extpose.storage import Location
from pipelines.committed import SHOWN, SOURCES, WriteError, read_json, write_text

_NOTED: ContextVar[set[Path] | None] = ContextVar("noted", default=None)
"""Of the unit that is being read. Readers are many calls away, and return something else."""


@contextmanager
def noting_files() -> Iterator[set[Path]]:
    """The set that `note_file` adds to meanwhile."""
    files: set[Path] = set()
    token = _NOTED.set(files)
    try:
        yield files
    finally:
        _NOTED.reset(token)


def note_file(path: Path) -> Path:
    """This file decides the unit that is being read, if one is. Returns the path."""
    noted = _NOTED.get()
    if noted is not None:
        noted.add(path)
    return path


@dataclass(frozen=True, kw_only=True)
class SourceFiles:
    """What a unit was made of."""

    root: str
    """Of the data set, then."""
    files: dict[str, list[Any]]
    """Size, time of change and hash by path: below the root, or absolute outside of it."""

    def changed(self, root: Path) -> list[str]:
        """Files that are gone or have another content now."""
        return [name for name, entry in self.files.items() if _is_changed(root / name, entry)]


def write_files(out: Location, unit: str, root: Path, files: Iterable[Path]) -> None:
    """Keep what the files of a unit are like. Raises WriteError."""
    entries = {_relative(path, root): _describe(path) for path in sorted(files)}
    kept = SourceFiles(root=str(root.absolute()), files=entries)
    try:
        storage.make_folder(out / SOURCES)
    except OSError as error:
        raise WriteError(f"{out / SOURCES}: cannot be made ({error})") from error
    write_text(out / SOURCES / f"{unit}.json", json.dumps(asdict(kept), indent=0) + "\n")


def read_files(out: Location, unit: str) -> SourceFiles | None:
    """None: made before files were kept. Raises ExtPoseError for a list that cannot be read."""
    path = out / SOURCES / f"{unit}.json"
    found = read_json(path)
    if found is None:
        return None
    try:
        return SourceFiles(**found)
    except TypeError as error:
        raise ExtPoseError(f"{path}: not a list of files ({error})") from error


def _relative(path: Path, root: Path) -> str:
    absolute, base = path.absolute(), root.absolute()
    return (absolute.relative_to(base) if absolute.is_relative_to(base) else absolute).as_posix()


def _describe(path: Path) -> list[Any]:
    """One that is not there is kept too: it may come."""
    try:
        if path.is_dir():
            return [0, 0, ""]
        size, time = _stamp(path)
        return [size, time, _hash(path, size, time)]
    except OSError:
        return [-1, -1, ""]


def _is_changed(path: Path, entry: list[Any]) -> bool:
    if path.is_dir():
        return False  # what is listed below it decides about units
    try:
        size, time = _stamp(path)
        if [size, time] == entry[:2]:
            return False
        return size != entry[0] or _hash(path, size, time) != entry[2]
    except OSError:
        return bool(entry[0] != -1)


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=64)
def _hash(path: Path, _size: int, _time: int) -> str:
    """Many units share a file of labels: once for each state of it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shorten(names: list[str]) -> str:
    """The first of them."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if names[SHOWN:] else "")
