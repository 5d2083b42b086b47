"""A few of the faults of `python -m tests.chaos.train`, as that command runs them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def hurt(part: str, *, seed: int) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "tests.chaos.train"]
    command += ["--only", part, "--runs", "1", "--seed", str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_a_killed_driver_goes_on_bit_for_bit() -> None:
    told = hurt("short", seed=4)
    assert "3 faults, 0 failed, 3 runs compared and found the same" in told


@pytest.mark.slow
def test_workers_join_and_are_lost() -> None:
    told = hurt("workers", seed=4)
    assert "two workers join one, ZeRO-2" in told
    assert "one of two is killed, ZeRO-2" in told
    assert "3 faults, 0 failed, 1 runs compared" in told
