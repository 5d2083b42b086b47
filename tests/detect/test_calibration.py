"""Maps from confidence to expected similarity: fitting, applying, keeping, refusing."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from extpose.detect.calibration import (
    CalibratedBoxes,
    Calibration,
    CalibrationError,
    JointMap,
    calibration_error,
    fit_calibration,
    isotonic,
    joint_similarity,
    load_calibration,
)
from extpose.detect.people import Detections

VALUES = arrays(np.float64, st.integers(1, 12), elements=st.floats(0, 1))


@given(VALUES, st.integers(0, 1000))
def test_isotonic_is_the_nearest_rising_sequence(values: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.5, 2, len(values))
    found = isotonic(values, weights)
    assert (np.diff(found) >= 0).all()
    distance = (weights * (found - values) ** 2).sum()
    for _ in range(20):
        other = np.sort(np.clip(found + rng.normal(0, 0.1, len(values)), 0, 1))
        assert (weights * (other - values) ** 2).sum() >= distance - 1e-9
    assert np.isclose((found * weights).sum(), (values * weights).sum())


def overconfident(seed: int, count: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A detector whose keypoints lie as well as the square of its score; elbows: the cube."""
    rng = np.random.default_rng(seed)
    raw = rng.uniform(0.05, 1, (count, 17))
    power = np.where(np.isin(np.arange(17), (7, 8)), 3, 2)
    similarity = np.clip(raw**power + rng.normal(0, 0.05, raw.shape), 0, 1)
    return raw, similarity, np.ones(raw.shape, bool)


def test_a_fit_makes_confidence_the_expected_similarity() -> None:
    raw, similarity, labelled = overconfident(0)
    made = fit_calibration(raw, similarity, labelled, detector="d", origin="test")
    raw, similarity, _ = overconfident(1)
    points = np.concatenate([np.zeros((*raw.shape, 2)), raw[..., None]], -1).astype(np.float32)
    after = made.apply(points)
    before = calibration_error(raw.ravel(), similarity.ravel())
    assert before > 0.12
    assert calibration_error(after[..., 2].ravel().astype(float), similarity.ravel()) < 0.02
    probe = np.zeros((17, 3), np.float32)
    probe[:, 2] = 0.5
    assert made.apply(probe)[0, 2] == pytest.approx(0.25, abs=0.03)
    assert made.apply(probe)[7, 2] == pytest.approx(0.125, abs=0.03)
    np.testing.assert_array_equal(after[..., :2], 0)


def test_what_was_not_seen_stays_not_seen() -> None:
    raw, similarity, labelled = overconfident(0)
    similarity[:] = 0.9
    made = fit_calibration(raw, similarity, labelled, detector="d", origin="test")
    points = np.zeros((3, 17, 3), np.float32)
    points[1, :, 2] = 0.01
    found = made.apply(points)[..., 2]
    assert (found[0] == 0).all()
    assert (found[1] < 0.3).all()  # beneath all that was seen, it fades out


def test_a_rare_joint_has_the_map_of_all() -> None:
    raw, similarity, labelled = overconfident(0, 1000)
    labelled[100:, 0] = False
    made = fit_calibration(raw, similarity, labelled, detector="d", origin="test")
    assert made.joints["nose"].samples == 100
    assert made.joints["left_eye"].samples == 1000
    labelled[5:] = False
    with pytest.raises(CalibrationError, match="85 labelled detections, at least 200"):
        fit_calibration(raw, similarity, labelled, detector="d", origin="test")


def test_similarity_is_cocos() -> None:
    truth = np.zeros((1, 17, 2))
    found = np.zeros((1, 17, 3))
    found[0, :, 0] = 10.0
    similarity = joint_similarity(found, truth, np.array([10_000.0]))
    # COCO's deviations are 0.026 for the nose and 0.107 for a hip, its falloff twice that.
    assert similarity[0, 0] == pytest.approx(np.exp(-100 / (2 * 10_000 * 0.052**2)))
    assert similarity[0, 11] == pytest.approx(np.exp(-100 / (2 * 10_000 * 0.214**2)))


def test_error_of_a_perfect_and_of_a_bold_detector() -> None:
    assert calibration_error(np.array([0.25, 0.25]), np.array([0.0, 0.5])) == pytest.approx(0)
    assert calibration_error(np.array([1.0, 1.0]), np.array([0.5, 0.1])) == pytest.approx(0.7)
    assert np.isnan(calibration_error(np.zeros(0), np.zeros(0)))


@pytest.fixture
def made() -> Calibration:
    raw, similarity, labelled = overconfident(0, 300)
    return fit_calibration(raw, similarity, labelled, detector="d", origin="here")


def test_it_is_kept_as_json(made: Calibration, tmp_path: Path) -> None:
    made.save(tmp_path / "deep" / "a.json")
    assert load_calibration(tmp_path / "deep" / "a.json", "d") == made
    with pytest.raises(CalibrationError, match=r"a\.json: fitted for 'd', the detector is 'e'"):
        load_calibration(tmp_path / "deep" / "a.json", "e")


def test_what_is_no_calibration_is_refused(made: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    made.save(path)
    whole = json.loads(path.read_text())
    falling = {**whole["joints"], "nose": {"raw": [0, 1], "expected": [0.5, 0.1], "samples": 1}}
    for value, message in (
        ({**whole, "version": 9}, "not version 1"),
        ({**whole, "joints": {}}, "17 keypoints"),
        ({**whole, "joints": falling}, "no monotone map"),
        ([], "no calibration"),
    ):
        path.write_text(json.dumps(value))
        with pytest.raises(CalibrationError, match=message):
            load_calibration(path)
    with pytest.raises(CalibrationError, match="no calibration"):
        load_calibration(tmp_path / "none.json")
    with pytest.raises(CalibrationError):
        JointMap(raw=(0.0, 0.5), expected=(0.0,), samples=1)


def test_a_detector_with_a_calibration(made: Calibration) -> None:
    points = np.full((1, 17, 3), 0.5, np.float32)

    class Fixed:
        def __call__(self, rgb: np.ndarray) -> Detections:
            box, score = np.zeros((1, 4), np.float32), np.ones(1, np.float32)
            return Detections(bbox_xyxy=box, scores=score, keypoints_2d=points)

        def find_keypoints(self, rgb: np.ndarray, boxes: np.ndarray) -> np.ndarray:
            return points

    wrapped = CalibratedBoxes(Fixed(), made, "d+calibrated")
    rgb = np.zeros((4, 4, 3), np.uint8)
    expected = made.apply(points)
    assert (expected[..., 2] < 0.4).all()
    np.testing.assert_array_equal(wrapped(rgb).keypoints_2d, expected)
    np.testing.assert_array_equal(
        wrapped.find_keypoints(rgb, np.zeros((1, 4), np.float32)), expected
    )
    assert wrapped(rgb).scores.tolist() == [1.0]


def test_the_packaged_map_is_movenets() -> None:
    packaged = load_calibration(Path("packaged"), "movenet-thunder")
    assert "renders" in packaged.origin
    points = np.full((2, 17, 3), 0.1, np.float32)
    points[1, :, 2] = 0.8
    low, high = packaged.apply(points)[..., 2]
    assert (low < high).all()
    assert (high > 0.85).all()
