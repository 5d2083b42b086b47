"""The table of detectors: names, identities, and what is said when something is missing."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from extpose.config import DetectConfig, DetectorName
from extpose.detect.calibration import CalibrationError
from extpose.detect.plugs import (
    PLUGS,
    VideoDetector,
    build_detector,
    detector_identity,
    detector_name,
    hash_files,
)
from extpose.errors import AssetError

CONFIG = DetectConfig()


def test_every_name_of_the_option_has_a_row() -> None:
    assert set(PLUGS) == set(get_args(DetectorName))


def test_the_packaged_detectors_have_identities_of_their_own() -> None:
    names: list[DetectorName] = ["movenet", "blazepose", "blazepose-full", "keypoints"]
    identities = {detector_identity(name, CONFIG) for name in names}
    assert len(identities) == len(names)


@pytest.mark.parametrize("name", ["vitpose", "rtmpose"])
def test_weights_decide_by_their_content(name: DetectorName, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"1")
    config = replace(CONFIG, weights=folder)
    first = detector_identity(name, config)
    moved = folder.rename(tmp_path / "b")
    assert detector_identity(name, replace(CONFIG, weights=moved)) == first
    (moved / "model.onnx").write_bytes(b"2")
    assert detector_identity(name, replace(CONFIG, weights=moved)) != first
    for missing in (None, tmp_path / "none"):
        with pytest.raises(AssetError, match=r"--detect\.weights"):
            detector_identity(name, replace(CONFIG, weights=missing))


def test_a_calibration_is_part_of_the_identity_and_of_the_name() -> None:
    config = replace(CONFIG, calibration=Path("packaged"))
    assert detector_identity("movenet", config) != detector_identity("movenet", CONFIG)
    assert detector_name("movenet", config) == "movenet-thunder+calibrated"
    with pytest.raises(CalibrationError, match="fitted for 'movenet-thunder'"):
        detector_identity("blazepose", config)


def test_keypoints_are_opened_video_by_video(tmp_path: Path) -> None:
    detector = build_detector("keypoints", replace(CONFIG, keypoints=tmp_path))
    assert isinstance(detector, VideoDetector)


def test_folders_are_hashed_by_names_and_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    one = hash_files(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert hash_files(tmp_path) != one
