"""Joining a Ray cluster, or starting one on this machine for the length of a run."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
import ray

from extpose.errors import ExtPoseError

log = logging.getLogger(__name__)
START_TRIES = 2
TOO_SLOW = "timed out during startup"
"""What Ray says when the machine has too much to do."""
MIN_LOGICAL_CPUS = 4
"""Ray Data's helper actors reserve CPUs of their own: with two, an actor pool can wait for ever."""


@contextmanager
def ray_session(*, object_store_memory: int | None = None) -> Iterator[None]:
    """Use the cluster of `RAY_ADDRESS` or of the running session; else start a local one.

    `object_store_memory`: bytes, for a local one; None: Ray's choice. Raises ExtPoseError when a
    local one does not start, as on a machine with far too much to do.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if os.environ.get("RAY_ADDRESS"):
        ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
        try:
            yield
        finally:
            ray.shutdown()
        return
    temp_dir = tempfile.mkdtemp(prefix="extpose-ray-")
    try:
        _start_local(temp_dir, object_store_memory)
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(temp_dir, ignore_errors=True)


def _start_local(temp_dir: str, object_store_memory: int | None) -> None:
    for left in reversed(range(START_TRIES)):
        before = _children()
        try:
            ray.init(
                object_store_memory=object_store_memory,
                num_cpus=max(MIN_LOGICAL_CPUS, os.cpu_count() or 1),
                include_dashboard=False,
                log_to_driver=False,
                _temp_dir=temp_dir,
            )
            return
        except Exception as error:
            ray.shutdown()
            # What Ray leaves of a start that failed would slow down the next one.
            for process in _children() - before:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            if not left or TOO_SLOW not in str(error):
                raise ExtPoseError(f"{temp_dir}: Ray does not start: {error}") from error
            log.warning("Ray did not start within its 30 s; trying again")


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children())
