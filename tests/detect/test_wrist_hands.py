"""Hands at wrists: where is looked, what is taken, and why not. Without networks."""

from collections.abc import Callable

import numpy as np
import pytest

from extpose.config import DetectConfig
from extpose.detect import wrist_hands
from extpose.detect.hands import HandSquare, OneHand
from extpose.detect.wrist_hands import (
    ELBOWS,
    WRISTS,
    FoundHands,
    WholeBodyHands,
    WristHands,
    open_hand_finder,
)
from extpose.errors import AssetError

RGB = np.zeros((400, 400, 3), np.uint8)
BOX = np.array([[100, 20, 200, 320]], np.float32)
LEFT, RIGHT = 0, 1
Answer = Callable[[HandSquare], OneHand]


def body() -> np.ndarray:
    """Left arm hangs down at x 180, right arm points to the picture's left at y 150."""
    points = np.full((17, 3), 0.9, np.float32)
    points[ELBOWS[LEFT], :2], points[WRISTS[LEFT], :2] = (180, 150), (180, 200)
    points[ELBOWS[RIGHT], :2], points[WRISTS[RIGHT], :2] = (110, 150), (60, 150)
    return points


def hand_in(square: HandSquare, *, score: float = 0.9, is_right: bool) -> OneHand:
    """An upright hand in the square, wrist in the middle of the lower half."""
    up = np.array([np.sin(square.angle), -np.cos(square.angle)])
    side = np.array([-up[1], up[0]])
    along = np.linspace(-0.25, 0.3, 21)[:, None] * square.side
    across = np.linspace(-0.1, 0.1, 21)[:, None] * square.side
    points = square.centre + along * up + across * side
    points[0] = square.centre - 0.25 * square.side * up
    return OneHand(keypoints=points, score=score, is_right=is_right)


def find(monkeypatch: pytest.MonkeyPatch, answer: Answer, points: np.ndarray) -> FoundHands:
    class Fake:
        def __init__(self, _: DetectConfig) -> None:
            pass

        def find_landmarks(self, rgb: np.ndarray, square: HandSquare) -> OneHand:
            return answer(square)

    monkeypatch.setattr(wrist_hands, "HandDetector", Fake)
    return WristHands(DetectConfig()).find_hands(RGB, BOX, points[None])


def is_right_arm(square: HandSquare) -> bool:
    return bool(square.centre[0] < 120)


def test_the_square_lies_beyond_the_wrist_and_is_turned_to_the_arm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    squares: list[HandSquare] = []

    def answer(square: HandSquare) -> OneHand:
        squares.append(square)
        return hand_in(square, is_right=is_right_arm(square))

    found = find(monkeypatch, answer, body())
    assert found.reasons == [["", ""]]
    assert not found.is_disputed.any()
    left, right = squares
    np.testing.assert_allclose(left.centre, [180, 220])
    assert np.cos(left.angle) == pytest.approx(-1)  # fingers down
    np.testing.assert_allclose(right.centre, [40, 150])
    assert np.sin(right.angle) == pytest.approx(-1)  # fingers to the picture's left
    assert left.side == pytest.approx(1.7 * 50)
    assert (found.keypoints_2d[0, LEFT, :, 1] > 190).all()
    assert (found.keypoints_2d[0, RIGHT, :, 0] < 70).all()
    np.testing.assert_allclose(found.keypoints_2d[..., 2], 0.9)


def test_an_arm_that_points_to_the_camera_does_not_shrink_the_hand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points, sides = body(), []
    points[ELBOWS[LEFT], :2] = (181, 199)

    def answer(square: HandSquare) -> OneHand:
        sides.append(square.side)
        return hand_in(square, is_right=is_right_arm(square))

    find(monkeypatch, answer, points)
    assert sides[0] == pytest.approx(1.7 * 0.13 * 300)


def test_without_an_elbow_all_four_ways_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    points = body()
    points[ELBOWS[LEFT], 2] = 0

    def answer(square: HandSquare) -> OneHand:
        is_best = abs(np.sin(square.angle) - 1) < 1e-6
        hand = hand_in(square, score=0.95 if is_best else 0.6, is_right=is_right_arm(square))
        hand.keypoints[0] = square.centre
        return hand

    found = find(monkeypatch, answer, points)
    assert found.reasons[0][LEFT] == ""
    assert found.keypoints_2d[0, LEFT, 0, 2] == pytest.approx(0.95)


def test_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    points = body()
    points[WRISTS[LEFT], 2] = 0.1
    found = find(monkeypatch, lambda s: hand_in(s, score=0.3, is_right=True), points)
    assert found.reasons == [["no_wrist", "unsure"]]
    assert (found.keypoints_2d == 0).all()

    def away(square: HandSquare) -> OneHand:
        hand = hand_in(square, is_right=is_right_arm(square))
        return OneHand(keypoints=hand.keypoints + 60, score=0.9, is_right=hand.is_right)

    assert find(monkeypatch, away, body()).reasons == [["not_at_wrist"] * 2]


def test_one_arm_that_is_taken_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a side view the hidden wrist is put on the arm that is seen, here the right one."""
    points = body()
    points[ELBOWS[LEFT]], points[WRISTS[LEFT]] = points[ELBOWS[RIGHT]], points[WRISTS[RIGHT]]
    points[WRISTS[LEFT], :2] += 3
    found = find(monkeypatch, lambda s: hand_in(s, is_right=True), points)
    assert found.reasons == [["other_hand", ""]]
    assert (found.keypoints_2d[0, LEFT] == 0).all()


def test_a_hand_that_looks_like_the_other_side_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = find(monkeypatch, lambda s: hand_in(s, is_right=True), body())
    assert found.reasons == [["", ""]]
    assert found.is_disputed.tolist() == [[True, False]]


class WholeBody:
    name = "whole"

    def find_hands(self, rgb: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        points = np.zeros((len(boxes), 2, 21, 3), np.float32)
        points[:, LEFT, :, :2] = np.random.default_rng(0).uniform(180, 200, (21, 2))
        points[:, RIGHT, :, :2] = np.random.default_rng(0).uniform(40, 60, (21, 2))
        points[:, LEFT, :4, 2], points[:, RIGHT, :3, 2] = 0.7, 0.7
        return points


def test_hands_of_a_whole_body_network() -> None:
    found = WholeBodyHands(WholeBody()).find_hands(RGB, BOX, body()[None])
    assert found.reasons == [["", "unsure"]]
    assert (found.keypoints_2d[0, RIGHT] == 0).all()
    assert found.keypoints_2d[0, LEFT, 0, 2] == pytest.approx(0.7)


def test_whole_body_hands_need_such_a_detector() -> None:
    class Detector:
        pose = WholeBody()

    config = DetectConfig(hands="wholebody")
    assert open_hand_finder(config, Detector()).name == "whole"
    with pytest.raises(AssetError, match=r"--detector vitpose or rtmpose"):
        open_hand_finder(config, object())
