"""The detectors that `--detector` knows: names, what decides their output, how they are opened.

A new detector is a class with `find_keypoints` (top down), or any callable from a frame to
`Detections`, and one row of `PLUGS`. Its packages are imported where it is opened: in the process
that runs it, and nowhere else. docs/detectors.md compares them.
"""

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from extpose.assets import ASSETS
from extpose.config import DetectConfig, DetectorName
from extpose.detect.calibration import (
    CalibratedBatches,
    CalibratedBoxes,
    CalibratedDetector,
    Calibration,
    FindsInBatches,
    calibration_path,
    load_calibration,
)
from extpose.detect.people import Detections
from extpose.detect.precomputed import PrecomputedKeypoints
from extpose.errors import AssetError

CALIBRATED = "+calibrated"
"""Ends the name of a detector whose confidences are calibrated."""
FILE_SETTINGS = ("weights", "keypoints", "calibration")
"""Of `DetectConfig`: what decides is the files' content (`detector_identity`), not their place."""
FRAMES = 8
"""Of one forward pass, where a network can take the people of several: that fills a GPU."""
HAND_WEIGHTS = ("palm-detection", "hand-landmarks")
"""Assets of the hand detector."""
FindPeople = Callable[[UInt8[np.ndarray, "h w 3"]], Detections]


@runtime_checkable
class Detector(Protocol):
    """Finds the people of a frame."""

    name: str

    def __call__(self, rgb: UInt8[np.ndarray, "h w 3"]) -> Detections:
        """All people of an RGB frame."""
        ...


@runtime_checkable
class VideoDetector(Protocol):
    """Knows the people of a video's frames by their place in it."""

    def start(self, video: PurePath, *, first_frame: int, num_frames: int) -> FindPeople:
        """What is called with the frames from `first_frame` on; the video has `num_frames`."""
        ...


@runtime_checkable
class BatchDetector(Protocol):
    """A detector that is faster on several frames at once."""

    batch_size: int

    def detect_batch(self, images: list[np.ndarray]) -> list[Detections]:
        """All people of each of up to `batch_size` RGB frames."""
        ...


@runtime_checkable
class BoxDetector(Protocol):
    """Finds people (or hands), or the keypoints of one in each given box."""

    name: str

    def __call__(self, rgb: UInt8[np.ndarray, "h w 3"]) -> Detections:
        """All of an RGB frame."""
        ...

    def find_keypoints(
        self, rgb: UInt8[np.ndarray, "h w 3"], boxes: Float32[np.ndarray, "p 4"]
    ) -> Float32[np.ndarray, "p k 3"]:
        """One in each box (x0 y0 x1 y1)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Plug:
    """One row of the table."""

    name: str
    """In clips."""
    open: Callable[[DetectConfig], Detector | VideoDetector]
    assets: tuple[str, ...] = ()
    """Fetched weights."""
    needs_weights: bool = False
    """Whether `detect.weights` names the user's own."""
    frames: int = 1
    """That it takes at once. More change the last bits, so they are part of its identity."""


def detector_name(name: DetectorName, config: DetectConfig) -> str:
    """What clips call the detector."""
    return PLUGS[name].name + ("" if config.calibration is None else CALIBRATED)


def detector_identity(name: DetectorName, config: DetectConfig) -> str:
    """Hash of all weights and of the calibration; opens no network.

    Raises AssetError where `detect.weights` is needed and missing, CalibrationError for a
    calibration that is none or of another detector.
    """
    plug = PLUGS[name]
    parts = [plug.name, *((m.path, m.sha256) for a in plug.assets for m in ASSETS[a].members)]
    if plug.needs_weights:
        if config.weights is None or not config.weights.exists():
            plug.open(config)  # says what to bring, and from where
            raise AssetError(f"detector {name!r} needs --detect.weights, got {config.weights}")
        parts.append(hash_files(config.weights))
    if plug.frames > 1:
        parts.append(f"{plug.frames} frames at once")
    if config.calibration is not None:
        load_calibration(config.calibration, plug.name)
        parts.append(hash_files(calibration_path(config.calibration)))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def hand_detector_identity() -> str:
    """Hash of the hand detector's weights; opens no network."""
    parts = [(m.path, m.sha256) for name in HAND_WEIGHTS for m in ASSETS[name].members]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def build_detector(name: DetectorName, config: DetectConfig) -> Detector | VideoDetector:
    """Open a detector, with its calibration if there is one. Raises AssetError."""
    plug = PLUGS[name]
    detector = plug.open(config)
    if config.calibration is None:
        return detector
    calibration = load_calibration(config.calibration, plug.name)
    full_name = detector_name(name, config)
    if isinstance(detector, VideoDetector):
        return _CalibratedVideo(detector, calibration, full_name)
    if isinstance(detector, FindsInBatches):
        return CalibratedBatches(detector, calibration, full_name)
    if isinstance(detector, BoxDetector):
        return CalibratedBoxes(detector, calibration, full_name)
    return CalibratedDetector(detector, calibration, full_name)


def start_video(
    detector: FindPeople | VideoDetector, video: PurePath, *, first_frame: int, num_frames: int
) -> FindPeople:
    """What finds the people of a video's frames, to be called in their order.

    Raises VideoError for a video of which a `VideoDetector` knows nothing.
    """
    if isinstance(detector, VideoDetector):
        return detector.start(video, first_frame=first_frame, num_frames=num_frames)
    return detector


def hash_files(path: Path) -> str:
    """SHA-256 of a file, or of all files of a folder."""
    digest = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        with file.open("rb") as stream:
            digest.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


@dataclass(frozen=True)
class _CalibratedVideo:
    detector: VideoDetector
    calibration: Calibration
    name: str

    def start(self, video: PurePath, *, first_frame: int, num_frames: int) -> FindPeople:
        found = self.detector.start(video, first_frame=first_frame, num_frames=num_frames)
        return CalibratedDetector(found, self.calibration, self.name)


def _open_movenet(config: DetectConfig) -> Detector:
    from extpose.detect.movenet import PersonDetector

    return PersonDetector(config)


def _open_blazepose(config: DetectConfig, variant: Literal["heavy", "full"] = "heavy") -> Detector:
    from extpose.detect.blazepose import BlazePose
    from extpose.detect.top_down import TopDownDetector

    return TopDownDetector(config, BlazePose(config, variant))


def _open_vitpose(config: DetectConfig) -> Detector:
    from extpose.detect.top_down import BatchedTopDownDetector
    from extpose.detect.vitpose import VitPose

    return BatchedTopDownDetector(config, VitPose(config), batch_size=FRAMES)


def _open_rtmpose(config: DetectConfig) -> Detector:
    from extpose.detect.rtmpose import RtmPose
    from extpose.detect.top_down import BatchedTopDownDetector

    return BatchedTopDownDetector(config, RtmPose(config), batch_size=FRAMES)


BOXES = "person-boxes"
PLUGS: dict[DetectorName, Plug] = {
    "movenet": Plug(name="movenet-thunder", open=_open_movenet, assets=("movenet-thunder", BOXES)),
    "blazepose": Plug(
        name="blazepose-heavy", open=_open_blazepose, assets=("blazepose-heavy", BOXES)
    ),
    "blazepose-full": Plug(
        name="blazepose-full",
        open=functools.partial(_open_blazepose, variant="full"),
        assets=("blazepose-full", BOXES),
    ),
    "vitpose": Plug(
        name="vitpose", open=_open_vitpose, assets=(BOXES,), needs_weights=True, frames=FRAMES
    ),
    "rtmpose": Plug(
        name="rtmpose", open=_open_rtmpose, assets=(BOXES,), needs_weights=True, frames=FRAMES
    ),
    "keypoints": Plug(name="keypoints", open=PrecomputedKeypoints),
}
