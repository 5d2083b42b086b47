"""The left and right hand of each person of a frame, with the reason where one is not found.

Two ways: MediaPipe's landmark network in a square at each wrist, turned to the forearm; or the
whole-body keypoints of the person detector. Which side a hand is of is what the body's keypoints
say; where the hand network takes it for the other, that is counted.

Axes     p people, 2 sides (left, right), 21 keypoints
Units    source pixels
Reasons  `no_wrist` (body not sure of it), `unsure` (no hand there, for the network),
         `not_at_wrist` (its wrist is elsewhere), `other_hand` (the person's other hand)
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from extpose.config import DetectConfig
from extpose.detect.boxes import box_iou
from extpose.detect.hands import HandDetector, HandSquare, OneHand, upright_angle
from extpose.errors import AssetError
from extpose.keypoints import KEYPOINT_NAMES

SIDES = ("left", "right")
COCO17 = KEYPOINT_NAMES["coco17"]
WRISTS = tuple(COCO17.index(f"{side}_wrist") for side in SIDES)
ELBOWS = tuple(COCO17.index(f"{side}_elbow") for side in SIDES)
MIN_CONFIDENCE = 0.2
"""Of a wrist or an elbow that is looked at."""
FOREARM_OF_BOX = 0.13
"""Least length of a forearm, for the square's size, in longer sides of the person's box: one that
points to the camera looks short, the hand does not."""
REACH = 0.4
"""From the wrist to the middle of the hand, in forearms as seen."""
SQUARE_OF_FOREARM = 1.7
MAX_WRIST_DISTANCE = 0.6
"""Between the wrists of body and hand, in forearms."""
MIN_SCORE = 0.5
MIN_SURE_POINTS = 4
"""Whole body: keypoints of at least `MIN_SCORE` that make a hand (HaMeR's rule)."""
SAME_HAND_IOU = 0.5


@dataclass(frozen=True, kw_only=True)
class FoundHands:
    """Both hands of each person of one frame."""

    keypoints_2d: Float32[np.ndarray, "p 2 21 3"]
    """Zero where there is a reason."""
    reasons: list[list[str]]
    """A person, a side; empty where the hand was found."""
    is_disputed: Bool[np.ndarray, "p 2"]
    """The hand network takes the hand for one of the other side."""


@runtime_checkable
class HandFinder(Protocol):
    """Finds the hands of people whose bodies are known."""

    name: str

    def find_hands(
        self,
        rgb: UInt8[np.ndarray, "h w 3"],
        boxes: Float32[np.ndarray, "p 4"],
        bodies: Float32[np.ndarray, "p 17 3"],
    ) -> FoundHands:
        """Of each person, given by box and COCO-17."""
        ...


@runtime_checkable
class WholeBodyNetwork(Protocol):
    """A network of 133 keypoints."""

    name: str

    def find_hands(
        self, rgb: UInt8[np.ndarray, "h w 3"], boxes: Float32[np.ndarray, "p 4"]
    ) -> Float32[np.ndarray, "p 2 21 3"]:
        """Left and right hand of the person in each box."""
        ...


class WristHands:
    """MediaPipe's hand landmarks at each wrist. One instance a process."""

    name = "mediapipe-hands"

    def __init__(self, config: DetectConfig) -> None:
        """Raises AssetError without the extra `hands`, or when the weights cannot be had."""
        self._detector = HandDetector(config)

    def find_hands(
        self,
        rgb: UInt8[np.ndarray, "h w 3"],
        boxes: Float32[np.ndarray, "p 4"],
        bodies: Float32[np.ndarray, "p 17 3"],
    ) -> FoundHands:
        """Of each person, given by box and COCO-17."""
        points = np.zeros((len(boxes), 2, 21, 3), np.float32)
        is_disputed = np.zeros((len(boxes), 2), bool)
        reasons = [["", ""] for _ in boxes]
        for person, (box, body) in enumerate(zip(boxes, bodies, strict=True)):
            for side in range(2):
                hand, reasons[person][side] = self._find(rgb, box, body, side)
                other = body[WRISTS[1 - side]]
                if hand is not None and _is_of(hand, 1 - side, other, box):
                    hand, reasons[person][side] = None, "other_hand"
                if hand is not None:
                    sure = np.full(21, hand.score)
                    points[person, side] = np.column_stack([hand.keypoints, sure])
                    is_disputed[person, side] = hand.is_right != bool(side)
        drop_doubles(points, reasons, bodies)
        is_disputed &= np.array([[not why for why in person] for person in reasons]).reshape(-1, 2)
        return FoundHands(keypoints_2d=points, reasons=reasons, is_disputed=is_disputed)

    def _find(
        self, rgb: np.ndarray, box: np.ndarray, body: np.ndarray, side: int
    ) -> tuple[OneHand | None, str]:
        wrist, elbow = body[WRISTS[side]], body[ELBOWS[side]]
        if wrist[2] < MIN_CONFIDENCE:
            return None, "no_wrist"
        length = _least_forearm(box)
        squares = [
            HandSquare(centre=wrist[:2].astype(np.float64), side=2 * length, angle=angle)
            for angle in (0.0, np.pi / 2, np.pi, -np.pi / 2)
        ]
        if elbow[2] >= MIN_CONFIDENCE:
            arm = (wrist[:2] - elbow[:2]).astype(np.float64)
            length = max(float(np.linalg.norm(arm)), length)
            squares = [
                HandSquare(
                    centre=wrist[:2] + REACH * arm,
                    side=SQUARE_OF_FOREARM * length,
                    angle=upright_angle(elbow[:2], wrist[:2]),
                )
            ]
        hands = (self._detector.find_landmarks(rgb, square) for square in squares)
        best = max(hands, key=lambda hand: hand.score)
        if best.score < MIN_SCORE:
            return None, "unsure"
        if np.linalg.norm(best.keypoints[0] - wrist[:2]) > MAX_WRIST_DISTANCE * length:
            return None, "not_at_wrist"
        return best, ""


def _least_forearm(box: np.ndarray) -> float:
    return float((box[2:] - box[:2]).max()) * FOREARM_OF_BOX


def _is_of(hand: OneHand, side: int, wrist: np.ndarray, box: np.ndarray) -> bool:
    """Whether a hand is that of another wrist: it looks like that side, and lies there.

    In side views both wrists are put on the arm that is seen.
    """
    distance = float(np.linalg.norm(hand.keypoints[0] - wrist[:2]))
    return hand.is_right == bool(side) and distance < MAX_WRIST_DISTANCE * _least_forearm(box)


class WholeBodyHands:
    """The hands among the keypoints of a whole-body network."""

    def __init__(self, network: WholeBodyNetwork) -> None:
        self.name, self._network = network.name, network

    def find_hands(
        self,
        rgb: UInt8[np.ndarray, "h w 3"],
        boxes: Float32[np.ndarray, "p 4"],
        bodies: Float32[np.ndarray, "p 17 3"],
    ) -> FoundHands:
        """Of each person, given by box and COCO-17."""
        points = self._network.find_hands(rgb, boxes)
        is_sure = (points[..., 2] >= MIN_SCORE).sum(-1) >= MIN_SURE_POINTS
        reasons = [["" if sure else "unsure" for sure in person] for person in is_sure.tolist()]
        points = np.where(is_sure[..., None, None], points, np.float32(0))
        drop_doubles(points, reasons, bodies)
        return FoundHands(
            keypoints_2d=points, reasons=reasons, is_disputed=np.zeros(is_sure.shape, bool)
        )


def drop_doubles(
    points: Float32[np.ndarray, "p 2 21 3"],
    reasons: list[list[str]],
    bodies: Float32[np.ndarray, "p 17 3"],
) -> None:
    """Where both sides of a person are one hand, the side whose wrist is nearer keeps it."""
    for person, (pair, why) in enumerate(zip(points, reasons, strict=True)):
        if any(why):
            continue
        low, high = pair[..., :2].min(1), pair[..., :2].max(1)
        boxes = np.concatenate([low, high], -1)
        if box_iou(boxes[:1], boxes[1:])[0, 0] > SAME_HAND_IOU:
            wrists = bodies[person, list(WRISTS), :2]
            away = np.linalg.norm(pair[:, 0, :2] - wrists, axis=-1)
            farther = int(away.argmax())
            pair[farther], why[farther] = 0, "other_hand"


def open_hand_finder(config: DetectConfig, detector: object) -> HandFinder:
    """What `detect.hands` asks for; `detector` is the opened detector of people.

    Raises AssetError where it has no whole-body keypoints, or for missing weights.
    """
    if config.hands == "mediapipe":
        return WristHands(config)
    detector = getattr(detector, "detector", detector)  # beneath a calibration
    pose = getattr(detector, "pose", None)
    if not isinstance(pose, WholeBodyNetwork):
        raise AssetError(
            "--detect.hands wholebody needs --detector vitpose or rtmpose with weights of "
            "133 keypoints"
        )
    return WholeBodyHands(pose)
