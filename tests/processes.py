"""Several Python processes at once: what they print, and none of them left behind; small disks."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
TIMEOUT = 600.0
"""Seconds in all, for a machine that does other things too."""


def run_together(*arguments: Sequence[str]) -> list[subprocess.CompletedProcess[str]]:
    """Run Python with each of these arguments, all at the same time, each on one thread.

    Where one fails, or after `TIMEOUT` seconds, the others are killed: they may wait for it.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with ExitStack() as stack:
        files = [
            [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2)] for _ in arguments
        ]
        processes = []
        for words, (out, errors) in zip(arguments, files, strict=True):
            command = [sys.executable, "-W", "ignore", *words]
            process = subprocess.Popen(
                command, env=environment, cwd=ROOT, stdout=out, stderr=errors
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes.append(process)
        end = time.monotonic() + TIMEOUT
        while None in (codes := [process.poll() for process in processes]):
            if any(codes) or time.monotonic() > end:
                break
            time.sleep(0.05)
        for process in processes:
            process.kill()
            process.wait()
        for pair in files:
            for file in pair:
                file.seek(0)
        return [
            subprocess.CompletedProcess(process.args, process.returncode, out.read(), errors.read())
            for process, (out, errors) in zip(processes, files, strict=True)
        ]


@contextmanager
def small_disk(size: int = 64) -> Iterator[None]:
    """No file of this process may be longer, in bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
