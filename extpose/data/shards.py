"""Clips in tar shards: atomic writing, strict reading, random access.

The format in prose: `docs/data.md`. Stock WebDataset reads the shards too; this module is the
strict reader: what breaks the contract is a `ShardError` that names file, key and field.
"""

import hashlib
import io
import itertools
import os
import tarfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Int64

from extpose.data.codec import assemble, count_frames, decode_clip, decode_head, encode_clip
from extpose.errors import ShardError
from extpose.schema import Clip

__all__ = [
    "ShardIndex",
    "ShardInfo",
    "ShardWriter",
    "decode_clip",
    "encode_clip",
    "read_shard",
    "sync_folder",
    "write_shard",
]

TAR_END = 1024
"""A tar ends in at least two blocks of zeros; without them it was cut off."""


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

    A hidden temporary file next to it is written, synced and renamed by `close`; leaving the
    `with` block by an exception removes it. The same clips give the same bytes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        self._file = _HashingFile(self._temporary.open("xb"))
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
        """Finish, sync and rename. An error (a full disk) leaves nothing behind."""
        try:
            self._tar.close()
            self._file.sync()
            self._temporary.rename(self.path)
            sync_folder(self.path.parent)
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
        self._file.file.close()
        self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.abort()
        elif not self._file.file.closed:
            self.close()


class _HashingFile:
    """The little of a file that `tarfile` needs for writing, and the digest of what went in."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha256, self._position = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self._position += len(data)
        return self.file.write(data)

    def tell(self) -> int:
        return self._position

    def sync(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()


def sync_folder(folder: Path) -> None:
    """Make a rename inside the folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_shard(path: Path, clips: Iterable[Clip]) -> ShardInfo:
    """Write clips to one shard, atomically and with reproducible bytes."""
    with ShardWriter(path) as writer:
        for clip in clips:
            writer.add(clip)
        return writer.close()


def read_shard(path: Path) -> Iterator[Clip]:
    """All clips of one shard, in order. Raises ShardError."""
    index = ShardIndex([path])
    return (index.read_clip(i) for i in range(len(index)))


class ShardIndex:
    """Random access to the clips of many shards, by the offsets of their members.

    Reads with `pread` on descriptors of its own, so copies in forked or spawned workers do not
    disturb each other. Opening costs one pass over the tar headers.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = [Path(path) for path in paths]
        self.keys: list[str] = []
        self._shards: list[int] = []
        self._spans: list[Int64[np.ndarray, "m 2"]] = []
        self._files: dict[int, int] = {}
        seen: dict[str, Path] = {}
        for shard, path in enumerate(self.paths):
            for key, spans in _scan(path):
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

    def path_of(self, i: int) -> Path:
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
        meta, arrays = decode_head(self._read(i, 0), self._read(i, 1), num_frames, where)
        meta = replace(meta, first_frame=meta.first_frame + start, fps=meta.fps / stride)
        rows = slice(start, frames[-1] + 1, stride)
        fixed = ("target.betas", "target.has_betas")
        return assemble(
            self.keys[i],
            meta,
            {name: a if name in fixed else a[rows] for name, a in arrays.items()},
            rgb=[self._read(i, 2 + 2 * f) for f in frames],
            skeleton=[self._read(i, 3 + 2 * f) for f in frames],
            where=where,
        )

    def _read(self, i: int, member: int) -> bytes:
        offset, size = (int(v) for v in self._spans[i][member])
        shard = self._shards[i]
        if shard not in self._files:
            self._files[shard] = os.open(self.paths[shard], os.O_RDONLY)
        data = os.pread(self._files[shard], size, offset)
        if len(data) != size:
            raise ShardError(
                f"{self.paths[shard]}: {self.keys[i]}: shorter than when it was opened"
            )
        return data

    def close(self) -> None:
        """Close the files."""
        while self._files:
            os.close(self._files.popitem()[1])

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_files": {}}


def _scan(path: Path) -> Iterator[tuple[str, Int64[np.ndarray, "m 2"]]]:
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


def _members(path: Path) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """Key, name and (offset, size) of every member of a tar that is whole."""
    try:
        size = path.stat().st_size
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, _, name = member.name.partition(".")
                end = member.offset_data + member.size
                if not member.isreg():
                    raise ShardError(f"{path}: {member.name}: not a plain file")
                if end + TAR_END > size:
                    raise ShardError(f"{path}: {key}: {name}: truncated, {size} bytes of {end}")
                yield key, name, (member.offset_data, member.size)
        with path.open("rb") as file:
            file.seek(max(size - TAR_END, 0))
            if file.read() != bytes(TAR_END):
                raise ShardError(f"{path}: truncated, no end of archive in {size} bytes")
    except (tarfile.TarError, OSError) as error:
        raise ShardError(f"{path}: not a readable tar ({error})") from error
