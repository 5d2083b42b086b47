"""COCO, COCO-WholeBody's bodies, and folders in the same format."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extpose.keypoints import KEYPOINT_NAMES
from pipelines.labels.coco_files import FEET6
from pipelines.records import Filtered, Record, Source, SourceError
from pipelines.sources import coco, coco_wholebody, images
from tests.pipelines.sources.bodies import World, draw, make_world, points_of, write_picture
from tests.pipelines.sources.cuts import check_cut

COCO17 = KEYPOINT_NAMES["coco17"]
BODY44 = KEYPOINT_NAMES["body44"]


def to_triples(points: np.ndarray, visibility: list[int] | np.ndarray) -> list[float]:
    """x y v as COCO writes them: what is not labelled is 0 0 0."""
    rows = np.concatenate([points, np.asarray(visibility)[:, None]], 1)
    return np.where(rows[:, 2:] > 0, rows, 0).round(2).ravel().tolist()


def make_content(world: World, visibility: list[int], **changes: Any) -> dict[str, Any]:
    """The annotations of one picture of everybody in `world`."""
    people = []
    for i in range(len(world.people)):
        body = points_of(world, i, COCO17)[0]
        (x0, y0), (x1, y1) = body.min(0), body.max(0)
        person = {
            "id": 900 + i, "image_id": 139, "category_id": 1, "iscrowd": 0, "area": 5.0,
            "bbox": [round(float(v), 2) for v in (x0, y0, x1 - x0, y1 - y0)],
            "segmentation": [[0, 0, 1, 1, 2, 2]],
            "keypoints": to_triples(body, visibility),
            "num_keypoints": int(np.sum(np.array(visibility) > 0)),
            "foot_kpts": to_triples(points_of(world, i, FEET6)[0], [2, 1, 2, 0, 2, 2]),
            "foot_valid": True,
            "lefthand_kpts": [0.0] * 63,
        }  # fmt: skip
        people.append(person | changes)
    image = {"id": 139, "file_name": "000000000139.jpg", "height": 240, "width": 320}
    empty = {"id": 140, "file_name": "000000000140.jpg", "height": 240, "width": 320}
    return {"info": {}, "images": [empty, image], "annotations": people, "categories": []}


def write(root: Path, world: World, content: Any) -> None:
    for name in ("person_keypoints_val2017", "coco_wholebody_val_v1.0"):
        path = root / "annotations" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    (root / "val.json").write_text(json.dumps(content))
    for folder in ("val2017", "images"):
        write_picture(root / folder / "000000000139.jpg", draw(world, 0))


def read(root: Path, source: Source) -> list[Record | Filtered]:
    return [
        item
        for unit in source.list_units(root, "val")
        for item in source.read_unit(root, "val", unit)
    ]


VISIBILITY = [2, 2, 0, 1, 0, *[2] * 12]


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(seed=5, num_frames=1, num_people=2)


@pytest.mark.parametrize("source", [coco.SOURCE, images.SOURCE, coco_wholebody.SOURCE])
def test_people_come_back(tmp_path: Path, world: World, source: Source) -> None:
    write(tmp_path, world, make_content(world, VISIBILITY))
    records = read(tmp_path, source)
    assert [r.name for r in records] == ["000000000139-900", "000000000139-901"]
    for i, record in enumerate(records):
        assert isinstance(record, Record)
        check_cut(record)
        assert record.frames[0].path.is_file()
        truth = points_of(world, i, COCO17)[0]
        labels, visible = record.targets.keypoints_2d[0], record.targets.is_visible
        assert visible is not None
        for name, v, point in zip(COCO17, VISIBILITY, truth, strict=True):
            row = BODY44.index(name)
            assert labels[row, 2] == (v > 0)
            assert visible[0, row] == (v == 2)
            np.testing.assert_allclose(labels[row, :2], point * (v > 0), atol=0.01)
        evidence = record.track.keypoints_2d[0]
        np.testing.assert_array_equal(evidence[:, 2], np.array(VISIBILITY) > 0)
        seen = np.array(VISIBILITY) > 0
        np.testing.assert_allclose(evidence[seen, :2], truth[seen], atol=0.01)
        np.testing.assert_allclose(record.track.bbox_xyxy[0, 2:], truth.max(0), atol=0.02)
        assert not record.targets.has_pose.any()
        assert not record.targets.keypoints_3d.any()
        assert (record.fps, record.intrinsics) == (1.0, None)


def test_feet_are_labelled_by_wholebody_only(tmp_path: Path, world: World) -> None:
    write(tmp_path, world, make_content(world, VISIBILITY))
    rows = [BODY44.index(name) for name in FEET6]
    for source, labelled in ((coco_wholebody.SOURCE, [1, 1, 1, 0, 1, 1]), (coco.SOURCE, [0] * 6)):
        record = read(tmp_path, source)[0]
        assert isinstance(record, Record)
        found = record.targets.keypoints_2d[0, rows]
        assert found[:, 2].tolist() == labelled
        truth = points_of(world, 0, FEET6)[0] * found[:, 2:]
        np.testing.assert_allclose(found[:, :2], truth, atol=0.01)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"iscrowd": 1}, "crowd"),
        ({"keypoints": [1.0, 1.0, 2.0] * 4 + [0] * 39, "num_keypoints": 4}, "few_keypoints"),
        ({"bbox": [5, 5, 0, 40]}, "empty_box"),
        ({"bbox": [400, 5, 20, 40]}, "outside"),
    ],
)
def test_what_is_left_out_says_why(tmp_path: Path, world: World, changes: Any, reason: str) -> None:
    write(tmp_path, world, make_content(world, VISIBILITY, **changes))
    first, _ = read(tmp_path, coco.SOURCE)
    assert first == Filtered(name="000000000139-900", num_frames=1, reason=reason)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bbox": [0.1, 0.1, 0.5, 0.8]}, r"900: bbox .* of a picture of 320 x 240: must be in pix"),
        ({"keypoints": [0.0] * 63}, r"keypoints is float64 of shape \(63,\), .*\(51\)"),
        ({"num_keypoints": 7}, "num_keypoints is 7, 15 have v > 0"),
        ({"keypoints": [1, 1, 3] * 17}, "keypoints has v = 3, must be 0 to 2"),
        ({"keypoints": [float("nan")] * 51}, r"keypoints\[0\] is nan"),
        ({"image_id": 77}, "annotations of image_id 77, not among its images"),
        ({"bbox": None}, "bbox is a NoneType"),
    ],
)
def test_wrong_annotations_are_refused_by_name(
    tmp_path: Path, world: World, changes: Any, message: str
) -> None:
    write(tmp_path, world, make_content(world, VISIBILITY, **changes))
    with pytest.raises(SourceError, match=r"person_keypoints_val2017\.json: .*" + message):
        read(tmp_path, coco.SOURCE)


def test_missing_files_are_named(tmp_path: Path, world: World) -> None:
    with pytest.raises(SourceError, match="val2017: no such folder"):
        coco.SOURCE.list_units(tmp_path, "val")
    (tmp_path / "val2017").mkdir()
    with pytest.raises(SourceError, match=r"person_keypoints_val2017\.json: no such file"):
        coco.SOURCE.list_units(tmp_path, "val")
    write(tmp_path, world, make_content(world, VISIBILITY))
    (tmp_path / "val2017" / "000000000139.jpg").unlink()
    with pytest.raises(SourceError, match=r"000000000139\.jpg: no such file"):
        read(tmp_path, coco.SOURCE)


def test_a_file_name_cannot_leave_the_folder(tmp_path: Path, world: World) -> None:
    content = make_content(world, VISIBILITY)
    content["images"][1]["file_name"] = "../../secret.jpg"
    write(tmp_path, world, content)
    with pytest.raises(SourceError, match=r"file_name '\.\./\.\./secret\.jpg' leads out"):
        read(tmp_path, coco.SOURCE)


def test_a_changed_file_is_read_again(tmp_path: Path, world: World) -> None:
    write(tmp_path, world, make_content(world, VISIBILITY))
    assert len(read(tmp_path, coco.SOURCE)) == 2
    content = make_content(world, VISIBILITY)
    write(tmp_path, world, content | {"annotations": content["annotations"][:1]})
    assert len(read(tmp_path, coco.SOURCE)) == 1


def test_many_pictures_are_several_units(tmp_path: Path, world: World) -> None:
    content = make_content(world, VISIBILITY)
    person = content["annotations"][0]
    content["images"] = [content["images"][1] | {"id": i} for i in range(501)]
    content["annotations"] = [person | {"image_id": i, "id": i} for i in range(501)]
    write(tmp_path, world, content)
    assert coco.SOURCE.list_units(tmp_path, "val") == ["00000-00499", "00500-00500"]
    (last,) = coco.SOURCE.read_unit(tmp_path, "val", "00500-00500")
    assert last.name == "000000000500-500"
