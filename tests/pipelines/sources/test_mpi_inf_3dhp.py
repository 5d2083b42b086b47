import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io

from extpose.keypoints import KEYPOINT_NAMES
from extpose.video import VideoWriter
from pipelines.records import Filtered, Record, SourceError
from pipelines.sources.mpi_inf_3dhp import NAMES17, NAMES28, SOURCE
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

UNIT = "S1/Seq1/video_4"
LABELLED = np.isin(BODY44, [name for name in NAMES28 if name])


def to_order(points: np.ndarray, names: tuple[str | None, ...]) -> np.ndarray:
    """Keypoints in the data set's order; joints that nobody uses are elsewhere."""
    joints = np.full((len(points), len(names), points.shape[-1]), 123.0)
    for row, name in enumerate(names):
        if name is not None:
            joints[:, row] = points[:, BODY44.index(name)]
    return joints


def to_cells(array: np.ndarray, shown: int = 4) -> np.ndarray:
    """14 cameras; all but one see nothing."""
    cells = np.empty((14, 1), object)
    for camera in range(14):
        cells[camera, 0] = array if camera == shown else np.zeros_like(array)
    return cells


def write_train(
    root: Path, world: World, *, scale: float = 1000.0, unit: str = UNIT, **changes: Any
) -> Path:
    """annot.mat of version 5, the calibration of 14 cameras, extracted pictures."""
    person, t = world.people[0], world.num_frames
    folder = root / unit.rsplit("/", 1)[0]
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "annot2": to_cells(to_order(person.keypoints_img, NAMES28).reshape(t, 56)),
        "annot3": to_cells(scale * to_order(person.keypoints_cam, NAMES28).reshape(t, 84)),
        "frames": np.arange(t)[:, None],
    } | changes
    scipy.io.savemat(folder / "annot.mat", content, do_compression=True)
    lines = ["Skeletool Camera Calibration File V1.0"]
    for camera in range(14):
        matrix = np.eye(4)
        matrix[:3, :3] = INTRINSICS if camera == 4 else 2 * INTRINSICS
        lines += [
            f"name          {camera}",
            "  sensor      10 10",
            "  size        2048 2048",
            "  animated    0",
            "  intrinsic   " + " ".join(f"{v:g}" for v in matrix.ravel()) + " ",
            "  extrinsic   1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1 ",
            "  radial      0",
        ]
    (folder / "camera.calibration").write_text("\n".join(lines))
    for frame in range(t):
        name = f"frame_{frame + 1:06d}.jpg"
        write_picture(folder / "imageFrames" / "video_4" / name, draw(world, frame))
    return folder


def write_test(root: Path, world: World, valid: list[int]) -> Path:
    folder = root / "mpi_inf_3dhp_test_set" / "TS2"
    folder.mkdir(parents=True, exist_ok=True)
    person = world.people[0]
    with h5py.File(folder / "annot_data.mat", "w") as file:
        file["annot2"] = to_order(person.keypoints_img, NAMES17)[:, None]
        file["annot3"] = 1000 * to_order(person.keypoints_cam, NAMES17)[:, None]
        file["univ_annot3"] = np.zeros((world.num_frames, 1, 17, 3))
        file["valid_frame"] = np.array(valid, float)[:, None]
    for frame in range(world.num_frames):
        write_picture(folder / "imageSequence" / f"img_{frame + 1:06d}.jpg", draw(world, frame))
    return folder


def assert_labels(record: Record, world: World, frames: slice) -> None:
    check_cut(record)
    person = world.people[0]
    for labels, truth, atol in (
        (record.targets.keypoints_3d, person.keypoints_cam, 1e-4),
        (record.targets.keypoints_2d, person.keypoints_img, 1e-2),
    ):
        np.testing.assert_array_equal(labels[..., -1], np.tile(LABELLED, (len(labels), 1)))
        np.testing.assert_allclose(labels[:, LABELLED, :-1], truth[frames][:, LABELLED], atol=atol)
    np.testing.assert_allclose(record.intrinsics[0], INTRINSICS, rtol=1e-4)
    assert not record.targets.has_pose.any()
    coco = KEYPOINT_NAMES["coco17"]
    np.testing.assert_allclose(
        record.track.keypoints_2d[:, coco.index("right_elbow"), :2],
        person.keypoints_img[frames, BODY44.index("lsp_right_elbow")],
        atol=1e-2,
    )


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(seed=7, num_frames=7)


def test_train_comes_back_in_metres(tmp_path: Path, world: World) -> None:
    write_train(tmp_path, world)
    units = SOURCE.list_units(tmp_path, "train")
    assert units == [f"S1/Seq1/video_{k}" for k in (0, 1, 2, 4, 5, 6, 7, 8)]
    (record,) = SOURCE.read_unit(tmp_path, "train", UNIT)
    assert isinstance(record, Record)
    assert_labels(record, world, slice(None, None, 2))
    assert record.fps == 12.5
    assert [f.path.name for f in record.frames][1] == "frame_000003.jpg"
    assert record.name == "S1-Seq1-video_4-00000"


def test_fast_sequences_are_thinned_more(tmp_path: Path, world: World) -> None:
    unit = "S1/Seq2/video_4"
    write_train(tmp_path, world, unit=unit)
    (record,) = SOURCE.read_unit(tmp_path, "train", unit)
    assert isinstance(record, Record)
    assert_labels(record, world, slice(None, None, 4))
    assert record.fps == 12.5


@pytest.mark.parametrize("unit", [UNIT, "S6/Seq2/video_2"])
def test_videos_too_short_are_refused_unless_known(tmp_path: Path, world: World, unit: str) -> None:
    person, t = world.people[0], world.num_frames
    camera = int(unit[-1])
    cells = {
        "annot2": to_cells(to_order(person.keypoints_img, NAMES28).reshape(t, 56), camera),
        "annot3": to_cells(1000 * to_order(person.keypoints_cam, NAMES28).reshape(t, 84), camera),
    }
    folder = write_train(tmp_path, world, unit=unit, **cells)
    (folder / "imageFrames").rename(folder / "elsewhere")
    (folder / "imageSequence").mkdir()
    path = folder / "imageSequence" / f"{unit.rsplit('/', 1)[1]}.avi"
    with VideoWriter(path, 25.0, SIZE) as video:
        for frame in range(5):
            video.write(draw(world, frame))
    if unit == UNIT:
        with pytest.raises(SourceError, match=r"video_4\.avi: 5 frames, annotations of frame 6"):
            list(SOURCE.read_unit(tmp_path, "train", unit))
        return
    record, rest = SOURCE.read_unit(tmp_path, "train", unit)
    assert isinstance(record, Record)
    assert [f.index for f in record.frames] == [0, 2, 4]
    assert rest == Filtered(name="S6-Seq2-video_2", num_frames=1, reason="no_picture")


def test_test_frames_are_all_of_the_valid_ones(tmp_path: Path, world: World) -> None:
    write_test(tmp_path, world, [1, 1, 0, 1, 1, 1, 1])
    assert SOURCE.list_units(tmp_path, "test") == ["TS2"]
    first, second, rest = SOURCE.read_unit(tmp_path, "test", "TS2")
    assert isinstance(first, Record)
    assert isinstance(second, Record)
    assert_labels(first, world, slice(0, 2))
    assert_labels(second, world, slice(3, 7))
    assert second.track.first_frame == 3
    assert second.frames[0].path.name == "img_000004.jpg"
    assert rest == Filtered(name="TS2", num_frames=1, reason="invalid_frame")


def test_people_outside_the_picture_are_counted(tmp_path: Path, world: World) -> None:
    joints = to_order(world.people[0].keypoints_img, NAMES28)
    joints[2] += 1000
    write_train(tmp_path, world, annot2=to_cells(joints.reshape(7, 56)))
    first, second, rest = SOURCE.read_unit(tmp_path, "train", UNIT)
    assert [first.name, second.name] == ["S1-Seq1-video_4-00000", "S1-Seq1-video_4-00002"]
    assert rest == Filtered(name="S1-Seq1-video_4", num_frames=1, reason="outside")


def test_metres_for_millimetres_are_refused(tmp_path: Path, world: World) -> None:
    write_train(tmp_path, world, scale=1.0)
    (record,) = SOURCE.read_unit(tmp_path, "train", UNIT)
    assert isinstance(record, Record)
    with pytest.raises(SourceError, match=r"m wide, .*wrong unit"):
        check_cut(record)


def test_files_of_another_layout_are_refused(tmp_path: Path, world: World) -> None:
    def read() -> list[Record | Filtered]:
        return list(SOURCE.read_unit(tmp_path, "train", UNIT))

    folder = write_train(tmp_path, world, annot2=to_cells(np.zeros((7, 34))))
    with pytest.raises(SourceError, match=r"annot\.mat: annot2\[4\].*\(7, 34\), .*\(\*, 56\)"):
        read()
    write_train(tmp_path, world, annot2=to_cells(np.zeros((6, 56))))
    with pytest.raises(SourceError, match=r"annot2\[4\] has 6 frames, annot3\[4\] 7"):
        read()
    write_train(tmp_path, world, annot3=np.zeros((3, 3)))
    with pytest.raises(SourceError, match=r"annot\.mat: annot3\[4\] is not readable"):
        read()
    (folder / "annot.mat").write_bytes(b"no Matlab" * 40)
    with pytest.raises(SourceError, match=r"annot\.mat: annot2\[4\] is not readable"):
        read()
    write_train(tmp_path, world)
    (folder / "camera.calibration").write_text("intrinsic 1 2 3")
    with pytest.raises(SourceError, match="calibration: 1 intrinsic lines, camera 4"):
        read()
    folder = write_test(tmp_path, world, [0] * 7)
    with pytest.raises(SourceError, match="valid_frame is 0 in all 7"):
        list(SOURCE.read_unit(tmp_path, "test", "TS2"))
    (folder / "annot_data.mat").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"annot_data\.mat: not a readable Matlab 7\.3 file"):
        list(SOURCE.read_unit(tmp_path, "test", "TS2"))


def test_missing_files_are_named(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SourceError, match=r"no S\[1-8\]/Seq\[1-2\]/annot\.mat"):
        SOURCE.list_units(tmp_path, "train")
    folder = write_train(tmp_path, world)
    (folder / "imageFrames" / "video_4" / "frame_000007.jpg").unlink()
    with pytest.raises(SourceError, match=r"frame_000007\.jpg: no such file"):
        list(SOURCE.read_unit(tmp_path, "train", UNIT))
    write_test(tmp_path, world, [1] * 7)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(SourceError, match="needs the package h5py"):
        list(SOURCE.read_unit(tmp_path, "test", "TS2"))
