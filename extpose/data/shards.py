"""Clips in tar shards: atomic writing, strict reading, random access.

The format in prose: `docs/data.md`. Stock WebDataset reads the shards too; this module is the
strict reader: what breaks the contract is a `ShardError` that names file, key and field.
"""

import hashlib
import io
import itertools
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from extpose.data.codec import assemble, count_frames, decode_clip, decode_head, encode_clip
from extpose.errors import ShardError, StoreError
from extpose.schema import Clip
from extpose.storage import Location, Reader, WholeFile, open_reader, open_stream

__all__ = [
    "ShardIndex",
    "ShardInfo",
    "ShardWriter",
    "decode_clip",
    "encode_clip",
    "read_shard",
    "write_shard",
]

TAR_END = 1024
"""A tar ends in at least two blocks of zeros; without them it was cut off."""
SCANNERS = 8
"""Shards of a store that are scanned at once."""


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """A finished shard."""

    path: str
    sha256: str
    num_bytes: int
    num_clips: int
    num_frames: int


class ShardWriter:
    """Writes clips to a tar that appears under its name only when it is whole.

    `close` makes it appear (`extpose.storage.WholeFile`); leaving the `with` block by an exception
    drops it. The same clips give the same bytes.
    """

    def __init__(self, path: Location) -> None:
        self.path = path
        self._file = _HashingFile(WholeFile(path))
        self._tar = tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)  # type: ignore[arg-type]
        self._keys: set[str] = set()
        self._num_frames = 0

    def add(self, clip: Clip) -> None:
        """Append one clip. Raises ShardError for a key that is there already or a bad clip."""
        if clip.key in self._keys:
            raise ShardError(f"{self.path}: {clip.key}: key is used twice")
        for name, data in encode_clip(clip).items():
            member = tarfile.TarInfo(f"{clip.key}.{name}")
            member.size, member.mode = len(data), 0o644
            self._tar.addfile(member, io.BytesIO(data))
        self._keys.add(clip.key)
        self._num_frames += clip.num_frames

    def close(self) -> ShardInfo:
        """Finish, and make it appear. An error (a full disk) leaves nothing behind."""
        try:
            self._tar.close()
            self._file.file.commit()
        except OSError:
            self.abort()
            raise
        return ShardInfo(
            path=str(self.path),
            sha256=self._file.sha256.hexdigest(),
            num_bytes=self._file.tell(),
            num_clips=len(self._keys),
            num_frames=self._num_frames,
        )

    def abort(self) -> None:
        """Drop what was written."""
        self._file.file.abort()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.abort()
        elif not self._file.file.closed:
            self.close()


class _HashingFile:
    """The little of a file that `tarfile` needs for writing, and the digest of what went in."""

    def __init__(self, file: WholeFile) -> None:
        self.file, self.sha256, self._position = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self._position += len(data)
        return self.file.write(data)

    def tell(self) -> int:
        return self._position


def write_shard(path: Location, clips: Iterable[Clip]) -> ShardInfo:
    """Write clips to one shard, atomically and with reproducible bytes."""
    with ShardWriter(path) as writer:
        for clip in clips:
            writer.add(clip)
        return writer.close()


def read_shard(path: Location) -> Iterator[Clip]:
    """All clips of one shard, in order. Raises ShardError."""
    index = ShardIndex([path])
    return (index.read_clip(i) for i in range(len(index)))


class ShardIndex:
    """Random access to the clips of many shards, by the offsets of their members.

    Opening costs one pass over the tar headers: of a store, over the whole shards, `SCANNERS` at a
    time. Then a window is one or two reads of its bytes alone; nothing is kept in memory or on a
    disk. Copies in forked or spawned workers open the shards anew and do not disturb each other.
    """

    def __init__(self, paths: Sequence[Location]) -> None:
        self.paths = list(paths)
        self.keys: list[str] = []
        self._shards: list[int] = []
        self._spans: list[Int64[np.ndarray, "m 2"]] = []
        self._files: dict[int, Reader] = {}
        seen: dict[str, Location] = {}
        for shard, (path, clips) in enumerate(zip(self.paths, _scan_all(self.paths), strict=True)):
            for key, spans in clips:
                if key in seen:
                    raise ShardError(f"{path}: {key}: key is also in {seen[key]}")
                seen[key] = path
                self.keys.append(key)
                self._shards.append(shard)
                self._spans.append(spans)

    def __len__(self) -> int:
        return len(self.keys)

    def num_frames(self, i: int) -> int:
        """Frames of clip i."""
        return (len(self._spans[i]) - 2) // 2

    def path_of(self, i: int) -> Location:
        """The shard that holds clip i."""
        return self.paths[self._shards[i]]

    def read_clip(self, i: int) -> Clip:
        """Clip i, whole."""
        return self.read_window(i, 0, self.num_frames(i))

    def read_window(self, i: int, start: int, count: int, stride: int = 1) -> Clip:
        """The frames start, start + stride, ... of clip i, `count` in all, as a clip of its own.

        Only those pictures are read. The key stays; first frame and frame rate are the window's.
        Raises ValueError for a window that does not lie in the clip.
        """
        num_frames, where = self.num_frames(i), f"{self.path_of(i)}: {self.keys[i]}"
        frames = range(start, start + count * stride, stride) if stride > 0 else range(0)
        if not frames or start < 0 or frames[-1] >= num_frames:
            raise ValueError(
                f"{where}: window start {start}, count {count}, stride {stride} "
                f"is not inside {num_frames} frames"
            )
        head, body = self._read(i, [0, 1])
        meta, arrays = decode_head(head, body, num_frames, where)
        meta = replace(meta, first_frame=meta.first_frame + start, fps=meta.fps / stride)
        rows = slice(start, frames[-1] + 1, stride)
        fixed = ("target.betas", "target.has_betas")
        pictures = self._read(i, [m for f in frames for m in (2 + 2 * f, 3 + 2 * f)])
        return assemble(
            self.keys[i],
            meta,
            {name: a if name in fixed else a[rows] for name, a in arrays.items()},
            rgb=pictures[::2],
            skeleton=pictures[1::2],
            where=where,
        )

    def _read(self, i: int, members: list[int]) -> list[bytes]:
        """Members of clip i, in rising order: one request for those that lie together."""
        shard = self._shards[i]
        spans = self._spans[i][members]
        found: list[bytes] = []
        for piece in np.split(spans, np.flatnonzero(np.diff(members) != 1) + 1):
            first, end = int(piece[0, 0]), int(piece[-1].sum())
            try:
                data = self._reader(shard).read_at(first, end - first)
            except OSError as error:
                raise _refusal(self.paths[shard], error) from error
            if len(data) != end - first:
                raise ShardError(
                    f"{self.paths[shard]}: {self.keys[i]}: shorter than when it was opened"
                )
            found += [data[start - first : start - first + size] for start, size in piece.tolist()]
        return found

    def _reader(self, shard: int) -> Reader:
        if shard not in self._files:
            self._files[shard] = open_reader(self.paths[shard])
        return self._files[shard]

    def close(self) -> None:
        """Close the files."""
        while self._files:
            self._files.popitem()[1].close()

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_files": {}}


def _scan_all(paths: Sequence[Location]) -> Iterator[list[tuple[str, Int64[np.ndarray, "m 2"]]]]:
    """`_scan` of each, in order. Waiting for a store is shared by threads."""
    if all(isinstance(path, Path) for path in paths):
        yield from (list(_scan(path)) for path in paths)
        return
    with ThreadPoolExecutor(SCANNERS) as pool:
        yield from pool.map(lambda path: list(_scan(path)), paths)


def _scan(path: Location) -> Iterator[tuple[str, Int64[np.ndarray, "m 2"]]]:
    """Key and (offset, size) of the members of every clip. Raises ShardError."""
    key, names, spans = "", list[str](), list[tuple[int, int]]()
    for member_key, name, span in itertools.chain(_members(path), [("", "", (0, 0))]):
        if member_key != key and names:
            count_frames(names, f"{path}: {key}")
            yield key, np.array(spans, np.int64)
            names, spans = [], []
        key = member_key
        names.append(name)
        spans.append(span)


def _members(path: Location) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """Key, name and (offset, size) of every member of a tar that is whole."""
    try:
        with open_stream(path) as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    key, _, name = member.name.partition(".")
                    end = member.offset_data + member.size
                    if not member.isreg():
                        raise ShardError(f"{path}: {member.name}: not a plain file")
                    if end + TAR_END > size:
                        raise ShardError(f"{path}: {key}: {name}: truncated, {size} bytes of {end}")
                    yield key, name, (member.offset_data, member.size)
            file.seek(max(size - TAR_END, 0))
            if file.read() != bytes(TAR_END):
                raise ShardError(f"{path}: truncated, no end of archive in {size} bytes")
    except tarfile.TarError as error:
        raise ShardError(f"{path}: not a readable tar ({error})") from error
    except OSError as error:
        raise _refusal(path, error) from error


def _refusal(path: Location, error: OSError) -> ShardError | StoreError:
    """A shard that is not there is damage; a disk or store that fails is not the shard's fault."""
    if isinstance(error, StoreError):
        return error
    if isinstance(error, FileNotFoundError):
        return ShardError(f"{path}: is not there")
    return StoreError(f"{path}: cannot be read ({error})")
