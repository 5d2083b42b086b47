"""Hands in an image: palms, then 21 keypoints of each in a rotated square. LiteRT (extra `hands`).

The networks and their geometry are MediaPipe Hands' (Zhang et al. 2020, arXiv 2006.10214): a palm
detector with anchors, whose box and wrist-to-middle-finger axis give the square of the landmark
network; landmarks give a better square for a second pass. Pixels of the source image. Keypoints in
OpenPose's order: wrist, then thumb, index, middle, ring and little finger from the palm outwards.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from extpose.assets import ASSETS, fetch
from extpose.config import DetectConfig
from extpose.detect.boxes import box_iou, fit_image, keep_best
from extpose.detect.people import Detections
from extpose.detect.runtime import LiteNetwork

PALM_INPUT = 192
PALM_STRIDES = ((8, 2), (16, 6))
"""Cell size in pixels and anchors a cell."""
PALM_WRIST, PALM_MIDDLE = 0, 2
"""Of the palm's seven points: wrist and base of the middle finger."""
MAX_PALM_IOU = 0.3
LANDMARK_INPUT = 224
PALM_TO_HAND = 2.6
"""Side of the hand's square in sides of the palm's, and (below) how far it lies to the fingers."""
PALM_SHIFT = 0.5
LANDMARKS_TO_HAND = 2.0
LANDMARK_SHIFT = 0.1
LANDMARKS_OF_SQUARE = (0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18)
"""The steady ones: no finger tips."""
MAX_SIMILARITY_IOU = 0.5
BOX_MARGIN = 0.1
BOX_TO_HAND = 1.3
"""Side of the first square in longer sides of a given box."""


@dataclass(frozen=True, kw_only=True)
class HandDetections(Detections):
    """Hands of one frame, surest first. The network has one confidence a hand, not a joint."""

    is_right: Bool[np.ndarray, " p"]
    """The person's own right hand, in an image that is not mirrored."""


@dataclass(frozen=True, kw_only=True)
class HandSquare:
    """A rotated square of the image, upright when the fingers point up."""

    centre: Float64[np.ndarray, " 2"]
    side: float
    angle: float
    """Clockwise in the image, radians."""


@dataclass(frozen=True, kw_only=True)
class OneHand:
    """What the landmark network says of a square."""

    keypoints: Float64[np.ndarray, "21 2"]
    score: float
    is_right: bool


class HandDetector:
    """All hands of an RGB frame, surest first. One instance a process."""

    name = "mediapipe-hands"

    def __init__(self, config: DetectConfig) -> None:
        """Raises AssetError without the extra `hands`, or when the weights cannot be had."""
        self._config = config
        self._palm = LiteNetwork(fetch("palm-detection"), threads=config.threads)
        self._landmarks = LiteNetwork(fetch("hand-landmarks"), threads=config.threads)
        self._anchors = _make_anchors()

    @property
    def weights(self) -> dict[str, str]:
        """SHA-256 of each file of weights, for provenance."""
        return {
            member.path.rpartition("/")[2]: member.sha256
            for name in ("palm-detection", "hand-landmarks")
            for member in ASSETS[name].members
        }

    def __call__(self, rgb: UInt8[np.ndarray, "h w 3"]) -> HandDetections:
        """Hands that score `box_threshold` or more; at most two for each of `max_people`."""
        squares = self.find_palms(rgb)[: 2 * self._config.max_people]
        hands = [self.find_landmarks(rgb, square) for square in squares]
        points = np.array([hand.keypoints for hand in hands]).reshape(-1, 21, 2).astype(np.float32)
        scores = np.array([hand.score for hand in hands], np.float32)
        margin = np.ptp(points, axis=1).max(-1, keepdims=True) * np.float32(BOX_MARGIN)
        boxes = np.concatenate([points.min(1) - margin, points.max(1) + margin], -1)
        kept = keep_best(scores, box_iou(boxes, boxes) > MAX_SIMILARITY_IOU)
        kept = kept[scores[kept] >= self._config.box_threshold]
        confidence = np.broadcast_to(scores[:, None, None], (len(scores), 21, 1))
        return HandDetections(
            bbox_xyxy=boxes[kept],
            scores=scores[kept],
            keypoints_2d=np.concatenate([points, confidence], -1)[kept],
            is_right=np.array([hand.is_right for hand in hands], bool)[kept],
        )

    def find_palms(self, rgb: UInt8[np.ndarray, "h w 3"]) -> list[HandSquare]:
        """The squares in which to look for a hand's keypoints, surest palm first."""
        size = (PALM_INPUT, PALM_INPUT)
        picture, scale, corner = fit_image(rgb, size, is_centred=True)
        values, logits = self._palm(picture)
        scores = _sigmoid(logits[0, :, 0])
        chosen = scores >= self._config.box_threshold
        values, scores, anchors = values[0, chosen], scores[chosen], self._anchors[chosen]
        centre, sides = values[:, :2] + anchors, values[:, 2:4]
        boxes = np.concatenate([centre - sides / 2, centre + sides / 2], -1)
        points = values[:, 4:].reshape(-1, 7, 2) + anchors[:, None]
        squares = []
        for index in keep_best(scores, box_iou(boxes, boxes) > MAX_PALM_IOU):
            angle = upright_angle(points[index, PALM_WRIST], points[index, PALM_MIDDLE])
            side = float(sides[index].max())
            up = np.array([np.sin(angle), -np.cos(angle)])
            middle = centre[index] + up * PALM_SHIFT * side
            squares.append(
                HandSquare(
                    centre=(middle - np.array(corner)) / scale,
                    side=PALM_TO_HAND * side / scale,
                    angle=angle,
                )
            )
        return squares

    def find_keypoints(
        self, rgb: UInt8[np.ndarray, "h w 3"], boxes: Float32[np.ndarray, "p 4"]
    ) -> Float32[np.ndarray, "p 21 3"]:
        """x y confidence of one hand in each box, whichever way up it is."""
        result = np.zeros((len(boxes), 21, 3), np.float32)
        for index, box in enumerate(boxes.astype(np.float64)):
            centre, side = (box[:2] + box[2:]) / 2, max(float((box[2:] - box[:2]).max()), 1.0)
            squares = [
                HandSquare(centre=centre, side=side * BOX_TO_HAND, angle=angle)
                for angle in (0.0, np.pi / 2, np.pi, -np.pi / 2)
            ]
            best = max((self._run_landmarks(rgb, s) for s in squares), key=lambda h: h.score)
            hand = self._run_landmarks(rgb, _square_around(best.keypoints))
            result[index] = np.column_stack([hand.keypoints, np.full(21, hand.score)])
        return result

    def find_landmarks(self, rgb: UInt8[np.ndarray, "h w 3"], square: HandSquare) -> OneHand:
        """Twice: the second time in the square around the first keypoints."""
        hand = self._run_landmarks(rgb, square)
        if hand.score < self._config.box_threshold:
            return hand
        return self._run_landmarks(rgb, _square_around(hand.keypoints))

    def _run_landmarks(self, rgb: UInt8[np.ndarray, "h w 3"], square: HandSquare) -> OneHand:
        crop_to_img = _crop_to_img(square)
        crop = cv2.warpAffine(
            rgb,
            crop_to_img,
            (LANDMARK_INPUT, LANDMARK_INPUT),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        )
        points, score, right = self._landmarks(crop)[:3]
        keypoints = points.reshape(21, 3)[:, :2] @ crop_to_img[:, :2].T + crop_to_img[:, 2]
        return OneHand(keypoints=keypoints, score=score.item(), is_right=right.item() > 0.5)


def _make_anchors() -> Float32[np.ndarray, "a 2"]:
    """Centres of the palm detector's cells, pixels of its input, as often as a cell has anchors."""
    anchors = []
    for stride, count in PALM_STRIDES:
        centres = np.arange(stride / 2, PALM_INPUT, stride, dtype=np.float32)
        grid = np.stack(np.meshgrid(centres, centres), -1)  # x varies fastest
        anchors.append(np.repeat(grid.reshape(-1, 2), count, axis=0))
    return np.concatenate(anchors)


def upright_angle(wrist: np.ndarray, middle: np.ndarray) -> float:
    """How far the direction from wrist to middle finger is turned clockwise from straight up."""
    x, y = middle - wrist
    return float(np.arctan2(x, -y))


def _crop_to_img(square: HandSquare) -> Float64[np.ndarray, "2 3"]:
    """Affine from pixels of the landmark network's input to the image."""
    scale = square.side / LANDMARK_INPUT
    linear = scale * _rotation(square.angle)
    middle = np.full(2, LANDMARK_INPUT / 2)
    return np.column_stack([linear, square.centre - linear @ middle])


def _square_around(keypoints: Float64[np.ndarray, "21 2"]) -> HandSquare:
    """MediaPipe's rule for the next square: turned to the palm's axis, and a little up."""
    palm = (keypoints[5] + 2 * keypoints[9] + keypoints[13]) / 4
    angle = upright_angle(keypoints[0], palm)
    rotation = _rotation(angle)
    upright = keypoints[list(LANDMARKS_OF_SQUARE)] @ rotation
    low, high = upright.min(0), upright.max(0)
    middle = (low + high) / 2 - np.array([0, LANDMARK_SHIFT * (high - low)[1]])
    return HandSquare(
        centre=rotation @ middle, side=LANDMARKS_TO_HAND * float((high - low).max()), angle=angle
    )


def _rotation(angle: float) -> Float64[np.ndarray, "2 2"]:
    """Clockwise in the image (y points down)."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, -sine], [sine, cosine]])


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits, -50, 50)))
