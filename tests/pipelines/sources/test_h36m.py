import sys
from pathlib import Path

import numpy as np
import pytest
from cdflib.cdfwrite import CDF

from extpose.keypoints import KEYPOINT_NAMES
from extpose.video import VideoWriter, read_frames
from pipelines.records import Record, SourceError
from pipelines.sources.h36m import JOINTS, SOURCE
from tests.pipelines.sources.bodies import (
    BODY44,
    INTRINSICS,
    SIZE,
    World,
    draw,
    make_world,
    write_picture,
)
from tests.pipelines.sources.cuts import check_cut

SEQUENCE = "Directions 1.60457274"


def write_cdf(path: Path, poses: np.ndarray) -> None:
    """`Pose` as Human3.6M's files hold it: float32 (1, t, 32 * axes)."""

    path.parent.mkdir(parents=True, exist_ok=True)
    flat = poses.reshape(1, len(poses), -1).astype(np.float32)
    file = CDF(str(path), cdf_spec={"Compressed": 6}, delete=True)
    spec = {
        "Variable": "Pose", "Data_Type": file.CDF_FLOAT, "Num_Elements": 1, "Rec_Vary": True,
        "Dim_Sizes": list(flat.shape[1:]),
    }  # fmt: skip
    file.write_var(spec, var_data=flat)
    file.close()


def to_32(points: np.ndarray) -> np.ndarray:
    """The 32 joints; those that nobody uses are elsewhere."""
    joints = np.full((len(points), 32, points.shape[-1]), 123.0)
    for row, name in JOINTS.items():
        joints[:, row] = points[:, BODY44.index(name)]
    return joints


def write_action(
    root: Path,
    world: World,
    subject: str = "S9",
    sequence: str = SEQUENCE,
    *,
    scale: float = 1000.0,
    as_video: bool = False,
) -> None:
    person, folder = world.people[0], root / subject / "MyPoseFeatures"
    write_cdf(folder / "D3_Positions_mono" / f"{sequence}.cdf", to_32(person.keypoints_cam) * scale)
    write_cdf(folder / "D2_Positions" / f"{sequence}.cdf", to_32(person.keypoints_img))
    if as_video:
        path = root / subject / "Videos" / f"{sequence}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        with VideoWriter(path, 50.0, SIZE) as video:
            for frame in range(world.num_frames):
                video.write(draw(world, frame))
        return
    for frame in range(0, world.num_frames, 5):
        name = f"{subject}_{sequence.replace(' ', '_')}_{frame + 1:06d}.jpg"
        write_picture(root / "images" / name, draw(world, frame))


def read(root: Path, unit: str = f"S9/{SEQUENCE}") -> Record:
    (record,) = SOURCE.read_unit(root, "test", unit)
    assert isinstance(record, Record)
    return record


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(seed=4, num_frames=11)


def test_every_fifth_frame_comes_back_in_metres(tmp_path: Path, world: World) -> None:
    write_action(tmp_path, world)
    record = read(tmp_path)
    check_cut(record)
    person = world.people[0]
    assert len(record.frames) == 3
    assert [f.path.name for f in record.frames][1] == "S9_Directions_1.60457274_000006.jpg"
    assert record.fps == 10
    assert record.name == "S9-Directions_1_60457274"
    is_labelled = np.isin(BODY44, list(JOINTS.values()))
    assert is_labelled.sum() == 17
    for labels, truth, atol in (
        (record.targets.keypoints_3d, person.keypoints_cam, 1e-4),
        (record.targets.keypoints_2d, person.keypoints_img, 1e-2),
    ):
        np.testing.assert_array_equal(labels[..., -1], np.tile(is_labelled, (3, 1)))
        np.testing.assert_allclose(
            labels[:, is_labelled, :-1], truth[::5][:, is_labelled], atol=atol
        )
    np.testing.assert_allclose(record.intrinsics[2], INTRINSICS, rtol=1e-3)
    assert not record.targets.has_pose.any()
    coco = KEYPOINT_NAMES["coco17"]
    left = record.track.keypoints_2d[:, coco.index("left_ankle"), :2]
    truth = person.keypoints_img[::5, BODY44.index("lsp_left_ankle")]
    np.testing.assert_allclose(left, truth, atol=1e-2)


def test_videos_are_read_by_frame(tmp_path: Path, world: World) -> None:
    write_action(tmp_path, world, as_video=True)
    record = read(tmp_path)
    assert [f.index for f in record.frames] == [0, 5, 10]
    assert record.image_size == SIZE
    (frame,) = read_frames(record.frames[1].path, 5, 6)
    shown = frame.rgb.astype(int).max(-1) > 90
    ys, xs = np.nonzero(shown)
    box = record.track.bbox_xyxy[1]
    assert xs.min() - 3 <= box[0] <= xs.max()
    assert ys.min() - 3 <= box[1] <= ys.max()


def test_splits_are_subjects_and_the_test_camera(tmp_path: Path, world: World) -> None:
    for subject in ("S1", "S5", "S6", "S7", "S8", "S9", "S11"):
        for camera in ("54138969", "60457274"):
            sequence = f"Eating.{camera}"
            folder = tmp_path / subject / "MyPoseFeatures" / "D3_Positions_mono"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{sequence}.cdf").touch()
            (folder / "_ALL.54138969.cdf").touch()
    assert SOURCE.list_units(tmp_path, "test") == ["S11/Eating.60457274", "S9/Eating.60457274"]
    train = SOURCE.list_units(tmp_path, "train")
    assert len(train) == 10
    assert train[:2] == ["S1/Eating.54138969", "S1/Eating.60457274"]


def test_metres_for_millimetres_are_refused(tmp_path: Path, world: World) -> None:
    write_action(tmp_path, world, scale=1.0)
    with pytest.raises(SourceError, match=r"keypoints_3d are 0\.00.* m wide, .*wrong unit"):
        check_cut(read(tmp_path))


def test_files_of_another_layout_are_refused(tmp_path: Path, world: World) -> None:
    write_action(tmp_path, world)
    folder = tmp_path / "S9" / "MyPoseFeatures"
    path_2d = folder / "D2_Positions" / f"{SEQUENCE}.cdf"
    write_cdf(path_2d, to_32(world.people[0].keypoints_img)[:4])
    with pytest.raises(SourceError, match=r"D2_Positions.*4 poses, .*D3_.* has 11"):
        read(tmp_path)
    write_cdf(path_2d, to_32(world.people[0].keypoints_img)[:, :17])
    with pytest.raises(SourceError, match=r"Pose is float32 of shape \(1, 11, 34\), .*64"):
        read(tmp_path)
    write_cdf(path_2d, to_32(world.people[0].keypoints_img)[..., ::-1])
    with pytest.raises(SourceError, match="no pinhole camera takes"):
        read(tmp_path)
    path_2d.write_bytes(b"no CDF")
    with pytest.raises(SourceError, match=r"60457274\.cdf: Pose is not readable"):
        read(tmp_path)


def test_missing_files_are_named(tmp_path: Path, world: World) -> None:
    with pytest.raises(SourceError, match="S9/MyPoseFeatures/D3_Positions_mono: no such folder"):
        SOURCE.list_units(tmp_path, "test")
    write_action(tmp_path, world)
    (tmp_path / "images" / "S9_Directions_1.60457274_000001.jpg").unlink()
    with pytest.raises(SourceError, match=r"60457274\.mp4: no such file, nor .*000001\.jpg"):
        read(tmp_path)


def test_the_missing_package_is_named(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_action(tmp_path, world)
    monkeypatch.setitem(sys.modules, "cdflib", None)
    with pytest.raises(SourceError, match=r"needs the package cdflib: pip install 'extpose\["):
        read(tmp_path)
