"""Boxes in an image: fitting images into a detector's input, and removing double detections.

Boxes are x0 y0 x1 y1 in pixels.
"""

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8


def fit_image(
    rgb: UInt8[np.ndarray, "h w 3"], size: tuple[int, int], *, is_centred: bool = False
) -> tuple[UInt8[np.ndarray, "height width 3"], float, tuple[int, int]]:
    """The image scaled to fit `size` (height, width), black beside it.

    Returns the picture, the scale, and where its left top corner is (x, y). It lies in the left
    top corner, or in the middle.
    """
    height, width = size
    scale = min(height / rgb.shape[0], width / rgb.shape[1])
    new_height = max(1, min(height, round(rgb.shape[0] * scale)))
    new_width = max(1, min(width, round(rgb.shape[1] * scale)))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    left, top = 0, 0
    if is_centred:
        left, top = (width - new_width) // 2, (height - new_height) // 2
    result = np.zeros((height, width, 3), np.uint8)
    result[top : top + new_height, left : left + new_width] = cv2.resize(
        rgb, (new_width, new_height), interpolation=interpolation
    )
    return result, scale, (left, top)


def box_iou(
    boxes: Float[np.ndarray, "p 4"], others: Float[np.ndarray, "q 4"]
) -> Float[np.ndarray, "p q"]:
    """Intersection over union of each with each."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    area, other_area = (np.clip(b[:, 2:] - b[:, :2], 0, None).prod(-1) for b in (boxes, others))
    return shared / np.maximum(area[:, None] + other_area[None] - shared, 1e-9)


def keep_best(
    scores: Float[np.ndarray, " p"], is_double: Bool[np.ndarray, "p p"]
) -> Int[np.ndarray, " kept"]:
    """Indices, surest first, without those that are double to a surer one that was kept."""
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        if not is_double[index, kept].any():
            kept.append(int(index))
    return np.array(kept, np.int64)
