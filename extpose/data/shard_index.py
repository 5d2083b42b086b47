"""Where the members of every clip lie in the tars: random access to the clips of many shards.

An index costs a pass over all shards, of a store over all their bytes. So it can be kept in a file
(`to_bytes`), and is a few flat arrays, which go quickly to other processes.

Axes    n clips   m members of one of them   s members of all of them
"""

import io
import itertools
import json
import tarfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt32

from extpose.data.codec import assemble, count_frames, decode_head
from extpose.errors import ShardError, StoreError
from extpose.npz import read_npz
from extpose.schema import Clip
from extpose.storage import Location, Reader, make_location, open_reader, open_stream

TAR_END = 1024
"""A tar ends in at least two blocks of zeros; without them it was cut off."""
SCANNERS = 8
"""Shards of a store that are scanned at once."""
MAX_OPEN = 128
"""Shards that are open at a time: systems allow a process 1024 files or fewer."""


class ShardIndex:
    """Random access to the clips of many shards, by the offsets of their members.

    A window is one or two reads of its bytes alone; no clip is kept in memory or on a disk. Copies
    in forked or spawned workers open the shards anew and do not disturb each other.
    """

    def __init__(self, paths: Sequence[Location]) -> None:
        """Scans the shards, of a store `SCANNERS` at a time. Raises ShardError, StoreError."""
        keys, shards, spans = list[str](), list[int](), list[Int64[np.ndarray, "m 2"]]()
        seen: dict[str, Location] = {}
        for shard, (path, clips) in enumerate(zip(paths, _scan_all(paths), strict=True)):
            for key, members in clips:
                if key in seen:
                    raise ShardError(f"{path}: {key}: key is also in {seen[key]}")
                seen[key] = path
                keys.append(key)
                shards.append(shard)
                spans.append(members)
        self._fill(
            list(paths),
            keys,
            shards=np.array(shards, np.int64),
            starts=np.array([members[0, 0] for members in spans], np.int64),
            firsts=np.cumsum([0, *map(len, spans)], dtype=np.int64),
            spans=np.concatenate([np.empty((0, 2), np.uint32), *map(_relative, spans)]),
        )

    def _fill(
        self,
        paths: list[Location],
        keys: list[str],
        *,
        shards: Int64[np.ndarray, " n"],
        starts: Int64[np.ndarray, " n"],
        firsts: Int64[np.ndarray, " n+1"],
        spans: UInt32[np.ndarray, "s 2"],
    ) -> None:
        """`starts` are offsets in the shard, `spans` are offsets from there, and sizes.

        The members of clip i are `firsts[i]` to `firsts[i + 1]` of `spans`.
        """
        self.paths, self.keys, self._shards = paths, keys, shards
        self._starts, self._firsts, self._spans = starts, firsts, spans
        self._files: OrderedDict[int, Reader] = OrderedDict()

    def to_bytes(self) -> bytes:
        """For a file; `from_bytes` reads it."""
        names = json.dumps({"paths": list(map(str, self.paths)), "keys": self.keys}).encode()
        buffer = io.BytesIO()
        np.savez(
            buffer,
            names=np.frombuffer(names, np.uint8),
            shards=self._shards,
            starts=self._starts,
            firsts=self._firsts,
            spans=self._spans,
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "ShardIndex":
        """An index as it was when it was made, whatever became of the shards."""
        arrays = read_npz(data)
        names = json.loads(arrays.pop("names").tobytes())
        index = cls.__new__(cls)
        index._fill([make_location(path) for path in names["paths"]], names["keys"], **arrays)
        return index

    def __len__(self) -> int:
        return len(self.keys)

    def num_frames(self, i: int) -> int:
        """Frames of clip i."""
        return (int(self._firsts[i + 1] - self._firsts[i]) - 2) // 2

    def path_of(self, i: int) -> Location:
        """The shard that holds clip i."""
        return self.paths[self._shards[i]]

    def clips_of_shards(self) -> Int64[np.ndarray, " shards"]:
        """How many clips each shard has."""
        counts: Int64[np.ndarray, " shards"] = np.bincount(self._shards, minlength=len(self.paths))
        return counts

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
        shard = int(self._shards[i])
        own = self._spans[self._firsts[i] : self._firsts[i + 1]]
        spans = own[members].astype(np.int64)
        spans[:, 0] += self._starts[i]
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
            while len(self._files) >= MAX_OPEN:
                self._files.popitem(last=False)[1].close()
            self._files[shard] = open_reader(self.paths[shard])
        self._files.move_to_end(shard)
        return self._files[shard]

    def close(self) -> None:
        """Close the files."""
        while self._files:
            self._files.popitem()[1].close()

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_files": OrderedDict()}


def _relative(spans: Int64[np.ndarray, "m 2"]) -> UInt32[np.ndarray, "m 2"]:
    """With offsets from the first one."""
    return (spans - spans[0] * [1, 0]).astype(np.uint32)


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
