"""One run at a time in an output folder, also in that of a training.

On a disk, NFS included: `flock` on `.lock`, which the system lets go of when the process dies.

In a store there are no locks. Each run keeps a *lease* there, an object of its own name below
`leases/`, written anew every few seconds; then it lists all of them. The store lists whatever was
written before, so of two runs that begin together each sees the other: both refuse, never both go
on. A lease that is not renewed is of a run that was killed: it is watched for `Beat.expiry` seconds
and then deleted. Should a run be cut off from the store for longer and come back, two may write:
the same plan gives the same bytes, and every object is written whole.
"""

import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from extpose import storage
from extpose.errors import ExtPoseError
from extpose.storage import Location, S3Path
from pipelines.committed import DETECTIONS, MARKERS, SOURCES, WriteError, remove, write_text

LEASES = "leases"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Beat:
    """How often a lease is renewed, and when it is dead; seconds."""

    renewal: float = 5.0
    expiry: float = 40.0


@contextmanager
def hold(out: Path) -> Iterator[None]:
    """Make a folder on a disk and keep other runs out of it, until this process ends.

    Raises WriteError, and ExtPoseError when another run is there.
    """
    try:
        storage.make_folder(out)
        lock = (out / ".lock").open("w")
    except OSError as error:
        raise WriteError(f"{out}: cannot be written ({error})") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ExtPoseError(f"{out}: another run is writing to this folder") from error
        yield


@contextmanager
def open_output(out: Location, beat: Beat | None = None) -> Iterator[None]:
    """Make the folder, keep other runs out of it, and clear what a killed run left half-written.

    Raises WriteError, and ExtPoseError when another run is there.
    """
    with _lease(out, beat or Beat()) if isinstance(out, S3Path) else _lock(out):
        yield


@contextmanager
def _lock(out: Path) -> Iterator[None]:
    with hold(out):
        try:
            storage.make_folder(out / MARKERS)
        except OSError as error:
            raise WriteError(f"{out}: cannot be written ({error})") from error
        for folder in (out, out / MARKERS, out / DETECTIONS, out / SOURCES):
            for path in folder.glob(".*.tmp"):
                path.unlink(missing_ok=True)
        yield


@contextmanager
def _lease(out: S3Path, beat: Beat) -> Iterator[None]:
    mine = out / LEASES / f"{uuid.uuid4().hex}.json"
    owner = f"{socket.gethostname()}, process {os.getpid()}"
    _renew(mine, owner)
    ended = threading.Event()
    thread = threading.Thread(target=_keep, args=(mine, owner, beat, ended), daemon=True)
    thread.start()
    try:
        _wait_for_the_dead(out, mine, beat)
        yield
    finally:
        ended.set()
        thread.join()
        remove(mine)


def _renew(lease: Location, owner: str) -> None:
    write_text(lease, json.dumps({"owner": owner, "token": uuid.uuid4().hex}) + "\n")


def _keep(lease: Location, owner: str, beat: Beat, ended: threading.Event) -> None:
    while not ended.wait(beat.renewal):
        try:
            _renew(lease, owner)
        except WriteError as error:
            # The run itself will fail on the same store, and say so; or the store comes back.
            log.warning("%s", error)


def _wait_for_the_dead(out: S3Path, mine: Location, beat: Beat) -> None:
    """Until only this run's lease is left. Raises ExtPoseError for one that is alive."""
    first: dict[Location, bytes] = {}
    deadline = time.monotonic() + beat.expiry
    while others := _others(out, mine):
        for lease, content in others.items():
            if first.setdefault(lease, content) != content:
                owner = json.loads(content)["owner"]
                raise ExtPoseError(f"{out}: another run is writing to this folder ({owner})")
        if time.monotonic() > deadline:
            for lease in others:
                log.warning("%s: not renewed for %.0f s, its run was killed", lease, beat.expiry)
                remove(lease)
            return
        if len(first) == len(others):
            log.info("%s: a lease is there; waiting to see whether its run is alive", out)
        time.sleep(beat.renewal / 2)


def _others(out: S3Path, mine: Location) -> dict[Location, bytes]:
    found: dict[Location, bytes] = {}
    for entry in storage.list_files(out / LEASES, ".json"):
        if entry.location == mine:
            continue
        try:
            found[entry.location] = storage.read_bytes(entry.location)
        except FileNotFoundError:  # its run has ended in this moment
            continue
    return found
