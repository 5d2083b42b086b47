"""Precomputed keypoints in the place of a detector."""

import json
from pathlib import Path

import numpy as np
import pytest

from extpose.config import DetectConfig
from extpose.detect.people import Detections, IdentifiedDetections
from extpose.detect.precomputed import PrecomputedKeypoints, keypoints_path
from extpose.detect.track import link_tracks
from extpose.errors import AssetError, VideoError

RGB = np.zeros((120, 160, 3), np.uint8)
SHAPE = np.random.default_rng(0).uniform(0.05, 0.95, (17, 2))


def person(frame: int, x: float, *, track_id: int | None = None) -> dict:
    points = np.column_stack([x + SHAPE[:, 0] * 30, 20 + SHAPE[:, 1] * 80, np.full(17, 0.9)])
    row = {"image_id": frame, "keypoints": points.ravel().tolist(), "bbox": [x, 20, 30, 80]}
    return row | ({} if track_id is None else {"track_id": track_id})


def detector(path: Path, people: list[dict]) -> PrecomputedKeypoints:
    path.write_text(json.dumps(people))
    return PrecomputedKeypoints(DetectConfig(keypoints=path))


def run(plug: PrecomputedKeypoints, first: int, stop: int, total: int) -> list[Detections]:
    find = plug.start(Path("walk.mp4"), first_frame=first, num_frames=total)
    return [find(RGB) for _ in range(first, stop)]


def test_each_frame_has_its_own(tmp_path: Path) -> None:
    plug = detector(tmp_path / "a.json", [person(i, 10.0 + i) for i in (0, 1, 3)])
    found = run(plug, 0, 4, 4)
    assert [len(f.scores) for f in found] == [1, 1, 0, 1]
    assert found[3].bbox_xyxy.tolist() == [[13, 20, 43, 100]]
    assert not isinstance(found[0], IdentifiedDetections)
    # A unit in the middle of the video begins with its own first frame.
    assert run(plug, 3, 4, 4)[0].bbox_xyxy.tolist() == [[13, 20, 43, 100]]


def test_boxes_that_are_missing_go_around_the_keypoints(tmp_path: Path) -> None:
    row = person(0, 50.0)
    del row["bbox"]
    (box,) = run(detector(tmp_path / "a.json", [row]), 0, 1, 1)[0].bbox_xyxy
    assert 40 < box[0] < 55
    assert 75 < box[2] < 90
    assert box[3] - box[1] > 60


@pytest.mark.parametrize(("total", "last"), [(4, 4), (4, 9)])
def test_frames_beyond_the_video_are_refused(tmp_path: Path, total: int, last: int) -> None:
    plug = detector(tmp_path / "a.json", [person(last, 10)])
    with pytest.raises(VideoError, match=rf"keypoint_mismatch \({total} frames.*of {last + 1} "):
        run(plug, 0, total, total)


def test_another_number_of_frames_is_refused_with_both(tmp_path: Path) -> None:
    points = np.zeros((1, 17, 3), np.float32)
    np.savez(tmp_path / "a.npz", frame=[0], keypoints_2d=points, num_frames=5)
    plug = PrecomputedKeypoints(DetectConfig(keypoints=tmp_path / "a.npz"))
    with pytest.raises(VideoError, match=r"keypoint_mismatch \(7 frames, the keypoints are of 5"):
        run(plug, 0, 7, 7)


def test_a_folder_has_a_file_for_each_name(tmp_path: Path) -> None:
    config = DetectConfig(keypoints=tmp_path)
    (tmp_path / "walk.json").write_text("[]")
    (tmp_path / "run").mkdir()
    assert keypoints_path(Path("x/walk.mp4"), config).name == "walk.json"
    assert keypoints_path(Path("x/run.mp4"), config).name == "run"
    with pytest.raises(VideoError, match=r"no_keypoints .*none of jump\.json, jump\.npz, jump/"):
        keypoints_path(Path("jump.mp4"), config)
    (tmp_path / "walk.json").write_text("nonsense")
    with pytest.raises(VideoError, match="bad_keypoints"):
        PrecomputedKeypoints(config).start(Path("walk.mp4"), first_frame=0, num_frames=1)


def test_without_a_file_it_says_what_to_give() -> None:
    with pytest.raises(AssetError, match=r"--detect\.keypoints"):
        PrecomputedKeypoints(DetectConfig())


def test_ids_are_kept_even_where_people_cross(tmp_path: Path) -> None:
    """Two who jump through each other: by motion alone they could not be told apart."""
    rows = []
    for i in range(12):
        a, b = (10.0, 90.0) if i < 6 else (90.0, 10.0)
        rows += [person(i, a, track_id=7), person(i, b, track_id=3)]
    frames = enumerate(run(detector(tmp_path / "a.json", rows), 0, 12, 12))
    result = link_tracks(
        ((i, i / 25, d) for i, d in frames), DetectConfig(smooth_boxes=0.0), (9, 9)
    )
    ids = {track.track_id: track for track in result.tracks}
    assert set(ids) == {3, 7}
    assert ids[7].bbox_xyxy[:, 0].tolist() == [10.0] * 6 + [90.0] * 6
    assert ids[3].num_frames == 12


def test_one_who_was_away_for_long_comes_back_with_his_id(tmp_path: Path) -> None:
    rows = [person(i, 10, track_id=5) for i in (*range(8), *range(22, 30))]
    frames = enumerate(run(detector(tmp_path / "a.json", rows), 0, 30, 30))
    result = link_tracks(((i, i / 25, d) for i, d in frames), DetectConfig(), (120, 160))
    spans = [(track.track_id, track.first_frame, track.num_frames) for track in result.tracks]
    assert spans == [(5, 0, 8), (5, 22, 8)]
