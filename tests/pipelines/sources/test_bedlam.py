from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extpose.body_file import SMPL_POINT_VERTICES
from extpose.keypoints import KEYPOINT_NAMES
from pipelines.records import Filtered, Record, SourceError
from pipelines.sources.bedlam import SOURCE
from tests.pipelines.sources.bodies import (
    BODY44,
    SIZE,
    World,
    assert_body,
    draw,
    make_world,
    points_of,
    write_picture,
)
from tests.pipelines.sources.cuts import check_cut

SCENE, SEQUENCE = "20221010_3_1000_batch01hand", "seq_000003"
UNIT = f"{SCENE}/{SEQUENCE}"
CENTRED = np.array([[300.0, 0, 160.0], [0, 300.0, 120.0], [0, 0, 1]])


def make_rows(world: World, person: int, *, step: int = 5) -> dict[str, Any]:
    """The rows of one person as the data set's script stacks them."""
    t, body = world.num_frames, world.people[person]
    skin = points_of(world, person, tuple(SMPL_POINT_VERTICES))
    gtkps = np.ones((t, 45, 3))
    gtkps[..., :2] = 0
    gtkps[:, :24, :2] = body.joints_img
    gtkps[:, 24:35, :2] = skin
    camera = np.tile(np.eye(4), (t, 1, 1))
    camera[:, :3, 3] = (0.5, -1.0, 7.0)
    return {
        "imgname": [f"{SEQUENCE}/{SEQUENCE}_{i * step:04d}.png" for i in range(t)],
        "center": np.zeros((t, 2)),
        "scale": np.ones(t),
        "pose_cam": body.pose.reshape(t, 72),
        "shape": np.tile(body.betas, (t, 1)),
        "trans_cam": body.transl - (0.5, -1.0, 7.0),
        "gtkps": gtkps.astype(np.float32),
        "cam_int": np.tile(CENTRED, (t, 1, 1)),
        "cam_ext": camera,
        "gender": ["male", "female"][person : person + 1] * t,
        "sub": [f"rp_anna_{person}"] * t,
    }


def write_scene(root: Path, world: World, *, size: tuple[int, int] = SIZE, **changes: Any) -> None:
    people = [make_rows(world, i) for i in range(len(world.people))]
    other = {k: np.asarray(v)[:1] for k, v in people[0].items()}
    other["imgname"] = ["seq_000004/seq_000004_0000.png"]
    rows = {k: np.concatenate([np.asarray(p[k]) for p in (*people, other)]) for k in people[0]}
    path = root / "processed_labels" / f"{SCENE}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **(rows | {k: change(rows[k]) for k, change in changes.items()}))
    for frame in range(world.num_frames):
        name = f"{SEQUENCE}_{frame * 5:04d}.png"
        write_picture(
            root / "images" / SCENE / "png" / SEQUENCE / name,
            draw(world, frame, size=size, intrinsics=CENTRED),
        )


def read(root: Path) -> list[Record | Filtered]:
    return list(SOURCE.read_unit(root, "train", UNIT))


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(seed=6, num_frames=16, num_people=2, move=0.0, intrinsics=CENTRED)


def test_people_come_back_with_joints_that_no_file_holds(tmp_path: Path, world: World) -> None:
    write_scene(tmp_path, world)
    assert SOURCE.list_units(tmp_path, "train") == [UNIT, f"{SCENE}/seq_000004"]
    records = read(tmp_path)
    assert [r.name for r in records] == [f"{SCENE}-{SEQUENCE}-rp_anna_{i}-0000" for i in range(2)]
    for i, record in enumerate(records):
        assert isinstance(record, Record)
        check_cut(record)
        person = world.people[i]
        assert_body(record, person, slice(None), atol=1e-4)
        assert (record.fps, record.gender) == (6.0, ("male", "female")[i])
        labels = record.targets.keypoints_2d
        assert labels[..., 2].sum() == 25 * 16
        np.testing.assert_allclose(labels[:, :25, :2], person.keypoints_img[:, :25], atol=1e-3)
        joints = record.targets.keypoints_3d
        for name, row in (("mid_hip", 0), ("left_wrist", 20), ("right_ankle", 8)):
            found = joints[:, BODY44.index(name)]
            np.testing.assert_allclose(found[:, :3], person.joints_cam[:, row], atol=5e-3)
            assert found[:, 3].all()
        coco = KEYPOINT_NAMES["coco17"].index("left_ear")
        np.testing.assert_allclose(
            record.track.keypoints_2d[:, coco, :2],
            person.keypoints_img[:, BODY44.index("left_ear")],
            atol=1e-3,
        )
        assert all(frame.path.is_file() for frame in record.frames)


def test_a_person_who_leaves_the_picture_is_two_records(tmp_path: Path, world: World) -> None:
    def leave(rows: np.ndarray) -> np.ndarray:
        return np.delete(rows, 9, 0)

    write_scene(tmp_path, world, **dict.fromkeys(make_rows(world, 0), leave))
    first, second, _ = read(tmp_path)
    assert isinstance(first, Record)
    assert isinstance(second, Record)
    assert (first.track.num_frames, second.track.num_frames) == (9, 6)
    assert second.track.first_frame == 10
    np.testing.assert_allclose(second.track.timestamps[0], 50 / 30)
    assert second.name.endswith("-0050")
    assert_body(second, world.people[0], slice(10, 16))


def test_one_frame_does_not_determine_3d_joints(tmp_path: Path) -> None:
    write_scene(tmp_path, make_world(seed=6, num_frames=1, move=0.0, intrinsics=CENTRED))
    (record,) = read(tmp_path)
    assert isinstance(record, Record)
    assert not record.targets.keypoints_3d.any()
    assert record.targets.has_pose.all()


def test_pictures_on_their_side_are_filtered(tmp_path: Path, world: World) -> None:
    write_scene(tmp_path, world, size=SIZE[::-1])
    assert [(f.num_frames, f.reason) for f in read(tmp_path) if isinstance(f, Filtered)] == [
        (16, "rotated_picture")
    ] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trans_cam": lambda v: v * 1000}, r"gtkps are off any body in this pose by .* px"),
        ({"pose_cam": lambda v: v[:, ::-1]}, r"gtkps are off any body in this pose by .* px"),
        (
            {"gtkps": lambda v: v[:, [0, 2, 1, 3, 5, 4, *range(6, 45)]]},
            r"gtkps are off any body|left and right are swapped",
        ),
        (
            {"pose_cam": lambda v: np.zeros((len(v), 165))},
            r"pose_cam is float64 of shape \(33, 165\), expected numbers \(\*, 72\)",
        ),
        ({"trans_cam": lambda v: v * np.nan}, r"trans_cam\[0, 0\] is nan"),
        ({"shape": lambda v: v[:-1]}, "shape has 32 rows, imgname 33"),
        ({"imgname": lambda v: np.char.replace(v, ".png", "_.png")}, r"imgname\[0\] is .*not SEQ"),
        ({"gender": lambda v: np.full(len(v), "x")}, "gender is 'x'"),
    ],
)
def test_wrong_files_are_refused_by_name(
    tmp_path: Path, world: World, changes: Any, message: str
) -> None:
    write_scene(tmp_path, world, **changes)
    with pytest.raises(SourceError, match=rf"{SCENE}\.npz: .*({message})"):
        read(tmp_path)


def test_missing_files_are_named(tmp_path: Path, world: World) -> None:
    with pytest.raises(SourceError, match="processed_labels: no such folder"):
        SOURCE.list_units(tmp_path, "train")
    write_scene(tmp_path, world)
    with pytest.raises(SourceError, match="png/seq_000004: no such folder"):
        list(SOURCE.read_unit(tmp_path, "train", f"{SCENE}/seq_000004"))
    (tmp_path / "images" / SCENE / "png" / SEQUENCE / f"{SEQUENCE}_0000.png").unlink()
    with pytest.raises(SourceError, match=r"seq_000003_0000\.png: no such file"):
        read(tmp_path)


def test_pictures_of_another_size_are_refused(tmp_path: Path, world: World) -> None:
    write_scene(tmp_path, world, size=(100, 100))
    with pytest.raises(SourceError, match=r"100 x 100, the camera of .* is for 240 x 320"):
        read(tmp_path)
