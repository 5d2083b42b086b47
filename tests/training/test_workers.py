"""Which workers a batch can be shared out to, and the group that they form."""

from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from extpose.training.workers import leave_surplus, useful_workers
from tests.processes import run_together

SCRIPT = Path(__file__).parent / "surplus_steps.py"


@given(batch=st.integers(1, 500), workers=st.integers(1, 64))
def test_most_workers_that_share_evenly(batch: int, workers: int) -> None:
    useful = useful_workers(batch, workers)
    assert 1 <= useful <= workers
    assert batch % useful == 0
    assert all(batch % more for more in range(useful + 1, workers + 1))


def test_a_process_alone_stays() -> None:
    assert leave_surplus(4, torch.device("cpu"))


def test_three_workers_and_a_batch_of_four_make_a_group_of_two(tmp_path: Path) -> None:
    runs = run_together(*([str(SCRIPT), str(tmp_path), rank] for rank in "012"))
    assert [run.returncode for run in runs] == [0, 0, 0], [run.stderr[-1000:] for run in runs]
    told = [run.stdout.split() for run in runs]
    assert told == [["0", "2", "1.0"], ["1", "2", "1.0"], ["surplus"]]
