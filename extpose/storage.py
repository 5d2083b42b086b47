"""Files and folders on a local disk or in an S3-compatible store, through the same few functions.

A *location* is a `pathlib.Path` or an `S3Path`; both know `/`, `name`, `stem`, `parent`. What is
written appears whole or not at all: locally by a hidden file, fsync and rename; in the store by one
upload, which becomes visible when it is complete. Errors are `OSError`s (`FileNotFoundError` where
nothing is there), after the tries of `extpose.s3`.

No pyarrow is loaded before the first `S3Path` is touched, and never torch.
"""

import hashlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, RawIOBase
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol, runtime_checkable

from extpose import s3

SCAN_BLOCK = 1 << 20
"""Bytes of one request where a file is read from beginning to end."""


class S3Path(PurePosixPath):
    """`s3://bucket/key`: an object, or the prefix of some.

    Raises ValueError for anything that does not begin like this.
    """

    def __new__(cls, *parts: object) -> "S3Path":
        """As for `PurePosixPath`: a text, or a path and names below it."""
        text = "/".join(map(str, parts))
        given = PurePosixPath(text).parts
        if len(given) < 2 or given[0] != "s3:" or ".." in given:
            raise ValueError(f"{text}: not s3://bucket/prefix")
        return super().__new__(cls, *map(str, parts))

    def __str__(self) -> str:
        return f"s3://{self.key}"

    def __fspath__(self) -> str:
        raise TypeError(f"{self}: is in a store, not on a disk")

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (str(self),)

    @property
    def key(self) -> str:
        """`bucket/key`, pyarrow's name of it."""
        return "/".join(self.parts[1:])


Location = S3Path | Path
"""In this order: the command line takes the first that fits."""


@dataclass(frozen=True)
class Entry:
    """A file of a folder."""

    location: Location
    num_bytes: int
    modified: float
    """Seconds, by the clock of the disk or the store."""


@runtime_checkable
class Reader(Protocol):
    """A file that is read at any place, by any thread."""

    num_bytes: int

    def read_at(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`; fewer where the file ends."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


def make_location(text: str) -> Location:
    """`s3://...` or a local path."""
    return S3Path(text) if text.startswith("s3://") else Path(text)


def absolute(location: Location) -> Location:
    """For processes that have another current folder."""
    return location if isinstance(location, S3Path) else location.expanduser().resolve()


def find_file(location: Location) -> Entry | None:
    """What is known of a file; None: there is none."""
    if isinstance(location, S3Path):
        found = s3.find(location.key)
        return None if found is None else Entry(location, found.num_bytes, found.modified)
    if not location.is_file():
        return None
    stat = location.stat()
    return Entry(location, stat.st_size, stat.st_mtime)


def list_files(folder: Location, suffix: str = "", *, deep: bool = False) -> list[Entry]:
    """The files of a folder, sorted by name; `deep`: and of those inside. None where it is not."""
    if isinstance(folder, S3Path):
        prefix = len(folder.key) + 1
        found = [
            Entry(folder / entry.key[prefix:], entry.num_bytes, entry.modified)
            for entry in s3.list_objects(folder.key, deep=deep)
            if entry.key.endswith(suffix)
        ]
        return sorted(found, key=lambda entry: entry.location)
    _refuse_mangled(folder)
    if not folder.is_dir():
        return []
    paths = folder.rglob(f"*{suffix}") if deep else folder.glob(f"*{suffix}")
    entries = (find_file(path) for path in sorted(paths))
    return [entry for entry in entries if entry is not None]


def name_in(folder: Location, location: Location) -> str:
    """The path of a file below a folder, with slashes."""
    return "/".join(location.parts[len(folder.parts) :])


def read_bytes(location: Location) -> bytes:
    """A whole file."""
    if isinstance(location, S3Path):
        return s3.read(location.key)
    return location.read_bytes()


def open_reader(location: Location) -> Reader:
    """A file to be read at any place."""
    if isinstance(location, S3Path):
        return s3.ObjectReader(location.key)
    return _DiskReader(location)


@contextmanager
def open_stream(location: Location) -> Iterator[BinaryIO]:
    """A file to be read from beginning to end, or to be sought in, by whoever wants a file."""
    if isinstance(location, S3Path):
        reader = s3.ObjectReader(location.key)
        with BufferedReader(_Stream(reader), SCAN_BLOCK) as stream:
            yield stream
    else:
        with location.open("rb") as file:
            yield file


def hash_file(location: Location) -> str:
    """SHA-256 of a file's content."""
    with open_stream(location) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def write_bytes(location: Location, data: bytes) -> None:
    """Write a file that appears whole or not at all."""
    file = WholeFile(location)
    try:
        file.write(data)
        file.commit()
    except OSError:
        file.abort()
        raise


def make_folder(folder: Location) -> None:
    """Make a folder and those above it; a store has none."""
    if isinstance(folder, Path):
        _refuse_mangled(folder)
        folder.mkdir(parents=True, exist_ok=True)


def delete(location: Location) -> None:
    """Delete a file, if it is there."""
    if isinstance(location, S3Path):
        s3.delete(location.key)
    else:
        location.unlink(missing_ok=True)


class WholeFile:
    """A file that is written piece by piece, and appears under its name by `commit`.

    Locally the pieces go to a hidden file next to it, for a store to a nameless one of the
    system's temporary folder (`TMPDIR`), so a process that is killed leaves nothing in the store.
    """

    def __init__(self, location: Location) -> None:
        self.location = location
        self._temporary: Path | None = None
        self._file: BinaryIO
        if isinstance(location, Path):
            self._temporary = location.with_name(f".{location.name}.{uuid.uuid4().hex}.tmp")
            self._file = self._temporary.open("xb")
        else:
            self._file = tempfile.TemporaryFile(prefix="extpose-")  # noqa: SIM115

    @property
    def closed(self) -> bool:
        """Whether it was committed or aborted."""
        return self._file.closed

    def write(self, data: bytes) -> int:
        """Append."""
        return self._file.write(data)

    def commit(self) -> None:
        """Make it appear."""
        self._file.flush()
        if isinstance(self.location, S3Path):
            s3.upload(self.location.key, self._file)
            self._file.close()
        elif self._temporary is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._temporary.rename(self.location)
            sync_folder(self.location.parent)

    def abort(self) -> None:
        """Drop what was written."""
        try:
            self._file.close()
        except OSError:
            # A full disk is told again when the rest of a buffer is flushed.
            self._file.close()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename inside the folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse_mangled(path: Path) -> None:
    """`Path("s3://bucket")` is a local folder named `s3:`, which nobody wants."""
    if path.parts[:1] == ("s3:",):
        raise ValueError(f"{path}: a local path; for a store use S3Path or make_location")


class _DiskReader:
    """`pread` on a descriptor of its own: copies in other processes do not disturb each other."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        self.num_bytes = os.fstat(self._descriptor).st_size

    def read_at(self, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, offset)

    def close(self) -> None:
        os.close(self._descriptor)


class _Stream(RawIOBase):
    """A reader as a file with a position."""

    def __init__(self, reader: Reader) -> None:
        self._reader, self._position = reader, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._reader.num_bytes}
        self._position = start[whence] + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._reader.read_at(self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._reader.close()
        super().close()
