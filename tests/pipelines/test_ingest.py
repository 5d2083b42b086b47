"""From a labelled data set on disk to shards, by a data set that the test makes up."""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from ray import cloudpickle

from extpose.config import CropConfig, IngestConfig
from extpose.data.shards import read_shard
from extpose.detect.people import Detections, Track
from extpose.errors import ExtPoseError
from extpose.keypoints import COCO17_OF_BODY44
from extpose.schema import Split
from extpose.storage import S3Path, read_bytes
from extpose.video import VideoWriter
from pipelines.cutting import read_pictures
from pipelines.explain import explain
from pipelines.ingest import ingest, summary_line
from pipelines.labels.annotations import read_json
from pipelines.ledger import WriteError
from pipelines.records import (
    Damaged,
    Filtered,
    FrameRef,
    Record,
    Source,
    SourceError,
    empty_targets,
)
from pipelines.validate import validate
from tests.pipelines.sources.bodies import make_world

SIZE = (120, 160)
K = np.float32([[200, 0, 80], [0, 200, 60], [0, 0, 1]])


def make_record(name: str, root: Path, num_frames: int = 5, *, scale: float = 1.0) -> Record:
    """A person who stands before the camera; pictures are below `root`."""
    rng = np.random.default_rng(len(name))
    person = make_world(seed=len(name), num_frames=1).people[0].keypoints_cam
    away = person[0].mean(0) - [0, 0, 3.0]
    points = person - away + rng.uniform(-0.01, 0.01, (num_frames, 44, 3))
    pixels = points @ K.T
    pixels = (pixels[..., :2] / pixels[..., 2:]).astype(np.float32)
    ones = np.ones((num_frames, 44, 1), np.float32)
    targets = replace(
        empty_targets("smpl", num_frames),
        keypoints_2d=np.concatenate([pixels, ones], -1),
        keypoints_3d=np.concatenate([points * scale, ones], -1).astype(np.float32),
    )
    evidence = np.concatenate([pixels, 0.5 * ones], -1)[:, list(COCO17_OF_BODY44)]
    return Record(
        name=name,
        frames=tuple(FrameRef(path=root / f"{i:03d}.png") for i in range(num_frames)),
        image_size=SIZE,
        fps=25.0,
        track=Track(
            track_id=0,
            first_frame=0,
            bbox_xyxy=np.concatenate([pixels.min(1), pixels.max(1)], 1),
            keypoints_2d=evidence,
            timestamps=np.arange(num_frames) / 25,
            is_detected=np.ones(num_frames, bool),
        ),
        targets=targets,
        intrinsics=np.tile(K, (num_frames, 1, 1)),
        body="smpl",
    )


def list_units(root: Path, split: Split) -> list[str]:
    return sorted(path.name for path in (root / split).iterdir())


def read_unit(root: Path, split: Split, unit: str) -> Iterator[Record | Filtered]:
    yield make_record(f"{unit}-0", root / split / unit)
    yield Filtered(name=f"{unit}-1", num_frames=3, reason="no_camera")


SOURCE = Source(
    name="made-up",
    splits=("train", "test"),
    list_units=list_units,
    read_unit=read_unit,
    layout="SPLIT/UNIT/000.png",
    licence="none",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for unit in ("a", "b b"):
        folder = tmp_path / "set" / "test" / unit
        folder.mkdir(parents=True)
        for i in range(5):
            picture = rng.integers(0, 255, (*SIZE, 3), np.uint8)
            cv2.imwrite(str(folder / f"{i:03d}.png"), picture)
    return tmp_path / "set"


def config_of(root: Path, out: Path, /, **changes) -> IngestConfig:
    settings = {"root": root, "out": out, "workers": 0, "clip_frames": 3}
    return IngestConfig(crop=CropConfig(size=64), **settings | changes)


def test_frames_are_accounted_for_and_labels_arrive(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert ingest(config_of(root, out), SOURCE) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert summary_line(manifest) == (
        "4 clips of 10 frames written; filtered: 6 no_camera; quarantined: 0"
    )
    counts = {"frames": 16, "written": 10, "filtered": {"no_camera": 6}, "quarantined": 0}
    assert manifest["frame_counts"] == counts
    assert validate(out) == 0
    record = make_record("a-0", root / "test" / "a")
    clips = list(read_shard(out / "made-up-test-a.tar"))
    assert [clip.num_frames for clip in clips] == [2, 3]
    assert [clip.meta.first_frame for clip in clips] == [0, 2]
    assert clips[0].meta.detector == "annotated"
    joined = np.concatenate([clip.targets.keypoints_3d for clip in clips])
    np.testing.assert_array_equal(joined, record.targets.keypoints_3d)
    np.testing.assert_array_equal(clips[1].keypoints_2d, record.track.keypoints_2d[2:])
    np.testing.assert_array_equal(clips[1].intrinsics[0], K)


def test_the_labels_can_be_the_evidence(root: Path, tmp_path: Path) -> None:
    config = config_of(root, tmp_path / "out", evidence="truth", units=("a",))
    assert ingest(config, SOURCE) == 0
    (shard,) = (tmp_path / "out").glob("*.tar")
    clip = next(iter(read_shard(shard)))
    assert clip.meta.detector == "truth"
    labels = clip.targets.keypoints_2d[:, list(COCO17_OF_BODY44)]
    np.testing.assert_array_equal(clip.keypoints_2d, labels)


class FakeDetector:
    """Finds the person a little to the right of where he is labelled, and somebody else."""

    def __call__(self, rgb: np.ndarray) -> Detections:
        boxes = np.float32([[100, 90, 118, 115], [42, 22, 118, 98]])
        return Detections(
            bbox_xyxy=boxes,
            scores=np.float32([0.9, 0.8]),
            keypoints_2d=np.stack([np.full((17, 3), 0.1), np.full((17, 3), 0.7)]).astype("f4"),
        )

    def find_keypoints(self, rgb: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        assert len(boxes) == 1
        return np.full((1, 17, 3), 0.4, np.float32)


@pytest.mark.parametrize(
    ("changes", "confidence", "name"),
    [
        ({"evidence": "detector"}, 0.4, "movenet-thunder"),
        ({"evidence": "detector", "boxes": "detector"}, 0.7, "movenet-thunder+boxes"),
        ({"evidence": "truth", "boxes": "detector"}, 1.0, "truth+boxes"),
    ],
)
def test_a_detector_gives_evidence_or_boxes(
    root: Path, tmp_path: Path, monkeypatch, changes, confidence: float, name: str
) -> None:
    monkeypatch.setattr("pipelines.cutting.open_detector", lambda *_: FakeDetector())
    config = config_of(root, tmp_path / "out", units=("a",), **changes)
    assert ingest(config, SOURCE) == 0
    clip = next(iter(read_shard(tmp_path / "out" / "made-up-test-a.tar")))
    assert clip.meta.detector == name
    np.testing.assert_allclose(clip.keypoints_2d[..., 2], confidence)
    is_found = clip.bbox_xyxy[0].tolist() == [42, 22, 118, 98]
    assert is_found == ("boxes" in changes)


def test_a_restart_does_only_what_is_missing(root: Path, tmp_path: Path) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    ingest(config_of(root, out), SOURCE)
    before = {path.name: path.read_bytes() for path in out.glob("*.tar")}
    (out / "done" / "made-up-test-a.json").unlink()
    (out / "made-up-test-a.tar").unlink()
    kept = out / next(name for name in before if name != "made-up-test-a.tar")
    modified = kept.stat().st_mtime_ns
    ingest(config_of(root, out), SOURCE)
    ingest(config_of(root, again), SOURCE)
    assert kept.stat().st_mtime_ns == modified
    for folder in (out, again):
        assert {path.name: path.read_bytes() for path in folder.glob("*.tar")} == before


def test_what_cannot_be_used_is_quarantined(root: Path, tmp_path: Path) -> None:
    (root / "test" / "a" / "003.png").write_bytes(b"no picture")
    (root / "test" / "b b" / "000.png").unlink()
    assert ingest(config_of(root, tmp_path / "out"), SOURCE) == 3
    text = (tmp_path / "out" / "quarantine.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    assert [(row["name"], row["frames"]) for row in rows] == [("a-0", 3), ("b b-0", 5)]
    assert "003.png: cannot be decoded" in rows[0]["message"]
    assert "000.png: no such file" in rows[1]["message"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["frame_counts"]["written"] == 2
    assert manifest["frame_counts"]["quarantined"] == 8
    # The unit without a written frame has no shard.
    assert [shard["clips"] for shard in manifest["shards"]] == [1]


def test_wrong_units_are_quarantined_with_both_values(root: Path, tmp_path: Path) -> None:
    def in_millimetres(root: Path, split: Split, unit: str) -> Iterator[Record | Filtered]:
        yield make_record(unit, root / split / unit, scale=1000.0)

    wrong = replace(SOURCE, read_unit=in_millimetres)
    assert ingest(config_of(root, tmp_path / "out"), wrong) == 3
    text = (tmp_path / "out" / "quarantine.jsonl").read_text()
    assert "m wide, a smpl is 0.3 to 3.0 m: wrong unit?" in text


def test_a_unit_that_cannot_be_read_does_not_stop_the_others(root: Path, tmp_path: Path) -> None:
    def broken(root: Path, split: Split, unit: str) -> Iterator[Record | Filtered]:
        if unit == "a":
            raise SourceError("a.pkl: no key 'poses'")
        return read_unit(root, split, unit)

    source = replace(SOURCE, read_unit=broken)
    assert ingest(config_of(root, tmp_path / "out"), source) == 3
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["clips"] == 2


def test_what_a_source_did_not_foresee_does_not_stop_the_others(root: Path, tmp_path: Path) -> None:
    def read(root: Path, split: Split, unit: str) -> Iterator[Record | Filtered]:
        if unit == "a":
            yield from {}["poses"]
        yield from read_unit(root, split, unit)

    assert ingest(config_of(root, tmp_path / "out"), replace(SOURCE, read_unit=read)) == 3
    (row,) = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(row)["message"] == "KeyError: 'poses'"
    assert len(list((tmp_path / "out").glob("*.tar"))) == 1


def test_what_was_quarantined_is_tried_again(root: Path, tmp_path: Path) -> None:
    picture, out = root / "test" / "a" / "001.png", tmp_path / "out"
    content = picture.read_bytes()
    picture.write_bytes(b"half a picture")
    assert ingest(config_of(root, out), SOURCE) == 3
    picture.write_bytes(content)
    assert ingest(config_of(root, out), SOURCE) == 0
    assert (out / "quarantine.jsonl").read_text() == ""
    assert validate(out) == 0


def test_a_shard_goes_when_nothing_of_it_can_be_read_any_more(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number, count in ((4, 2), (0, 1)):
        (root / "test" / "a" / f"{number:03d}.png").write_bytes(b"")
        assert ingest(config_of(root, out), SOURCE) == 3
        assert len(list(out.glob("*.tar"))) == count
    assert validate(out) == 0


def test_other_wrong_units_are_quarantined_too(root: Path, tmp_path: Path) -> None:
    def read(root: Path, split: Split, unit: str) -> Iterator[Record | Filtered]:
        record = make_record(f"{unit}-0", root / split / unit)
        targets = record.targets
        if unit == "a":
            turned = np.full_like(targets.pose, 20)
            yield replace(record, targets=replace(targets, pose=turned, has_pose=np.ones(5, bool)))
        else:
            vertices = 1000 * targets.keypoints_3d[..., :3]
            yield replace(record, targets=replace(targets, vertices=vertices))

    assert ingest(config_of(root, tmp_path / "out"), replace(SOURCE, read_unit=read)) == 3
    text = (tmp_path / "out" / "quarantine.jsonl").read_text()
    assert "a-0: pose turns joints by 34.6 rad (median), at most 3.14 can be: are these" in text
    assert "m wide, a smpl is 0.3 to 3.0 m: wrong unit?" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "val"}, r"made-up has splits \('train', 'test'\), not 'val'"),
        ({"units": ("c",)}, r"no units \['c'\] in test"),
        ({"clip_frames": 65}, "clip_frames is 65, allowed 1 to 64"),
        ({"root": Path("nowhere")}, "nowhere: no such folder; made-up needs"),
    ],
)
def test_bad_settings_are_refused(root: Path, tmp_path: Path, changes, message: str) -> None:
    with pytest.raises(ExtPoseError, match=message):
        ingest(config_of(root, tmp_path / "out", **changes), SOURCE)


def test_other_settings_need_another_folder(root: Path, tmp_path: Path) -> None:
    ingest(config_of(root, tmp_path / "out"), SOURCE)
    with pytest.raises(ExtPoseError, match="clip_frames: 3, now 2"):
        ingest(config_of(root, tmp_path / "out", clip_frames=2), SOURCE)
    with pytest.raises(ExtPoseError, match="not a shard of what was given"):
        ingest(config_of(root, tmp_path / "out", units=("a",)), SOURCE)


def test_a_data_set_goes_to_a_store(root: Path, tmp_path: Path, s3) -> None:
    there, here = S3Path(f"s3://bucket/{tmp_path.name}"), tmp_path / "here"
    for out in (there, here, there):
        assert ingest(config_of(root, out), SOURCE) == 0
    names = [path.name for path in here.iterdir() if path.is_file() and path.name != ".lock"]
    assert len(names) == 5
    for name in names:
        assert read_bytes(there / name) == (here / name).read_bytes()
    assert validate(there) == 0


def test_redo_and_prune(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ingest(config_of(root, out), SOURCE)
    ingest(config_of(root, out, clip_frames=2, redo=True), SOURCE)
    fresh = tmp_path / "fresh"
    ingest(config_of(root, fresh, clip_frames=2), SOURCE)
    for name in ("made-up-test-a.tar", "manifest.json", "settings.json"):
        assert (out / name).read_bytes() == (fresh / name).read_bytes()
    ingest(config_of(root, out, clip_frames=2, units=("a",), prune=True), SOURCE)
    assert [path.name for path in out.glob("*.tar")] == ["made-up-test-a.tar"]
    assert validate(out) == 0


def test_a_full_disk_stops_the_run(root: Path, tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise WriteError("disk full")

    monkeypatch.setattr("pipelines.ingest.write_text", full)
    with pytest.raises(WriteError, match="disk full"):
        ingest(config_of(root, tmp_path / "out"), SOURCE)


def read_with_labels(root: Path, split: Split, unit: str) -> Iterator[Record | Filtered | Damaged]:
    if (root / "labels.json").exists():
        read_json(root / "labels.json")
    if unit == "damaged":
        yield Damaged(name="nobody", num_frames=0, message="nobody can know")
    yield from read_unit(root, split, "a" if unit == "damaged" else unit)


def test_changed_files_are_noticed(root: Path, tmp_path: Path, caplog) -> None:
    out, labels = tmp_path / "out", root / "labels.json"
    labels.write_text("[1]")
    source = replace(SOURCE, read_unit=read_with_labels)

    def made_again() -> list[str]:
        before = {path: path.stat().st_mtime_ns for path in (out / "done").glob("*")}
        assert ingest(config_of(root, out), source) == 0
        after = {path: path.stat().st_mtime_ns for path in (out / "done").glob("*")}
        new = sorted(path.stem for path in after if after[path] != before.get(path))
        return ["b b" if name.startswith("made-up-test-b-b") else name[-1] for name in new]

    def explained(shard: str) -> str:
        [path] = out.glob(shard)
        return explain(next(iter(read_shard(path))).key, out)

    assert made_again() == ["a", "b b"]
    assert made_again() == []
    assert "still the same" in explained("*-a.tar")
    (root / "new.txt").touch()
    os.utime(labels, (1, 1))  # a copy is the same data
    assert made_again() == []
    picture = root / "test" / "b b" / "003.png"
    cv2.imwrite(str(picture), np.zeros((*SIZE, 3), np.uint8))
    assert "now others: test/b b/003.png" in explained("*-b-b-*.tar")
    assert made_again() == ["b b"]
    assert "is made again: changed: test/b b/003.png" in caplog.text
    labels.write_text("[2]")
    assert made_again() == ["a", "b b"]
    labels.unlink()
    assert made_again() == ["a", "b b"]


def test_records_are_accounted_for(root: Path, tmp_path: Path) -> None:
    (root / "labels.json").write_text("[]")
    (root / "test" / "damaged").mkdir()
    out = tmp_path / "out"
    assert ingest(config_of(root, out), replace(SOURCE, read_unit=read_with_labels)) == 3
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["record_counts"] == {"written": 3, "filtered": 3, "quarantined": 1}
    assert "quarantined: 0 of 1 records" in summary_line(manifest)
    [listed] = (out / "sources").glob("*-a.json")
    assert "labels.json" in json.loads(listed.read_text())["files"], "noted by the reader"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_local")
def test_workers_change_nothing(root: Path, tmp_path: Path) -> None:
    # Workers cannot import this file, so the made-up data set travels by value.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ingest(config_of(root, tmp_path / "one"), SOURCE)
    ingest(config_of(root, tmp_path / "two", workers=2), SOURCE)
    for path in (tmp_path / "one").glob("*.tar"):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_frames_of_a_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with VideoWriter(path, fps=25.0, size=(48, 64)) as writer:
        for i in range(12):
            writer.write(np.full((48, 64, 3), 20 * i, np.uint8))
    wanted = (0, 5, 6, 11)
    pictures = read_pictures(tuple(FrameRef(path=path, index=i) for i in wanted))
    for index, picture in zip(wanted, pictures, strict=True):
        assert abs(float(picture.mean()) - 20 * index) < 4
    with pytest.raises(SourceError, match="frame 12 is not there"):
        list(read_pictures((FrameRef(path=path, index=3), FrameRef(path=path, index=12))))
