import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extpose.keypoints import KEYPOINT_NAMES
from pipelines.records import Filtered, Record, SourceError
from pipelines.sources.emdb import SOURCE
from tests.pipelines.sources.bodies import (
    INTRINSICS,
    World,
    assert_body,
    assert_joints,
    draw,
    make_world,
    write_picture,
)
from tests.pipelines.sources.cuts import check_cut

UNIT = "P2/23_outdoor_hug_tree"


def write_sequence(
    root: Path, world: World, unit: str = UNIT, *, smpl: Any = (), **changes: Any
) -> Path:
    """A sequence as EMDB's are."""
    t, person = world.num_frames, world.people[0]
    content = {
        "gender": "female",
        "name": unit.replace("/", "_"),
        "emdb1": True,
        "emdb2": False,
        "n_frames": t,
        "good_frames_mask": np.ones(t, bool),
        "camera": {
            "intrinsics": INTRINSICS,
            "extrinsics": world.extrinsics,
            "width": 320,
            "height": 240,
        },
        "smpl": {
            "poses_root": person.pose[:, 0],
            "poses_body": person.pose[:, 1:].reshape(t, 69),
            "trans": person.transl,
            "betas": person.betas,
            **dict(smpl),
        },
        "kp2d": person.joints_img,
        "bboxes": {
            "bboxes": np.concatenate([person.joints_img.min(1) - 5, person.joints_img.max(1)], 1),
            "invalid_idxs": np.array([], int),
        },
    } | changes
    path = root / unit / f"{unit.replace('/', '_')}_data.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    for frame in range(t):
        write_picture(root / unit / "images" / f"{frame:05d}.jpg", draw(world, frame))
    return path


def read(root: Path) -> list[Record | Filtered]:
    return list(SOURCE.read_unit(root, "test", UNIT))


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(seed=3, num_frames=24)


def test_the_person_comes_back_in_the_camera(tmp_path: Path, world: World) -> None:
    """The joints too, though the files hold no body and no 3D joint."""
    write_sequence(tmp_path, world)
    write_sequence(tmp_path, make_world(num_frames=1), "P0/00_indoor", emdb1=False)
    assert SOURCE.list_units(tmp_path, "test") == [UNIT]
    (record,) = read(tmp_path)
    assert isinstance(record, Record)
    check_cut(record)
    assert_body(record, world.people[0], slice(None), atol=1e-3)
    assert_joints(record, world.people[0], slice(None), atol=1e-3)
    assert record.gender == "female"
    assert record.name == "P2_23_outdoor_hug_tree-00000"
    np.testing.assert_allclose(
        record.track.bbox_xyxy[:, :2], world.people[0].joints_img.min(1) - 5, atol=1e-4
    )
    coco = KEYPOINT_NAMES["coco17"]
    left = record.track.keypoints_2d[:, coco.index("left_wrist"), :2]
    np.testing.assert_allclose(left, world.people[0].joints_img[:, 20], atol=1e-4)
    assert not record.track.keypoints_2d[:, coco.index("nose"), 2].any()


def test_bad_frames_are_counted(tmp_path: Path, world: World) -> None:
    mask = np.ones(24, bool)
    mask[[0, 10]] = False
    seen = world.people[0].joints_img.copy()
    seen[10] = np.nan
    transl = world.people[0].transl.copy()
    transl[0] = np.nan
    write_sequence(tmp_path, world, good_frames_mask=mask, kp2d=seen, smpl={"trans": transl})
    first, second, rest = read(tmp_path)
    assert isinstance(first, Record)
    assert isinstance(second, Record)
    assert (first.track.first_frame, first.track.num_frames) == (1, 9)
    assert (second.track.first_frame, second.track.num_frames) == (11, 13)
    assert_body(second, world.people[0], slice(11, 24), atol=1e-3)
    assert rest == Filtered(name="P2_23_outdoor_hug_tree", num_frames=2, reason="bad_frame")


def test_an_empty_box_is_replaced_by_that_of_the_joints(tmp_path: Path, world: World) -> None:
    boxes = np.zeros((24, 4))
    write_sequence(tmp_path, world, bboxes={"bboxes": boxes, "invalid_idxs": np.arange(24)})
    (record,) = read(tmp_path)
    assert isinstance(record, Record)
    np.testing.assert_allclose(
        record.track.bbox_xyxy[:, 2:], world.people[0].joints_img.max(1), atol=1e-3
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (lambda p: {"smpl": {"trans": p.transl * 1000}}, r"pkl: kp2d are off .* px"),
        (lambda p: {"smpl": {"poses_root": p.pose[:, 0, ::-1]}}, r"pkl: kp2d are off .* px"),
        (lambda p: {"kp2d": p.joints_img[..., ::-1]}, r"pkl: kp2d are off .* px"),
        (
            lambda p: {"kp2d": p.joints_img[:, [0, 2, 1, 3, 5, 4, *range(6, 24)]]},
            r"pkl: kp2d are off .* px \(median of the worst joint\), at most",
        ),
        (lambda p: {"smpl": {"poses_body": p.pose[:, 1:]}}, r"\(24, 23, 3\), .*\(24, 69\)"),
        (lambda p: {"smpl": {"betas": np.full(10, np.nan)}}, r"smpl\.betas\[0\] is nan"),
        (lambda p: {"camera": {}}, r"no key 'camera\.intrinsics', has \[\]"),
        (lambda p: {"gender": "child"}, "gender is 'child'"),
    ],
)
def test_wrong_files_are_refused_by_name(
    tmp_path: Path, world: World, changes: Any, message: str
) -> None:
    write_sequence(tmp_path, world, **changes(world.people[0]))
    with pytest.raises(SourceError, match=message):
        read(tmp_path)


def test_missing_files_are_named(tmp_path: Path, world: World) -> None:
    with pytest.raises(SourceError, match=r"0 files .* none with emdb1"):
        SOURCE.list_units(tmp_path, "test")
    write_sequence(tmp_path, world)
    (tmp_path / UNIT / "images" / "00023.jpg").unlink()
    with pytest.raises(SourceError, match=r"00023\.jpg: no such file, .* n_frames = 24"):
        read(tmp_path)


def test_pictures_of_another_size_are_refused(tmp_path: Path, world: World) -> None:
    write_sequence(tmp_path, world)
    write_picture(tmp_path / UNIT / "images" / "00000.jpg", np.zeros((320, 240, 3), np.uint8))
    with pytest.raises(SourceError, match=r"320 x 240, .* says 240 x 320"):
        read(tmp_path)
