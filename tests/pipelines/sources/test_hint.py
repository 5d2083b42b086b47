"""HInt: pairs of picture and JSON, left and right by name, hidden points."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.records import Record, SourceError
from pipelines.sources.hint import SOURCE_EGO4D, SOURCE_EGO4D_SEQ, SOURCE_NEWDAYS, SOURCE_VISOR
from tests.pipelines.sources import hands as h

LONG = "0bc8996b-85d5-4800-b840-f7ef647a21ee_a48caf98-f1a2-4d0a-83e7-50307d53aefe_4232_post_frame"
NAMES = ("ND_1_5pHBcVhuU_frame008373_l", "ND_J6tTGJTQNHU_frame003001_r", f"{LONG}_l", f"{LONG}_r")
HIDDEN = (3, 4, 20)


def make_hand(seed: int, name: str) -> h.Hands:
    return h.pose_hands(seed, is_right=name.endswith("r"), size=(200 + seed, 300))


def make_json(hand: h.Hands) -> dict[str, Any]:
    uv = hand.uv[0]
    box = [*(uv.min(0) - 4).tolist(), *(uv.max(0) + 4).tolist()]
    flags = [int(i in HIDDEN) for i in range(21)]
    return {"bbox": [box], "keypoints": uv.tolist(), "occlusion": flags}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "TEST_newdays_img"
    for seed, name in enumerate(NAMES):
        hand = make_hand(seed, name)
        h.write_image(folder / f"{name}.jpg", hand.draw(0))
        h.write_json(folder / f"{name}.json", [make_json(hand)])
    return folder


def test_reads_what_was_written(folder: Path) -> None:
    found = h.read_all(SOURCE_NEWDAYS, folder.parent, "test")
    assert len(found) == len(NAMES)
    for record, (name, seed) in zip(found, sorted(zip(NAMES, range(4), strict=True)), strict=True):
        assert isinstance(record, Record)
        hand = make_hand(seed, name)
        t = record.targets
        assert record.is_right == name.endswith("r")
        assert len(record.name) <= 56
        assert record.intrinsics is None
        np.testing.assert_allclose(t.keypoints_2d[0, :, :2], hand.uv[0], atol=1e-3)
        np.testing.assert_allclose(record.track.bbox_xyxy[0, :2], hand.uv[0].min(0) - 4, atol=1e-3)
        assert t.is_visible is not None
        assert np.flatnonzero(~t.is_visible[0]).tolist() == list(HIDDEN)
        # Hidden points are labels, but no evidence.
        assert (t.keypoints_2d[..., 2] == 1).all()
        assert np.flatnonzero(record.track.keypoints_2d[0, :, 2] == 0).tolist() == list(HIDDEN)
        assert not t.keypoints_3d.any()
        assert not t.has_pose.any()


def test_the_parts_have_their_own_folders(folder: Path) -> None:
    names = {"VAL_epick_img": SOURCE_VISOR, "TRAIN_ego4d_img": SOURCE_EGO4D}
    for name, source in (names | {"VAL_ego4d_seq": SOURCE_EGO4D_SEQ}).items():
        folder = folder.rename(folder.parent / name)
        split = name.split("_")[0].lower()
        assert len(h.read_all(source, folder.parent, split)) == len(NAMES)


def test_refusals(folder: Path) -> None:
    path = folder / f"{NAMES[0]}.json"
    good = json.loads(path.read_text())[0]

    def refuses(match: str) -> None:
        with pytest.raises(SourceError, match=match):
            h.read_all(SOURCE_NEWDAYS, folder.parent, "test")

    def write(**changes: Any) -> None:
        h.write_json(path, [good | changes])

    x0, y0, x1, y1 = good["bbox"][0]
    write(bbox=[x0, y0, x1 - x0, y1 - y0])
    refuses("_l.json: bbox .* is not x0 y0 x1 y1 around keypoints")
    write(keypoints=good["keypoints"][:20])
    refuses(r"_l.json: keypoints has shape \(20, 2\), expected \(21, 2\)")
    write(keypoints=[[float("nan")] * 2, *good["keypoints"][1:]])
    refuses(r"_l.json: keypoints holds nan at \(0, 0\)")
    write(occlusion=[2] * 21)
    refuses(r"occlusion holds \[.*2.0.*\], expected 0 and 1")
    h.write_json(path, {"hands": []})
    refuses("holds a dict, expected a list")
    write()
    (folder / f"{NAMES[0]}.jpg").unlink()
    refuses("_l.jpg: no such file or folder .Ego4D's pictures")
    path.rename(folder / "ND_0.json")
    refuses("ND_0.json: the name ends with '0', expected 'l' or 'r'")
    folder.rename(folder.parent / "other")
    refuses("TEST_newdays_img: no such file or folder")
