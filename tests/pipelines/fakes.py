"""A detector without weights, and videos that it understands: people are bright rectangles."""

import os
import time
from pathlib import Path

import cv2
import numpy as np

from extpose.config import CropConfig, DetectConfig, PreprocessConfig, SourceConfig
from extpose.detect.people import Detections
from extpose.video import VideoWriter
from pipelines.stages.detect import DetectorSpec

SIZE = (120, 160)
SHAPE = np.random.default_rng(0).uniform(0.05, 0.95, (17, 2))
POISON = 60
"""Mean brightness of a background that the detector cannot stand."""


class BoxDetector:
    """Finds bright rectangles; `seconds` a frame, to be killed in."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, rgb: np.ndarray) -> Detections:
        time.sleep(self.seconds)
        if abs(float(rgb[:8].mean()) - POISON) < 15:
            raise ArithmeticError("poison")
        mask = (rgb.mean(-1) > 150).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
        found = [s for s in stats[1:] if s[4] > 100]
        box = np.array([[x, y, x + w, y + h] for x, y, w, h, _ in found], np.float32).reshape(-1, 4)
        points = box[:, None, :2] + SHAPE * (box[:, None, 2:] - box[:, None, :2])
        sure = np.full((len(box), 17, 1), 0.9)
        return Detections(
            bbox_xyxy=box,
            scores=np.full(len(box), 0.9, np.float32),
            keypoints_2d=np.concatenate([points, sure], -1).astype(np.float32),
        )


def _build(_: DetectConfig) -> BoxDetector:
    return BoxDetector(float(os.environ.get("FAKE_DETECTOR_SECONDS", "0")))


def box_detector() -> DetectorSpec:
    return DetectorSpec(name="boxes", identity="1", build=_build)


def write_people(path: Path, num_frames: int, *, people: int = 1, background: int = 0) -> Path:
    """Rectangles that walk to the right."""
    with VideoWriter(path, 25.0, SIZE) as writer:
        for i in range(num_frames):
            rgb = np.full((*SIZE, 3), background, np.uint8)
            for p in range(people):
                x = 10 + 50 * p + i // 3
                rgb[20:100, x : x + 30] = 220
            writer.write(rgb)
    return path


def config_of(source: Path, out: Path, **changes) -> PreprocessConfig:
    return PreprocessConfig(
        source=SourceConfig(path=(source,)),
        out=out,
        crop=CropConfig(size=64),
        **{"unit_frames": 20, "clip_frames": 16, "num_detectors": 1} | changes,
    )
