"""Reading 500 of many matrices from a long JSON list: by parts, and by the plain parser.

    python tests/benchmarks/bench_long_json.py [matrices]

Prints seconds and the growth of the process's peak memory, each way in a process of its own. Pages
of the mapped file count as memory here, though the system takes them back when it needs them.
"""

import json
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from pipelines.labels.long_json import count_matrices, read_matrices

SHAPE = (778, 3)


def read_part(path: Path) -> None:
    count = count_matrices(path)
    read_matrices(path, count - 500, count, shape=SHAPE)


def read_whole(path: Path) -> None:
    np.array(json.loads(path.read_text())[-500:])


def measure(function, path: Path, queue) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    function(path)
    seconds = time.perf_counter() - start
    queue.put((seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "verts.json"
        one = json.dumps(np.random.default_rng(0).normal(0, 0.1, SHAPE).tolist())
        with path.open("w") as file:
            file.write("[" + one)
            for _ in range(count - 1):
                file.write(", " + one)
            file.write("]")
        print(f"{count} meshes, {path.stat().st_size / 1e6:.0f} MB; the last 500 are read")
        for name, function in (("by parts", read_part), ("json.loads", read_whole)):
            queue = context.Queue()
            process = context.Process(target=measure, args=(function, path, queue))
            process.start()
            seconds, memory = queue.get()
            process.join()
            print(f"{name:12} {seconds:7.2f} s {memory:8.0f} MiB")


if __name__ == "__main__":
    main()
