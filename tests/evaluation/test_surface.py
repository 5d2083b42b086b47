"""Nearest neighbours and F-scores: by hand, against trees, and by their symmetries."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from extpose.evaluation import surface
from extpose.evaluation.surface import f_scores, nearest_distances
from tests import official


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 60))
def test_distances_equal_a_trees_to_the_last_bit(seed, num_a, num_b):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(num_a, 3)), rng.normal(size=(num_b, 3))
    of_a, of_b = nearest_distances(a, b)
    assert np.array_equal(of_a, cKDTree(b).query(a)[0])
    assert np.array_equal(of_b, cKDTree(a).query(b)[0])


def test_large_sets_give_the_same_through_trees(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(200, 3)), rng.normal(size=(150, 3))
    pairs = nearest_distances(a, b)
    monkeypatch.setattr(surface, "_TREE_FROM_PAIRS", 100)
    for one, other in zip(pairs, nearest_distances(a, b), strict=True):
        assert np.array_equal(one, other)


def test_f_score_by_hand():
    target = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]])
    found = torch.tensor([[0.0, 0.004, 0], [1, 0.004, 0], [2, 0.01, 0]])
    # 5 mm: 2 of 3 found points are near, 2 of 4 target points are; 15 mm: 3 of 3 and 3 of 4
    expected = [2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4), 2 * 1 * 0.75 / 1.75]
    assert f_scores(found, target).tolist() == pytest.approx(expected)
    assert f_scores(found + 1, target).tolist() == [0, 0]


def test_a_distance_of_exactly_the_threshold_is_not_near():
    a, b = torch.zeros(1, 3).double(), torch.tensor([[0.5, 0, 0]]).double()
    assert f_scores(a, b, thresholds=(0.5, 0.5000001)).tolist() == [0, 1]


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_the_score_is_symmetric_and_batches_equal_their_frames(seed):
    rng = np.random.default_rng(seed)
    a, b = (torch.from_numpy(rng.normal(0, 0.01, (2, 3, 30, 3))) for _ in range(2))
    scores = f_scores(a, b)
    assert scores.shape == (2, 3, 2)
    assert torch.equal(scores, f_scores(b, a))
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (scores[..., 0] <= scores[..., 1]).all()
    assert scores[1, 2, 0] == official.f_score(a[1, 2].numpy(), b[1, 2].numpy(), 0.005)


def test_a_frame_that_is_not_finite_has_no_score():
    a = torch.zeros(2, 5, 3)
    a[0, 0, 0] = torch.nan
    assert f_scores(a, torch.zeros(2, 5, 3)).isnan().tolist() == [[True, True], [False, False]]
