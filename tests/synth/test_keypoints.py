"""The model of a detector's errors does what its parameters say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from extpose.config import SynthConfig
from extpose.synth.evidence import observe as find_track
from extpose.synth.keypoints import KeypointNoise, add_noise, correlated_noise, find_visible

QUIET = KeypointNoise(
    jitter=0.0, miss=0.0, hidden_miss=0.0, swap=0.0, confidence_noise=0.0, confidence_scale=0.03
)
SIZE = 200.0
FRAMES = 4000


def observe(noise: KeypointNoise, *, visible: bool = True, inside: bool = True) -> np.ndarray:
    rng = np.random.default_rng(5)
    truth = np.stack([np.arange(17) * 20.0, np.arange(17) * 10.0], -1)
    return add_noise(
        np.tile(truth, (FRAMES, 1, 1)),
        np.full((FRAMES, 17), visible),
        np.full((FRAMES, 17), inside),
        size=np.full(FRAMES, SIZE),
        keypoint_set="coco17",
        noise=noise,
        rng=rng,
    )


def errors(found: np.ndarray) -> np.ndarray:
    return found[..., :2] - np.stack([np.arange(17) * 20.0, np.arange(17) * 10.0], -1)


def test_without_noise_it_is_the_truth() -> None:
    found = observe(QUIET)
    np.testing.assert_allclose(errors(found), 0)
    np.testing.assert_allclose(found[..., 2], QUIET.confidence, rtol=1e-6)


@pytest.mark.parametrize(("visible", "factor"), [(True, 1.0), (False, 3.0)])
def test_jitter_and_its_correlation(visible: bool, factor: float) -> None:
    noise = replace(QUIET, jitter=0.01, hidden_factor=3.0, correlation=0.7)
    error = errors(observe(noise, visible=visible))
    assert error.std() == pytest.approx(0.01 * factor * SIZE, rel=0.05)
    assert abs(error.mean()) < 0.05 * factor
    lagged = (error[1:] * error[:-1]).mean() / error.var()
    assert lagged == pytest.approx(0.7, abs=0.03)


@pytest.mark.parametrize(("visible", "rate"), [(True, 0.1), (False, 0.3)])
def test_misses(visible: bool, rate: float) -> None:
    found = observe(replace(QUIET, miss=0.1, hidden_miss=0.3), visible=visible)
    assert (found[..., 2] == 0).mean() == pytest.approx(rate, abs=0.01)


def test_swaps_exchange_left_and_right() -> None:
    error = errors(observe(replace(QUIET, swap=0.2)))
    is_swapped = np.abs(error).max(-1) > 1
    assert not is_swapped[:, 0].any()
    assert is_swapped[:, 1:].mean() == pytest.approx(0.2, abs=0.01)
    np.testing.assert_array_equal(is_swapped[:, 5], is_swapped[:, 6])
    np.testing.assert_allclose(error[is_swapped[:, 5], 5], [[20, 10]] * is_swapped[:, 5].sum())


def test_confidence_falls_with_the_error_and_with_occlusion() -> None:
    noise = replace(QUIET, jitter=0.03)
    found = observe(noise)
    error = np.linalg.norm(errors(found), axis=-1) / SIZE
    at_scale = np.abs(error - noise.confidence_scale) < 0.001
    assert found[at_scale, 2].mean() == pytest.approx(noise.confidence * np.exp(-0.5), abs=0.02)
    assert np.corrcoef(error.ravel(), found[..., 2].ravel())[0, 1] < -0.9
    hidden = observe(replace(QUIET, hidden_confidence=0.4), visible=False)
    np.testing.assert_allclose(hidden[..., 2], 0.4, rtol=1e-6)


def test_outside_the_picture_nothing_is_found() -> None:
    assert (observe(QUIET, inside=False)[..., 2] == 0).all()


def test_visibility_by_depth_and_border() -> None:
    depth_map = np.full((20, 30), np.inf, np.float32)
    depth_map[5:10, 5:10] = 2.0
    points = np.array([[7.0, 7.0], [7, 7], [7, 7], [20, 15], [-3, 7], [7, 25], [7, 7]])
    depth = np.array([2.0, 2.1, 2.5, 9.0, 2.0, 2.0, -1.0])
    visible = find_visible(points, depth, depth_map)
    assert visible.tolist() == [True, True, False, True, False, False, False]


def test_correlated_noise_is_unit_normal() -> None:
    noise = correlated_noise((20_000, 3), 0.9, np.random.default_rng(0))
    assert noise.std() == pytest.approx(1.0, abs=0.05)


def test_fingers_are_not_taken_for_each_other() -> None:
    """A hand has no left and right: what is 12 pixels off its place is another joint."""
    num_frames = 400
    place = np.stack([np.arange(21) * 12.0 + 8, np.full(21, 128.0)], -1)
    track = find_track(
        [np.zeros((256, 256, 3), np.uint8)] * num_frames,
        [np.ones((256, 256), np.float32)] * num_frames,
        boxes=np.tile([100.0, 100.0, 120.0, 120.0], (num_frames, 1)),
        keypoints_img=np.tile(place, (num_frames, 1, 1)),
        keypoints_depth=np.ones((num_frames, 21)),
        config=SynthConfig(out=Path("unused"), body="hand", image_size=(256, 256)),
        observer=None,
        rng=np.random.default_rng(2),
    )
    assert np.abs(track.keypoints_2d[..., :2] - place).max() < 6
