"""The hands of COCO-WholeBody and Halpe: validity, few keypoints, sides."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.records import Filtered, Record, SourceError
from pipelines.sources.coco_hands import SOURCE_COCO, SOURCE_HALPE
from tests.pipelines.sources import hands as h

COUNT = 3


@pytest.fixture
def truth() -> dict[str, h.Hands]:
    return {
        side: h.pose_hands(80, COUNT, is_right=side == "right", size=(240, 320))
        for side in ("left", "right")
    }


def make_points(hands: h.Hands, i: int, *, labelled: int) -> np.ndarray:
    flags = (np.arange(21) < labelled).astype(float)[:, None]
    return np.hstack([hands.uv[i] * flags, 2 * flags])


def make_person(truth: dict[str, h.Hands], i: int, *, is_halpe: bool) -> dict[str, Any]:
    """The left hand of image 1 is not annotated, the right one of image 2 nearly not."""
    person: dict[str, Any] = {"id": 900 + i, "image_id": i, "bbox": [0, 0, 100, 100]}
    body = np.zeros((136, 3))
    for side, part in (("left", slice(94, 115)), ("right", slice(115, 136))):
        labelled = {(1, "left"): 0, (2, "right"): 4}.get((i, side), 20)
        points = make_points(truth[side], i, labelled=labelled)
        body[part] = points
        person[f"{side}hand_kpts"] = points.ravel().tolist()
        person[f"{side}hand_valid"] = labelled > 0
    person["keypoints"] = (body if is_halpe else body[:17]).ravel().tolist()
    return person


def write(root: Path, truth: dict[str, h.Hands], *, is_halpe: bool, **changes: Any) -> Path:
    name = "halpe_train_v1.json" if is_halpe else "coco_wholebody_train_v1.0.json"
    people = [make_person(truth, i, is_halpe=is_halpe) | changes for i in range(COUNT)]
    images = [
        {"id": i, "file_name": f"{i:012d}.jpg", "height": 240, "width": 320} for i in range(COUNT)
    ]
    content = {"info": {}, "images": images, "annotations": people, "categories": []}
    h.write_json(root / "annotations" / name, content)
    return root / "annotations" / name


@pytest.fixture(params=[False, True])
def is_halpe(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def root(tmp_path: Path, truth: dict[str, h.Hands], is_halpe: bool) -> Path:
    write(tmp_path, truth, is_halpe=is_halpe)
    for i in range(COUNT + 1):
        image = np.zeros((240, 320, 3), np.uint8)
        if i < COUNT:
            image = np.maximum(truth["left"].draw(i), truth["right"].draw(i))
        folder = "images/train2015" if is_halpe else "train2017"
        h.write_image(tmp_path / folder / f"{i:012d}.jpg", image)
    return tmp_path


def test_reads_what_was_written(root: Path, truth: dict[str, h.Hands], is_halpe: bool) -> None:
    found = h.read_all(SOURCE_HALPE if is_halpe else SOURCE_COCO, root, "train")
    assert [item.name.partition("-")[2] for item in found] == [
        "900-left", "900-right", "901-right", "902-left", "902-right",
    ]  # fmt: skip
    *records, last = found
    assert isinstance(last, Filtered)
    assert last.reason == "few_keypoints"
    for record in records:
        assert isinstance(record, Record)
        number, side = record.name.split("-")[1:]
        hands, points = truth[side], record.targets.keypoints_2d[0]
        assert record.is_right == (side == "right")
        np.testing.assert_allclose(points[:20, :2], hands.uv[int(number) - 900][:20], atol=1e-3)
        assert points[:, 2].tolist() == [1.0] * 20 + [0.0]
        assert not points[20].any()
        assert record.intrinsics is None


def test_refusals(root: Path, truth: dict[str, h.Hands], is_halpe: bool) -> None:
    source = SOURCE_HALPE if is_halpe else SOURCE_COCO

    def refuses(match: str, **changes: Any) -> None:
        write(root, truth, is_halpe=is_halpe, **changes)
        with pytest.raises(SourceError, match=match):
            h.read_all(source, root, "train")

    key = "keypoints" if is_halpe else "lefthand_kpts"
    refuses(rf"json: {key} of annotation 900 has shape \(6,\)", **{key: [0] * 6})
    refuses(rf"json: lacks {key} of annotation 900", **{key: None})
    refuses("annotation 900 is of image 77, which is not in images", image_id=77)
    path = write(root, truth, is_halpe=is_halpe)
    path.write_text(path.read_text()[:-200])
    with pytest.raises(SourceError, match=r"annotations is (cut off|not JSON)"):
        h.read_all(source, root, "train")
    path.write_text("{}")
    with pytest.raises(SourceError, match="json: lacks a list images"):
        h.read_all(source, root, "train")
    path.unlink()
    with pytest.raises(SourceError, match="json: no such file"):
        h.read_all(source, root, "train")


def test_a_file_without_hands_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "annotations/coco_wholebody_train_v1.0.json"
    h.write_image(tmp_path / "train2017/0.jpg", np.zeros((8, 8, 3), np.uint8))
    h.write_json(path, {"images": [{"id": 0, "file_name": "0.jpg"}], "annotations": [
        {"id": 1, "image_id": 0, "keypoints": [0] * 51}
    ]})  # fmt: skip
    with pytest.raises(SourceError, match="lacks lefthand_valid of annotation 1: not COCO-WholeB"):
        h.read_all(SOURCE_COCO, tmp_path, "train")
