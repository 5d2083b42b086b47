"""Metrics against scipy, by hand, and by what must not change them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from extpose.evaluation.metrics import aligned_errors, mpjae, mpjpe, mpvpe, pa_mpjpe, pa_mpvpe, pck
from extpose.evaluation.temporal import (
    acceleration_error,
    acceleration_errors,
    foot_sliding,
    jitter,
)

seeds = st.integers(0, 10_000)


def points(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def rotation(seed: int) -> torch.Tensor:
    return torch.from_numpy(Rotation.random(random_state=seed).as_matrix())


@settings(max_examples=20)
@given(seeds)
def test_pa_mpjpe_agrees_with_scipy(seed):
    found, target = points(seed, 4, 14, 3), points(seed + 1, 4, 14, 3)
    expected = []
    for a, b in zip(found.numpy(), target.numpy(), strict=True):
        a, b = a - a.mean(0), b - b.mean(0)
        turned = Rotation.align_vectors(b, a)[0].apply(a)
        scale = (turned * b).sum() / (a * a).sum()
        expected.append(np.linalg.norm(scale * turned - b, axis=-1).mean())
    assert np.abs(pa_mpjpe(found, target).numpy() - expected).max() < 1e-6


@settings(max_examples=20)
@given(seeds, st.floats(0.1, 10), st.tuples(*[st.floats(-5, 5)] * 3))
def test_a_similarity_of_the_prediction_changes_no_aligned_error(seed, scale, shift):
    found, target = points(seed, 3, 17, 3), points(seed + 1, 3, 17, 3)
    moved = scale * found @ rotation(seed).T + torch.tensor(shift, dtype=torch.float64)
    for metric in (pa_mpjpe, pa_mpvpe):
        torch.testing.assert_close(metric(moved, target), metric(found, target))
        torch.testing.assert_close(metric(moved, found), torch.zeros(3).double(), rtol=0, atol=1e-9)


def test_a_mirrored_prediction_is_not_a_perfect_one():
    target = points(0, 1, 17, 3)
    assert pa_mpjpe(target * torch.tensor([-1.0, 1, 1]), target) > 0.1


@settings(max_examples=20)
@given(seeds, st.tuples(*[st.floats(-5, 5)] * 3))
def test_a_translation_changes_no_root_relative_error(seed, shift):
    found, target = points(seed, 3, 17, 3), points(seed + 1, 3, 17, 3)
    moved = found + torch.tensor(shift, dtype=torch.float64)
    torch.testing.assert_close(
        mpjpe(moved, target, root=(11, 12)), mpjpe(found, target, root=(11, 12))
    )


def test_mpjpe_by_hand():
    target = torch.zeros(1, 4, 3)
    found = torch.tensor([[[1.0, 0, 0], [3, 0, 0], [2, 4, 0], [2, 0, 3]]])
    # the root is the mean of the first two, (2, 0, 0): distances 1, 1, 4, 3
    assert mpjpe(found, target, root=(0, 1)).tolist() == [9 / 4]
    vertices = torch.tensor([[[0.0, 0, 5], [0, 0, 1]]])
    found_root, target_root = torch.tensor([[0.0, 0, 1]]), torch.zeros(1, 3)
    error = mpvpe(vertices, 0 * vertices, found_root=found_root, target_root=target_root)
    assert error.tolist() == [2.0]


def test_pck_by_hand():
    target = torch.tensor([[[0.0, 0, 1], [10, 0, 1], [20, 0, 0.4], [30, 0, 1]], [[0.0, 0, 0]] * 4])
    found = torch.tensor([[[0.0, 4, 1], [10, 6, 1], [20, 0, 1], [30, 0, 1]], [[0.0, 0, 0]] * 4])
    result = pck(found[..., :2], target, scale=torch.tensor([100.0, 100.0]), threshold=0.05)
    assert result[0] == 2 / 3
    assert result[1].isnan()


def test_constant_acceleration_by_hand():
    """x = g t^2 / 2 sampled at 30 fps, against rest."""
    time = torch.arange(8).double() / 30
    found = torch.zeros(8, 2, 3).double()
    found[:, :, 1] = (9.81 * time**2 / 2)[:, None]
    error = acceleration_error(found, torch.zeros(8, 2, 3))
    torch.testing.assert_close(error * 30**2, torch.full((6,), 9.81).double())
    torch.testing.assert_close(1000 * error, torch.full((6,), 10.9).double())
    torch.testing.assert_close(jitter(found), torch.zeros(5).double(), rtol=0, atol=1e-12)


def test_constant_jerk_by_hand():
    found = torch.zeros(6, 1, 3).double()
    found[:, 0, 0] = torch.arange(6).double() ** 3
    torch.testing.assert_close(jitter(found), torch.full((3,), 6.0).double())


@settings(max_examples=30)
@given(seeds, st.lists(st.booleans(), min_size=1, max_size=12))
def test_nothing_is_differenced_across_a_gap(seed, valid):
    t = len(valid)
    found, target = points(seed, t, 5, 3), points(seed + 1, t, 5, 3)
    mask = torch.tensor(valid)
    dirty = torch.where(mask[:, None, None], found, torch.nan)
    error, shake = acceleration_error(dirty, target, valid=mask), jitter(dirty, valid=mask)
    assert error.shape == (max(t - 2, 0),)
    assert shake.shape == (max(t - 3, 0),)
    whole_error, whole_shake = acceleration_error(found, target), jitter(found)
    for i in range(len(error)):
        if all(valid[i : i + 3]):
            torch.testing.assert_close(error[i], whole_error[i])
        else:
            assert error[i].isnan()
    for i in range(len(shake)):
        if all(valid[i : i + 4]):
            torch.testing.assert_close(shake[i], whole_shake[i])
        else:
            assert shake[i].isnan()


def test_batches_equal_their_clips():
    found, target = points(0, 3, 6, 5, 3), points(1, 3, 6, 5, 3)
    valid = torch.tensor(np.random.default_rng(2).random((3, 6)) > 0.3)
    for metric in (pa_mpjpe, acceleration_error):
        whole = metric(found, target, valid=valid)
        for i in range(3):
            one = metric(found[i], target[i], valid=valid[i])
            torch.testing.assert_close(whole[i], one, equal_nan=True)


def test_points_without_a_label_neither_align_nor_count():
    found, target = points(0, 3, 17, 3), points(1, 3, 17, 3)
    labelled = torch.tensor(np.random.default_rng(2).random((3, 17)) > 0.3)
    found[~labelled], target[~labelled] = torch.nan, 1e9
    errors = aligned_errors(found, target, has_point=labelled)
    assert torch.equal(errors.isnan(), ~labelled)
    for i in range(3):
        keep = labelled[i]
        alone = aligned_errors(found[i, keep], target[i, keep])
        torch.testing.assert_close(errors[i, keep], alone)
    jumps = acceleration_errors(found, target, has_point=labelled)
    assert torch.equal(jumps.isnan()[0], ~labelled.all(0))


@settings(max_examples=20)
@given(seeds)
def test_reflections_are_a_choice(seed):
    target = points(seed, 1, 21, 3)
    mirrored = 0.7 * target * torch.tensor([1.0, -1, 1]) @ rotation(seed).T + 3
    assert pa_mpjpe(mirrored, target, reflection=True) < 1e-6
    assert pa_mpjpe(mirrored, target) > 0.05
    other = points(seed + 1, 1, 21, 3)
    allowed = pa_mpjpe(other, target, reflection=True)
    square = aligned_errors(other, target, reflection=True).square().sum()
    assert square <= aligned_errors(other, target).square().sum() + 1e-9
    assert allowed >= 0


def test_mpjae_by_hand_down_to_small_angles():
    angles = torch.tensor([0.0, 1e-7, 1e-3, 90.0, 180.0]).double()
    turns = torch.from_numpy(
        Rotation.from_euler("y", angles.numpy()[:, None], degrees=True).as_matrix()
    )
    found = mpjae(turns[None], torch.eye(3).double().expand(1, 5, 3, 3))
    assert (found - angles).abs().max() < 1e-6


def test_only_standing_feet_can_slide():
    target = torch.zeros(4, 2, 3)
    target[:, 1, 0] = torch.arange(4) * 0.02  # the second foot walks
    found = torch.zeros(4, 2, 3)
    found[:, :, 2] = torch.tensor([0, 0.003, 0.003, 0.009])[:, None]
    sliding = foot_sliding(found, target, threshold=0.01)
    assert sliding[:, 1].isnan().all()
    assert sliding[:, 0].tolist() == pytest.approx([0.003, 0, 0.006])
    valid = torch.tensor([True, True, False, True])
    assert foot_sliding(found, target, threshold=0.01, valid=valid)[:, 0].isnan().tolist() == [
        False, True, True,
    ]  # fmt: skip
