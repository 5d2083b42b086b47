"""What an import costs: seconds, memory, and whether torch came with it. Budget: extpose 0.3 s.

python tests/benchmarks/bench_import.py
"""

import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
REPEATS = 5
MODULES = (
    "extpose",
    "extpose.schema",
    "extpose.config",
    "extpose.data.shards",
    "pipelines.cli",
    "extpose.model.extpose",
)
PROBE = """
import importlib, resource, sys, time
start = time.perf_counter()
importlib.import_module({name!r})
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(seconds, peak, "torch" in sys.modules)
"""


def measure(name: str) -> tuple[float, float, bool]:
    """Median seconds and MiB over fresh processes, and whether torch was loaded."""
    seconds, peaks, loaded = [], [], False
    for _ in range(REPEATS):
        command = [sys.executable, "-c", PROBE.format(name=name)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        time, peak, torch = done.stdout.split()
        seconds.append(float(time))
        peaks.append(float(peak))
        loaded = torch == "True"
    return statistics.median(seconds), statistics.median(peaks), loaded


def main() -> None:
    """Print the table."""
    print(f"{'module':<24}{'seconds':>9}{'peak MiB':>10}  torch")
    for name in MODULES:
        seconds, peak, torch = measure(name)
        print(f"{name:<24}{seconds:>9.3f}{peak:>10.0f}  {'yes' if torch else 'no'}")


if __name__ == "__main__":
    main()
