"""A few of the faults of `python -m tests.chaos.train`, as that command runs them."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.chaos.outcome import rounding_differences

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


def ended_run(out: Path, losses: list[float], weight: float) -> Path:
    """What the comparison reads of a run folder."""
    out.mkdir()
    with (out / "log.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "loss"])
        writer.writerows([i + 1, loss] for i, loss in enumerate(losses))
    save_file({"weight": torch.tensor([weight])}, out / "model.safetensors")
    return out


def test_what_counts_as_rounding_has_bounds(tmp_path: Path) -> None:
    straight = ended_run(tmp_path / "straight", [1.0] * 40, 0.0)
    near = ended_run(tmp_path / "near", [1.0] * 20 + [1.01] * 20, 0.006)
    far = ended_run(tmp_path / "far", [1.0] * 40, 0.5)
    early = ended_run(tmp_path / "early", [1.0] * 10 + [1.01] * 30, 0.0)
    assert rounding_differences(straight, near, near) == []
    assert len(rounding_differences(straight, near)) == 2
    assert "weights differ by 5.0e-01, allowed 3.0e-02" in rounding_differences(straight, far, far)
    told = "losses of 20 steps differ by 1.0e-02, allowed 1.0e-03"
    assert told in rounding_differences(straight, early, early)
