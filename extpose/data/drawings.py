"""Whether stored drawings show the stored keypoints; if not, what they show instead.

The colours of the joints tell: a drawing in which every joint stands where another one should be
was made with another order, one with exactly the other sides' colours was made with left and right
exchanged.

Axes     k keypoints   h w pixels
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8
from scipy.optimize import linear_sum_assignment

from extpose.config import SkeletonConfig
from extpose.data.clip import decode_image, redraw_skeleton
from extpose.data.crop import keypoints_to_crop
from extpose.data.faults import Fault, FaultKind
from extpose.data.skeleton import COLORS, draw_skeleton
from extpose.keypoints import FLIP_PAIRS
from extpose.schema import Clip

NEAR = 24
"""Largest difference of a colour channel of two drawings of the same thing."""
SAME, ALIKE = 0.97, 0.75
"""Shares of the drawn pixels that must be near: in the same drawing, and with an order that was
guessed from colours, of which some are covered."""
_WORDS: dict[FaultKind, str] = {
    "not_the_drawing": "is not the drawing of keypoints_2d",
    "sides_swapped": "is the drawing of keypoints_2d with left and right swapped",
    "joint_order": "is the drawing of keypoints_2d in another joint order",
    "keypoints_in_crop": "is the drawing of keypoints_2d taken for crop coordinates",
}


def find_drawing_faults(clip: Clip, config: SkeletonConfig) -> Iterator[Fault]:
    """The drawings that differ, as one fault: the simplest mistake that explains all of them."""
    stored = [decode_image(data) for data in clip.skeleton]
    wrong = [
        frame
        for frame, image in enumerate(stored)
        if not np.array_equal(image, _draw(clip, frame, clip.keypoints_2d[frame], config))
    ]
    if wrong:
        kind = _diagnose(clip, {frame: stored[frame] for frame in wrong}, config)
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        yield Fault(kind=kind, message=f"{wrong[0]:03d}.skeleton.png: {_WORDS[kind]}{more}")


def _draw(
    clip: Clip, frame: int, points: Float32[np.ndarray, "k 3"], config: SkeletonConfig
) -> UInt8[np.ndarray, "h w 3"]:
    return redraw_skeleton(
        points,
        clip.crop_to_img[frame],
        keypoint_set=clip.meta.keypoint_set,
        crop_size=clip.meta.crop_size,
        skeleton_size=clip.meta.skeleton_size,
        config=config,
    )


def _diagnose(
    clip: Clip, stored: dict[int, UInt8[np.ndarray, "h w 3"]], config: SkeletonConfig
) -> FaultKind:
    """What explains the drawings of these frames."""
    points, pairs = clip.keypoints_2d, FLIP_PAIRS[clip.meta.keypoint_set]
    if not (points[list(stored), :, 2] >= config.min_confidence).any():
        return "not_the_drawing"

    def share(order: Int64[np.ndarray, " k"]) -> float:
        """How alike the drawings become when row i of the keypoints is `order[i]`."""
        drawn = {frame: _draw(clip, frame, points[frame, order], config) for frame in stored}
        return float(np.mean([_share(stored[frame], drawn[frame]) for frame in stored]))

    as_read = np.arange(points.shape[1])
    mirrored = as_read.copy()
    for left, right in pairs:
        mirrored[left], mirrored[right] = right, left
    if pairs and share(mirrored) >= SAME:
        return "sides_swapped"
    readings = zip(*(_draw_as_crop(clip, frame, config) for frame in stored), strict=True)
    for drawings in readings:
        pictures = zip(stored.values(), drawings, strict=True)
        if np.mean([_share(image, drawn) for image, drawn in pictures]) >= SAME:
            return "keypoints_in_crop"
    order = _guess_order(clip, stored, config)
    if not np.array_equal(order, as_read) and ALIKE <= share(order) > share(as_read):
        return "joint_order"
    return "not_the_drawing"


def _draw_as_crop(
    clip: Clip, frame: int, config: SkeletonConfig
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Drawings of the keypoints if they are pixels of the stored or the network's crop, or parts
    of the latter."""
    points, size = clip.keypoints_2d[frame], clip.meta.skeleton_size
    border = (clip.meta.crop_size - size) / 2
    for scale, shift in ((1, -border), (1, 0), (size, size / 2)):
        moved = points.copy()
        moved[:, :2] = points[:, :2] * np.float32(scale) + np.float32(shift)
        yield draw_skeleton(moved, clip.meta.keypoint_set, size, config)


def _guess_order(
    clip: Clip, stored: dict[int, UInt8[np.ndarray, "h w 3"]], config: SkeletonConfig
) -> Int64[np.ndarray, " k"]:
    """For each joint the row of `keypoints_2d` at which the drawings have its colour."""
    colors = np.array(COLORS[clip.meta.keypoint_set], np.float64)
    cost = np.zeros((len(colors), len(colors)))
    for frame, image in stored.items():
        points = keypoints_to_crop(
            clip.keypoints_2d[frame],
            clip.crop_to_img[frame],
            crop_size=clip.meta.crop_size,
            skeleton_size=clip.meta.skeleton_size,
        )
        x, y = np.clip(np.rint(points[:, :2]), 0, len(image) - 1).astype(int).T
        is_drawn = (points[:, 2] >= config.min_confidence) & _is_inside(points, len(image))
        expected = points[:, None, 2:] * colors
        cost += np.abs(image[y, x, None].astype(np.float64) - expected).sum(-1) * is_drawn[:, None]
    rows, columns = linear_sum_assignment(cost)
    order = np.empty(len(colors), np.int64)
    order[columns] = rows
    return order


def _is_inside(points: Float32[np.ndarray, "k 3"], size: int) -> Bool[np.ndarray, " k"]:
    inside: Bool[np.ndarray, " k"] = np.all(
        (points[:, :2] >= 0) & (points[:, :2] <= size - 1), axis=-1
    )
    return inside


def _share(a: UInt8[np.ndarray, "h w 3"], b: UInt8[np.ndarray, "h w 3"]) -> float:
    """Of the pixels that either draws, those that both draw nearly alike."""
    difference = np.abs(a.astype(np.int16) - b).max(-1)
    is_drawn = (a.max(-1) > 0) | (b.max(-1) > 0)
    return float((difference[is_drawn] <= NEAR).mean()) if is_drawn.any() else 1.0
