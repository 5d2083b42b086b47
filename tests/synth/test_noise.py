"""The fitted noise model: it draws what its parameters say, and the fit finds them again."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extpose.config import DetectConfig
from extpose.detect.plugs import detector_identity
from extpose.errors import AssetError, ExtPoseError
from extpose.synth.noise import (
    FITTED,
    HIDDEN,
    KINDS,
    OPPOSITE,
    ORIGIN,
    OUTSIDE,
    VISIBLE,
    DetectorNoise,
    Evidence,
    correlated,
    draw_evidence,
    held,
    load_noise,
    person_size,
    stance,
)
from extpose.synth.noise_errors import measure, second_difference, side_duration, simulate
from extpose.synth.noise_fit import calibrate, estimate_noise
from extpose.synth.noise_table import compare_noise, format_rows
from extpose.synth.observed import Observed, load_observed, save_observed
from extpose.synth.world import WORLD_VERSION
from tests.synth.people import IMAGE_SIZE, make_people

FPS = 30.0
ELBOW = KINDS.index("elbow")


def quiet(**changes: object) -> DetectorNoise:
    """A model that errs in nothing but `changes`."""
    noise = load_noise()
    still = {
        name: np.zeros_like(value) if isinstance(value, np.ndarray) else 0.0
        for name, value in asdict(noise).items()
        if name not in (*ORIGIN, "fps", "core", "tail")
    }
    tiny = {"core": np.full((9, 3), 1e-6), "tail": np.full((9, 3), 1e-6)}
    return replace(noise, **{**still, **tiny, **changes})


def see(people: Observed, noise: DetectorNoise, seed: int = 0, clip: int = 0) -> Evidence:
    return draw_evidence(
        people.truth[clip],
        people.depth[clip],
        people.is_visible[clip],
        boxes=people.boxes[clip],
        image_size=IMAGE_SIZE,
        fps=FPS,
        noise=noise,
        rng=np.random.default_rng(seed),
    )


def test_the_packaged_parameters_are_small_and_plausible() -> None:
    assert FITTED.stat().st_size < 20_000
    noise = load_noise()
    assert noise.detector == "movenet-thunder"
    assert noise.detector_identity == detector_identity("movenet", DetectConfig())
    assert noise.world_version == WORLD_VERSION
    for share in (noise.tail_share, noise.collapse, noise.swap, noise.miss):
        assert (share >= 0).all()
        assert (share <= 0.6).all()
    assert (noise.core > 0.002).all()
    assert (noise.core[:, :OUTSIDE] < 0.04).all()
    assert (noise.tail > noise.core).all()
    assert (noise.confidence[:, VISIBLE, 1] < 0).all()  # a larger error, less confidence
    assert noise.core[ELBOW, HIDDEN] > noise.core[ELBOW, VISIBLE]


def test_parameters_survive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "noise.json"
    path.write_text(load_noise().to_json())
    for name, value in asdict(load_noise(path)).items():
        np.testing.assert_array_equal(value, getattr(load_noise(), name))


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"detector": "x"})])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "noise.json"
    path.write_text(text)
    with pytest.raises(AssetError, match=r"noise\.json"):
        load_noise(path)


def test_a_parameter_of_another_shape_is_refused(tmp_path: Path) -> None:
    values = json.loads(FITTED.read_text())
    values["swap"] = values["swap"][:5]
    path = tmp_path / "noise.json"
    path.write_text(json.dumps(values))
    with pytest.raises(AssetError, match=r"noise\.json: swap has shape \(5,\), expected \(9,\)"):
        load_noise(path)


def test_without_noise_it_is_the_truth() -> None:
    people = make_people(1)
    seen = see(people, quiet())
    assert seen.is_detected.all()
    np.testing.assert_allclose(seen.keypoints[..., :2], people.truth[0], atol=0.01)
    np.testing.assert_allclose(seen.boxes, people.boxes[0])


@settings(max_examples=15)
@given(seed=st.integers(0, 2**31), clip=st.integers(0, 2))
def test_the_same_seed_gives_the_same_evidence(seed: int, clip: int) -> None:
    people, noise = make_people(3), load_noise()
    first, second = (see(people, noise, seed, clip) for _ in range(2))
    np.testing.assert_array_equal(first.keypoints, second.keypoints)
    np.testing.assert_array_equal(first.boxes, second.boxes)
    assert np.isfinite(first.keypoints).all()
    assert (first.keypoints[..., 2] >= 0).all()
    assert (first.keypoints[..., 2] <= 1).all()
    assert (first.keypoints[~first.is_detected] == 0).all()


def test_an_exchange_of_all_pairs() -> None:
    people = make_people(1)
    seen = see(people, quiet(turn=1.0))
    np.testing.assert_allclose(seen.keypoints[..., :2], people.truth[0][:, OPPOSITE], atol=0.01)


def test_bias_is_mirrored_with_the_person() -> None:
    bias = np.zeros((9, 2, 2, 3))
    bias[ELBOW, :, 0, 0] = 0.02
    bias[ELBOW, :, 1, 0] = 0.01
    people = make_people(1)
    size = person_size(people.boxes[0])[:, None]
    seen = see(people, quiet(bias=bias))
    error = (seen.keypoints[..., :2] - people.truth[0]) / size[..., None]
    axes, _ = stance(people.truth[0], people.depth[0], size[:, 0])
    along = error @ np.swapaxes(axes, -1, -2)
    np.testing.assert_allclose(along[:, 7], [[0.02, 0.01]] * 16, atol=1e-4)
    np.testing.assert_allclose(along[:, 8], [[-0.02, 0.01]] * 16, atol=1e-4)
    assert np.abs(error[:, :7]).max() < 1e-4


def test_heading_of_someone_who_faces_the_camera() -> None:
    """The person's left is on the right of the picture, and up is up."""
    people = make_people(1)
    truth = np.array(people.truth[:, :1, :, :], np.float64)[0]
    truth[0, [5, 11], 0], truth[0, [6, 12], 0] = 260, 220
    axes, heading = stance(truth, np.full((1, 17), 3.0), np.array([300.0]))
    np.testing.assert_allclose(heading, [[1, 0]], atol=1e-6)
    assert axes[0, 0, 0] > 0.9
    assert axes[0, 1, 1] < -0.9


def test_events_hold_as_long_as_they_should() -> None:
    values = held((20_000,), 0.8, 1.0, np.random.default_rng(0))
    assert (values[1:] == values[:-1]).mean() == pytest.approx(0.8, abs=0.01)
    twice = held((20_000,), 0.8, 2.0, np.random.default_rng(0))
    assert (twice[1:] == twice[:-1]).mean() == pytest.approx(0.64, abs=0.01)


@pytest.mark.parametrize("bursts", [0.0, 0.8])
def test_memory_of_the_noise(bursts: float) -> None:
    rng = np.random.default_rng(0)
    noise = correlated((60_000,), np.array([0.7, 0.9]), 1.0, rng, bursts=bursts)
    assert noise.std() == pytest.approx(1, abs=0.05)
    for lag in (1, 4):
        assert (noise[lag:] * noise[:-lag]).mean() == pytest.approx(0.7 * 0.9**lag, abs=0.05)


def test_the_fit_finds_the_parameters_of_a_model() -> None:
    truth = load_noise()
    people = make_people(100)
    found = estimate_noise(simulate(people, truth, fps=FPS, repeats=1), detector="itself", fps=FPS)
    limbs = slice(3, 9)
    np.testing.assert_allclose(
        found.core[limbs, VISIBLE], truth.core[limbs, VISIBLE], rtol=0.25, atol=0.001
    )
    np.testing.assert_allclose(found.bias[limbs, VISIBLE], truth.bias[limbs, VISIBLE], atol=0.004)
    np.testing.assert_allclose(
        found.confidence[limbs, VISIBLE, 1], truth.confidence[limbs, VISIBLE, 1], atol=0.15
    )
    np.testing.assert_allclose(
        found.confidence[limbs, VISIBLE, 2], truth.confidence[limbs, VISIBLE, 2], rtol=0.15
    )
    np.testing.assert_allclose(found.memory[limbs].prod(-1), truth.memory[limbs].prod(-1), atol=0.2)
    np.testing.assert_allclose(found.box_bias, truth.box_bias, atol=0.01)
    assert found.turn == pytest.approx(truth.turn, abs=0.01)
    assert found.clip_scale == pytest.approx(truth.clip_scale, abs=0.1)


def test_the_fit_finds_mistaken_sides() -> None:
    swap = np.zeros(9)
    swap[ELBOW] = 0.2
    people = make_people(60)
    found = estimate_noise(
        simulate(people, quiet(swap=swap), fps=FPS, repeats=1), detector="x", fps=FPS
    )
    assert found.swap[ELBOW] == pytest.approx(0.2, abs=0.04)
    assert np.delete(found.swap, ELBOW).max() < 0.01
    assert found.collapse.max() < 0.01


def test_calibration_finds_how_long_events_hold() -> None:
    """Among three values, that which the data were drawn with."""
    people = make_people(25)
    truth = replace(load_noise(), side_hold=0.7, tail_hold=0.9, bursts=0.8, turn=0.05)
    seen = simulate(people, truth, fps=FPS, seed=3, repeats=1)
    start = replace(truth, side_hold=0.0, tail_hold=0.0, bursts=0.0)
    found = calibrate(start, seen, holds=(0.0, 0.7, 0.97), bursts=(0.0, 0.8, 2.0))
    assert found.side_hold == 0.7
    real, model = (measure(x) for x in (seen, simulate(people, found, fps=FPS)))
    assert side_duration(model) == pytest.approx(side_duration(real), rel=0.3)
    assert second_difference(model) == pytest.approx(second_difference(real), rel=0.3)


def test_the_table_compares_a_model_with_its_own_draws() -> None:
    noise = load_noise()
    seen = simulate(make_people(20), noise, fps=FPS, seed=9, repeats=1)
    rows = {name: (real, model) for name, real, model in compare_noise(seen, noise, fps=FPS)}
    for name in ("visible, median error %", "hidden, median error %"):
        assert rows[name][0] == pytest.approx(rows[name][1], rel=0.2)
    wrong = {
        name: (real, model)
        for name, real, model in compare_noise(seen, replace(noise, core=3 * noise.core), fps=FPS)
    }
    name = "visible, median error %"
    assert wrong[name][1] > 2 * wrong[name][0]
    assert name in format_rows(compare_noise(seen, noise, fps=FPS, kinds=("elbow",)))


def test_too_little_to_fit_is_refused() -> None:
    with pytest.raises(ExtPoseError, match="1 clips of 16 frames"):
        estimate_noise(make_people(1), detector="x", fps=FPS)


def test_findings_survive_their_file(tmp_path: Path) -> None:
    people = make_people(2)
    path = tmp_path / "clip.npz"
    save_observed(path, people)
    np.testing.assert_array_equal(load_observed(path).found, people.found)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(AssetError, match=r"clip\.npz"):
        load_observed(path)
