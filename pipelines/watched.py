"""Work that may crash or hang, in a process of its own that is killed and replaced.

    Watched(build, limit=120.0, tries=3)(task)  ->  what `build()(task, beat)` returned in the child

The child says with `beat` what it is about to do. When it is silent for `limit` seconds it is
killed: by a timer of its own that no Python code can hold up, and by the parent. A segmentation
fault, `os._exit` or the kernel's out-of-memory killer end the child alone. After a death the task
is tried again in a new child; after `tries` deaths a `WorkDied` names the last thing it began. A
child that dies between two tasks is replaced, and no task is blamed for it.
"""

import faulthandler
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, Literal, Protocol

from extpose.errors import ExtPoseError

START_LIMIT = 600.0
"""Seconds to build: weights are fetched, a GPU's kernels are compiled."""
GRACE = 5.0
"""The parent's own limit is this much longer: the child's says where it hung."""
OOM_SCORE = "800"
"""The kernel, out of memory, kills the child before Ray's processes and the driver."""


class Beat(Protocol):
    """What the child calls before each step."""

    def __call__(self, what: str) -> None:
        """`what` is about to begin; the time limit starts anew."""
        ...


class WorkDied(ExtPoseError):  # noqa: N818 (nobody's error but the work's)
    """The child died or hung in every try: `reason`, and where its threads were when it hung."""

    def __init__(self, reason: Literal["crashed", "hung"], message: str, where: str) -> None:
        super().__init__(message)
        self.reason, self.where = reason, where


class Watched:
    """Calls in a child what `build` makes there, once for all calls. Not for several threads.

    `build` and tasks are pickled; `build` must be importable by name.
    """

    def __init__(
        self,
        build: Callable[[], Callable[[Any, Beat], Any]],
        *,
        limit: float,
        tries: int,
    ) -> None:
        """Starts the child and waits for it. Raises ExtPoseError when `build` does.

        A child that dies while it builds is tried again, as one that dies at work: then WorkDied.
        """
        self._build, self._limit, self._tries = build, limit, tries
        self._process: subprocess.Popen[bytes] | None = None
        self._with_tries(self._start)

    def __call__(self, task: Any) -> Any:
        """The result. Raises WorkDied after `tries` deaths, ExtPoseError when `build` does.

        Whatever was raised, the next call starts a new child.
        """

        def work() -> Any:
            # One that waits may have been killed: it is the kernel's first victim.
            if self._process is None or self._process.poll() is not None:
                self._start()
            return self._ask(task, self._limit, "beginning")

        return self._with_tries(work)

    def _with_tries(self, work: Callable[[], Any]) -> Any:
        for left in reversed(range(self._tries)):
            try:
                return work()
            except WorkDied:
                if not left:
                    raise
        raise ValueError(f"tries is {self._tries}, it must be at least 1")

    def close(self) -> None:
        """End the child."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._connection.close()
        self._traces.close()

    def _start(self) -> None:
        if self._process is not None:
            self.close()
        self._connection, theirs = Pipe()
        self._traces = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the child)
        handles = (theirs.fileno(), self._traces.fileno())
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pipelines.watched", *map(str, handles)],
                pass_fds=handles,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.DEVNULL,
            )
            theirs.close()
            error = self._ask((self._build, self._limit), START_LIMIT, "building")
        except BaseException:
            theirs.close()
            self.close()
            raise
        if error:
            self.close()
            raise ExtPoseError(error)

    def _ask(self, task: Any, limit: float, doing: str) -> Any:
        """The child's answer; what it does meanwhile is kept for the message."""
        is_silent = False
        with suppress(EOFError, OSError):
            self._connection.send(task)
            while not (is_silent := not self._connection.poll(limit + GRACE)):
                is_done, value = self._connection.recv()
                if is_done:
                    return value
                doing = value
        raise self._explain(doing, limit, is_silent=is_silent)

    def _explain(self, doing: str, limit: float, *, is_silent: bool) -> WorkDied:
        """Why the child is gone. Messages hold no times or addresses: runs are compared."""
        assert self._process is not None
        if is_silent:
            self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE)
        self._process.kill()
        code = self._process.wait()
        self._traces.seek(0)
        where = self._traces.read().decode(errors="replace")
        self.close()
        # The timer's own trace begins with this word.
        if is_silent or where.startswith("Timeout"):
            return WorkDied("hung", f"{doing}: no answer for {limit:g} s", where)
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return WorkDied("crashed", f"{doing}: the process died ({cause})", where)


def _work(connection: Connection, traces: int) -> None:
    """The child: build, then one task after the other until the parent is gone."""
    build, limit = connection.recv()
    try:
        work = build()
    except Exception as error:
        connection.send((True, f"{type(error).__name__}: {error}"))
        return
    connection.send((True, ""))

    def beat(what: str) -> None:
        faulthandler.dump_traceback_later(limit, exit=True, file=traces)
        connection.send((False, what))

    while True:
        task = connection.recv()
        beat("beginning")
        result = work(task, beat)
        faulthandler.cancel_dump_traceback_later()
        connection.send((True, result))


def main() -> None:
    """The child's entry. Arguments: file descriptors of the connection and for traces."""
    handle, traces = map(int, sys.argv[1:])
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)
    faulthandler.enable(file=traces)
    with suppress(EOFError, OSError):
        _work(Connection(handle), traces)


if __name__ == "__main__":
    main()
