"""People of a frame, top down: boxes first, then the 17 keypoints (COCO) of one person in each.

What every detector of this kind shares: scores, boxes that follow the keypoints, and one detection
a person. Boxes are x0 y0 x1 y1, source pixels; left and right are the person's own.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from extpose.config import DetectConfig
from extpose.detect.boxes import keep_best
from extpose.detect.centernet import PersonBoxes
from extpose.detect.people import Detections

MIN_CONFIDENCE = 0.2
"""Of a keypoint that takes part in boxes and comparisons."""
MIN_KEYPOINTS = 6
"""Fewer do not change the detector's box."""
BOX_MARGIN = (0.06, 0.09, 0.06, 0.09)
"""From keypoints to the outline (left, top, right, bottom), in longer sides of their extent."""
MAX_SIMILARITY = 0.5
"""Object keypoint similarity of two detections above which they are one person."""
# COCO's falloff a joint (pycocotools, twice the annotators' standard deviation).
COCO_FALLOFF = 2 * np.array(
    [26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89], np.float32
) / np.float32(1000)  # fmt: skip


@runtime_checkable
class PoseNetwork(Protocol):
    """Keypoints of the one person in a box."""

    name: str

    def find_keypoints(
        self, rgb: UInt8[np.ndarray, "h w 3"], boxes: Float32[np.ndarray, "p 4"]
    ) -> Float32[np.ndarray, "p 17 3"]:
        """x y confidence (0 to 1) of one person in each box."""
        ...


@runtime_checkable
class BatchedPoseNetwork(PoseNetwork, Protocol):
    """One that takes the people of several frames at once."""

    def find_in_frames(
        self, images: Sequence[UInt8[np.ndarray, "h w 3"]], boxes: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """Keypoints (p 17 3) in the boxes (p 4) of each frame."""
        ...


class TopDownDetector:
    """All people of an RGB frame, surest first: CenterNet's boxes, keypoints by any network."""

    def __init__(self, config: DetectConfig, pose: PoseNetwork) -> None:
        """Fetches the box network's weights at the first use; raises AssetError without them."""
        self.name, self.pose = pose.name, pose
        self._config = config
        self.find_boxes = PersonBoxes(config)
        self.find_keypoints = pose.find_keypoints

    def __call__(self, rgb: UInt8[np.ndarray, "h w 3"]) -> Detections:
        """At most `max_people` that score `box_threshold` or more.

        A score is the geometric mean of the box's and of the keypoints' mean confidence.
        """
        boxes, scores = self.find_boxes(rgb)
        return self._select(rgb, boxes, scores, self.find_keypoints(rgb, boxes))

    def _select(
        self,
        rgb: UInt8[np.ndarray, "h w 3"],
        boxes: Float32[np.ndarray, "p 4"],
        scores: Float32[np.ndarray, " p"],
        keypoints: Float32[np.ndarray, "p 17 3"],
    ) -> Detections:
        scores = np.sqrt(scores * keypoints[..., 2].mean(-1))
        boxes = refine_boxes(boxes, keypoints, image_size=rgb.shape[:2])
        kept = keep_best(scores, keypoint_similarity(keypoints, boxes) > MAX_SIMILARITY)
        kept = kept[scores[kept] >= self._config.box_threshold]
        return Detections(bbox_xyxy=boxes[kept], scores=scores[kept], keypoints_2d=keypoints[kept])


class BatchedTopDownDetector(TopDownDetector):
    """The same, which can also be given several frames: that fills a GPU."""

    def __init__(self, config: DetectConfig, pose: BatchedPoseNetwork, *, batch_size: int) -> None:
        """`batch_size`: frames of one call."""
        super().__init__(config, pose)
        self._batched, self.batch_size = pose, batch_size

    def detect_batch(self, images: list[UInt8[np.ndarray, "h w 3"]]) -> list[Detections]:
        """All people of each frame: those that a call with each would find."""
        found = [self.find_boxes(rgb) for rgb in images]
        points = self._batched.find_in_frames(images, [boxes for boxes, _ in found])
        return [
            self._select(rgb, boxes, scores, keypoints)
            for rgb, (boxes, scores), keypoints in zip(images, found, points, strict=True)
        ]


def refine_boxes(
    boxes: Float32[np.ndarray, "p 4"],
    keypoints: Float32[np.ndarray, "p 17 3"],
    *,
    image_size: tuple[int, int],
) -> Float32[np.ndarray, "p 4"]:
    """Boxes around the keypoints where enough are sure, else as they were; inside the image."""
    result = boxes.copy()
    for index, points in enumerate(keypoints):
        sure = points[points[:, 2] > MIN_CONFIDENCE, :2]
        if len(sure) >= MIN_KEYPOINTS:
            low, high = sure.min(0), sure.max(0)
            margin = np.array(BOX_MARGIN, np.float32) * (high - low).max()
            result[index] = np.concatenate([low - margin[:2], high + margin[2:]])
    height, width = image_size
    return np.clip(result, 0, np.array([width - 1, height - 1] * 2, np.float32))


def keypoint_similarity(
    keypoints: Float32[np.ndarray, "p 17 3"], boxes: Float32[np.ndarray, "p 4"]
) -> Float32[np.ndarray, "p p"]:
    """COCO's object keypoint similarity of each with each, over joints that both are sure of.

    The scale is the larger box's area. 0 where fewer than `MIN_KEYPOINTS` joints are shared.
    """
    squared = np.square(keypoints[:, None, :, :2] - keypoints[None, :, :, :2]).sum(-1)
    area = np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(-1), 1)
    scale = np.maximum(area[:, None], area[None])[..., None] * 2 * COCO_FALLOFF**2
    is_sure = keypoints[..., 2] > MIN_CONFIDENCE
    shared = is_sure[:, None] & is_sure[None]
    count = shared.sum(-1)
    similarity = (np.exp(-squared / scale) * shared).sum(-1) / np.maximum(count, 1)
    return np.where(count >= MIN_KEYPOINTS, similarity, 0).astype(np.float32)
