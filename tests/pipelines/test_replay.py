import json

import numpy as np
import pytest

from extpose.errors import ExtPoseError
from pipelines.differences import compare
from pipelines.preprocess import preprocess
from pipelines.replay import STAGES, replay, save_golden
from tests.pipelines.fakes import box_detector, config_of, write_people
from tests.pipelines.stages_alone import run_stages


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replay")
    config = config_of(write_people(folder / "a.mp4", 40, people=2), folder / "data")
    run_stages(config)
    assert preprocess(config, detector=box_detector()) == 0  # all is there: manifest only
    lines = save_golden(folder / "golden", config.out, "", box_detector())
    assert lines[0].startswith("a-")
    assert [line.split()[0] for line in lines[1:]] == ["detect", "track", "pack"]
    return folder / "golden"


def test_the_same_code_gives_the_same(golden):
    lines, is_equal = replay(golden, STAGES, box_detector(), repeat=2)
    assert is_equal
    assert [line.split()[-1] for line in lines] == ["equal"] * 3
    assert all("ms/frame" in line for line in lines)


def test_a_difference_names_its_field(golden, monkeypatch):
    monkeypatch.setattr("tests.pipelines.fakes.SHAPE", np.full((17, 2), 0.5))
    lines, is_equal = replay(golden, ("detect",), box_detector())
    assert not is_equal
    assert lines[0].endswith("differs")
    assert lines[1].strip().startswith("keypoints_2d: ")
    assert "values differ, by up to" in lines[1]
    _, is_near = replay(golden, ("detect",), box_detector(), tolerance=1000.0)
    assert is_near
    # Tracking has its own input: what detection does now is no matter.
    assert replay(golden, ("track",), box_detector())[1]


def test_what_cannot_be_replayed_is_refused(golden, tmp_path):
    with pytest.raises(ExtPoseError, match="not empty"):
        save_golden(golden, golden.parent / "data", "", box_detector())
    with pytest.raises(ExtPoseError, match="no unit 'nobody-0' in manifest"):
        save_golden(tmp_path / "a", golden.parent / "data", "nobody-0", box_detector())
    with pytest.raises(ExtPoseError, match=r"golden\.json: cannot be read"):
        replay(tmp_path / "b", STAGES, box_detector())
    with pytest.raises(ExtPoseError, match=r"has stages .*, not \('hands',\)"):
        replay(golden, ("hands",), box_detector())
    (tmp_path / "golden.json").write_text(json.dumps({"unit": {}}))
    with pytest.raises(ExtPoseError, match="not a saved unit"):
        replay(tmp_path, STAGES, box_detector())


def test_compare():
    a = {"x": np.zeros(3, np.float32), "n": np.arange(3), "s": "a", "gone": 1, "nan": np.nan}
    b = {"x": np.float32([0, 1, 0]), "n": np.arange(3), "s": "b", "new": 1, "nan": a["nan"]}
    assert compare(a, a, tolerance=0) == []
    assert compare(a, b, tolerance=0) == [
        "gone: missing",
        "new: new",
        "x: 1 of 3 values differ, by up to 1; the first at (1,): was 0, is 1",
        "s: was 'a', is 'b'",
    ]
    shapes = compare({"x": np.zeros(3)}, {"x": np.zeros((3, 1))}, tolerance=9)
    assert shapes == ["x: was float64 (3,), is float64 (3, 1)"]
    assert compare({"x": np.array([np.nan])}, {"x": np.array([np.nan])}, tolerance=0) == []
    assert len(compare({"x": np.array([0.0])}, {"x": np.array([np.nan])}, tolerance=0)) == 1
