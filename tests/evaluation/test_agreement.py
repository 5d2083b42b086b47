"""Every metric against an independent implementation of its published definition."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from extpose.evaluation.metrics import auc, auc_shares
from extpose.geometry import align_similarity
from tests import official
from tests.agreement import agreements, main


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_all_metrics_agree_to_a_millionth(seed):
    lines = agreements(seed)
    assert len(lines) == 19
    for line in lines:
        assert line.difference < 1e-6, line
        assert line.ours != 0, line


def test_the_table_is_printed(capsys):
    main()
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 20
    assert "PA-MPJPE, hands" in printed


def test_the_alignments_differ_where_mirrors_help():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(21, 3))
    mirrored = truth * [-1, 1, 1]
    assert official.mean_distance(official.align_hand(mirrored, truth), truth) < 1e-6
    assert official.mean_distance(official.align_body(mirrored, truth), truth) > 0.1
    a, b = torch.from_numpy(mirrored), torch.from_numpy(truth)
    assert (align_similarity(a, b, reflection=True) - b).abs().max() < 1e-6
    assert (align_similarity(a, b) - b).norm(dim=-1).mean() > 0.1


def test_auc_at_its_ends_and_between():
    errors = torch.tensor([0.0, 0.05, 0.0500001, 1.0, 0.025, float("nan")], dtype=torch.float64)
    shares = auc_shares(errors)
    assert shares[0] == 1
    assert shares[1] == pytest.approx(0.5 / 99)
    assert shares[2:4].tolist() == [0, 0]
    assert shares[4] == pytest.approx(0.5, abs=0.01)
    assert shares[5].isnan()


@settings(max_examples=30)
@given(st.lists(st.floats(0, 0.1), min_size=1, max_size=30))
def test_auc_is_bounded_falls_with_the_error_and_equals_the_curve(errors):
    column = torch.tensor(sorted(errors), dtype=torch.float64)[:, None]
    shares = auc_shares(column)
    assert ((shares >= 0) & (shares <= 1)).all()
    assert (shares.diff(dim=0) <= 0).all()
    assert float(auc(column)) == pytest.approx(official.area_under_pck(column.numpy()), abs=1e-9)


def test_auc_of_papers_is_the_aligned_one():
    """HaMeR's row of HO3D: PA-MPJPE 7.7 mm, AUC .846 = 1 - 7.7 / 50 (if no error exceeds 50)."""
    errors = torch.from_numpy(np.random.default_rng(0).gamma(4, 7.7e-3 / 4, (2000, 21)))
    assert float(auc(errors)) == pytest.approx(1 - float(errors.mean()) / 0.05, abs=1e-3)
    assert pytest.approx(0.846) == 1 - 7.7 / 50
