from dataclasses import replace

import pytest

from extpose.errors import ExtPoseError
from pipelines.estimate import (
    NODES,
    Assumptions,
    EstimateArgs,
    cost_of,
    draw_units,
    estimate,
    make_work,
)
from pipelines.ledger import Outcome
from pipelines.timing import Clock, read_timing, time_run, timing_table, write_timing

SECONDS = {"detect": 20.0, "track": 0.5, "pack": 2.0}
WALL = {name: 2 * seconds for name, seconds in SECONDS.items()}


@pytest.fixture
def timing(tmp_path):
    outcomes = [
        Outcome(
            name=str(i), identity="", status="written", frames=200, written=200, clips=10,
            clip_frames=400, num_bytes=1000, seconds=WALL, cpu_seconds=SECONDS,
        )
        for i in range(3)
    ]  # fmt: skip
    clock = Clock(begun=0, planned=1, started=4, done=34)
    timing = time_run([*outcomes, replace(outcomes[0], seconds={})], clock, detectors=2)
    write_timing(tmp_path, timing)
    return timing


def test_timing_adds_units_up(timing, tmp_path):
    assert (timing.units, timing.frames, timing.clips, timing.num_bytes) == (3, 600, 30, 3000)
    assert timing.cpu == {"detect": 60, "track": 1.5, "pack": 6}
    assert timing.stages == {"detect": 120, "track": 3, "pack": 12}
    assert timing.of_floor == pytest.approx(67.5 / (30 * timing.cores))
    assert timing.frames_per_second == pytest.approx(20)
    assert read_timing(tmp_path) == read_timing(tmp_path / "timing.json") == timing
    table = timing_table(timing)
    assert "detect      120.0     60.0         100.0     89%" in table
    assert "600 frames of 3 units in 30.0 s: 20.0 frames/s" in table
    (tmp_path / "timing.json").write_text('{"cores": 1}')
    with pytest.raises(ExtPoseError, match=r"timing\.json: not the timing of a run"):
        read_timing(tmp_path)


def test_units_add_up_and_are_cut_like_the_plan():
    assume = Assumptions(mean_video_seconds=40, video_skew=1.5)
    units = draw_units(100_000, assume)
    assert units.sum() == 100_000
    assert units.min() > 0
    assert units.max() <= assume.unit_frames
    assert (units == draw_units(100_000, assume)).all()
    alike = draw_units(10_000, Assumptions(mean_video_seconds=40, video_skew=0))
    assert alike.tolist() == [250] * 40


def test_work_has_the_measured_cost(timing):
    [unit] = make_work(
        timing, draw_units(100, Assumptions()), NODES["gpu-16"], Assumptions(), clock="cpu"
    )
    assert unit.detect_seconds == pytest.approx(100 * 0.1 / 20)
    assert unit.pack_seconds == pytest.approx(100 * 0.0125)
    assert cost_of(timing, "wall") == pytest.approx({"detect": 0.2, "track": 0.0025, "pack": 0.01})
    assert unit.bytes_written == pytest.approx(500)


def test_estimate_scales_until_the_driver_is_the_bottleneck(timing, tmp_path):
    args = EstimateArgs(timing=tmp_path, clips=20_000, nodes=(1, 2, 4))
    lines, found = estimate(args)
    assert lines[-4].split()[0] == "nodes"
    assert [line.split()[0] for line in lines[-3:]] == ["1", "2", "4"]
    assert found[0].seconds > found[1].seconds > found[2].seconds
    # 400,000 frames of 0.1 s on 28 detectors, and planning before it.
    least = 400_000 * 0.1 / 28
    assert least < found[0].seconds < 1.2 * least + 600
    slow = replace(args, assume=Assumptions(hand_out_seconds=5.0))
    _, limited = estimate(slow)
    assert limited[2].seconds > 0.95 * limited[1].seconds
