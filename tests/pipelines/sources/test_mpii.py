import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extpose.keypoints import KEYPOINT_NAMES
from pipelines.records import Filtered, Record, SourceError
from pipelines.sources.mpii import NAMES, SOURCE
from tests.pipelines.sources.bodies import (
    BODY44,
    World,
    draw,
    make_world,
    points_of,
    write_picture,
)
from tests.pipelines.sources.cuts import check_cut


def write(root: Path, world: World, **changes: Any) -> None:
    """One person, whose head top is not labelled."""
    joints = points_of(world, 0, NAMES)[0] + 1
    joints[9] = -1
    person = {
        "image": "015601864.jpg",
        "joints": joints.tolist(),
        "joints_vis": [1] * 9 + [0] + [1] * 6,
        "center": [594.0, 257.0],
        "scale": 3.021046,
    } | changes
    path = root / "annot" / "valid.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([person, person]))
    write_picture(root / "images" / "015601864.jpg", draw(world, 0))


def read(root: Path) -> list[Record | Filtered]:
    (unit,) = SOURCE.list_units(root, "val")
    return list(SOURCE.read_unit(root, "val", unit))


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(seed=8, num_frames=1)


def test_people_come_back_counted_from_zero(tmp_path: Path, world: World) -> None:
    write(tmp_path, world)
    records = read(tmp_path)
    assert [r.name for r in records] == ["015601864-00000", "015601864-00001"]
    record = records[0]
    assert isinstance(record, Record)
    check_cut(record)
    labels = record.targets.keypoints_2d[0]
    wanted = set(NAMES) - {"lsp_head_top"}
    for name, row in zip(BODY44, labels, strict=True):
        assert row[2] == (name in wanted)
        if name in wanted:
            truth = world.people[0].keypoints_img[0, BODY44.index(name)]
            np.testing.assert_allclose(row[:2], truth, atol=1e-3)
    shown = points_of(world, 0, tuple(sorted(wanted)))[0]
    np.testing.assert_allclose(record.track.bbox_xyxy[0, :2], shown.min(0), atol=1e-3)
    coco = KEYPOINT_NAMES["coco17"]
    np.testing.assert_allclose(
        record.track.keypoints_2d[0, coco.index("left_knee"), :2],
        world.people[0].keypoints_img[0, BODY44.index("lsp_left_knee")],
        atol=1e-3,
    )
    assert record.image_size == (240, 320)


def test_people_with_few_points_are_counted(tmp_path: Path, world: World) -> None:
    write(tmp_path, world, joints_vis=[1] * 4 + [0] * 12)
    assert read(tmp_path)[0] == Filtered(
        name="015601864-00000", num_frames=1, reason="few_keypoints"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"joints": [[0.3, 0.9]] * 16}, "few_keypoints"),
        ({"joints": [[1.3, 1.9]] * 16}, r"joints reach \[1\.3, 1\.9\], .* is 320 x 240 pixels"),
        ({"joints": [[900, 100]] * 16}, r"joints reach \[900\.0, 100\.0\], .* is 320 x 240"),
        ({"joints": [[1, 2]] * 14}, r"joints is int64 of shape \(14, 2\), .*\(16, 2\)"),
        ({"joints": [[1, float("nan")]] * 16}, r"joints\[0, 1\] is nan"),
        ({"image": "../secret.jpg"}, "image is '../secret.jpg'"),
        ({"image": "other.jpg"}, r"other\.jpg: no such file"),
    ],
)
def test_wrong_files_are_refused_by_name(
    tmp_path: Path, world: World, changes: Any, message: str
) -> None:
    write(tmp_path, world, **changes)
    if message == "few_keypoints":
        assert {r.reason for r in read(tmp_path) if isinstance(r, Filtered)} == {message}
        return
    with pytest.raises(SourceError, match=message):
        read(tmp_path)


def test_missing_files_are_named(tmp_path: Path, world: World) -> None:
    with pytest.raises(SourceError, match="images: no such folder"):
        SOURCE.list_units(tmp_path, "val")
    write(tmp_path, world)
    with pytest.raises(SourceError, match=r"train\.json: no such file"):
        SOURCE.list_units(tmp_path, "train")
    (tmp_path / "annot" / "valid.json").write_text("{}")
    with pytest.raises(SourceError, match="holds a dict, expected a list"):
        SOURCE.list_units(tmp_path, "val")
