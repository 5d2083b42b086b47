"""Training tars of HMR2.0 and HaMeR: a real one of the former's layout, and broken ones."""

import io
import json
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from extpose.config import CropConfig, IngestConfig
from extpose.data.shards import read_shard
from extpose.pickles import parse_pickle
from pipelines.ingest import ingest
from pipelines.labels.hmr2_filters import (
    DENSITIES,
    HISTOGRAM,
    apply_filters,
    is_probable,
    load_density,
)
from pipelines.records import Damaged, Filtered, Record, SourceError, check_record
from pipelines.sources.hmr2_tars import SOURCE, parse_person
from pipelines.validate import find_faults

REAL = Path(__file__).parents[2] / "data" / "hmr2_tar.tar"


def read(root: Path) -> list[Record | Filtered | Damaged]:
    units = SOURCE.list_units(root, "train")
    return [item for unit in units for item in SOURCE.read_unit(root, "train", unit)]


def person(num: int = 44, **changes: Any) -> dict[str, Any]:
    """A person or a hand in the middle of a picture of 100 x 120."""
    rng = np.random.default_rng(num)
    points = np.concatenate([rng.uniform(20, 80, (num, 2)), np.full((num, 1), 0.9)], 1)
    deep = np.concatenate([rng.uniform(-0.1, 0.1, (num, 3)), np.ones((num, 1))], 1)
    pose, name = (72, "body_pose") if num == 44 else (48, "hand_pose")
    content = {
        "keypoints_2d": points.astype(np.float32),
        "keypoints_3d": (deep * ([4, 4, 4, 1] if num == 44 else [1, 1, 1, 1])).astype(np.float32),
        "center": np.array([60.0, 50.0]),
        "scale": np.array([0.3, 0.4]),
        name: rng.normal(0, 0.2, pose).astype(np.float32),
        f"has_{name}": np.array(1.0),
        "betas": rng.normal(0, 1, 10).astype(np.float32),
        "has_betas": 1,
        "extra_info": {"fitting_loss": np.array({"reprojection_loss": 5.0}, object)},
    }
    if num == 21:
        content["right"] = np.array(1.0)
    content |= changes
    return {key: value for key, value in content.items() if value is not None}


def picture() -> bytes:
    rgb = np.random.default_rng(0).integers(0, 256, (100, 120, 3), np.uint8)
    return cv2.imencode(".jpg", rgb)[1].tobytes()


def write_tar(path: Path, *samples: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in samples:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def sample(key: str, *people: dict[str, Any], suffix: str = "jpg") -> list[tuple[str, bytes]]:
    return [(f"{key}.{suffix}", picture()), (f"{key}.data.pyd", pickle.dumps(list(people)))]


def test_the_real_tar_gives_what_its_authors_train_on(tmp_path: Path) -> None:
    shutil.copy(REAL, tmp_path / "000000.tar")
    config = IngestConfig(
        root=tmp_path, out=tmp_path / "out", split="train", workers=0, crop=CropConfig(size=64)
    )
    assert ingest(config, SOURCE) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["frame_counts"] == {
        "frames": 10, "written": 7, "quarantined": 0,
        "filtered": {"few_keypoints": 1, "listed_as_broken": 1, "reprojection_loss": 1},
    }  # fmt: skip
    assert manifest["label_counts"] == {
        "betas_without_pose": 1, "large_betas": 1, "low_confidence_keypoints": 7,
        "pose_not_checked": 6, "pose_without_betas": 1,
    }  # fmt: skip
    assert not [f for f in find_faults(tmp_path / "out") if f.fault.is_certain]
    [shard] = (tmp_path / "out").glob("*.tar")
    clips = {clip.key.split("-")[4] + clip.key.split("-")[5]: clip for clip in read_shard(shard)}
    assert sorted(clips) == [
        "0000000", "0000010", "0000011", "0000030", "0000050", "0000060", "0000080"
    ]  # fmt: skip
    with tarfile.open(REAL) as tar:
        data = tar.extractfile("setA/000001.data.pyd").read()
    for i, truth in enumerate(parse_pickle(data, "tar")):
        clip = clips[f"000001{i}"]
        sure = truth["keypoints_2d"][:, 2] >= 0.3
        found = clip.targets.keypoints_2d[0]
        np.testing.assert_array_equal(found[sure], truth["keypoints_2d"][sure])
        np.testing.assert_array_equal(found[~sure, 2], 0)
        np.testing.assert_array_equal(clip.targets.pose.ravel(), truth["body_pose"][3:])
        np.testing.assert_array_equal(clip.targets.global_orient.ravel(), truth["body_pose"][:3])
        np.testing.assert_array_equal(clip.targets.betas, truth["betas"])
        np.testing.assert_array_equal(clip.targets.keypoints_3d[0], truth["keypoints_3d"])
        x0, y0, x1, y1 = clip.bbox_xyxy[0]
        np.testing.assert_allclose([x1 - x0, y1 - y0], truth["scale"] * 200, rtol=1e-5)
        np.testing.assert_allclose([(x0 + x1) / 2, (y0 + y1) / 2], truth["center"], rtol=1e-5)
        assert clip.meta.image_size == (120, 160)
    assert not clips["0000030"].targets.has_pose.any()  # its shape is beyond 3
    assert not clips["0000030"].targets.has_betas


def test_hands_of_both_sides_and_several_tars(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", *sample("x/0", person(21), person(21, right=0), suffix="png"))
    (tmp_path / "deep").mkdir()
    write_tar(tmp_path / "deep" / "a.tar", *sample("x/0", person(44), person(21), suffix="jpeg"))
    write_tar(tmp_path / "none.tar")
    records = read(tmp_path)
    assert [(r.body, r.is_right) for r in records] == [
        ("mano", True), ("mano", False), ("smpl", None), ("mano", True),
    ]  # fmt: skip
    assert len({record.name for record in records}) == 4
    for record in records:
        check_record(record)
        assert record.targets.has_pose.all()
        assert record.targets.has_betas
        assert record.image_size == (100, 120)
        np.testing.assert_allclose(record.track.bbox_xyxy[0], [30, 10, 90, 90], atol=1e-4)
    np.testing.assert_array_equal(records[1].targets.pose.ravel(), person(21)["hand_pose"][3:])


@pytest.mark.parametrize(
    "missing", ["keypoints_3d", "body_pose", "betas", "has_betas", "has_body_pose", "extra_info"]
)
def test_optional_fields_may_be_missing(tmp_path: Path, missing: str) -> None:
    flags = {"body_pose": {"has_body_pose": 0}, "betas": {"has_betas": 0}}.get(missing, {})
    write_tar(tmp_path / "a.tar", *sample("0", person(44, **{missing: None}, **flags)))
    [record] = read(tmp_path)
    check_record(record)
    needs_label = missing in ("keypoints_3d", "extra_info")
    assert record.targets.has_pose.all() == record.targets.has_betas == needs_label


class Evil:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, ("touch /tmp/extpose-was-run",)


DAMAGED: dict[str, tuple[list[tuple[str, bytes]], str]] = {
    "malicious": (
        [("0.jpg", picture()), ("0.data.pyd", pickle.dumps([Evil()]))],
        "0.data.pyd: refused, the pickle asks for `posix.system`",
    ),
    "cut pickle": (
        [("0.jpg", picture()), ("0.data.pyd", pickle.dumps([person()])[:200])],
        "0.data.pyd: not a readable pickle",
    ),
    "no list": (
        [("0.jpg", picture()), ("0.data.pyd", pickle.dumps({"a": 1}))], "no list of dicts"
    ),
    "no picture": (sample("0", person())[1:], "0: no picture (jpg, jpeg, png), has ['data.pyd']"),
    "no labels": (sample("0", person())[:1], "0: no data.pyd, has ['jpg']"),
    "broken picture": (
        [("0.jpg", b"abc"), sample("0", person())[1]], "0.jpg: 3 bytes that are no readable picture"
    ),
    "twice": (sample("0", person()) * 2, "are there twice"),
    "wrong shape": (
        sample("0", person(keypoints_2d=np.zeros((25, 3)))),
        "person 0: keypoints_2d has shape (25, 3), expected (44, 3) or (21, 3)",
    ),
    "wrong type": (
        sample("0", person(keypoints_2d=np.full((44, 3), "a"))), "keypoints_2d is <U1 of shape"
    ),
    "not finite": (sample("0", person(betas=np.full(10, np.nan))), "betas[0] is nan"),
    "no side": (sample("0", person(21, right=None)), "no right, has"),
    "odd flag": (sample("0", person(has_betas=0.5)), "has_betas is 0.5, expected 0 or 1"),
    "no box": (sample("0", person(scale=np.zeros(2))), "scale is [0.0, 0.0], must be positive"),
    "promised label": (sample("0", person(betas=None)), "has_betas is 1, and there is no betas"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_quarantined_by_name_and_costs_nobody_else(tmp_path: Path, name: str) -> None:
    members, message = DAMAGED[name]
    write_tar(tmp_path / "a.tar", *members, *sample("1", person()))
    damaged, record = read(tmp_path)
    assert isinstance(damaged, Damaged)
    assert str(tmp_path / "a.tar") in damaged.message
    assert message in damaged.message, damaged.message
    assert isinstance(record, Record)
    assert not Path("/tmp/extpose-was-run").exists()


def test_a_cut_tar_gives_what_is_whole(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", *sample("0", person()), *sample("1", person()))
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"1.data.pyd") + 900])
    (tmp_path / "b.tar").write_bytes(b"")
    (tmp_path / "c.tar").write_bytes(b"no tar" * 200)
    record, lost, cut, empty, text = read(tmp_path)
    assert isinstance(record, Record)
    assert "1: no data.pyd" in lost.message
    assert "a.tar: truncated in 1.data.pyd" in cut.message
    assert "b.tar: 0 bytes" in empty.message
    assert "c.tar: not a whole tar" in text.message


def test_a_damaged_unit_ends_in_the_quarantine_list(tmp_path: Path) -> None:
    members, message = DAMAGED["malicious"]
    write_tar(tmp_path / "a.tar", *members, *sample("1", person(21)))
    config = IngestConfig(
        root=tmp_path, out=tmp_path / "out", split="train", workers=0, crop=CropConfig(size=64)
    )
    assert ingest(config, SOURCE) == 3
    row = json.loads((tmp_path / "out" / "quarantine.jsonl").read_text())
    assert message in row["message"]
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["clips"] == 1


def test_filters_at_their_borders() -> None:
    def outcome(**changes: Any) -> tuple[tuple[str, ...], str]:
        return apply_filters(parse_person("x", person(**changes)), None)[1:]

    points = person()["keypoints_2d"]
    assert outcome(betas=np.full(10, 3.0)) == (("pose_not_checked",), "")
    assert outcome(betas=np.full(10, 3.01)) == (
        ("large_betas", "pose_not_checked", "pose_without_betas"), "",
    )  # fmt: skip
    for loss, reason in ((30_999, ""), (31_000, "reprojection_loss")):
        info = {"fitting_loss": np.array({"reprojection_loss": loss}, object)}
        assert outcome(extra_info=info)[1] == reason
    for num, reason in ((5, ""), (4, "few_keypoints")):
        few = points.copy()
        few[num:, 2] = 0.29
        assert outcome(keypoints_2d=few) == (
            ("low_confidence_keypoints", "pose_not_checked"), reason,
        )  # fmt: skip
    with pytest.raises(SourceError, match="negative"):
        parse_person("x", person(keypoints_2d=points * [1, 1, -1]))


def test_poses_that_the_histogram_does_not_hold_are_set_aside(tmp_path: Path) -> None:
    """A histogram of 40 bins a side in which everybody stands in the pose of zeros."""
    counts = np.zeros((21, 40, 40, 40))
    counts[:, 19:21, 19:21, 19:21] = 1
    np.save(tmp_path / HISTOGRAM, counts)
    density = load_density(tmp_path / HISTOGRAM)
    assert density[:, 20, 20, 20].min() > max(DENSITIES) > density[:, 2, 2, 2].max()
    assert is_probable(np.full((21, 3), 0.01), density)
    # A whole turn more is the same rotation.
    assert is_probable(np.tile([2 * np.pi + 0.01, 0, 0], (21, 1)), density)
    bent = np.full((21, 3), 0.01)
    bent[3] = [2.5, 0, 0]
    assert not is_probable(bent, density)
    pose = np.zeros(72, np.float32)
    pose[12] = 2.5
    write_tar(tmp_path / "a.tar", *sample("0", person(body_pose=pose)))
    [record] = read(tmp_path)
    assert record.notes == ("improbable_pose", "betas_without_pose")
    assert not record.targets.has_pose.any()
    np.save(tmp_path / HISTOGRAM, counts[:3])
    os.utime(tmp_path / HISTOGRAM, (1, 1))
    load_density.cache_clear()
    with pytest.raises(SourceError, match="expected"):
        read(tmp_path)
    load_density.cache_clear()
