"""The benchmark on real footage: its table, and the same numbers as its reference's own scorer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import pipelines.sources.pose2sim as pose2sim
from extpose.body_model import load_body_model
from extpose.config import EvaluateConfig, IngestConfig, ModelConfig
from extpose.data.shards import write_shard
from extpose.errors import ExtPoseError
from extpose.evaluation.posed import Posed, load_reader
from extpose.evaluation.protocols import PROTOCOLS
from extpose.evaluation.scoring import score_clip
from extpose.evaluation.summary import ProtocolResult, summarise
from extpose.evaluation.truth import read_truth
from extpose.model.extpose import ExtPose
from extpose.model.weights import save_model
from pipelines.benchmark import COLUMNS, baseline_rows, benchmark_table, open_benchmark
from pipelines.evaluate import evaluate
from pipelines.records import Record
from tests.plain_clips import synthetic_clip

STORED = Path(__file__).parents[1] / "data" / "pose2sim_prediction.npz"
"""A disturbed copy of the reference as `cam01` sees it, and what the stand-alone scorer of the
reference prints for it (tests/data/README.md)."""


@pytest.fixture
def result(monkeypatch: pytest.MonkeyPatch) -> ProtocolResult:
    """The stored prediction under the project's protocol."""
    monkeypatch.setattr(pose2sim, "fetch", Path)
    (record,) = pose2sim.read_unit(Path(), "test", "cam01")
    assert isinstance(record, Record)
    protocol = PROTOCOLS["pose2sim"]
    truth = read_truth(
        load_reader(protocol, load_body_model(), files={}),
        record.targets,
        bbox_xyxy=record.track.bbox_xyxy,
        is_detected=record.track.is_detected,
    )
    with np.load(STORED, allow_pickle=False) as stored:
        joints = torch.from_numpy(stored["joints_mm"] / 1000.0).float()
        pixels = torch.from_numpy(stored["keypoints_px"].astype(np.float32))
    found = Posed(
        valid=torch.ones(100, dtype=torch.bool),
        joints=joints[:, 5:],
        root=joints[:, [11, 12]].mean(1),
        keypoints_2d=pixels[:, 5:],
    )
    scores = score_clip(
        replace(protocol, metrics=tuple(m for m in protocol.metrics if "sliding" not in m)),
        *(found, truth),
        key="clip",
        sequence="pose2sim-cam01",
        fps=record.fps,
    )
    return summarise([scores], replace(protocol, metrics=protocol.metrics[:-2]), bootstrap=0)


def test_the_metrics_agree_with_the_references_own_scorer(result: ProtocolResult) -> None:
    ours = {metric.name: metric.value for metric in result.metrics}
    with np.load(STORED, allow_pickle=False) as stored:
        theirs = {name: float(stored[name]) for name in stored if stored[name].ndim == 0}
        per_joint = stored["per_joint_pa_mm"]
    assert ours["pa_mpjpe"] == pytest.approx(theirs["pa_mpjpe_mm"], abs=0.01)
    assert ours["mpjpe"] == pytest.approx(theirs["mpjpe_mm"], abs=0.01)
    assert ours["accel"] == pytest.approx(theirs["accel_err_m_s2"], rel=1e-3)
    assert ours["jitter"] == pytest.approx(theirs["jitter_m_s3"] / 10, rel=1e-3)
    assert ours["target_jitter"] == pytest.approx(theirs["reference_jitter_m_s3"] / 10, rel=1e-2)
    for threshold in ("0.05", "0.1"):
        assert ours[f"pck@{threshold}"] == pytest.approx(100 * theirs[f"pck_{threshold}"], abs=0.2)
    found = list(result.per_joint["pa_mpjpe"].values())
    np.testing.assert_allclose(np.array(found, float), per_joint, atol=0.06)


@pytest.mark.parametrize("name", ["pose2sim", "pose2sim-detected"])
def test_the_table_has_every_camera_and_the_baselines(result: ProtocolResult, name: str) -> None:
    lines = benchmark_table(name, result).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:4]] == ["cam01", "all"]
    assert len(lines) == 2 + 2 + len(baseline_rows("pose2sim"))
    assert len({len(line) for line in lines}) == 1
    assert "38.2" in lines[2]
    assert any("BlazePose" in line and "84.1" in line for line in lines)


def test_every_baseline_has_every_number() -> None:
    for row in baseline_rows("pose2sim"):
        assert len(row.values) == len(COLUMNS)
        assert all(value is not None and value > 0 for value in row.values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "data is not given"),
        ({"benchmark": "emdb"}, "unknown benchmark 'emdb', known: pose2sim"),
        ({"benchmark": "pose2sim", "data": Path("x")}, "brings its own data"),
        ({"benchmark": "pose2sim", "protocol": ("free-body",)}, "brings its own data"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ExtPoseError, match=message):
        open_benchmark(EvaluateConfig(**changes))


def test_the_data_have_one_place_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def ingest(config: IngestConfig, source: object) -> int:
        made.append(config)
        return 0

    monkeypatch.setattr("pipelines.ingest.ingest", ingest)
    monkeypatch.setattr("pipelines.benchmark.cache_dir", lambda: tmp_path)
    config = open_benchmark(EvaluateConfig(benchmark="pose2sim"))
    assert config.data.parent == tmp_path / "benchmarks"
    assert config.protocol == ("pose2sim",)
    assert open_benchmark(EvaluateConfig(benchmark="pose2sim")).data == config.data
    other = open_benchmark(EvaluateConfig(benchmark="pose2sim-detected"))
    assert other.data != config.data
    assert other.protocol == ("pose2sim",)
    assert [plan.boxes for plan in made] == ["source", "source", "detector"]


def test_a_network_is_evaluated_by_the_name_of_the_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_config: ModelConfig
) -> None:
    """With a rendered clip in the place of the videos."""

    def ingest(config: IngestConfig, source: object) -> int:
        config.out.mkdir(parents=True)
        write_shard(config.out / "0.tar", [synthetic_clip("a", num_frames=5)])
        return 0

    monkeypatch.setattr("pipelines.ingest.ingest", ingest)
    monkeypatch.setattr("pipelines.benchmark.cache_dir", lambda: tmp_path)
    torch.manual_seed(0)
    save_model(tmp_path / "model.safetensors", ExtPose(tiny_model_config))
    found = evaluate(
        EvaluateConfig(
            benchmark="pose2sim",
            checkpoint=tmp_path / "model.safetensors",
            out=tmp_path / "out",
            pictures=0,
        )
    )
    assert found.results[0].protocol.name == "pose2sim"
    assert "T-pose, best heading" in found.table()
    for name in ("report.html", "results.md"):
        assert "BlazePose heavy 3D, per frame" in (tmp_path / "out" / name).read_text()
