"""Boxes around the people of a frame, by CenterNet on ONNX Runtime. Source pixels, x0 y0 x1 y1."""

import cv2
import numpy as np
import onnxruntime
from jaxtyping import Float32, UInt8

from extpose.assets import fetch
from extpose.config import DetectConfig
from extpose.detect.boxes import box_iou, fit_image, keep_best
from extpose.detect.runtime import open_session
from extpose.detect.tfjs import convert_cached

BOX_INPUT = 640
"""The frame's longer side in the network; the shorter is a multiple of `BOX_MULTIPLE`."""
BOX_MULTIPLE = 32
BOX_STRIDE = 4
BOX_OUTPUTS = ("tower_0/keypoints", "tower_0/wh")
PERSON_CLASS = 0
MIN_BOX_SCORE = 0.2
"""Of a box whose keypoints are looked for. False boxes reach 0.4, but their keypoints are unsure
(mean confidence below 0.25, people's above 0.3), so a score of both parts them best."""
MAX_BOX_IOU = 0.6
"""Boxes that overlap more are taken for one person before keypoints are looked for."""


class PersonBoxes:
    """Boxes that may hold a person. One instance a process: it owns its sessions."""

    def __init__(self, config: DetectConfig) -> None:
        """Fetches the weights at the first use; raises AssetError when they cannot be had."""
        self._config = config
        self._folder = fetch("person-boxes")
        self._sessions: dict[tuple[int, int], onnxruntime.InferenceSession] = {}

    def __call__(
        self, rgb: UInt8[np.ndarray, "h w 3"]
    ) -> tuple[Float32[np.ndarray, "p 4"], Float32[np.ndarray, " p"]]:
        """Boxes and their scores, surest first, at most `max_people`."""
        size = _box_input_size(*rgb.shape[:2])
        if size not in self._sessions:
            path = convert_cached(self._folder, input_size=size, outputs=BOX_OUTPUTS)
            threads, device = self._config.threads, self._config.device
            self._sessions[size] = open_session(path, threads=threads, device=device)
        session = self._sessions[size]
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
