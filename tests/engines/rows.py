"""The lines of the table: how far every engine is from plain torch after each step."""

import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.engines.steps import NUMBERS, STEPS, WAYS, Case, cases, learning_rate
from tests.processes import run_together

ROOT = Path(__file__).parents[2]
WORKERS = (1, 2)
LIMITS = {
    "fp32": {"loss": 1e-6, "typical": 1e-3, "largest": 5e-2},
    "bf16": {"loss": 5e-3, "typical": 2e-1},
}
"""Of each line of a row. A single weight is not judged in bf16: Adam divides by the root of a mean
square, so where a gradient is next to nothing its rounding decides a whole step."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One engine: differences from plain torch (one worker, one micro-batch) after each step."""

    name: str
    precision: str
    loss: tuple[float, ...]
    """The largest of the loss, the gradient's norm and the discriminator's loss; relative."""
    typical: tuple[float, ...]
    """Root mean square over all weights, as a share of the way that Adam can have moved one (the
    sum of the learning rates)."""
    largest: tuple[float, ...]
    """Of a single weight, as a share of the same way."""

    @property
    def passed(self) -> bool:
        """Not a number never passes."""
        limits = LIMITS[self.precision].items()
        return all(value <= limit for line, limit in limits for value in getattr(self, line))


def compare(case: Case, found: dict[str, Tensor], plain: dict[str, Tensor]) -> Row:
    """A line. Raises ValueError where a tensor is missing."""
    if found.keys() != plain.keys():
        raise ValueError(f"{case.name}: {sorted(found.keys() ^ plain.keys())[:3]} on one side only")
    numbers, expected = found[NUMBERS].double(), plain[NUMBERS].double()
    typical, largest, way = [], [], 0.0
    for step in range(STEPS):
        way += learning_rate(step)
        names = [name for name in plain if name.startswith(f"{step}/")]
        moved = torch.cat([(found[n] - plain[n]).flatten() for n in names]).double() / way
        typical.append(float(moved.square().mean().sqrt()))
        largest.append(float(moved.abs().max()))
    return Row(
        name=case.name,
        precision=case.config.precision,
        loss=tuple(((numbers - expected).abs() / expected.abs()).amax(1).tolist()),
        typical=tuple(typical),
        largest=tuple(largest),
    )


def run_cases(names: Collection[str] = WAYS) -> list[Row]:
    """These ways, and the first one of `WAYS`, by one worker and by two.

    In processes of their own: DeepSpeed changes torch's autograd for good. Raises
    RuntimeError with what a worker said when it failed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = run_together(*(
            ["-m", "tests.engines.steps", name, str(rank), str(workers), *names]
            for workers in WORKERS
            for rank in range(workers)
        ))  # fmt: skip
        for run in runs:
            if run.returncode:
                raise RuntimeError(run.stderr[-3000:])
        every = [case for workers in WORKERS for case in cases(workers, names)]
        results = {case.name: load_file(folder / f"{case.name}.safetensors") for case in every}
    plain = results[every[0].name]
    return [compare(case, results[case.name], plain) for case in every]
