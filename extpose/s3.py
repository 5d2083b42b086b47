"""S3-compatible stores, through pyarrow. Keys are `bucket/key`.

The usual variables say where and who: `AWS_ENDPOINT_URL` (for a store that is not Amazon's),
`AWS_REGION`, `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` (or a profile, or the role of the
machine).

An operation that fails is tried again, `EXTPOSE_S3_TRIES` times in all (default 6), after about
0.25, 0.5, 1, 2 ... seconds (half as long to half as long again, so that workers do not come back
together), each of its requests up to three times; a request that the store leaves without an answer
for `EXTPOSE_S3_TIMEOUT` seconds (default 20) has failed. What no repetition mends (no permission,
no bucket) is raised at once.
"""

import functools
import logging
import mmap
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar

from extpose.errors import StoreError

T = TypeVar("T")
TRIES, TIMEOUT = 6, 20.0
REQUEST_TRIES = 3
"""By the client itself, at short intervals, of one request; an operation may be many."""
FIRST_PAUSE = 0.25
"""Seconds; the next one is twice as long."""
HOPELESS = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """An object."""

    key: str
    num_bytes: int
    modified: float
    """Seconds, by the store's clock."""


def find(key: str) -> Found | None:
    """What is known of an object; None: there is none."""
    info = _try(key, lambda: _store().get_file_info(key))
    return _found(info) if info.is_file else None


def list_objects(prefix: str, *, deep: bool) -> list[Found]:
    """The objects below a prefix, or only those that lie directly there."""
    from pyarrow.fs import FileSelector

    selector = FileSelector(prefix, recursive=deep, allow_not_found=True)
    infos = _try(prefix, lambda: _store().get_file_info(selector))
    return [_found(info) for info in infos if info.is_file]


def read(key: str) -> bytes:
    """A whole object."""
    reader = ObjectReader(key)
    try:
        return reader.read_at(0, reader.num_bytes)
    finally:
        reader.close()


def upload(key: str, file: BinaryIO) -> None:
    """Make an object of a local file; it becomes visible when it is complete."""
    size = file.seek(0, os.SEEK_END)
    # A mapping: shards of gigabytes need no memory, and one write means that no error of this
    # process can come between two parts.
    data: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""

    def put() -> None:
        with _store().open_output_stream(key, buffer_size=None) as stream:
            stream.write(data)

    _try(key, put)
    # Not in the same try: of a store that refuses each fifth request, one try of several requests
    # would get a refusal again and again.
    found = find(key)
    if found is None or found.num_bytes != size:
        held = found.num_bytes if found else 0
        raise StoreError(f"s3://{key}: the store holds {held} bytes of {size}")


def delete(key: str) -> None:
    """Delete an object, if it is there."""

    def remove() -> None:
        try:
            _store().delete_file(key)
        except FileNotFoundError:
            return

    _try(key, remove)


class ObjectReader:
    """An object that is read by ranges."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._file: Any = _try(key, lambda: _store().open_input_file(key))
        self.num_bytes = int(self._file.size())

    def read_at(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`; fewer where the object ends."""
        size = min(size, self.num_bytes - offset)
        if size <= 0:
            return b""
        data: bytes = _try(self._key, lambda: self._file.read_at(size, offset))
        return data

    def close(self) -> None:
        """Let go of it."""
        self._file.close()


def _found(info: Any) -> Found:
    return Found(info.path, int(info.size), info.mtime_ns / 1e9)


def _try(key: str, operation: Callable[[], T]) -> T:
    """The operation, again when it fails. Raises StoreError with the key in its message."""
    tries = max(1, int(os.environ.get("EXTPOSE_S3_TRIES", TRIES)))
    for i in range(tries):
        try:
            return operation()
        except FileNotFoundError:
            raise
        except OSError as error:
            if i + 1 == tries or any(word in str(error) for word in HOPELESS):
                raise StoreError(f"s3://{key}: {error} (try {i + 1} of {tries})") from error
            log.debug("s3://%s: try %d: %s", key, i + 1, error)
            # Drawn by the system: a run's own random numbers stay what they are.
            time.sleep(FIRST_PAUSE * 2**i * random.SystemRandom().uniform(0.5, 1.5))
    raise AssertionError("no try is left")


def _store() -> Any:
    """The client of this process; one that was made before a fork must not be used after it."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION",
             "AWS_ACCESS_KEY_ID", "EXTPOSE_S3_TIMEOUT")  # fmt: skip
    return _connect(os.getpid(), *(os.environ.get(name, "") for name in names))


@functools.lru_cache(maxsize=4)
def _connect(
    _process: int, s3_url: str, url: str, region: str, default_region: str, _user: str, timeout: str
) -> Any:
    from pyarrow.fs import AwsDefaultS3RetryStrategy, S3FileSystem

    scheme, _, address = (s3_url or url).rpartition("://")
    seconds = float(timeout or TIMEOUT)
    return S3FileSystem(
        endpoint_override=address or None,
        scheme=scheme or "https",
        region=region or default_region or None,
        request_timeout=seconds,
        connect_timeout=min(seconds, 5.0),
        # One request, and not three, for an object below 5 MB.
        allow_delayed_open=True,
        # For the parts of a large object, which `_try` can only send all together.
        retry_strategy=AwsDefaultS3RetryStrategy(max_attempts=REQUEST_TRIES),
    )
