"""Hands without networks, of the people of `fakes.py`. Light: it is imported in child processes."""

import os

import numpy as np

from extpose.config import DetectConfig
from extpose.detect.wrist_hands import FoundHands
from pipelines.stages.hands import FindHands

AWAY = range(22, 38)
"""Frames in which no left hand is seen."""


class Hands:
    """Both hands, but the left one in some frames; one frame in ten looks like the other side."""

    name = "fake-hands"

    def __init__(self) -> None:
        self.frame = -1

    def find_hands(self, rgb: np.ndarray, boxes: np.ndarray, bodies: np.ndarray) -> FoundHands:
        # People walk to the right by a pixel in three frames.
        self.frame = self.frame + 1 if self.frame >= 0 else 3 * round(float(boxes[0, 0]) - 10)
        points = np.zeros((len(boxes), 2, 21, 3), np.float32)
        shape = np.random.default_rng(1).uniform(0, 30, (21, 2))
        for side in range(2):
            points[:, side, :, :2] = boxes[:, None, [2 * side, 3]] - [10, 30] + shape
        points[..., 2] = 0.9
        reasons = [["unsure" if self.frame in AWAY else "", ""] for _ in boxes]
        is_disputed = np.full((len(boxes), 2), self.frame % 10 == 5)
        is_disputed &= np.array([[not why for why in person] for person in reasons])
        return FoundHands(keypoints_2d=points, reasons=reasons, is_disputed=is_disputed)


class DeadlyHands(Hands):
    """Ends its process in frame 5."""

    def find_hands(self, rgb: np.ndarray, boxes: np.ndarray, bodies: np.ndarray) -> FoundHands:
        found = super().find_hands(rgb, boxes, bodies)
        if self.frame == 5:
            os._exit(7)
        return found


def build_deadly() -> FindHands:
    return FindHands(DetectConfig(), "movenet", DeadlyHands())
