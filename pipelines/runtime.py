"""Joining a Ray cluster, or starting one on this machine for the length of a run."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from extpose.errors import ExtPoseError

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
    try:
        ray.init(
            object_store_memory=object_store_memory,
            num_cpus=max(MIN_LOGICAL_CPUS, os.cpu_count() or 1),
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=temp_dir,
        )
    except Exception as error:
        raise ExtPoseError(f"{temp_dir}: Ray does not start: {error}") from error
