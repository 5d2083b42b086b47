"""What became of a run that was hurt, beside the one that was left alone; as a row of a table."""

import math
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import load_file

from extpose.training.checkpoint import STATE_FILE, find_latest
from extpose.training.saving import CHECKPOINTS
from tests.pipelines.train_runs import read_log


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One row."""

    fault: str
    moment: str
    outcome: str
    differences: list[str] | None = field(default_factory=list)
    """From the run that was left alone; None: nothing to compare with."""
    is_good: bool = True

    @property
    def is_ok(self) -> bool:
        return self.is_good and not self.differences

    def row(self) -> str:
        equal = "-" if self.differences is None else ", ".join(self.differences) or "yes"
        verdict = "ok" if self.is_ok else "FAILED"
        return f"| {self.fault} | {self.moment} | {self.outcome} | {equal} | {verdict} |"


FIRST_STEPS = 20
LEAST, MOST = 1e-3, 0.03
"""Of weights (the learning rate of these runs is the first), and of losses, relative."""
HEADER = "| fault | moment | outcome | bit-equal | |\n|---|---|---|---|---|"


def bit_differences(expected: Path, found: Path) -> list[str]:
    """Names of what is not the same: weights, optimiser state as bytes, the log as text."""
    same = {
        "log": read_log(expected) == read_log(found),
        "weights": largest_difference(expected, found) == 0,
        "optimiser state": _state(expected).read_bytes() == _state(found).read_bytes(),
    }
    return [f"other {name}" for name, is_same in same.items() if not is_same]


def rounding_differences(expected: Path, found: Path, control: Path | None = None) -> list[str]:
    """The same between runs of different numbers of workers, which agree within rounding.

    What rounding makes of a long run, nobody knows beforehand. `control` is a run that was left
    alone as `expected` was, and adds up in another order: up to twice its distance is rounding, but
    no more than `MOST`. It has no time to grow in the first steps.
    """
    if read_log(expected)["step"] != read_log(found)["step"]:
        return ["other steps in the log"]
    measures = {
        f"losses of {FIRST_STEPS} steps": (_first_loss_difference, LEAST),
        "losses": (_loss_difference, MOST),
        "weights": (largest_difference, MOST),
    }
    differences = []
    for name, (measure, most) in measures.items():
        grown = 2 * measure(expected, control) if control is not None else 0.0
        allowed = min(max(LEAST, grown), most)
        if not (error := measure(expected, found)) <= allowed:
            differences.append(f"{name} differ by {error:.1e}, allowed {allowed:.1e}")
    return differences


def _loss_difference(expected: Path, found: Path, steps: int | None = None) -> float:
    """The largest of a step, relative."""
    first, second = ([float(v) for v in read_log(out)["loss"]] for out in (expected, found))
    return max(abs(b - a) / abs(a) for a, b in zip(first[:steps], second[:steps], strict=True))


def _first_loss_difference(expected: Path, found: Path) -> float:
    return _loss_difference(expected, found, FIRST_STEPS)


def largest_difference(expected: Path, found: Path) -> float:
    """Of the final weights; those that are not numbers differ."""
    first, second = (load_file(out / "model.safetensors") for out in (expected, found))
    if first.keys() != second.keys() or any(
        not value.isfinite().all() for value in second.values()
    ):
        return math.inf
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def last_step(out: Path) -> int:
    """Of the log as it is, whoever may be writing it."""
    path = out / "log.csv"
    lines = path.read_text().splitlines()[1:] if path.exists() else []
    steps = [line.split(",")[0] for line in lines if line.count(",") > 1]
    return int(steps[-1]) if steps and steps[-1] else 0


def _state(out: Path) -> Path:
    found = find_latest(out / CHECKPOINTS)
    assert found is not None
    return found[0] / STATE_FILE
