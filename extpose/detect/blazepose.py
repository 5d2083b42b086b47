"""17 keypoints of the person in a box by BlazePose, MediaPipe's pose landmarks. LiteRT.

Bazarevsky et al. 2020 (arXiv 2006.10204). The network sees a rotated square; two auxiliary points
(middle of the hips, and a point on the circle around the person) give the square of a second pass.
Its confidences are near 1 almost everywhere: use it with a calibration (docs/detectors.md).
"""

from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8

from extpose.assets import fetch
from extpose.config import DetectConfig
from extpose.detect.runtime import LiteNetwork

INPUT = 256
HEATMAP_STRIDE = 4
HEATMAP_RADIUS = 3
"""Cells around a point whose weighted mean is the refined point."""
MIN_HEAT = 0.5
NUM_POINTS = 39
HIPS, CIRCLE = 33, 34
"""The auxiliary points."""
CIRCLE_TO_SQUARE = 2.5
"""Side of the square in radii of the circle."""
BOX_TO_SQUARE = 1.25
"""Side of the first, upright square in longer sides of the box."""
MIN_PRESENCE = 0.5
"""That somebody is in the square; else the second pass would follow nothing."""
COCO17 = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)
"""Where COCO's keypoints are among the 33 of BlazePose."""

Variant = Literal["heavy", "full"]


class BlazePose:
    """Keypoints of the one person in a box. One instance a process."""

    def __init__(self, config: DetectConfig, variant: Variant = "heavy") -> None:
        """Raises AssetError without the extra `hands`, or when the weights cannot be had."""
        self.name = f"blazepose-{variant}"
        self._network = LiteNetwork(fetch(self.name), threads=config.threads)

    def find_keypoints(
        self, rgb: UInt8[np.ndarray, "h w 3"], boxes: Float32[np.ndarray, "p 4"]
    ) -> Float32[np.ndarray, "p 17 3"]:
        """x y confidence (visibility times that somebody is there) of one person in each box."""
        result = np.zeros((len(boxes), 17, 3), np.float32)
        for index, box in enumerate(boxes.astype(np.float64)):
            centre, side = (box[:2] + box[2:]) / 2, max(float((box[2:] - box[:2]).max()), 1.0)
            points, presence = self._run(rgb, centre, np.array([0, -side * BOX_TO_SQUARE / 2]))
            if presence >= MIN_PRESENCE:
                up = (points[CIRCLE, :2] - points[HIPS, :2]) * CIRCLE_TO_SQUARE / 2
                points, presence = self._run(rgb, points[HIPS, :2], up)
            result[index] = points[list(COCO17)]
            result[index, :, 2] *= presence
        return result

    def _run(
        self,
        rgb: UInt8[np.ndarray, "h w 3"],
        centre: Float64[np.ndarray, " 2"],
        up: Float64[np.ndarray, " 2"],
    ) -> tuple[Float64[np.ndarray, "39 3"], float]:
        """Points (x y visibility) in the square from whose centre `up` leads to the upper side."""
        crop_to_img = _crop_to_img(centre, up)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        crop = cv2.warpAffine(rgb, crop_to_img, (INPUT, INPUT), flags=flags)
        values, presence, _, heat, _ = self._network(crop)
        points = values.reshape(NUM_POINTS, 5).astype(np.float64)
        refined = refine_points(points[:, :2], _sigmoid(heat[0]))
        placed = refined @ crop_to_img[:, :2].T + crop_to_img[:, 2]
        return np.column_stack([placed, _sigmoid(points[:, 3])]), presence.item()


def refine_points(
    points: Float64[np.ndarray, "n 2"], heat: Float32[np.ndarray, "y x n"]
) -> Float64[np.ndarray, "n 2"]:
    """Points (pixels of the network's input) to the weighted mean of the heat around each."""
    result = points.copy()
    for index, (x, y) in enumerate((points / HEATMAP_STRIDE).astype(int)):
        low = np.maximum([y - HEATMAP_RADIUS, x - HEATMAP_RADIUS], 0)
        part = heat[low[0] : y + HEATMAP_RADIUS + 1, low[1] : x + HEATMAP_RADIUS + 1, index]
        if 0 <= x < heat.shape[1] and 0 <= y < heat.shape[0] and part.max() >= MIN_HEAT:
            rows, columns = np.mgrid[: part.shape[0], : part.shape[1]]
            mean = np.array([(columns * part).sum(), (rows * part).sum()]) / part.sum()
            result[index] = (mean + low[::-1]) * HEATMAP_STRIDE
    return result


def _crop_to_img(
    centre: Float64[np.ndarray, " 2"], up: Float64[np.ndarray, " 2"]
) -> Float64[np.ndarray, "2 3"]:
    """Affine from pixels of the network's input to the image."""
    down = -up / (INPUT / 2)
    right = np.array([down[1], -down[0]])
    linear = np.column_stack([right, down])
    return np.column_stack([linear, centre - linear @ np.full(2, INPUT / 2)])


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits, -50, 50)))
