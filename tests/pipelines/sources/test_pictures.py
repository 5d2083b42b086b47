"""Pictures without labels: people by a detector."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from extpose.config import CropConfig, IngestConfig
from extpose.data.shards import read_shard
from extpose.errors import ExtPoseError
from pipelines.ingest import ingest
from pipelines.records import SourceError
from pipelines.sources.pictures import SOURCE, list_units
from tests.pipelines.fakes import BoxDetector


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two people (one tiny), nobody, and a broken file."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    bgr = np.zeros((240, 320, 3), np.uint8)
    cv2.imwrite(str(folder / "more" / "nobody.png"), bgr)
    bgr[40:200, 50:110] = 220
    bgr[10:22, 200:212] = 220
    cv2.imwrite(str(folder / "two people.jpg"), bgr)
    (folder / "broken.JPG").write_bytes(b"no picture")
    (folder / "notes.txt").touch()
    return folder


def test_people_are_found_and_everything_is_accounted_for(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.cutting.open_detector", lambda *_: BoxDetector(0.0))
    config = IngestConfig(out=tmp_path / "out", root=root, workers=0, crop=CropConfig(size=64))
    assert ingest(config, SOURCE) == 3
    [shard] = (tmp_path / "out").glob("pictures-test-*.tar")
    [clip] = read_shard(shard)
    assert clip.num_frames == 1
    assert clip.meta.detector == "movenet-thunder"
    assert clip.targets is None
    np.testing.assert_allclose(clip.bbox_xyxy[0], [50, 40, 110, 200], atol=2)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["frame_counts"] == {
        "frames": 4, "written": 1, "filtered": {"no_people": 1, "too_small": 1}, "quarantined": 1,
    }  # fmt: skip
    assert manifest["record_counts"] == {"written": 1, "filtered": 2, "quarantined": 1}
    assert "broken.JPG: cannot be decoded" in (tmp_path / "out/quarantine.jsonl").read_text()


def test_more_pictures_are_other_units(root: Path) -> None:
    [before] = list_units(root, "test")
    (root / "new.png").touch()
    [after] = list_units(root, "test")
    assert before.startswith("00000-00002-")
    assert after.startswith("00000-00003-")


def test_what_cannot_be_is_refused(root: Path, tmp_path: Path) -> None:
    config = IngestConfig(out=tmp_path / "out", root=root, workers=0, evidence="truth")
    with pytest.raises(ExtPoseError, match="--evidence truth --boxes source: there are no labels"):
        ingest(config, SOURCE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="empty: no pictures"):
        list_units(tmp_path / "empty", "test")
