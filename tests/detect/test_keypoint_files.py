"""Keypoints of other programs: each layout read, and what is wrong said with both values."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extpose.detect.keypoint_files import COCO18, KeypointFileError, read_keypoints
from extpose.keypoints import KEYPOINT_NAMES, OPENPOSE25

COCO17 = KEYPOINT_NAMES["coco17"]


def triples(names: tuple[str, ...], shift: float = 0.0) -> list[float]:
    """Each keypoint where its name says: x is its number among COCO's, y 100 more."""
    place = {name: float(i) for i, name in enumerate(COCO17)}
    rows = [(place.get(n, 500) + shift, place.get(n, 500) + 100, 0.5) for n in names]
    return [value for row in rows for value in row]


def check_points(points: np.ndarray, shift: float = 0.0) -> None:
    np.testing.assert_allclose(points[:, 0], np.arange(17) + shift)
    np.testing.assert_allclose(points[:, 1], np.arange(17) + 100)


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def coco(people: list[dict[str, Any]], images: list[dict[str, Any]]) -> dict[str, Any]:
    return {"images": images, "annotations": people}


def test_coco_annotations_are_in_the_order_of_file_names(tmp_path: Path) -> None:
    images = [{"id": 7, "file_name": "b.jpg"}, {"id": 3, "file_name": "a.jpg"}]
    people = [
        {"image_id": 7, "keypoints": triples(COCO17, 9), "bbox": [1, 2, 10, 20], "track_id": 4},
        {"image_id": 3, "keypoints": triples(COCO17), "bbox": [1, 2, 10, 20], "track_id": 4},
    ]
    table = read_keypoints(write(tmp_path / "a.json", coco(people, images)))
    assert table.frame.tolist() == [0, 1]
    assert table.num_frames == 2
    assert table.track_id is not None
    assert table.track_id.tolist() == [4, 4]
    np.testing.assert_allclose(table.bbox_xyxy, [[1, 2, 11, 22]] * 2)
    check_points(table.keypoints_2d[0])
    check_points(table.keypoints_2d[1], 9)


def test_coco_frame_index_and_visibility_flags(tmp_path: Path) -> None:
    flags = triples(COCO17)
    flags[2::3] = [0, 1, 2] + [2] * 14
    images = [{"id": "x", "frame_index": 1}, {"id": "y", "frame_index": 0}]
    table = read_keypoints(
        write(tmp_path / "a.json", coco([{"image_id": "x", "keypoints": flags}], images))
    )
    assert table.frame.tolist() == [1]
    assert table.track_id is None
    assert table.keypoints_2d[0, :, 2].tolist() == [0] + [1] * 16
    assert np.isnan(table.bbox_xyxy).all()


def test_coco_results_and_whole_body(tmp_path: Path) -> None:
    whole = triples(COCO17) + [1.0] * 3 * 116
    people = [
        {"image_id": 5, "keypoints": whole, "score": 3.0},
        {"image_id": 2, "keypoints": triples(COCO17)},
    ]
    table = read_keypoints(write(tmp_path / "a.json", people))
    assert table.frame.tolist() == [2, 5]
    assert table.num_frames is None
    check_points(table.keypoints_2d[1])


def test_alphapose(tmp_path: Path) -> None:
    halpe = triples(COCO17) + [1.0] * 27
    halpe[2] = 1.7
    people = [
        {"image_id": "walk_12.jpg", "keypoints": halpe, "box": [0, 0, 5, 5], "idx": [3]},
        {"image_id": "0.jpg", "keypoints": halpe, "box": [0, 0, 5, 5], "idx": 2},
    ]
    table = read_keypoints(write(tmp_path / "a.json", people))
    assert table.frame.tolist() == [0, 12]
    assert table.track_id is not None
    assert table.track_id.tolist() == [2, 3]
    assert table.keypoints_2d[0, 0, 2] == 1
    check_points(table.keypoints_2d[0])


@pytest.mark.parametrize("names", [OPENPOSE25, COCO18], ids=["body25", "coco18"])
def test_openpose_is_mapped_by_name(tmp_path: Path, names: tuple[str, ...]) -> None:
    for frame, count in enumerate((1, 0, 2)):
        people = [{"pose_keypoints_2d": triples(names), "person_id": [-1]}] * count
        write(tmp_path / "w" / f"walk_{frame:012d}_keypoints.json", {"people": people})
    table = read_keypoints(tmp_path / "w")
    assert table.frame.tolist() == [0, 2, 2]
    assert table.num_frames == 3
    assert table.track_id is None
    check_points(table.keypoints_2d[0])


def test_npz(tmp_path: Path) -> None:
    points = np.array(triples(COCO17)).reshape(1, 17, 3).repeat(2, 0)
    arrays = {"frame": [1, 0], "keypoints_2d": points, "num_frames": 4, "track_id": [8, 9]}
    np.savez(tmp_path / "a.npz", **arrays, bbox_xyxy=[[0, 0, 4, 4], [1, 1, 3, 3]])
    table = read_keypoints(tmp_path / "a.npz")
    assert table.frame.tolist() == [0, 1]
    assert table.num_frames == 4
    np.testing.assert_allclose(table.bbox_xyxy[0], [1, 1, 3, 3])
    np.savez(tmp_path / "b.npz", frame=[1], keypoints_2d=points, num_frames=4)
    with pytest.raises(KeypointFileError, match=r"keypoints_2d is \(2, 17, 3\), expected \(1,"):
        read_keypoints(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", frame=[1], keypoints_2d=points)
    with pytest.raises(KeypointFileError, match=r"missing .*num_frames"):
        read_keypoints(tmp_path / "c.npz")


BAD = {
    "no JSON": ("{", "not readable as JSON"),
    "another number": (
        json.dumps([{"image_id": 1, "keypoints": [1.0] * 60}]),
        "20 keypoints, known are 17",
    ),
    "no triples": (json.dumps([{"image_id": 1, "keypoints": [1.0] * 50}]), "50 numbers"),
    "not finite": (
        json.dumps([{"image_id": 1, "keypoints": [float("nan")] * 51}]),
        "not finite",
    ),
    "another layout": (json.dumps([{"frame": 1}]), "neither COCO's nor AlphaPose's"),
    "another image": (
        json.dumps(coco([{"image_id": 9, "keypoints": [0.3] * 51}], [{"id": 1, "file_name": "a"}])),
        "image_id 9 is not in images",
    ),
    "one id twice": (
        json.dumps([{"image_id": 1, "keypoints": [0.3] * 51, "track_id": 5}] * 2),
        "frame 1 has track id 5 twice",
    ),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD.keys())
def test_what_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(KeypointFileError, match=message) as caught:
        read_keypoints(path)
    assert str(path) in str(caught.value)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeypointFileError, match=r"no files \*_keypoints\.json"):
        read_keypoints(tmp_path)
