"""Harm to preprocessing, at random moments, and whether the same bytes come out in the end.

    python -m tests.chaos.preprocess --seed 0 --runs 24
    python -m tests.chaos.preprocess --runs 0 --real 3

Each row is one fault: a run is harmed, then it is run again (unless it finished by itself), and the
hash over all shards, the manifest and the quarantine list is compared with an unharmed run's.
`--runs` is the number of killed runs with a fake detector, spread over driver, raylet, actor,
detector and task, or with `--kills 5` that many of them in each run. The other faults are tried
once each. `--real` is the number of killed runs with the embedded detector on real footage. Exit
code 1 when a row fails.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import cv2
import ray

from extpose.assets import fetch
from extpose.errors import ExtPoseError
from extpose.video import VideoWriter, probe, read_frames
from pipelines.preprocess import preprocess
from pipelines.runtime import ray_session
from tests.chaos.preprocess_run import Victim, fake_config, real_config, start
from tests.pipelines.fakes import box_detector, write_people

WORKERS, ENDS = ("actor", "detector", "task"), ("driver", "raylet")
TARGETS = (*ENDS, *WORKERS)
HEADER = "| fault | moment | outcome | after the next run | |\n|---|---|---|---|---|"
EXITS = {"driver": {-9}, "raylet": {1, -6, -9, -15}}
"""Of a run that loses this process. One that loses another goes on, and ends as if unharmed."""
EARLY = 0.3
"""Share of the killed drivers that are killed while they plan or start Ray."""
LATE = "(all done)"
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

    def __str__(self) -> str:
        verdict = "ok" if self.is_ok else "FAILED"
        return f"| {self.fault} | {self.moment} | {self.outcome} | {self.after} | {verdict} |"


def digest(out: Path) -> str:
    """Over names and bytes of all that a run must make the same every time."""
    total = hashlib.sha256()
    for path in sorted(out.iterdir()):
        if path.suffix == ".tar" or path.name in ("manifest.json", "quarantine.jsonl"):
            total.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
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
        self, folder: Path, seed: int, *, pace: float = 0.05, is_real: bool = False
    ) -> None:
        """`pace`: seconds a frame of the fake detector, in runs that are to be harmed."""
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

    def run(self, out: Path) -> int:
        """In this process, with a healthy detector."""
        if self.is_real:
            return preprocess(real_config(self.videos, out))
        return preprocess(fake_config(self.videos, out), detector=box_detector("nothing"))

    def start(self, out: Path, *, own_ray: bool = True, **environment: str) -> Victim:
        """The same in another process, slowly enough to be harmed; else a guest of this Ray."""
        if not own_ray:
            environment["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        slow = {"FAKE_DETECTOR_SECONDS": str(self.pace)} | environment
        return start(self.videos, out, is_real=self.is_real, **slow)

    def run_again(self, out: Path) -> tuple[str, bool]:
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
        units = len(list(victim.out.glob("done/*.json")))
        after, is_equal = self.run_again(victim.out)
        return Row(
            fault=fault + " (real detector)" * self.is_real,
            moment=moment,
            outcome=f"{outcome}, {units} units done",
            after=after,
            is_ok=is_equal and code in expected and not left,
        )


def kill(lab: Lab, targets: Sequence[str]) -> Row:
    """`kill -9` of processes of one run, each at a random moment after the one before."""
    own_ray = "raylet" in targets
    victim, began, moments = lab.start(lab.new_out(), own_ray=own_ray), time.monotonic(), []
    for number, target in enumerate(targets):
        if target == "driver" and not number and lab.random.random() < EARLY:
            delay = lab.random.uniform(0.0, 6.0)
        else:
            victim.wait_for("actor" if target == "driver" else target)
            delay = lab.random.uniform(0.0, 0.3 if target == "task" else 4.0)
        time.sleep(delay)
        # The one that was waited for may be gone by now.
        alive = victim.wait_for(target)[:1]
        moments.append(f"{time.monotonic() - began:.1f}" if alive else LATE)
        for pid in alive:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    expected = EXITS.get(targets[-1], {lab.code}) if alive else {lab.code}
    moment = f"after {', '.join(moments)} s"
    row = lab.finish(f"kill -9 {', '.join(targets)}", moment, victim, expected=expected)
    return replace(row, kills=len(targets) - moments.count(LATE))


def draw_targets(lab: Lab, runs: int, kills: int) -> Iterator[list[str]]:
    """What is killed in each run: all kinds equally often; a run ends with its driver or raylet."""
    if kills == 1:
        yield from ([TARGETS[number % len(TARGETS)]] for number in range(runs))
        return
    for number in range(runs):
        workers = [WORKERS[(number + i) % len(WORKERS)] for i in range(kills - 1)]
        lab.random.shuffle(workers)
        yield [*workers, ENDS[number % len(ENDS)]]


def lose_node(lab: Lab) -> Row:
    """One of three nodes of a cluster goes away while it works."""
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 3, "include_dashboard": False}
    )
    nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
    try:
        victim = lab.start(lab.new_out(), RAY_ADDRESS=cluster.address)
        began = time.monotonic()
        victim.wait_for_unit()
        time.sleep(lab.random.uniform(0.0, 1.0))
        moment = f"{time.monotonic() - began:.1f} s"
        cluster.remove_node(nodes[0], allow_graceful=False)
        return lab.finish("node of a cluster lost", moment, victim, expected={lab.code})
    finally:
        cluster.shutdown()


def fill_disk(lab: Lab) -> Row:
    """A file system with room for half of the shards; then with room for all."""
    out = lab.new_out()
    out.mkdir()
    size = sum(path.stat().st_size for path in lab.unharmed.glob("*.tar"))
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size // 2048}k", "tmpfs", out], capture_output=True
    ).returncode:
        return Row(fault="disk full", moment="-", outcome="not tried: cannot mount", after="-",
                   is_ok=True)  # fmt: skip
    try:
        victim = lab.start(out, own_ray=False)
        code = victim.wait()
        victim.clear()
        told = "cannot be written" in victim.log.read_text()
        subprocess.run(["mount", "-o", "remount,size=256m", out], check=True)
        units = len(list(out.glob("done/*.json")))
        after, is_equal = lab.run_again(out)
    finally:
        subprocess.run(["umount", out], check=True)
    outcome = f"exit {code}, {'names the file' if told else 'NO MESSAGE'}, {units} units done"
    return Row(fault="disk full", moment="half-way", outcome=outcome, after=after,
               is_ok=is_equal and told and code == 1)  # fmt: skip


def two_drivers(lab: Lab) -> Row:
    """A second run on the folder of one that works."""
    victim = lab.start(lab.new_out(), own_ray=False)
    victim.wait_for_unit()
    try:
        preprocess(fake_config(lab.videos, victim.out), detector=box_detector("nothing"))
        refusal = "THE SECOND WAS LET IN"
    except ExtPoseError as error:
        refusal = "second refused" if "another run" in str(error) else f"second: {error}"
    row = lab.finish(f"two drivers ({refusal})", "first unit done", victim, expected={lab.code})
    return row if refusal == "second refused" else replace(row, is_ok=False)


DETECTOR_FAULTS = {
    "raises": "ArithmeticError",
    "hangs": "detector_hung",
    "crashes": "detector_crashed",
    "says NaN": "DetectorError",
    "forgets a score": "DetectorError",
    "kills its actor": "workers_died",
}


def break_detector(lab: Lab, fault: str, reason: str) -> Row:
    """A detector that misbehaves on one frame: its unit is quarantined, the others are written."""
    out = lab.new_out()
    config = fake_config(lab.videos, out, frame_seconds=2.0, tries=2)
    code = preprocess(config, detector=box_detector(fault))
    rows = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    found = [(r["reason"], r["start"], r["message"]) for r in rows if "odd frame" in r["path"]]
    manifest = json.loads((out / "manifest.json").read_text())
    counts = manifest["frame_counts"]
    is_ok = (
        code == lab.code
        and [f[:2] for f in found] == [(reason, 20)]
        and ("frame 25" in found[0][2] or reason == "workers_died")
        and counts["quarantined"] == 20
        and counts["frames"] == counts["written"] + sum(counts["filtered"].values()) + 20
    )
    after, is_equal = lab.run_again(out)
    return Row(
        fault=f"detector {fault}", moment="frame 25 of a video",
        outcome=f"{reason}: one unit quarantined, {len(manifest['shards'])} shards"
        if is_ok else f"exit {code}, {found}, {counts}",
        after=after, is_ok=is_ok and is_equal,
    )  # fmt: skip


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


def faults(folder: Path, args: argparse.Namespace) -> Iterator[Callable[[], Row]]:
    """All of them, one after the other."""
    lab = Lab(folder, args.seed, pace=args.pace)
    for targets in draw_targets(lab, args.runs, args.kills):
        yield partial(kill, lab, targets)
    if not args.kills_only:
        yield partial(lose_node, lab)
        yield partial(fill_disk, lab)
        yield partial(two_drivers, lab)
        for fault, reason in DETECTOR_FAULTS.items():
            yield partial(break_detector, lab, fault, reason)
    if args.real:
        real = Lab(folder, args.seed, is_real=True)
        for number in range(args.real):
            yield partial(kill, real, [("driver", "detector", "actor")[number % 3]])


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


def main() -> int:
    """Print the table; 1 when a row failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=25, help="killed, with the fake detector")
    parser.add_argument("--kills", type=int, default=1, help="in each of these runs")
    parser.add_argument("--pace", type=float, default=0.05, help="s/frame, fake detector")
    parser.add_argument("--real", type=int, default=3, help="killed, with the embedded detector")
    parser.add_argument("--kills-only", action="store_true", help="leave the other faults out")
    args = parser.parse_args()
    began, rows = time.monotonic(), []
    with laboratory() as folder:
        print(HEADER)
        for fault in faults(folder, args):
            rows.append(fault())
            print(rows[-1], flush=True)
    failed = sum(not row.is_ok for row in rows)
    print(
        f"\n{len(rows)} harmed runs, {sum(row.kills for row in rows)} times kill -9, seed "
        f"{args.seed}: {len(rows) - failed} ended as they must, "
        f"{failed} did not; {time.monotonic() - began:.0f} s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
