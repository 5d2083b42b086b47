"""A detector without weights, and videos that it understands: people are bright rectangles."""

import ctypes
import functools
import os
import signal
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
    """Finds bright rectangles; `seconds` a frame, to be killed in; a `fault` on poisoned frames."""

    def __init__(self, seconds: float, fault: str = "raises") -> None:
        self.seconds, self.fault = seconds, fault

    def __call__(self, rgb: np.ndarray) -> Detections:
        time.sleep(self.seconds)
        found = self.find(rgb)
        return misbehave(self.fault, found) if abs(float(rgb[:8].mean()) - POISON) < 15 else found

    def find(self, rgb: np.ndarray) -> Detections:
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


def misbehave(fault: str, found: Detections) -> Detections:
    """What detectors do that they should not."""
    match fault:
        case "raises":
            raise ArithmeticError("poison")
        case "hangs":
            # In C, holding the interpreter's lock: no Python thread could end it.
            ctypes.PyDLL(None).sleep(3600)
        case "crashes":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "kills its actor":
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        case "says NaN":
            found.keypoints_2d[0, 3] = np.nan
        case "forgets a score":
            object.__setattr__(found, "scores", found.scores[1:])
        case "nothing":
            pass
        case _:
            raise ValueError(fault)
    return found


def _build(fault: str, _: DetectConfig) -> BoxDetector:
    return BoxDetector(float(os.environ.get("FAKE_DETECTOR_SECONDS", "0")), fault)


def box_detector(fault: str = "raises") -> DetectorSpec:
    return DetectorSpec(name="boxes", identity="1", build=functools.partial(_build, fault))


def write_people(
    path: Path, num_frames: int, *, people: int = 1, background: int = 0, poison: int = -1
) -> Path:
    """Rectangles that walk to the right; the frame `poison` is poisoned."""
    with VideoWriter(path, 25.0, SIZE) as writer:
        for i in range(num_frames):
            rgb = np.full((*SIZE, 3), POISON if i == poison else background, np.uint8)
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
