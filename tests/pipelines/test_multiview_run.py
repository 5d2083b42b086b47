"""`extpose multiview` from videos to labels: detections are given, all else is run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from extpose.body_model import load_body_model
from extpose.data.shards import read_shard
from extpose.detect.people import Track
from extpose.errors import ExtPoseError
from extpose.keypoints import COCO17_OF_BODY44
from extpose.multiview import body as body_module
from extpose.multiview.cameras import Camera, read_cameras, write_cameras
from extpose.rotations import axis_angle_to_matrix
from extpose.video import VideoWriter, read_frames
from pipelines import multiview
from pipelines.arguments import MultiviewArgs
from pipelines.multiview_people import Person, Recording
from pipelines.validate import validate
from tests.multiview.scene import make_cameras, make_points, make_track, see

SIZE = (180, 320)
FRAMES, SEEN = 8, 5
OFFSETS = (3, 0, 6)
HAS_POSE = [True] * SEEN + [False] * (FRAMES - SEEN)


def shrink(camera: Camera) -> Camera:
    """The camera with pictures of `SIZE`."""
    return replace(camera, size=SIZE, K=np.diag([0.25, 0.25, 1.0]) @ camera.K, dist=np.zeros(5))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What a run leaves, and its text. Frame i of each video is of grey 40 + 10 i; nobody is there
    in the last frames."""
    folder = tmp_path_factory.mktemp("views")
    cameras, points = [shrink(c) for c in make_cameras(3)], make_points(FRAMES)
    write_cameras(folder / "cameras.json", cameras)
    np.savez(folder / "reference.npz", joints_world=points)
    for camera, offset in zip(cameras, OFFSETS, strict=True):
        with VideoWriter(folder / f"{camera.name}.mp4", 30.0, SIZE) as writer:
            for i in range(offset + FRAMES):
                writer.write(np.full((*SIZE, 3), 40 + 10 * i, np.uint8))
    views = see(cameras, points)
    views[:, SEEN:, :, 2] = 0

    def find_tracks(_recording: Recording, camera: int) -> list[Track]:
        return [replace(make_track(views[camera]), is_detected=np.array(HAS_POSE))]

    options = MultiviewArgs(
        video=tuple(folder / f"cam{i}.mp4" for i in (2, 0, 1)),
        calibration=folder / "cameras.json",
        out=folder / "out",
        offset=tuple(OFFSETS[i] for i in (2, 0, 1)),
        reference=folder / "reference.npz",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiview, "find_tracks", find_tracks)
        patch.setattr(body_module, "STAGES", ((6, 0.05), (2, 0.02)))
        text = multiview.run(options)
    return options.out, text


def test_the_text_has_the_errors(made: tuple[Path, str]) -> None:
    lines = made[1].splitlines()
    assert lines[0] == f"{FRAMES} frames, 3 cameras"
    assert "  not found: 37.5 %" in lines
    points = next(line for line in lines if line.startswith("  points: PA-MPJPE"))
    assert float(points.split()[2]) < 5
    assert any(line.startswith("  fitted body: PA-MPJPE") for line in lines)


def test_points_are_where_they_were_and_nowhere_else(made: tuple[Path, str]) -> None:
    with np.load(made[0] / "person_000.npz") as npz:
        found, has_pose = npz["joints_world"], npz["body_has_pose"]
    np.testing.assert_allclose(found[:SEEN], make_points(FRAMES)[:SEEN], atol=0.02)
    assert np.isnan(found[SEEN:]).all()
    assert has_pose.tolist() == HAS_POSE


def test_labels_are_the_fitted_body_in_each_camera(made: tuple[Path, str]) -> None:
    out, body = made[0], load_body_model()
    with np.load(out / "person_000.npz") as npz:
        fitted = npz["body_keypoints_world"].astype(np.float64)
    for camera in read_cameras(out / "cameras.json"):
        (clip,) = read_shard(out / f"multiview-{camera.name}.tar")
        targets = clip.targets
        assert targets is not None
        assert targets.has_pose.tolist() == HAS_POSE
        assert (targets.keypoints_3d[..., 3].any(-1)).tolist() == HAS_POSE
        with torch.inference_mode():
            points = body.find_keypoints(
                axis_angle_to_matrix(torch.from_numpy(targets.global_orient)),
                axis_angle_to_matrix(torch.from_numpy(targets.pose)),
                torch.from_numpy(targets.betas).expand(FRAMES, 10),
            )
        points_cam = points[:, list(COCO17_OF_BODY44)].numpy() + targets.transl[:, None]
        np.testing.assert_allclose(points_cam, camera.to_camera(fitted), atol=1e-4)
    assert validate(out) == 0


@pytest.mark.parametrize("camera", range(3))
def test_overlays_start_at_the_offset_and_show_who_is_there(
    made: tuple[Path, str], camera: int
) -> None:
    frames = [f.rgb for f in read_frames(made[0] / f"overlay_cam{camera}.mp4")]
    assert len(frames) == FRAMES
    for i, rgb in enumerate(frames):
        grey = 40 + 10 * (OFFSETS[camera] + i)
        assert abs(float(rgb[:20, :20].mean()) - grey) < 4
        drawn = (np.abs(rgb.astype(int) - grey) > 25).any(-1).mean()
        assert (drawn > 0.01) == HAS_POSE[i]


def test_a_page_and_a_sheet(made: tuple[Path, str]) -> None:
    assert (made[0] / "sheet.png").stat().st_size > 1000
    assert "overlay_cam2.mp4" in (made[0] / "report.html").read_text()


def test_a_reference_that_is_none(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", points=np.zeros(3))
    person = object.__new__(Person)
    with pytest.raises(ExtPoseError, match=r"other\.npz: not a reference with joints_world"):
        multiview.compare_reference(person, tmp_path / "other.npz")
