"""From `--detector` to what a worker opens: the detector's name, identity, and how it is built."""

import functools
from dataclasses import replace
from pathlib import PurePath

from extpose.config import DetectConfig, DetectorName, PreprocessConfig
from extpose.detect.plugs import (
    build_detector,
    detector_identity,
    detector_name,
    hand_detector_identity,
    hash_files,
)
from extpose.detect.precomputed import keypoints_path
from pipelines.stages.detect import DetectorSpec


def detector_spec(name: DetectorName, config: DetectConfig) -> DetectorSpec:
    """The detector of that name with these settings; opens no network.

    Raises AssetError where weights are needed and missing, CalibrationError for a calibration that
    is none or of another detector.
    """
    of_video = functools.partial(_hash_keypoints, config=config) if name == "keypoints" else None
    return DetectorSpec(
        name=detector_name(name, config),
        identity=detector_identity(name, config),
        build=functools.partial(build_detector, name),
        identity_of=of_video,
    )


def _hash_keypoints(video: PurePath, *, config: DetectConfig) -> str:
    return hash_files(keypoints_path(video, config))


def on_gpu(config: PreprocessConfig) -> PreprocessConfig:
    """Detectors that are given a part of a GPU run on it."""
    if config.gpus_per_detector > 0 and config.detect.device == "cpu":
        return replace(config, detect=replace(config.detect, device="cuda"))
    return config


def evidence_name(config: PreprocessConfig, spec: DetectorSpec) -> str:
    """What clips say of where their 2D keypoints are from."""
    if config.body == "smpl" or config.detect.hands == "wholebody":
        return spec.name
    return f"mediapipe-hands+{spec.name}"


def hands_identity(config: PreprocessConfig) -> str:
    """Of the hand networks' weights, where there are any besides the detector's."""
    if config.body == "smpl" or config.detect.hands == "wholebody":
        return ""
    return hand_detector_identity()
