"""The 2D skeleton as a picture: the second input of the network.

Black background; joints are filled circles of distinctive colours, bones are lines whose colour
runs from one joint's to the other's; confidence is the opacity (paper, section 4.3). The person's
own left is warm (red, orange, yellow), the right is cool (blue, cyan, green): a mirrored skeleton
is not a mirrored drawing, flip the keypoints and draw again.

Axes     k keypoints, in the order of `keypoints.KEYPOINT_NAMES`   h w pixels
Units    pixels of the crop; (0, 0) is the centre of the top left pixel; confidence in [0, 1]

Drawing is single-threaded integer and IEEE arithmetic without fused operations: the same numbers
give the same bytes, in preprocessing and in the loader.
"""

import math
from typing import no_type_check

import numpy as np
from jaxtyping import Float32, UInt8

from extpose.compiled import compiled
from extpose.config import SkeletonConfig
from extpose.keypoints import FLIP_PAIRS, NUM_KEYPOINTS, KeypointSet

_BODY_COLORS: tuple[tuple[int, int, int], ...] = (
    (255, 255, 255), (255, 176, 196), (176, 196, 255), (255, 80, 170), (150, 100, 255),
    (255, 0, 0), (0, 0, 255), (255, 80, 0), (0, 100, 255), (255, 150, 0), (0, 190, 255),
    (200, 0, 90), (0, 150, 150), (255, 210, 0), (0, 255, 150), (255, 255, 120), (0, 200, 0),
)  # fmt: skip
"""Of COCO's keypoints."""
_FINGER_COLORS = ((255, 0, 0), (255, 220, 0), (0, 255, 0), (0, 140, 255), (255, 0, 255))
"""Thumb to little finger."""
_LIGHTS = (0.4, 0.6, 0.8, 1.0)
"""Of a finger's joints, base to tip."""

COLORS: dict[KeypointSet, tuple[tuple[int, int, int], ...]] = {
    "coco17": _BODY_COLORS,
    "hand21": (
        (255, 255, 255),
        *(
            (round(r * light), round(g * light), round(b * light))
            for r, g, b in _FINGER_COLORS
            for light in _LIGHTS
        ),
    ),
}
"""RGB of each joint."""

LIMBS: dict[KeypointSet, tuple[tuple[int, int], ...]] = {
    "coco17": (
        (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8),
        (7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
    ),
    "hand21": tuple(
        (0 if part == 0 else 4 * finger + part, 4 * finger + part + 1)
        for finger in range(5)
        for part in range(4)
    ),
}  # fmt: skip
"""Bones as pairs of joints, in the order in which they are drawn."""


def flip_keypoints(
    keypoints_crop: Float32[np.ndarray, "*t k 3"], keypoint_set: KeypointSet, size: int
) -> Float32[np.ndarray, "*t k 3"]:
    """Keypoints of the mirrored picture: x becomes size - 1 - x, left and right change places."""
    flipped = keypoints_crop.copy()
    flipped[..., 0] = size - 1 - flipped[..., 0]
    order = list(range(flipped.shape[-2]))
    for left, right in FLIP_PAIRS[keypoint_set]:
        order[left], order[right] = right, left
    return flipped[..., order, :]


def draw_skeleton(
    keypoints_crop: Float32[np.ndarray, "k 3"],
    keypoint_set: KeypointSet,
    size: int,
    config: SkeletonConfig,
) -> UInt8[np.ndarray, "size size 3"]:
    """Draw one skeleton (x y confidence) as RGB; joints below `min_confidence` are left out.

    Raises ValueError for a wrong number of keypoints and for coordinates that are not finite.
    """
    if len(keypoints_crop) != NUM_KEYPOINTS[keypoint_set]:
        raise ValueError(
            f"keypoints: {len(keypoints_crop)} given, {keypoint_set} has "
            f"{NUM_KEYPOINTS[keypoint_set]}"
        )
    if not np.isfinite(keypoints_crop).all():
        raise ValueError(f"keypoints are not finite: {keypoints_crop.tolist()}")
    image = np.zeros((size, size, 3), np.uint8)
    _draw(
        image,
        keypoints_crop.astype(np.float64),
        np.array(COLORS[keypoint_set], np.float64),
        np.array(LIMBS[keypoint_set], np.int64),
        max(config.bone_width / 2, 0.5),
        max(config.joint_radius, 0.5),
        config.min_confidence,
    )
    return image


@compiled
@no_type_check
def _draw(image, points, colors, limbs, half_width, radius, min_confidence):
    """All bones, then all joints."""
    for i in range(len(limbs)):
        a, b = limbs[i, 0], limbs[i, 1]
        if points[a, 2] >= min_confidence and points[b, 2] >= min_confidence:
            _draw_stroke(image, points[a], points[b], colors[a], colors[b], half_width)
    for i in range(len(points)):
        if points[i, 2] >= min_confidence:
            _draw_stroke(image, points[i], points[i], colors[i], colors[i], radius)


@compiled
@no_type_check
def _draw_stroke(image, start, end, start_color, end_color, radius):
    """Blend all pixels within `radius` of a segment; a segment of length 0 is a circle."""
    size = image.shape[0]
    dx, dy = end[0] - start[0], end[1] - start[1]
    squared = dx * dx + dy * dy
    inverse = 1 / squared if squared > 0 else 0.0
    length = math.sqrt(squared)
    reach = radius + 0.5
    top = max(math.ceil(min(start[1], end[1]) - reach), 0.0)
    bottom = min(math.floor(max(start[1], end[1]) + reach), size - 1.0)
    left = min(start[0], end[0]) - reach
    right = max(start[0], end[0]) + reach
    for y in range(int(top), int(bottom) + 1):
        low, high = left, right
        if abs(dy) > 1e-6:  # only the columns where the row crosses the strip around the line
            middle = start[0] + (y - start[1]) * dx / dy
            half = reach * length / abs(dy)
            low, high = max(low, middle - half), min(high, middle + half)
        low, high = max(math.ceil(low), 0.0), min(math.floor(high), size - 1.0)
        for x in range(int(low), int(high) + 1):
            px, py = x - start[0], y - start[1]
            along = min(max((px * dx + py * dy) * inverse, 0.0), 1.0)
            px, py = px - along * dx, py - along * dy
            coverage = min(reach - math.sqrt(px * px + py * py), 1.0)
            if coverage <= 0:
                continue
            confidence = start[2] + along * (end[2] - start[2])
            alpha = coverage * min(max(confidence, 0.0), 1.0)
            for c in range(3):
                color = start_color[c] + along * (end_color[c] - start_color[c])
                image[y, x, c] = np.uint8(image[y, x, c] * (1 - alpha) + color * alpha + 0.5)
