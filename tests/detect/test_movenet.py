"""The person detector: its geometry by itself, and the real networks on a packaged video."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from extpose.config import DetectConfig
from extpose.detect.centernet import _box_input_size, _decode_boxes
from extpose.detect.movenet import PersonDetector, _crop_square
from extpose.detect.top_down import keypoint_similarity, refine_boxes
from extpose.keypoints import FLIP_PAIRS
from extpose.video import read_frames

LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_ANKLE, RIGHT_ANKLE, NOSE = 5, 6, 15, 16, 0


@pytest.mark.parametrize("side", [100.0, 256.0, 300.0, 700.0])
def test_the_crop_is_centred_and_to_scale(side: float) -> None:
    rgb = np.zeros((600, 800, 3), np.uint8)
    centre = np.array([410, 290], np.float32)
    rgb[290 - 20 : 290 + 21, 410 - 20 : 410 + 21] = 255
    rows, columns = np.nonzero(_crop_square(rgb, centre, side)[..., 0] > 127)
    assert rows.mean() == pytest.approx(128, abs=0.6)
    assert columns.mean() == pytest.approx(128, abs=0.6)
    assert np.ptp(columns) + 1 == pytest.approx(41 * 256 / side, abs=1.5)


def test_outside_the_image_the_crop_is_black() -> None:
    rgb = np.full((100, 100, 3), 255, np.uint8)
    crop = _crop_square(rgb, np.array([0, 50], np.float32), 100.0)
    assert (crop[:, :120] == 0).all()
    assert (crop[10:-10, 136:] == 255).all()


def test_boxes_are_decoded_from_peaks() -> None:
    heat = np.zeros((10, 12), np.float32)
    heat[4, 7], heat[4, 8], heat[8, 2] = 0.9, 0.8, 0.1
    sides = np.zeros((10, 12, 4), np.float32)
    sides[4, 7] = 1, 2, 3, 4
    boxes, scores = _decode_boxes(heat, sides, threshold=0.2)
    np.testing.assert_allclose(boxes, [[27, 14, 31, 20]])
    np.testing.assert_allclose(scores, [0.9])


@pytest.mark.parametrize(
    ("shape", "size"),
    [((994, 1768), (384, 640)), ((1920, 1080), (640, 384)), ((5, 5), (640, 640))],
)
def test_the_box_network_sees_the_frame_without_wide_borders(
    shape: tuple[int, int], size: tuple[int, int]
) -> None:
    assert _box_input_size(*shape) == size


def _person(shift: float = 0.0, confidence: float = 0.9) -> np.ndarray:
    points = np.random.default_rng(1).uniform([100, 100], [200, 300], (17, 2)) + shift
    return np.concatenate([points, np.full((17, 1), confidence)], -1).astype(np.float32)


def test_boxes_follow_sure_keypoints_and_stay_inside() -> None:
    sure, unsure = _person(), _person(confidence=0.1)
    sure[0, :2] = 5000
    sure[0, 2] = 0.0
    boxes = np.array([[0, 0, 10, 10], [1, 2, 30, 40]], np.float32)
    refined = refine_boxes(boxes, np.stack([sure, unsure]), image_size=(290, 400))
    low, high = sure[1:, :2].min(0), sure[1:, :2].max(0)
    assert (refined[0, :2] < low).all()
    assert refined[0, 2] > high[0]
    assert refined[0, 3] == 289
    np.testing.assert_array_equal(refined[1], boxes[1])


def test_similarity_tells_one_person_from_two() -> None:
    keypoints = np.stack([_person(), _person(4), _person(120), _person(confidence=0.1)])
    boxes = np.array([[90, 90, 210, 310]] * 4, np.float32)
    similarity = keypoint_similarity(keypoints, boxes)
    np.testing.assert_allclose(similarity, similarity.T)
    assert similarity[0, 0] == 1
    assert similarity[0, 1] > 0.5
    assert similarity[0, 2] < 0.1
    assert (similarity[3] == 0).all()


def test_nobody_in_an_empty_scene_of_detections() -> None:
    nothing = np.zeros((0, 17, 3), np.float32)
    assert keypoint_similarity(nothing, nothing[:, 0, :0].reshape(0, 4)).shape == (0, 0)


@pytest.fixture(scope="module")
def detector(asset: Callable[[str], Path]) -> PersonDetector:
    asset("movenet-thunder")
    asset("person-boxes")
    return PersonDetector(DetectConfig())


@pytest.fixture(scope="module")
def walkers(asset: Callable[[str], Path]) -> np.ndarray:
    """Frame 100: a woman walks to the left on the grass, a man stands on a roof above her."""
    return next(iter(read_frames(asset("video-walkers"), start=100, stop=101))).rgb


@pytest.mark.assets
def test_two_people_are_found(detector: PersonDetector, walkers: np.ndarray) -> None:
    found = detector(walkers)
    assert len(found.scores) == 2
    assert (np.diff(found.scores) < 0).all()
    # Read off the picture by eye: outlines of the woman and of the man.
    np.testing.assert_allclose(found.bbox_xyxy[0], [920, 525, 1150, 930], atol=25)
    np.testing.assert_allclose(found.bbox_xyxy[1], [600, 75, 700, 455], atol=25)
    woman = found.keypoints_2d[0]
    assert woman[NOSE, 0] < woman[LEFT_SHOULDER, 0]
    assert woman[[LEFT_ANKLE, RIGHT_ANKLE], 1].min() > woman[NOSE, 1] + 300


@pytest.mark.assets
def test_left_and_right_are_the_persons_own(
    detector: PersonDetector, asset: Callable[[str], Path]
) -> None:
    """At the start the man on the roof faces the camera: his left is on the picture's right."""
    rgb = next(iter(read_frames(asset("video-walkers"), start=10, stop=11))).rgb
    found = detector(rgb)
    (man,) = found.keypoints_2d
    for left, right in FLIP_PAIRS["coco17"][2:]:
        assert man[left, 0] > man[right, 0] + 10

    mirrored = detector(np.ascontiguousarray(rgb[:, ::-1]))
    swapped = mirrored.keypoints_2d[0].copy()
    for left, right in FLIP_PAIRS["coco17"]:
        swapped[[left, right]] = swapped[[right, left]]
    swapped[:, 0] = rgb.shape[1] - 1 - swapped[:, 0]
    error = np.linalg.norm(swapped[:, :2] - man[:, :2], axis=-1)
    assert np.median(error) < 0.02 * np.ptp(man[:, 1])


@pytest.mark.assets
def test_the_converted_networks_still_give_the_same_numbers(
    detector: PersonDetector, walkers: np.ndarray
) -> None:
    """Both against the numbers of the same graphs run operator by operator in torch."""
    box = np.array([[920, 525, 1150, 930]], np.float32)
    boxes, scores = detector.find_boxes(walkers)
    keypoints = detector.find_keypoints(walkers, box)
    expected = np.load(Path(__file__).parents[1] / "data" / "movenet.npz")
    np.testing.assert_allclose(boxes, expected["boxes"], atol=0.5)
    np.testing.assert_allclose(scores, expected["scores"], atol=2e-3)
    np.testing.assert_allclose(keypoints[..., :2], expected["keypoints"][..., :2], atol=0.5)
    np.testing.assert_allclose(keypoints[..., 2], expected["keypoints"][..., 2], atol=5e-3)


@pytest.mark.assets
def test_no_more_people_than_asked_for(detector: PersonDetector, walkers: np.ndarray) -> None:
    assert len(PersonDetector(DetectConfig(max_people=1))(walkers).scores) == 1
    assert len(PersonDetector(DetectConfig(box_threshold=0.95))(walkers).scores) == 0
    assert len(detector(np.zeros((64, 48, 3), np.uint8)).scores) == 0


@pytest.mark.assets
def test_the_weights_are_named_for_provenance(detector: PersonDetector) -> None:
    assert set(detector.weights) == {
        "movenet-thunder.json",
        "movenet-thunder.bin",
        "centernet.json",
        "centernet.bin",
    }
