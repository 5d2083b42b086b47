"""Detectors in the line of preprocessing: precomputed keypoints, and hands. Without Ray."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from extpose.config import DetectConfig, PreprocessConfig
from extpose.data.shards import ShardIndex
from extpose.detect.calibration import COCO17, CalibratedBatches, Calibration, JointMap
from extpose.detect.people import Detections
from extpose.detect.plugs import BatchDetector
from extpose.detect.wrist_hands import FoundHands
from extpose.errors import VideoError
from pipelines.detectors import detector_spec, evidence_name, hands_identity, on_gpu
from pipelines.ledger import open_output
from pipelines.plan import PlannedVideo, plan_videos, settings_of
from pipelines.rows import Failure, unpack_arrays
from pipelines.stages.detect import Detected, DetectorSpec, detect_unit
from pipelines.stages.hands import FindHands
from pipelines.stages.pack import pack
from pipelines.stages.track import track
from tests.pipelines.fakes import SHAPE, BoxDetector, box_detector, config_of, write_people
from tests.pipelines.stages_alone import detect_alone

NUM_FRAMES = 30
HAND = np.random.default_rng(1).uniform(0, 30, (21, 2))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("video") / "walk.mp4", NUM_FRAMES)


def plan(config: PreprocessConfig, spec: DetectorSpec) -> PlannedVideo:
    settings = settings_of(config, f"{spec.name} {spec.identity}")
    json.dumps(settings)
    (planned,) = plan_videos(config.source.path, config, settings, identity_of=spec.identity_of)
    return planned


def run(config: PreprocessConfig, spec: DetectorSpec, finder: object = None) -> list[dict]:
    """The line, unit by unit; returns the markers."""
    with open_output(config.out):
        planned = plan(config, spec)
    detect = detect_alone(spec.build(config.detect))
    markers = []
    for unit in planned.units:
        row = track(detect(vars(unit)), config=config.detect)
        if finder is not None:
            row = FindHands(config.detect, config.detector, finder)(row)
        pack(row, config=config, detector=evidence_name(config, spec))
        markers.append(json.loads((config.out / f"done/{unit.name}.json").read_text()))
    return markers


def write_keypoints(path: Path, num_frames: int = NUM_FRAMES) -> Path:
    rows = []
    for i in range(num_frames):
        points = np.column_stack([10 + i // 3 + SHAPE[:, 0] * 30, 20 + SHAPE[:, 1] * 80])
        triples = np.column_stack([points, np.full(17, 0.8)])
        rows.append({"image_id": i, "keypoints": triples.ravel().tolist(), "track_id": 41})
    path.write_text(json.dumps(rows))
    return path


def test_precomputed_keypoints_of_a_video_in_units(video: Path, tmp_path: Path) -> None:
    path = write_keypoints(tmp_path / "walk.json")
    config = replace(
        config_of(video, tmp_path / "out"),
        detector="keypoints",
        detect=DetectConfig(keypoints=tmp_path),
    )
    spec = detector_spec("keypoints", config.detect)
    markers = run(config, spec)
    assert [marker["status"] for marker in markers] == ["written", "written"], markers
    assert not any(marker["message"] for marker in markers), markers
    index = ShardIndex(sorted(config.out.glob("*.tar")))
    clips = [index.read_clip(i) for i in range(len(index))]
    assert {clip.meta.track_id for clip in clips} == {41}
    assert {clip.meta.detector for clip in clips} == {"keypoints"}
    for clip in clips:
        first = 10 + (clip.meta.first_frame // 3) + SHAPE[:, 0] * 30
        np.testing.assert_allclose(clip.keypoints_2d[0, :, 0], first, atol=1e-4)
    before = [unit.identity for unit in plan(config, spec).units]
    path.write_text(path.read_text() + " ")
    assert not set(before) & {unit.identity for unit in plan(config, spec).units}


def test_another_number_of_frames_is_quarantined(video: Path, tmp_path: Path) -> None:
    write_keypoints(tmp_path / "walk.json", NUM_FRAMES + 2)
    config = replace(
        config_of(video, tmp_path / "out"),
        detector="keypoints",
        detect=DetectConfig(keypoints=tmp_path / "walk.json"),
    )
    markers = run(config, detector_spec("keypoints", config.detect))
    assert {marker["reason"] for marker in markers} == {"keypoint_mismatch"}
    assert "30 frames, the keypoints are of 32" in markers[0]["message"]


def test_a_video_without_keypoints_is_quarantined_in_the_plan(video: Path, tmp_path: Path) -> None:
    config = config_of(video, tmp_path)
    spec = detector_spec("keypoints", DetectConfig(keypoints=tmp_path))
    assert plan(config, spec).quarantined == "no_keypoints"
    assert spec.identity_of is not None
    with pytest.raises(VideoError, match="no_keypoints"):
        spec.identity_of(video)


class Hands:
    """Both hands, except the left one in the first five frames that it is asked about."""

    name = "fake-hands"

    def __init__(self) -> None:
        self.calls = 0

    def find_hands(self, rgb: np.ndarray, boxes: np.ndarray, bodies: np.ndarray) -> FoundHands:
        self.calls += 1
        points = np.zeros((len(boxes), 2, 21, 3), np.float32)
        for side in range(2):
            points[:, side, :, :2] = boxes[:, None, [2 * side, 3]] - [10, 30] + HAND
        points[..., 2] = 0.9
        reasons = [["unsure" if self.calls <= 5 else "", ""] for _ in boxes]
        return FoundHands(
            keypoints_2d=points, reasons=reasons, is_disputed=np.zeros((len(boxes), 2), bool)
        )


def test_clips_of_hands(video: Path, tmp_path: Path) -> None:
    config = replace(config_of(video, tmp_path), body="mano")
    markers = run(config, box_detector(), Hands())
    assert not any(marker["message"] for marker in markers), markers
    index = ShardIndex(sorted(config.out.glob("*.tar")))
    clips = [index.read_clip(i) for i in range(len(index))]
    sides = {(c.meta.track_id, c.meta.is_right, c.meta.body, c.meta.keypoint_set) for c in clips}
    assert sides == {(0, False, "mano", "hand21"), (1, True, "mano", "hand21")}
    assert {clip.meta.detector for clip in clips} == {"mediapipe-hands+boxes"}
    for clip in clips:
        # The left hand is kept as it is seen, not mirrored: x of its keypoints in the picture.
        middle = clip.keypoints_2d[0, :, 0].mean() - HAND[:, 0].mean()
        walked = clip.meta.first_frame // 3
        assert middle == pytest.approx((30 if clip.meta.is_right else 0) + walked, abs=3)
    assert sum(clip.num_frames for clip in clips) == 2 * NUM_FRAMES - 5
    first = markers[0]
    left, right = first["hands"]
    assert (left["is_right"], left["reasons"]) == (False, {"unsure": 5})
    assert left["frames"] == left["written"] + 5
    assert right["written"] == right["frames"] == first["frames"]
    assert (first["num_tracks"], first["filtered_tracks"]) == (1, {})
    assert (first["num_hands"], first["filtered_hands"]) == (3, {"unsure": 1})
    assert first["frames"] == first["written"]


def test_settings_of_hands(video: Path, tmp_path: Path) -> None:
    config = config_of(video, tmp_path)
    spec = box_detector()
    assert hands_identity(config) == ""
    assert evidence_name(config, spec) == "boxes"
    hands = replace(config, body="mano")
    assert re.fullmatch("[0-9a-f]{64}", hands_identity(hands))
    whole = replace(hands, detect=DetectConfig(hands="wholebody"))
    assert evidence_name(whole, spec) == "boxes"
    assert on_gpu(config) is config
    assert on_gpu(replace(config, gpus_per_detector=0.5)).detect.device == "cuda"


class Batches(BoxDetector):
    """Takes four frames at once; `fault` in frame 9, or where more than one frame is given."""

    batch_size = 4

    def __init__(self, fault: str = "nothing") -> None:
        super().__init__(0.0, fault)
        self.groups: list[int] = []

    def detect_batch(self, images: list[np.ndarray]) -> list[Detections]:
        self.groups.append(len(images))
        if self.fault == "together":
            raise MemoryError("too many")
        found = [self(image) for image in images]
        return found[1:] if self.fault == "forgets a frame" else found

    def find_keypoints(self, rgb: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        raise AssertionError("nobody asks")


def detect_with(detector: object, video: Path, beats: list[str]) -> Detected | Failure:
    row = {"path": str(video), "start": 5, "stop": 16}
    return detect_unit(detector, row, beats.append)  # type: ignore[arg-type]


def test_frames_are_detected_together(video: Path) -> None:
    detector, beats = Batches(), []
    found, alone = detect_with(detector, video, beats), detect_with(BoxDetector(0.0), video, [])
    assert isinstance(found, Detected)
    assert isinstance(alone, Detected)
    assert detector.groups == [4, 4, 3], "from the unit's start"
    assert [beat for beat in beats if "detector" in beat] == [
        "frames 5 to 8: detector", "frames 9 to 12: detector", "frames 13 to 15: detector",
    ]  # fmt: skip
    ours, theirs = unpack_arrays(found.bundle), unpack_arrays(alone.bundle)
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        np.testing.assert_array_equal(values, theirs[name], err_msg=name)


@pytest.mark.parametrize(
    ("fault", "reason", "message"),
    [
        ("raises", "ArithmeticError", "frame 9: poison"),
        ("says NaN", "DetectorError", "frame 9: keypoints_2d has 3 values not finite"),
        ("together", "MemoryError", "frames 5 to 8 together: too many"),
        ("forgets a frame", "DetectorError", "frames 5 to 8 together: 3 answers to 4 frames"),
    ],
)
def test_a_fault_in_a_batch_names_its_frame(
    tmp_path: Path, fault: str, reason: str, message: str
) -> None:
    poisoned = 9 if fault in ("raises", "says NaN") else -1
    video = write_people(tmp_path / "walk.mp4", NUM_FRAMES, poison=poisoned)
    found = detect_with(Batches(fault), video, [])
    assert isinstance(found, Failure)
    assert (found.reason, found.message) == (reason, message)


def test_a_calibrated_detector_still_takes_batches() -> None:
    half = JointMap(raw=(0.0, 1.0), expected=(0.0, 0.5), samples=9)
    calibration = Calibration(detector="boxes", origin="me", joints=dict.fromkeys(COCO17, half))
    calibrated = CalibratedBatches(Batches(), calibration, "boxes+calibrated")
    assert isinstance(calibrated, BatchDetector)
    image = np.zeros((120, 160, 3), np.uint8)
    image[20:100, 10:40] = 220
    [found] = calibrated.detect_batch([image])
    np.testing.assert_allclose(found.keypoints_2d[..., 2], 0.45, rtol=1e-6)
