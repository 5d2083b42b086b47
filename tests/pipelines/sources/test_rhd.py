"""RHD: both hands of a picture, tips first, visible or not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extpose.errors import AssetError
from pipelines.records import Filtered, Record, SourceError
from pipelines.sources.rhd import SOURCE
from tests.pipelines.sources import hands as h

COUNT = 6
RHD_ORDER = [0, *(4 * finger + joint for finger in range(5) for joint in (4, 3, 2, 1))]


@pytest.fixture
def truth() -> dict[str, h.Hands]:
    """Right hands have many joints outside in half of the images."""
    return {
        side: h.pose_hands(20, COUNT, is_right=side == "right", size=(320, 320))
        for side in ("left", "right")
    }


def make_annotations(truth: dict[str, h.Hands]) -> dict[int, dict[str, Any]]:
    found = {}
    for i in range(COUNT):
        both = [truth[side] for side in ("left", "right")]
        uv = np.vstack([hands.uv[i][RHD_ORDER] for hands in both])
        visible = np.ones(42)
        visible[[1, 2]] = 0
        visible[21 + i :] = i < 3
        found[i] = {
            "xyz": np.vstack([hands.keypoints[i][RHD_ORDER] for hands in both]),
            "uv_vis": np.hstack([uv, visible[:, None]]),
            "K": both[0].K,
        }
    return found


@pytest.fixture
def root(tmp_path: Path, truth: dict[str, h.Hands]) -> Path:
    for folder in ("training", "evaluation"):
        for i in range(COUNT):
            image = np.maximum(truth["left"].draw(i), truth["right"].draw(i))
            h.write_image(tmp_path / folder / f"color/{i:05d}.png", image)
        path = tmp_path / folder / f"anno_{folder}.pickle"
        h.write_pickle(path, make_annotations(truth))
    return tmp_path


@pytest.mark.parametrize("split", ["train", "test"])
def test_reads_what_was_written(root: Path, truth: dict[str, h.Hands], split: str) -> None:
    found = h.read_all(SOURCE, root, split)
    lost = [item for item in found if isinstance(item, Filtered)]
    assert [(item.name, item.reason) for item in lost] == [
        (f"{i:05d}-right", "hidden") for i in (3, 4, 5)
    ]
    records = [item for item in found if isinstance(item, Record)]
    assert len(records) == 9
    for record in records:
        number, side = record.name.split("-")
        h.assert_is(record, truth[side], slice(int(number), int(number) + 1))
        assert record.targets.is_visible is not None
        hidden = np.flatnonzero(~record.targets.is_visible[0])
        # Tips first: points 1 and 2 are the thumb's tip and last joint.
        assert hidden.tolist() == ([3, 4] if side == "left" else [])
        assert not record.targets.has_pose.any()


def test_refusals(root: Path, truth: dict[str, h.Hands]) -> None:
    path = root / "training/anno_training.pickle"

    def refuses(match: str, **changes: Any) -> None:
        annotations = make_annotations(truth)
        for annotation in annotations.values():
            for key, function in changes.items():
                annotation[key] = function(annotation[key])
        h.write_pickle(path, annotations)
        with pytest.raises(SourceError, match=match):
            h.read_all(SOURCE, root, "train")

    refuses(r"anno_training.pickle: .*keypoints_3d are \d+ m wide", xyz=lambda a: 1000 * a)
    refuses("xyz should be left hands, but", xyz=lambda a: np.roll(a, 21, 0))
    base_first = np.array(RHD_ORDER + [21 + i for i in RHD_ORDER])
    refuses("another joint order", xyz=lambda a: a[base_first])
    refuses("off keypoints_2d by", uv_vis=lambda a: a * [3, 1, 1])
    refuses(r"uv_vis of 0 has shape \(42, 2\), expected \(42, 3\)", uv_vis=lambda a: a[:, :2])
    refuses(r"xyz of 0 holds nan at \(0, 0\)", xyz=lambda a: a * np.nan)
    h.write_pickle(path, [1])
    with pytest.raises(SourceError, match="holds a list, expected image numbers"):
        h.read_all(SOURCE, root, "train")
    path.unlink()
    with pytest.raises(SourceError, match=r"anno_training.pickle: no such file"):
        h.read_all(SOURCE, root, "train")


def test_a_pickle_with_code_is_refused(root: Path) -> None:
    (root / "training/anno_training.pickle").write_bytes(b"cposix\nsystem\n(S'true'\ntR.")
    with pytest.raises(AssetError, match=r"posix.system"):
        h.read_all(SOURCE, root, "train")
