"""A run that is watched: metrics on held-out clips, the best weights, the report, trackers."""

import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from extpose.config import EvaluateConfig, TrainConfig, ValidationConfig
from extpose.data.shards import write_shard
from extpose.errors import ExtPoseError, TrainingError
from extpose.model.weights import load_model
from extpose.training.page import read_table, thin
from extpose.training.validation import Best, append_row, drop_rows_after
from extpose.training.workers import Workers
from pipelines.evaluate import evaluate
from pipelines.held_out import HeldOut, open_held_out
from pipelines.train import train
from tests.pipelines.train_runs import config_for, read_log, write_data
from tests.plain_clips import synthetic_clip

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("watched") / "data")


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watched") / "held-out"
    folder.mkdir()
    write_shard(folder / "0.tar", [synthetic_clip(f"v-{i}", seed=50 + i) for i in range(2)])
    return folder


@pytest.fixture(scope="module")
def watched(data: Path, held_out: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A finished run of 6 steps that was validated every 3."""
    out = tmp_path_factory.mktemp("watched") / "run"
    config = config_for(data, out, validation=held_out, validate_every=3)
    train(config)
    return config


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path)


def test_validation_changes_nothing(watched: TrainConfig, data: Path, tmp_path: Path) -> None:
    plain = config_for(data, tmp_path / "plain")
    train(plain)
    assert read_log(plain.out) == read_log(watched.out)
    first, second = (weights(c.out / "model.safetensors") for c in (plain, watched))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not (plain.out / "validation.csv").exists()


def test_a_resumed_run_validates_as_the_straight_one(watched: TrainConfig, tmp_path: Path) -> None:
    stopped = replace(watched, out=tmp_path / "stopped")
    train(replace(stopped, steps=3))
    (stopped.out / "validation.csv").open("a").write("6,1.0")
    train(stopped)
    table = (stopped.out / "validation.csv").read_text()
    assert table == (watched.out / "validation.csv").read_text()
    assert weights(stopped.out / "best.safetensors").keys()
    for name in ("value", "step"):
        found = [_metadata(c.out / "best.safetensors")[name] for c in (stopped, watched)]
        assert found[0] == found[1]


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def test_metrics_are_those_of_evaluate_and_best_is_the_least(
    watched: TrainConfig, held_out: Path, tmp_path: Path
) -> None:
    table = read_table(watched.out / "validation.csv")
    assert table["step"] == [3, 6]
    best = _metadata(watched.out / "best.safetensors")
    least = min(table["pa_mpjpe"])
    assert float(best["value"]) == least
    assert int(best["step"]) == table["step"][table["pa_mpjpe"].index(least)]
    result = evaluate(
        EvaluateConfig(
            data=held_out, checkpoint=watched.out / "model.safetensors", out=tmp_path / "e",
            window=watched.loader.num_frames, pictures=0, bootstrap=0,
        )
    )  # fmt: skip
    found = {m.name: m.value for r in getattr(result, "results", [result]) for m in r.metrics}
    assert found["pa_mpjpe"] == pytest.approx(table["pa_mpjpe"][-1], rel=1e-6)


def test_report_has_curves_pictures_and_files(watched: TrainConfig) -> None:
    page = (watched.out / "report.html").read_text()
    for words in ("terms of the loss", "learning rate", "gradient norm", "frames a second",
                  "model FLOPs utilisation", "PA-MPJPE, mm", "first_batch.png", "best.safetensors",
                  "model.safetensors", "6 of 6"):  # fmt: skip
        assert words in page, words
    assert page.count("<polyline") >= 12
    log = read_table(watched.out / "log.csv")
    assert all(0 < share < 1 for share in log["data_wait_share"])
    assert all(0 < share < 1 for share in log["mfu"])
    clips = [frames / 2 for frames in log["frames_per_second"]]
    assert log["clips_per_second"] == pytest.approx(clips)


def test_tensorboard_has_terms_and_metrics(watched: TrainConfig) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(watched.out / "tensorboard")).Reload()
    tags = events.Tags()["scalars"]
    assert {"loss", "keypoints_2d", "mfu", "validation/pa_mpjpe"} <= set(tags)
    assert [e.step for e in events.Scalars("validation/pa_mpjpe")] == [3, 6]


def _fake_wandb(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    seen: list[object] = []
    run = types.SimpleNamespace(
        log=lambda values, step: seen.append((step, dict(values))),
        finish=lambda: seen.append("finished"),
    )
    module = types.ModuleType("wandb")
    module.init = lambda **settings: (seen.append(settings), run)[1]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return seen


def test_weights_and_biases_gets_the_same(
    data: Path, held_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _fake_wandb(monkeypatch)
    config = config_for(data, tmp_path / "run", steps=2, wandb="poses", validation=held_out)
    train(config)
    settings, *logged, last = seen
    assert isinstance(settings, dict)
    assert (settings["project"], settings["name"]) == ("poses", "run")
    assert settings["config"]["batch"] == 4
    assert settings["resume"] == "allow"
    assert last == "finished"
    assert [step for step, _ in logged] == [2, 2]
    assert "loss" in logged[0][1]
    assert "validation/pa_mpjpe" in logged[1][1]


def test_missing_wandb_is_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(TrainingError, match="pip install wandb"):
        train(config_for(data, tmp_path / "run", wandb="poses"))


def test_held_out_clips_that_cannot_be_used_are_refused(data: Path, tmp_path: Path) -> None:
    config = config_for(data, tmp_path / "run", steps=1)
    with pytest.raises(ExtPoseError, match="no shards"):
        train(replace(config, validation=tmp_path / "none"))
    with pytest.raises(TrainingError, match="also in the training data"):
        train(replace(config, validation=data))
    (tmp_path / "unlabelled").mkdir()
    write_shard(tmp_path / "unlabelled" / "0.tar", [synthetic_clip(labelled=False)])
    with pytest.raises(TrainingError, match="no clip has labels"):
        train(replace(config, validation=tmp_path / "unlabelled"))
    (tmp_path / "hands").mkdir()
    write_shard(tmp_path / "hands" / "0.tar", [synthetic_clip(body="mano")])
    with pytest.raises(TrainingError, match="body is 'mano'"):
        train(replace(config, validation=tmp_path / "hands"))
    assert not (config.out / "log.csv").exists()


def test_tables_forget_later_and_broken_lines(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    for step in (1, 2, 3):
        append_row(path, {"step": step, "value": step / 2})
    path.open("a").write("4,0.")
    drop_rows_after(path, 2)
    assert read_table(path) == {"step": [1, 2], "value": [0.5, 1]}
    drop_rows_after(path, 0)
    assert not path.exists()


def test_long_curves_are_averaged() -> None:
    assert thin([1.0, 3.0, 5.0, float("nan"), 7.0], most=3) == [2, 5, 7]
    assert len(thin([1.0] * 10_001)) <= 500


def test_a_finished_run_is_not_validated_again(watched: TrainConfig) -> None:
    before = (watched.out / "validation.csv").read_text()
    train(watched)
    assert (watched.out / "validation.csv").read_text() == before


class _Threads(Workers):
    """Workers that are threads of this process."""

    def __init__(self, rank: int, barrier: threading.Barrier, box: dict[int, object]) -> None:
        super().__init__(torch.device("cpu"))
        self.rank, self.size, self.barrier_, self.box = rank, 2, barrier, box

    def gather(self, value: object) -> list[object]:
        self.barrier_.wait(60)
        self.box[self.rank] = value
        self.barrier_.wait(60)
        return [self.box[0], self.box[1]]

    def from_first(self, value: object) -> object:
        return self.gather(value)[0]


def test_two_workers_find_what_one_finds(watched: TrainConfig) -> None:
    """And an error on one of them is told on both."""
    model = load_model(watched.out / "model.safetensors").eval()
    barrier, box = threading.Barrier(2), dict[int, object]()
    workers = [_Threads(rank, barrier, box) for rank in range(2)]
    parts = [open_held_out(watched) for _ in workers]

    def score(one: Workers) -> object:
        held_out = parts[one.rank]
        assert held_out is not None
        try:
            return held_out(model, one)
        except TrainingError as error:
            return str(error)

    alone = read_table(watched.out / "validation.csv")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(HeldOut.open, parts, workers))
        for found in pool.map(score, workers):
            assert found == pytest.approx({n: v[-1] for n, v in alone.items() if n != "step"})
        assert parts[1] is not None
        parts[1].settings = replace(parts[1].settings, body_model=Path("nowhere.pkl"))
        first, second = pool.map(score, workers)
    assert first == second
    assert "validation failed: " in str(first)
    assert "nowhere.pkl" in str(first)


def test_tables_keep_their_header(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "table.csv"
    append_row(path, {"step": 1, "a": 1.0, "b": 2.0})
    append_row(path, {"step": 2, "c": 4.0, "b": 3.0})
    table = read_table(path)
    assert table["b"] == [2, 3]
    assert table["a"][0] == 1
    assert "has no column for c" in caplog.text


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"protocol": "3dpw-15"}, "unknown protocol '3dpw-15'"),
        ({"protocol": "free-hand"}, "protocol free-hand is of body 'mano'"),
        ({"best_by": "auc_j"}, "best_by is 'auc_j', protocol free-body has pa_mpjpe"),
    ],
)
def test_rules_that_cannot_work_are_refused_before_the_first_step(
    data: Path, held_out: Path, tmp_path: Path, held: dict[str, str], message: str
) -> None:
    config = config_for(data, tmp_path / "run", validation=held_out, validate_every=100)
    with pytest.raises(ExtPoseError, match=message):
        train(replace(config, held_out=ValidationConfig(**held)))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_best_is_by_the_metric_that_is_asked_for(
    watched: TrainConfig, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    assert watched.validation is not None
    women = tmp_path / "women"
    women.mkdir()
    clip = synthetic_clip("v-0", seed=50)
    write_shard(women / "0.tar", [replace(clip, meta=replace(clip.meta, gender="female"))])
    config = replace(
        watched, out=tmp_path / "run", steps=2, validate_every=1, validation=women,
        held_out=ValidationConfig(best_by="accel"),
    )  # fmt: skip
    train(config)
    table = read_table(config.out / "validation.csv")
    best = _metadata(config.out / "best.safetensors")
    assert (best["best_by"], float(best["value"])) == ("accel", min(table["accel"]))
    assert "labels of the female body are posed with the neutral one" in caplog.text
    assert Best(metric="auc_j", value=0.5).is_beaten_by("auc_j", 0.6)
    assert not Best(metric="accel", value=0.5).is_beaten_by("accel", 0.6)
