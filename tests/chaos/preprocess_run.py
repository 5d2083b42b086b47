"""A run of preprocessing in a process of its own, to be killed, and what belongs to it.

python -m tests.chaos.preprocess_run VIDEOS OUT [--real]
"""

import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from extpose import storage
from extpose.config import PreprocessConfig, SourceConfig
from extpose.storage import Location, make_location
from pipelines.committed import MARKERS
from pipelines.preprocess import preprocess
from tests.pipelines.fakes import box_detector, config_of

ROOT = Path(__file__).parents[2]
EXIT_LIMIT = 240.0
"""Seconds after which a run that was harmed is taken to hang."""
CLEAR_LIMIT = 30.0
"""Seconds within which all processes of a run are to be gone after it."""
PATTERNS = {
    "actor": "ray::MapWorker",
    "raylet": "/raylet/raylet",
    "detector": "pipelines.watched",
    "task": "ray::Map(",
}
"""What the command line of each kind of process holds."""


GONE = ("actor", "detector")
"""What must end with a run, also where Ray lives on."""


class Victim:
    """The run, its output and all processes that were seen below it."""

    def __init__(self, command: list[str], out: Location, log: Path, **environment: str) -> None:
        self.out, self.log = out, log
        variables = os.environ | {"PYTHONPATH": str(ROOT), "RAY_DEDUP_LOGS": "0"} | environment
        self._is_guest = "RAY_ADDRESS" in environment
        if not self._is_guest:
            variables.pop("RAY_ADDRESS", None)
        # A guest is not to be taken for an earlier run whose workers have not ended yet.
        self._before = set(psutil.Process().children(recursive=True)) if self._is_guest else set()
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, *command], env=variables, cwd=ROOT, stdout=file, stderr=file
            )
        self._seen: dict[int, psutil.Process] = {}

    def find(self, kind: str) -> list[int]:
        """Processes of a kind that live now; `driver` is the run itself."""
        if kind == "driver":
            return [self.process.pid] if self.process.poll() is None else []
        # The workers of a run that is a guest of this process's Ray are below this process.
        root, found = os.getpid() if self._is_guest else self.process.pid, []
        with suppress(psutil.NoSuchProcess):
            for process in set(psutil.Process(root).children(recursive=True)) - self._before:
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    words = " ".join(process.cmdline())
                    if PATTERNS[kind] in words:
                        found.append(process.pid)
                    if not self._is_guest or any(PATTERNS[name] in words for name in GONE):
                        self._seen[process.pid] = process
        return found

    def wait_for(self, kind: str) -> list[int]:
        """Until there is one; [] when the run ends before."""
        while self.process.poll() is None:
            if found := self.find(kind):
                return found
            time.sleep(0.05)
        return []

    def wait_for_unit(self) -> None:
        """Until the first unit is finished. Raises RuntimeError when the run ends before."""
        while not units_done(self.out):
            if self.process.poll() is not None:
                raise RuntimeError(self.log.read_text())
            time.sleep(0.02)

    def wait(self) -> int | None:
        """The exit code; None for a run that hung and was killed here."""
        try:
            return self.process.wait(EXIT_LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None

    def clear(self) -> int:
        """End what outlives the run; returns how many processes did by then."""
        deadline = time.monotonic() + CLEAR_LIMIT
        while alive := [p for p in self._seen.values() if _lives(p)]:
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        return len(alive)


def _lives(process: psutil.Process) -> bool:
    # `is_running` knows a new process of the same number for another one.
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def units_done(out: Location) -> int:
    """How many are finished."""
    return len(storage.list_files(out / MARKERS, ".json"))


def fake_config(videos: Path, out: Location, **changes) -> PreprocessConfig:
    """Of all runs that are compared; no limit is reached by a healthy run on a busy machine."""
    return config_of(
        videos,
        out,
        **{"num_detectors": 2, "unit_frames": 20, "stall_seconds": 100.0, "tries": 9} | changes,
    )


def real_config(videos: Path, out: Location) -> PreprocessConfig:
    """With the embedded detector, in small units."""
    return PreprocessConfig(
        source=SourceConfig(path=(videos,)), out=out, unit_frames=16, stall_seconds=300.0
    )


def start(
    videos: Path, out: Location, log: Path, *, is_real: bool = False, **environment: str
) -> Victim:
    """A run, with the detector that needs no weights or with the embedded one."""
    words = ["-m", "tests.chaos.preprocess_run", str(videos), str(out)]
    return Victim(words + ["--real"] * is_real, out, log, **environment)


def main() -> int:
    """The victim itself."""
    logging.basicConfig(level=logging.INFO)
    videos, out = Path(sys.argv[1]), make_location(sys.argv[2])
    if "--real" in sys.argv:
        return preprocess(real_config(videos, out))
    return preprocess(fake_config(videos, out), detector=box_detector("nothing"))


if __name__ == "__main__":
    sys.exit(main())
