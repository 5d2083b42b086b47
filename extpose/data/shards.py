"""Clips in tar shards: atomic writing, strict reading (`ShardIndex`: random access).

The format in prose: `docs/data.md`. Stock WebDataset reads the shards too; this module is the
strict reader: what breaks the contract is a `ShardError` that names file, key and field.
"""

import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from extpose.data.codec import decode_clip, encode_clip
from extpose.data.shard_index import ShardIndex
from extpose.errors import ShardError
from extpose.schema import Clip
from extpose.storage import Location, WholeFile

__all__ = [
    "ShardIndex",
    "ShardInfo",
    "ShardWriter",
    "decode_clip",
    "encode_clip",
    "read_shard",
    "write_shard",
]


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
