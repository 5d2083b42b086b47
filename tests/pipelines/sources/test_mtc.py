"""MTC: centimetres in the studio, distorted cameras, hidden, overlapping and missing views."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pipelines.records import Filtered, Record, SourceError
from pipelines.sources.mtc import SOURCE
from tests.pipelines.sources import hands as h

COUNT = 6
SEQUENCE = "171026_pose1"
R = Rotation.from_rotvec([0.3, 1.1, -0.4]).as_matrix()
T = np.array([[12.0], [-30.0], [180.0]])
DISTORTION = np.array([-0.25, 0.18, 0.0006, 0.0003, 0.001])
CAMERAS = (3, 5, 7, 30)
"""The last has no picture, the one before sees overlapping hands, 5 sees a hidden one."""


@pytest.fixture
def truth() -> dict[str, h.Hands]:
    return {
        side: h.pose_hands(60, COUNT, is_right=side == "right", size=(540, 960), distance=1.0)
        for side in ("left", "right")
    }


def distorted(hands: h.Hands) -> np.ndarray:
    pixels = [
        cv2.projectPoints(k, np.zeros(3), np.zeros(3), hands.K, DISTORTION)[0][:, 0]
        for k in hands.keypoints
    ]
    return np.stack(pixels)


def make_moments(truth: dict[str, h.Hands]) -> list[dict[str, Any]]:
    moments = []
    for i in range(COUNT):
        moment: dict[str, Any] = {
            "seqName": SEQUENCE,
            "frame_str": f"{2975 + 10 * i:08d}",
            "id": 0,
            "body": {"landmarks": [0.0] * 57, "2D": {}},
        }
        for side, hands in truth.items():
            world = (100 * hands.keypoints[i] - T[:, 0]) @ R
            views = {
                camera: {
                    "insideImg": [1] * 21,
                    "occluded": [int(camera == 5 or joint == 20) for joint in range(21)],
                    "overlap": camera == 7,
                }
                for camera in CAMERAS
            }
            moment[f"{side}_hand"] = {"landmarks": world.ravel().tolist(), "2D": views}
        moments.append(moment)
    return moments


def write(root: Path, training: Any, testing: Any) -> None:
    content = {"training_data": training, "testing_data": testing}
    h.write_pickle(root / "annotation/annotation.pkl", content)


@pytest.fixture
def root(tmp_path: Path, truth: dict[str, h.Hands]) -> Path:
    moments = make_moments(truth)
    no_left = [{k: v for k, v in m.items() if k != "left_hand"} for m in moments]
    write(tmp_path, moments, no_left)
    camera = {"K": truth["left"].K, "R": R, "t": T, "distCoef": DISTORTION}
    cameras = {SEQUENCE: dict.fromkeys(CAMERAS, camera)}
    h.write_pickle(tmp_path / "annotation/camera_data.pkl", cameras)
    for i, moment in enumerate(moments):
        frame = moment["frame_str"]
        image = np.maximum(truth["left"].draw(i), truth["right"].draw(i))
        for number in CAMERAS[:3]:
            path = tmp_path / f"hdImgs/{SEQUENCE}/{frame}/00_{number:02d}_{frame}.jpg"
            h.write_image(path, image)
    return tmp_path


@pytest.mark.parametrize(("split", "sides"), [("train", 2), ("test", 1)])
def test_reads_what_was_written(
    root: Path, truth: dict[str, h.Hands], split: str, sides: int
) -> None:
    found = h.read_all(SOURCE, root, split)
    records = [item for item in found if isinstance(item, Record)]
    assert len(records) == COUNT * sides
    assert {record.is_right for record in records} == ({True, False} if sides == 2 else {True})
    reasons = [item.reason for item in found if isinstance(item, Filtered)]
    assert {reason: reasons.count(reason) for reason in set(reasons)} == dict.fromkeys(
        ("hidden", "overlap", "no_image"), COUNT * sides
    )
    for record in records:
        hands = truth["right" if record.is_right else "left"]
        i = (int(record.name.split("-")[1]) - 2975) // 10
        t = record.targets
        np.testing.assert_allclose(t.keypoints_3d[0, :, :3], hands.keypoints[i], atol=1e-5)
        np.testing.assert_allclose(t.keypoints_2d[0, :, :2], distorted(hands)[i], atol=2e-2)
        assert record.intrinsics is not None
        np.testing.assert_allclose(record.intrinsics[0], hands.K, rtol=1e-5)
        assert t.is_visible is not None
        assert np.flatnonzero(~t.is_visible[0]).tolist() == [20]


def test_refusals(root: Path, truth: dict[str, h.Hands]) -> None:
    def refuses(match: str, moments: Any) -> None:
        write(root, moments, moments)
        with pytest.raises(SourceError, match=match):
            h.read_all(SOURCE, root, "train")

    metres = [replace(hands, keypoints=hands.keypoints / 100) for hands in truth.values()]
    scaled = make_moments(dict(zip(truth, metres, strict=True)))
    refuses(r"annotation.pkl: .* a mano is 0.04 to 0.4 m", scaled)
    swapped = make_moments({s: truth[o] for s, o in (("left", "right"), ("right", "left"))})
    refuses("left_hand landmarks should be left hands, but", swapped)
    short = make_moments(truth)
    short[0]["left_hand"]["landmarks"] = [0.0] * 60
    refuses(r"left_hand landmarks of .* has shape \(60,\), expected \(63\)", short)
    refuses("lacks the list training_data", [])
    refuses(r"training_data lacks \['seqName', 'frame_str'\]", [{"frame": 1}])
    write(root, make_moments(truth), [])
    h.write_pickle(root / "annotation/camera_data.pkl", {SEQUENCE: {}})
    with pytest.raises(SourceError, match=r"camera_data.pkl: lacks camera 3 of 171026_pose1"):
        h.read_all(SOURCE, root, "train")
    (root / "annotation/camera_data.pkl").unlink()
    with pytest.raises(SourceError, match=r"camera_data.pkl: no such file"):
        h.read_all(SOURCE, root, "train")
