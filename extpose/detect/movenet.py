"""People in a frame: boxes by CenterNet, 17 keypoints each by MoveNet Thunder. ONNX Runtime.

Both networks come from a TensorFlow.js package (`extpose.assets`). Boxes are x0 y0 x1 y1, source
pixels; left and right are the person's own (COCO-17).
"""

from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from jaxtyping import Float32, UInt8

from extpose.assets import ASSETS, fetch
from extpose.config import DetectConfig
from extpose.detect.boxes import box_iou, fit_image, keep_best
from extpose.detect.people import Detections
from extpose.detect.tfjs import convert_cached

BOX_INPUT = 640
"""The frame's longer side in the box network; the shorter is a multiple of `BOX_MULTIPLE`."""
BOX_MULTIPLE = 32
BOX_STRIDE = 4
BOX_OUTPUTS = ("tower_0/keypoints", "tower_0/wh")
PERSON_CLASS = 0
MIN_BOX_SCORE = 0.2
"""Of a box whose keypoints are looked for. False boxes reach 0.4, but their keypoints are unsure
(mean confidence below 0.25, people's above 0.3), so a score of both parts them best."""
MAX_BOX_IOU = 0.6
"""Boxes that overlap more are taken for one person before keypoints are looked for."""

CROP_SIZE = 256
CROP_PADDING = 1.15
"""Side of the square crop in longer sides of the box."""
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


class PersonDetector:
    """All people of an RGB frame, surest first. One instance a process: it owns its sessions."""

    name = "movenet-thunder"

    def __init__(self, config: DetectConfig) -> None:
        """Fetches the weights at the first use; raises AssetError when they cannot be had."""
        self._config = config
        self._box_folder = fetch("person-boxes")
        self._box_sessions: dict[tuple[int, int], onnxruntime.InferenceSession] = {}
        self._pose_session = _open_session(
            convert_cached(fetch("movenet-thunder")), threads=config.threads
        )

    @property
    def weights(self) -> dict[str, str]:
        """SHA-256 of each file of weights, for provenance."""
        return {
            member.path.rpartition("/")[2]: member.sha256
            for name in ("movenet-thunder", "person-boxes")
            for member in ASSETS[name].members
        }

    def __call__(self, rgb: UInt8[np.ndarray, "h w 3"]) -> Detections:
        """At most `max_people` that score `box_threshold` or more.

        A score is the geometric mean of the box's and of the keypoints' mean confidence.
        """
        boxes, scores = self.find_boxes(rgb)
        keypoints = self.find_keypoints(rgb, boxes)
        scores = np.sqrt(scores * keypoints[..., 2].mean(-1))
        boxes = refine_boxes(boxes, keypoints, image_size=rgb.shape[:2])
        kept = keep_best(scores, keypoint_similarity(keypoints, boxes) > MAX_SIMILARITY)
        kept = kept[scores[kept] >= self._config.box_threshold]
        return Detections(bbox_xyxy=boxes[kept], scores=scores[kept], keypoints_2d=keypoints[kept])

    def find_boxes(
        self, rgb: UInt8[np.ndarray, "h w 3"]
    ) -> tuple[Float32[np.ndarray, "p 4"], Float32[np.ndarray, " p"]]:
        """Boxes that may hold a person and their scores, surest first, at most `max_people`."""
        size = _box_input_size(*rgb.shape[:2])
        if size not in self._box_sessions:
            path = convert_cached(self._box_folder, input_size=size, outputs=BOX_OUTPUTS)
            self._box_sessions[size] = _open_session(path, threads=self._config.threads)
        session = self._box_sessions[size]
        picture, scale, _ = fit_image(rgb, size)
        heat, sides = session.run(
            None, {session.get_inputs()[0].name: picture[None].astype(np.float32)}
        )
        boxes, scores = _decode_boxes(
            np.ascontiguousarray(heat[0, :, :, PERSON_CLASS]),
            sides[0],
            threshold=min(MIN_BOX_SCORE, self._config.box_threshold),
        )
        kept = keep_best(scores, box_iou(boxes, boxes) > MAX_BOX_IOU)[: self._config.max_people]
        limits = np.array([rgb.shape[1], rgb.shape[0]] * 2, np.float32)
        return np.clip(boxes[kept] / np.float32(scale), 0, limits - 1), scores[kept]

    def find_keypoints(
        self, rgb: UInt8[np.ndarray, "h w 3"], boxes: Float32[np.ndarray, "p 4"]
    ) -> Float32[np.ndarray, "p 17 3"]:
        """x y confidence of one person in each box."""
        result = np.zeros((len(boxes), 17, 3), np.float32)
        for index, box in enumerate(boxes):
            centre = (box[:2] + box[2:]) / 2
            side = max(float((box[2:] - box[:2]).max()) * CROP_PADDING, 1.0)
            crop = _crop_square(rgb, centre, side)
            yxc = self._pose_session.run(None, {"input": crop[None].astype(np.int32)})[0][0, 0]
            result[index, :, :2] = centre + (yxc[:, 1::-1] - 0.5) * side
            result[index, :, 2] = yxc[:, 2]
        return result


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


def _decode_boxes(
    heat: Float32[np.ndarray, "y x"], sides: Float32[np.ndarray, "y x 4"], *, threshold: float
) -> tuple[Float32[np.ndarray, "p 4"], Float32[np.ndarray, " p"]]:
    """Local maxima of the heat map; `sides` are distances to left, top, right and bottom."""
    is_peak = (heat == cv2.dilate(heat, np.ones((3, 3), np.uint8))) & (heat > threshold)
    y, x = np.nonzero(is_peak)
    centre = np.stack([x, y], -1).astype(np.float32) * BOX_STRIDE
    distance = sides[y, x]
    boxes = np.concatenate([centre - distance[:, :2], centre + distance[:, 2:]], -1)
    return boxes, heat[y, x]


def _box_input_size(height: int, width: int) -> tuple[int, int]:
    scale = BOX_INPUT / max(height, width)
    sides = (max(1, -int(-(n * scale) // BOX_MULTIPLE)) for n in (height, width))
    return next(sides) * BOX_MULTIPLE, next(sides) * BOX_MULTIPLE


def _crop_square(
    rgb: UInt8[np.ndarray, "h w 3"], centre: Float32[np.ndarray, " 2"], side: float
) -> UInt8[np.ndarray, "256 256 3"]:
    """The square around `centre`, which comes to lie at (128, 128); black outside the image."""
    # Bilinear sampling skips pixels when it shrinks: sample twice as dense, then average.
    times = 2 if side > 1.5 * CROP_SIZE else 1
    size = times * CROP_SIZE
    scale = size / side
    shift = size / 2 + (times - 1) / 2 - centre * scale
    affine = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]], np.float64)
    crop = cv2.warpAffine(rgb, affine, (size, size), flags=cv2.INTER_LINEAR)
    return crop if times == 1 else cv2.resize(crop, (CROP_SIZE,) * 2, interpolation=cv2.INTER_AREA)


def _open_session(path: Path, *, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Waiting threads that spin take the cores from the other processes of a pipeline.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
