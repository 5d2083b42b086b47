from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extpose.keypoints import KEYPOINT_NAMES
from pipelines.labels.tracks import OPENPOSE18
from pipelines.records import Filtered, Record, SourceError
from pipelines.sources.threedpw import SOURCE
from tests.pipelines.sources.bodies import (
    INTRINSICS,
    World,
    assert_body,
    assert_joints,
    draw,
    make_world,
    points_of,
    write_picture,
)
from tests.pipelines.sources.cuts import check_cut
from tests.test_pickles import python2_bytes

NAME = "downtown_walking_00"


def write_sequence(root: Path, world: World, **changes: Any) -> Path:
    """A sequence as 3DPW's are: lists of persons, float64, pickled by Python 2."""
    t = world.num_frames
    poses2d = []
    for i in range(len(world.people)):
        points = points_of(world, i, OPENPOSE18)
        confidence = np.array([0.0 if name is None else 0.8 for name in OPENPOSE18])
        stacked = np.concatenate([points, np.tile(confidence[:, None], (t, 1, 1))], -1)
        poses2d.append(stacked.swapaxes(1, 2))
    content = {
        "sequence": NAME,
        "betas": [np.concatenate([p.betas, np.full(290, 9.0)]) for p in world.people],
        "poses": [p.pose.reshape(t, 72) for p in world.people],
        "trans": [p.transl for p in world.people],
        "poses_60Hz": [np.zeros((2 * t, 72)) for _ in world.people],
        "genders": ["m", "f"][: len(world.people)],
        "texture_maps": [[] for _ in world.people],
        "poses2d": poses2d,
        "jointPositions": [p.joints.reshape(t, 72) for p in world.people],
        "img_frame_ids": np.arange(t) * 2,
        "cam_poses": world.extrinsics,
        "campose_valid": [np.ones(t, int) for _ in world.people],
        "cam_intrinsics": INTRINSICS,
    } | changes
    path = root / "sequenceFiles" / "test" / f"{NAME}.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(python2_bytes(content))
    for frame in range(t):
        write_picture(root / "imageFiles" / NAME / f"image_{frame:05d}.jpg", draw(world, frame))
    return path


def read(root: Path) -> list[Record | Filtered]:
    return list(SOURCE.read_unit(root, "test", NAME))


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(num_frames=5, num_people=2)


def test_people_come_back_in_the_camera(tmp_path: Path, world: World) -> None:
    write_sequence(tmp_path, world)
    assert SOURCE.list_units(tmp_path, "test") == [NAME]
    records = read(tmp_path)
    assert [r.name for r in records] == [f"{NAME}-0-00000", f"{NAME}-1-00000"]
    for i, record in enumerate(records):
        assert isinstance(record, Record)
        check_cut(record)
        assert_body(record, world.people[i], slice(None))
        assert_joints(record, world.people[i], slice(None))
        assert record.gender == ("male", "female")[i]
        assert record.fps == 30
        assert record.image_size == (240, 320)
        np.testing.assert_allclose(record.intrinsics[3], INTRINSICS)
        assert all(frame.path.is_file() for frame in record.frames)


def test_openpose_becomes_the_evidence(tmp_path: Path, world: World) -> None:
    write_sequence(tmp_path, world)
    record = read(tmp_path)[0]
    assert isinstance(record, Record)
    wanted = points_of(world, 0, KEYPOINT_NAMES["coco17"])
    np.testing.assert_allclose(record.track.keypoints_2d[..., :2], wanted, atol=1e-4)
    assert record.evidence == "openpose"
    assert (record.track.keypoints_2d[..., 2] == np.float32(0.8)).all()
    np.testing.assert_allclose(record.track.bbox_xyxy[:, :2], wanted.min(1), atol=1e-4)
    np.testing.assert_allclose(record.track.bbox_xyxy[:, 2:], wanted.max(1), atol=1e-4)


def test_frames_without_a_camera_are_counted(tmp_path: Path, world: World) -> None:
    cameras = world.extrinsics.copy()
    cameras[2] = np.nan
    valid = [np.array([1, 1, 0, 1, 1]), np.zeros(5, int)]
    write_sequence(tmp_path, world, campose_valid=valid, cam_poses=cameras)
    first, second, *rest = read(tmp_path)
    assert isinstance(first, Record)
    assert isinstance(second, Record)
    assert [first.name, second.name] == [f"{NAME}-0-00000", f"{NAME}-0-00003"]
    assert second.track.first_frame == 3
    assert second.frames[0].path.name == "image_00003.jpg"
    np.testing.assert_allclose(second.track.timestamps, [0.1, 4 / 30])
    assert_body(second, world.people[0], slice(3, 5))
    assert rest == [
        Filtered(name=f"{NAME}-0", num_frames=1, reason="no_camera"),
        Filtered(name=f"{NAME}-1", num_frames=5, reason="no_camera"),
    ]


def test_frames_without_openpose_have_the_box_of_the_joints(tmp_path: Path, world: World) -> None:
    poses2d = np.zeros((5, 3, 18))
    write_sequence(tmp_path, world, poses2d=[poses2d, poses2d])
    record = read(tmp_path)[0]
    assert isinstance(record, Record)
    assert not record.track.is_detected.any()
    assert not record.track.keypoints_2d[..., 2].any()
    np.testing.assert_allclose(
        record.track.bbox_xyxy[:, :2], world.people[0].joints_img.min(1), atol=1e-3
    )


def bad_cameras(world: World) -> np.ndarray:
    cameras = world.extrinsics.copy()
    cameras[2, :3, :3] *= 1000
    return cameras


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (lambda w: {"trans": [p.transl * 1000 for p in w.people]}, r"pkl: jointPositions\[0\].*m,"),
        (
            lambda w: {"jointPositions": [p.joints[:, ::-1].reshape(5, 72) for p in w.people]},
            r"pkl: jointPositions\[0\]: root joint minus translation varies",
        ),
        (lambda w: {"cam_poses": bad_cameras(w)}, r"cam_poses\[2\]: not a rotation .*expected 1"),
        (lambda w: {"poses": [np.zeros((4, 72))] * 2}, r"poses\[0\].*\(4, 72\), .*\(5, 72\)"),
        (lambda w: {"poses": [np.full((5, 72), np.nan)] * 2}, r"poses\[0\]\[0, 0\] is nan"),
        (lambda w: {"betas": [np.zeros(4)] * 2}, r"betas\[0\] has 4 values, expected 10"),
        (lambda w: {"genders": ["x", "f"]}, r"genders\[0\] is 'x'"),
        (lambda w: {"trans": [w.people[0].transl]}, "trans has 1 people, expected 2"),
        (lambda w: {"sequence": "other"}, "sequence is 'other', the file is called"),
    ],
)
def test_wrong_files_are_refused_by_name(
    tmp_path: Path, world: World, changes: Any, message: str
) -> None:
    write_sequence(tmp_path, world, **changes(world))
    with pytest.raises(SourceError, match=message):
        read(tmp_path)


def test_cameras_the_wrong_way_around_are_refused(tmp_path: Path, world: World) -> None:
    write_sequence(tmp_path, world, cam_poses=np.linalg.inv(world.extrinsics))
    with pytest.raises(SourceError, match=r"jointPositions\[0\] is behind the camera in 5 of 5"):
        read(tmp_path)


def test_a_sequence_of_nobody_is_refused(tmp_path: Path, world: World) -> None:
    write_sequence(tmp_path, world, poses=[], campose_valid=[])
    with pytest.raises(SourceError, match="poses has no people"):
        read(tmp_path)


def test_missing_files_are_named(tmp_path: Path, world: World) -> None:
    with pytest.raises(SourceError, match="sequenceFiles/test: no such folder"):
        SOURCE.list_units(tmp_path, "test")
    write_sequence(tmp_path, world)
    (tmp_path / "imageFiles" / NAME / "image_00004.jpg").unlink()
    with pytest.raises(SourceError, match=r"image_00004.jpg: no such file, .*pkl has 5 frames"):
        read(tmp_path)


def test_code_in_a_pickle_does_not_run(tmp_path: Path, world: World) -> None:
    path = write_sequence(tmp_path, world)
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(SourceError, match=r"refused, the pickle asks for `os\.system`"):
        read(tmp_path)


def test_left_is_the_persons_own_in_labels_and_evidence(tmp_path: Path) -> None:
    world = make_world(num_frames=5)
    write_sequence(tmp_path, world)
    record = read(tmp_path)[0]
    assert isinstance(record, Record)
    labels, evidence = record.targets.keypoints_2d, record.track.keypoints_2d
    left = KEYPOINT_NAMES["body44"].index("left_wrist")
    seen = KEYPOINT_NAMES["coco17"].index("left_wrist")
    np.testing.assert_allclose(labels[:, left, :2], evidence[:, seen, :2], atol=1e-3)
