"""How long the plan of many small videos takes: the first time, and when they are known.

    python tests/benchmarks/bench_planning.py --videos 10000

One video, copied with a different tail (a `free` box), so that each has a content of its own.
"""

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from extpose.config import PreprocessConfig, SourceConfig
from extpose.video import VideoWriter
from pipelines.plan import plan_videos, settings_of
from pipelines.probing import probe_videos, read_probes, watched_scan, write_probes
from pipelines.sources.folder import find_sources


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "videos", Path(folder) / "out"
        source.mkdir()
        out.mkdir()
        size = write_videos(source, options.videos)
        config = PreprocessConfig(source=SourceConfig(path=(source,)), out=out)
        settings = settings_of(config, "x")
        rows = {}
        start = clocks()
        paths = find_sources(config.source.path).videos
        rows["find"] = lap(start)
        known = {}
        start = clocks()
        first = plan_videos(paths, config, settings, known)
        rows["plan, unknown"] = lap(start)
        start = clocks()
        with watched_scan() as scan:
            assert plan_videos(paths, config, settings, {}, scan=scan) == first
        rows["plan, unknown, in processes of their own"] = lap(start)
        # As after the two seconds in which a file counts as just changed.
        for _ in probe_videos(paths, known):
            pass
        write_probes(out, known, paths)
        start = clocks()
        again = plan_videos(paths, config, settings, read_probes(out))
        rows["plan, known"] = lap(start)
        assert again == first
        print(f"{len(paths)} videos of {size} bytes, {os.cpu_count()} cores")
        print("| step | s | CPU s | videos/s | videos / CPU s |\n|---|---|---|---|---|")
        for name, (wall, cpu) in rows.items():
            rates = f"{len(paths) / wall:.0f} | {len(paths) / cpu:.0f}"
            print(f"| {name} | {wall:.1f} | {cpu:.1f} | {rates} |")


def clocks() -> tuple[float, float]:
    """Wall and CPU seconds (with ended children); the latter also mean much on a busy machine."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    ours = time.process_time() + children.ru_utime + children.ru_stime
    return time.perf_counter(), ours


def lap(start: tuple[float, float]) -> tuple[float, float]:
    wall, cpu = clocks()
    return wall - start[0], cpu - start[1]


def write_videos(folder: Path, count: int) -> int:
    """Small mp4 files; the size of one."""
    first = folder / "000000.mp4"
    rng = np.random.default_rng(0)
    with VideoWriter(first, 25.0, (120, 160)) as writer:
        for _ in range(20):
            writer.write(rng.integers(0, 255, (120, 160, 3), np.uint8))
    data = first.read_bytes()
    for i in range(1, count):
        box = (16).to_bytes(4, "big") + b"free" + i.to_bytes(8, "big")
        (folder / f"{i:06d}.mp4").write_bytes(data + box)
    return len(data)


if __name__ == "__main__":
    main()
