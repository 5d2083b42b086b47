"""Rate and memory of preprocessing on a real video, looped.

    python tests/benchmarks/bench_preprocess.py --seconds 10 60
    python tests/benchmarks/bench_preprocess.py --seconds 10 60 600 --fake

Floor: cores divided by the CPU time a frame of the stages, each run alone in this process. The rate
means something on an idle machine only; the CPU time a frame of the whole run (Ray and start-up
included) also says something on a busy one, and so does its ratio to that of the stages. Memory:
the largest sum, over this process and all below it, of what is its own (USS), and how much shared
memory Ray's objects took at most. `--fake`: small drawn videos and a detector that costs nothing,
for memory alone.
"""

import argparse
import logging
import os
import tempfile
import threading
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path

import cv2

from extpose.assets import fetch
from extpose.config import CropConfig, DetectConfig, PreprocessConfig, SourceConfig
from extpose.video import VideoWriter, probe, read_frames
from pipelines.detectors import detector_spec
from pipelines.ledger import open_output
from pipelines.plan import plan_videos, settings_of
from pipelines.preprocess import preprocess
from pipelines.stages.detect import DetectorSpec, detect_unit
from pipelines.stages.pack import pack
from pipelines.stages.track import track
from tests.pipelines.fakes import box_detector, write_people

WIDTH = 960
"""The video is shrunk to this for looping."""


class TreeWatch:
    """Samples a process tree: `peak` USS in MiB, over all and by process name, and CPU seconds."""

    def __init__(self) -> None:
        self.peak, self.shared, self.by_name = 0.0, 0.0, dict[str, float]()
        self._shared_before = _shared()
        self._cpu: dict[int, float] = {}
        self._own = 0.0
        self._cpu_before = _cpu_seconds(os.getpid())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "TreeWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def cpu_seconds(self) -> float:
        """Of all processes seen, without what this one used before and for watching."""
        return sum(self._cpu.values()) - self._cpu_before - self._own

    def _watch(self) -> None:
        # Reading the USS costs tens of milliseconds a process: seldom, and taken off the bill.
        while not self._stop.wait(2.0):
            sizes = {pid: _uss(pid) for pid in _tree(os.getpid())}
            self.peak = max(self.peak, sum(sizes.values()))
            self.shared = max(self.shared, _shared() - self._shared_before)
            self._cpu |= {pid: _cpu_seconds(pid) or self._cpu.get(pid, 0.0) for pid in sizes}
            for pid, size in sizes.items():
                name = _name(pid)
                self.by_name[name] = max(self.by_name.get(name, 0.0), size)
            self._own = time.thread_time()


def _tree(root: int) -> list[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(stat[1])
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += [child for child, parent in parents.items() if parent == pid]
    return found


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process; 0 when it is gone."""
    with suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _uss(pid: int) -> float:
    """MiB that only this process holds; 0 when it is gone."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return sum(int(x.split()[1]) for x in lines if x.startswith("Private_")) / 1024
    return 0.0


def _shared() -> float:
    """MiB of shared memory of the whole machine."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Shmem:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _name(pid: int) -> str:
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().split()
        return Path(words[0]).name if words else "?"
    return "?"


def loop_video(source: Path, path: Path, seconds: float) -> Path:
    """The source, shrunk, again and again."""
    info = probe(source)
    size = (round(info.height * WIDTH / info.width / 2) * 2, WIDTH)
    left = round(seconds * info.fps)
    with VideoWriter(path, info.fps, size) as writer:
        while left > 0:
            for frame in islice(read_frames(source), left):
                writer.write(cv2.resize(frame.rgb, size[::-1], interpolation=cv2.INTER_AREA))
                left -= 1
    return path


def stage_costs(config: PreprocessConfig, spec: DetectorSpec) -> dict[str, float]:
    """CPU milliseconds a frame of each stage, alone in this process, on the first two units."""
    with open_output(config.out):
        [video] = plan_videos(config.source.path, config, settings_of(config, spec.identity))
    detector = spec.build(config.detect)
    costs = {"detect": 0.0, "track": 0.0, "pack": 0.0}
    units = video.units[:3]
    for number, unit in enumerate(units):
        row, times = vars(unit), [time.process_time()]
        for stage in (
            lambda row: row | {"detections": detect_unit(detector, row, lambda _: None).bundle},
            lambda row: track(row, config=config.detect),
            lambda row: pack(row, config=config, detector=spec.name),
        ):
            row = stage(row)
            times.append(time.process_time())
        if number:  # the first one warms up
            for i, name in enumerate(costs):
                costs[name] += 1e3 * (times[i + 1] - times[i])
    num_frames = sum(unit.num_frames for unit in units[1:])
    return {name: cost / num_frames for name, cost in costs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, nargs="+", default=[10.0, 60.0])
    parser.add_argument("--unit-frames", type=int, default=64)
    parser.add_argument("--detectors", type=int, default=2)
    parser.add_argument("--max-memory", type=float, default=0.0)
    parser.add_argument("--fake", action="store_true")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    spec = box_detector("nothing") if args.fake else detector_spec("movenet", DetectConfig())
    source = Path() if args.fake else fetch("video-walkers")
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        videos = {}
        for s in args.seconds:
            path = Path(folder) / f"{s:g}.mp4"
            videos[s] = (
                write_people(path, round(25 * s)) if args.fake else loop_video(source, path, s)
            )

        def config_of(seconds: float, out: str) -> PreprocessConfig:
            return PreprocessConfig(
                source=SourceConfig(path=(videos[seconds],)),
                out=Path(folder) / out,
                unit_frames=args.unit_frames,
                num_detectors=args.detectors,
                max_memory=args.max_memory,
                crop=CropConfig(size=64 if args.fake else 256),
            )

        costs = stage_costs(config_of(args.seconds[-1], "alone"), spec)
        floor = 1e3 * cores / sum(costs.values())
        print(", ".join(f"{name} {cost:.1f} ms" for name, cost in costs.items()), "CPU a frame")
        print(f"floor {floor:.2f} frames/s on {cores} cores")
        print(
            f"{'video':>8}{'frames':>8}{'s':>8}{'frames/s':>10}{'of floor':>10}"
            f"{'CPU ms':>8}{'of it':>8}{'peak MiB':>10}{'shared':>8}"
        )
        for seconds in args.seconds:
            with TreeWatch() as watch:
                start = time.monotonic()
                preprocess(config_of(seconds, f"{seconds:g}"), detector=spec)
                wall = time.monotonic() - start
            frames = probe(videos[seconds]).num_frames
            rate, cpu = frames / wall, 1e3 * watch.cpu_seconds / frames
            print(
                f"{seconds:>7g}s{frames:>8}{wall:>8.1f}{rate:>10.2f}{rate / floor:>10.2f}"
                f"{cpu:>8.1f}{sum(costs.values()) / cpu:>8.2f}{watch.peak:>10.0f}"
                f"{watch.shared:>8.0f}"
            )
            largest = sorted(watch.by_name.items(), key=lambda item: -item[1])[:4]
            print("        " + ", ".join(f"{name} {size:.0f}" for name, size in largest))


if __name__ == "__main__":
    main()
