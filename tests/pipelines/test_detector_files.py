"""Folders whose detector has files that the user brings: made again, and replayed, by command."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from extpose.config import DetectConfig, DetectorName, PreprocessConfig
from extpose.data.shards import ShardIndex
from extpose.detect import top_down
from extpose.detect.calibration import COCO17, Calibration, JointMap
from pipelines.cli import main
from pipelines.ledger import open_output
from pipelines.plan import plan_videos
from pipelines.preprocess import decide, make_unit, preprocess
from tests.detect import test_rtmpose, test_vitpose
from tests.pipelines.fakes import config_of, write_people
from tests.pipelines.test_detectors import write_keypoints

NUM_FRAMES = 10
BOX, SCORE = np.array([[10, 20, 40, 100]], np.float32), np.array([0.9], np.float32)


def bring_keypoints(folder: Path) -> DetectConfig:
    write_keypoints(folder / "walk.json", NUM_FRAMES)
    return DetectConfig(keypoints=folder)


def bring_calibration(folder: Path) -> DetectConfig:
    half = JointMap(raw=(0.0, 1.0), expected=(0.0, 0.5), samples=9)
    calibration = Calibration(detector="keypoints", origin="me", joints=dict.fromkeys(COCO17, half))
    calibration.save(folder / "map.json")
    return replace(bring_keypoints(folder), calibration=folder / "map.json")


def bring_rtmpose(folder: Path) -> DetectConfig:
    pytest.importorskip("rtmlib", reason="pip install --no-deps rtmlib")
    return DetectConfig(weights=test_rtmpose.save_network(folder / "end2end.onnx"))


def bring_vitpose(folder: Path) -> DetectConfig:
    return DetectConfig(weights=test_vitpose.save_network(folder / "vitpose"))


def make_folder(config: PreprocessConfig) -> str:
    """As `preprocess` makes it, in this process; the first clip's key."""
    _, spec, settings = decide(config)
    with open_output(config.out):
        paths = config.source.path
        for video in plan_videos(paths, config, settings, identity_of=spec.identity_of):
            for unit in video.units:
                make_unit(unit, config, spec)
    assert preprocess(config) == 0  # all is there: manifest only
    return ShardIndex(sorted(Path(str(config.out)).glob("*.tar"))).keys[0]


@pytest.mark.parametrize(
    ("detector", "bring"),
    [
        ("keypoints", bring_keypoints),
        ("keypoints", bring_calibration),
        ("rtmpose", bring_rtmpose),
        ("vitpose", bring_vitpose),
    ],
)
def test_files_are_named_again(
    detector: DetectorName,
    bring: Callable[[Path], DetectConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(top_down, "PersonBoxes", lambda _: lambda rgb: (BOX, SCORE))
    if detector != "keypoints":  # the tiny networks put all points in one place
        monkeypatch.setattr(top_down, "MIN_KEYPOINTS", 18)
    detect = bring(tmp_path)
    unsure = replace(detect, box_threshold=0.0, min_mean_confidence=0.0)
    video = write_people(tmp_path / "walk.mp4", NUM_FRAMES)
    config = config_of(video, tmp_path / "data", detector=detector, detect=unsure)
    key = make_folder(config)
    given = {name: getattr(detect, name) for name in ("weights", "keypoints", "calibration")}
    files = [word for name, path in given.items() if path for word in (f"--detect.{name}", path)]
    words = [key, "--data", config.out, *files]
    assert main(["rebuild", *map(str, words)]) == 0
    assert "the same bytes" in capsys.readouterr().out
    golden = str(tmp_path / "golden")
    assert main(["replay", golden, "--save-from", *map(str, [config.out, *files])]) == 0
    assert main(["replay", golden]) == 0, "the golden folder knows where they were"
    # Without them the message says which option is missing.
    assert main(["rebuild", key, "--data", str(config.out)]) == 1
    missing = next(reversed([name for name, path in given.items() if path]))
    assert f"--detect.{missing}" in capsys.readouterr().err


def test_moved_files_are_named_when_replayed(tmp_path: Path) -> None:
    detect = bring_keypoints(tmp_path)
    video = write_people(tmp_path / "walk.mp4", NUM_FRAMES)
    config = config_of(video, tmp_path / "data", detector="keypoints", detect=detect)
    make_folder(config)
    golden, moved = tmp_path / "golden", tmp_path / "moved.json"
    save = ["--save-from", str(config.out), "--detect.keypoints", str(tmp_path)]
    assert main(["replay", str(golden), *save]) == 0
    (tmp_path / "walk.json").rename(moved)
    assert main(["replay", str(golden)]) == 1
    assert main(["replay", str(golden), "--detect.keypoints", str(moved)]) == 0
    assert asdict(config)["out"] == config.out
    assert json.loads((golden / "golden.json").read_text())["unit"]["stop"] == NUM_FRAMES
