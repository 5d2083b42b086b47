"""The benchmark of the network still runs and prints every table; numbers are not tested."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_every_table_of_the_network_is_printed():
    command = [sys.executable, "tests/benchmarks/bench_network.py", "--quick", "--repeats", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for words in (
        "PyTorch's CPU flash kernel (cpu, bfloat16, head width 80)",
        "2 union ",
        "2 explicit mask ",
        "image, plain reading",
        "4 frames of both",
        "tiny ",
        "utilisation",
    ):
        assert words in done.stdout, words
