"""Where runs of preprocessing are harmed: videos, an unharmed run of them, and what to compare.

A run is harmed in a process of its own; then it is run again here with a healthy detector, and what
lies in its folder (on a disk or in a store) must have the bytes of the unharmed run.
"""

import hashlib
import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import ray

from extpose import storage
from extpose.assets import fetch
from extpose.errors import ExtPoseError
from extpose.storage import Location, S3Path
from extpose.video import VideoWriter, probe, read_frames
from pipelines.preprocess import preprocess
from pipelines.runtime import ray_session
from tests.chaos.preprocess_run import Victim, fake_config, real_config, start, units_done
from tests.pipelines.fakes import box_detector, write_people
from tests.s3_server import BUCKET, S3Server

REAL_FRAMES = 64


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fault."""

    fault: str
    moment: str
    outcome: str
    after: str
    is_ok: bool
    kills: int = 0
    is_tried: bool = True

    def __str__(self) -> str:
        verdict = "ok" if self.is_ok else "FAILED"
        return f"| {self.fault} | {self.moment} | {self.outcome} | {self.after} | {verdict} |"


def digest(out: Location) -> str:
    """Over names and bytes of all that a run must make the same every time."""
    total = hashlib.sha256()
    for path in (entry.location for entry in storage.list_files(out)):
        if path.suffix == ".tar" or path.name in ("manifest.json", "quarantine.jsonl"):
            content = hashlib.sha256(storage.read_bytes(path)).digest()
            total.update(path.name.encode() + b"\0" + content)
    return total.hexdigest()


def make_videos(folder: Path) -> Path:
    """People, nobody, one bad frame (for detectors that mind it), and a file that is no video."""
    folder.mkdir()
    write_people(folder / "two people.mp4", 120, people=2)
    write_people(folder / "one.mp4", 60)
    write_people(folder / "nobody.mp4", 20, people=0)
    write_people(folder / "odd frame.mp4", 40, poison=25)
    (folder / "empty.mp4").touch()
    return folder


class Lab:
    """The videos, what an unharmed run makes of them, and folders for harmed ones."""

    def __init__(
        self,
        folder: Path,
        seed: int,
        *,
        store: S3Server,
        pace: float = 0.05,
        is_real: bool = False,
    ) -> None:
        """`pace`: seconds a frame of the fake detector, in runs that are to be harmed.

        `store`: in the environment of this process, and of its Ray.
        """
        self.store = store
        self.folder, self.random, self.is_real = folder, random.Random(seed), is_real
        self.pace = pace
        self.count = 0
        self.videos = real_videos(folder / "real") if is_real else make_videos(folder / "videos")
        self.unharmed = folder / ("unharmed-real" if is_real else "unharmed")
        self.code = self.run(self.unharmed)
        self.expected = digest(self.unharmed)

    def new_out(self) -> Path:
        """A folder that is not there yet."""
        self.count += 1
        return self.folder / f"{'real' if self.is_real else 'fake'}{self.count}"

    def new_prefix(self) -> S3Path:
        """The same in the store."""
        return S3Path(f"s3://{BUCKET}/{self.new_out().name}")

    def run(self, out: Location) -> int:
        """In this process, with a healthy detector."""
        if self.is_real:
            return preprocess(real_config(self.videos, out))
        return preprocess(fake_config(self.videos, out), detector=box_detector("nothing"))

    def start(self, out: Location, *, own_ray: bool = True, **environment: str) -> Victim:
        """The same in another process, slowly enough to be harmed; else a guest of this Ray."""
        if not own_ray:
            environment["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        slow = {"FAKE_DETECTOR_SECONDS": str(self.pace)} | environment
        log = self.folder / f"{out.name}.log"
        return start(self.videos, out, log, is_real=self.is_real, **slow)

    def run_again(self, out: Location) -> tuple[str, bool]:
        """Whether a healthy run brings the folder to what it must be."""
        try:
            code = self.run(out)
        except ExtPoseError as error:
            return f"error: {error}", False
        is_equal = digest(out) == self.expected and code == self.code
        return "same bytes" if is_equal else f"OTHER BYTES (exit {code})", is_equal

    def finish(self, fault: str, moment: str, victim: Victim, *, expected: set[int]) -> Row:
        """Wait for the harmed run, clear up, run again."""
        code, left = victim.wait(), victim.clear()
        outcome = "hung" if code is None else f"exit {code}"
        if left:
            outcome += f", {left} processes left"
        units = units_done(victim.out)
        after, is_equal = self.run_again(victim.out)
        return Row(
            fault=fault + " (real detector)" * self.is_real,
            moment=moment,
            outcome=f"{outcome}, {units} units done",
            after=after,
            is_ok=is_equal and code in expected and not left,
        )


def real_videos(folder: Path) -> Path:
    """The start of a packaged video."""
    folder.mkdir()
    source = fetch("video-walkers")
    info = probe(source)
    size = (info.height // 4 * 2, info.width // 4 * 2)
    with VideoWriter(folder / "walkers.mp4", info.fps, size) as writer:
        for frame in islice(read_frames(source), REAL_FRAMES):
            writer.write(cv2.resize(frame.rgb, size[::-1], interpolation=cv2.INTER_AREA))
    return folder


@contextmanager
def laboratory() -> Iterator[Path]:
    """In a folder of its own, which also holds what killed Ray sessions leave behind."""
    before = tempfile.tempdir
    # The names of Ray's sockets are long, and may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="c", dir="/tmp") as folder:
        tempfile.tempdir = os.environ["TMPDIR"] = folder
        try:
            with ray_session():
                yield Path(folder)
        finally:
            tempfile.tempdir = before
            os.environ.pop("TMPDIR", None)
