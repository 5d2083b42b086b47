"""The table of engines as a test, of some of its rows; and that it can fail."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.engines import __main__ as command
from tests.engines.rows import LIMITS, Row, compare, run_cases
from tests.engines.steps import NUMBERS, STEPS, WAYS, cases

FEW = (
    "ZeRO 0", "ZeRO 1", "ZeRO 2, 2 micro-batches", "ZeRO 3, parameters offloaded", "ZeRO 2, bf16",
)  # fmt: skip


@pytest.mark.slow
def test_engines_agree_step_by_step_with_one_worker_and_two():
    rows = run_cases(FEW)
    assert len(rows) == 2 * (1 + len(FEW))
    assert all(row.passed for row in rows), command.table(rows)
    assert all(max(row.largest) > 0 for row in rows[1:])


def _results(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = {f"{i}/a": torch.rand(50, generator=generator) for i in range(STEPS)}
    return weights | {NUMBERS: torch.rand(STEPS, 3, generator=generator) + 1}


@pytest.mark.parametrize("line", LIMITS["fp32"])
def test_a_difference_in_one_step_is_seen(line: str):
    plain, found = _results(), _results()
    case = cases(1, ())[0]
    assert compare(case, found, plain).passed
    if line == "loss":
        found[NUMBERS][3, 1] *= 1 + 1e-5
    elif line == "typical":
        found["3/a"] += 5e-5
    else:
        found["3/a"][7] += 1e-3
    row = compare(case, found, plain)
    assert not row.passed
    assert [value > 1e-9 for value in getattr(row, line)] == [i == 3 for i in range(STEPS)]
    found.pop("3/a")
    with pytest.raises(ValueError, match="3/a"):
        compare(case, found, plain)


def test_the_command_fails_where_a_row_does(monkeypatch: pytest.MonkeyPatch, capsys):
    zeros = (0.0,) * STEPS
    good = Row(name="a", precision="fp32", loss=zeros, typical=zeros, largest=zeros)
    monkeypatch.setattr(command, "run_cases", lambda: [good])
    assert command.main() == 0
    bad = replace(good, typical=(float("nan"), *zeros[1:]))
    monkeypatch.setattr(command, "run_cases", lambda: [good, bad])
    assert command.main() == 1
    assert "1 of 2 pass" in capsys.readouterr().out


def test_every_way_is_another():
    assert len({(case.config, case.accumulation) for case in WAYS.values()}) == len(WAYS)
