"""Workers that come and go, requests for a checkpoint, and what a killed process leaves."""

import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.execution.controller.state import (
    PreemptingState,
    ResizingState,
    RestartingState,
    RunningState,
)
from ray.train.v2.api.preemption import PreemptionInfo

from extpose.errors import BodyError, TrainingError
from extpose.training import run
from extpose.training.checkpoint import newest_step
from extpose.training.saving import REQUEST, ask_to_save
from extpose.training.starts import read_starts
from pipelines.elastic import EndOnRefusal, SaveBeforeStop, missing_resources, scaling_config
from pipelines.train import train
from tests.pipelines.train_runs import config_for, read_log, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("elastic") / "data")


def test_a_checkpoint_is_there_when_the_request_is_gone(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for in the second micro-batch of the third step, in a run that is resumed then."""
    config = config_for(data, tmp_path / "run", steps=4, checkpoint_every=100)
    real, calls = run.compute_losses, [0]

    def ask(*arguments):
        calls[0] += 1
        if calls[0] == 6:
            ask_to_save(config.out)
        if calls[0] == 7:
            assert newest_step(config.out / "checkpoints") == 3
            assert not (config.out / REQUEST).exists()
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(run, "compute_losses", ask)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.setattr(run, "compute_losses", real)
    train(config)
    assert read_log(config.out)["step"] == ["1", "2", "3", "4"]
    assert [(start.step, start.lost) for start in read_starts(config.out)] == [(0, 0), (3, 0)]


def test_a_stale_request_is_forgotten(data: Path, tmp_path: Path) -> None:
    config = config_for(data, tmp_path / "run", steps=2, checkpoint_every=100)
    config.out.mkdir()
    ask_to_save(config.out)
    train(config)
    assert not (config.out / REQUEST).exists()
    assert [path.name for path in (config.out / "checkpoints").iterdir()] == ["step_000002"]


def test_a_resize_waits_for_the_checkpoint_but_not_for_ever(tmp_path: Path) -> None:
    callback, request = SaveBeforeStop(tmp_path, patience=120), tmp_path / REQUEST

    def answer() -> None:
        while not request.exists():
            time.sleep(0.01)
        time.sleep(0.3)
        request.unlink()

    thread = threading.Thread(target=answer)
    thread.start()
    began = time.monotonic()
    callback.after_controller_state_update(RunningState(), ResizingState(None))
    thread.join()
    assert 0.2 < time.monotonic() - began < 100
    SaveBeforeStop(tmp_path, patience=0.1).save_and_wait()
    assert not request.exists()


def test_a_preemption_asks_now_and_then(tmp_path: Path) -> None:
    callback, request = SaveBeforeStop(tmp_path), tmp_path / REQUEST
    info = PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"a": [0]})
    state = PreemptingState(preemption_info=info, detected_at_s=0.0)
    callback.after_controller_state_update(RunningState(), state)
    assert request.exists()
    request.unlink()
    callback.after_controller_state_update(state, state)
    assert not request.exists()
    callback.asked -= 60
    callback.after_controller_state_update(state, state)
    assert request.exists()


def test_a_run_folder_that_is_gone_is_only_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = SaveBeforeStop(tmp_path / "gone")
    callback.after_controller_state_update(RunningState(), ResizingState(None))
    assert "no checkpoint was asked for: FileNotFoundError" in caplog.text


def test_a_ray_that_dies_is_told(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lost:
        def fit(self) -> None:
            raise ActorDiedError

    _replace_ray(monkeypatch, Lost())
    config = config_for(data, tmp_path / "run", launcher="ray")
    message = r"run: Ray is lost \(ActorDiedError: .*the newest checkpoint is of step 0"
    with pytest.raises(TrainingError, match=message):
        train(config)


def test_what_one_worker_refuses_is_not_tried_again() -> None:
    """The others' errors are its echo; errors that another try may mend are left to Ray."""
    echo = ConnectionResetError("closed by peer")
    refused = WorkerGroupError("two failed", {0: echo, 1: BodyError("0.tar: a: body is 'mano'")})
    callback = EndOnRefusal()
    with pytest.raises(BodyError, match="body is 'mano'"):
        callback.after_controller_state_update(RunningState(), RestartingState(refused))
    killed = RestartingState(WorkerGroupError("one failed", {0: ActorDiedError()}))
    callback.after_controller_state_update(RunningState(), killed)


def test_what_a_worker_refuses_is_told(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing:
        def fit(self) -> None:
            raise ControllerError(BodyError("0.tar: a: body is 'mano'"))

    _replace_ray(monkeypatch, Refusing())
    with pytest.raises(TrainingError, match=r"^0\.tar: a: body is 'mano'$"):
        train(config_for(data, tmp_path / "run", launcher="ray"))


def test_what_the_machine_does_not_have_is_not_waited_for(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _replace_ray(monkeypatch, None)
    config = config_for(data, tmp_path / "run", launcher="ray", num_workers=4, batch=8)
    assert missing_resources(config) == ""
    with pytest.raises(TrainingError, match="ask for 8 CPU, Ray has 4 CPU"):
        train(replace(config, num_workers=8))
    assert missing_resources(replace(config, num_workers=8, min_workers=4)) == ""
    with pytest.raises(TrainingError, match="ask for 4 CPU, 4 GPU, Ray has 4 CPU, 0 GPU"):
        train(replace(config, use_gpu=True))


def test_a_wait_for_a_larger_cluster_is_told(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Slow:
        def fit(self) -> None:
            time.sleep(0.2)

    _replace_ray(monkeypatch, Slow())
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr("pipelines.train.POLL_SECONDS", 0.01)
    monkeypatch.setattr("pipelines.train.WAITING_SECONDS", 0.05)
    config = config_for(data, tmp_path / "run", launcher="ray", num_workers=8, batch=8)
    train(config)
    assert "waits for a larger cluster: the workers ask for 8 CPU, Ray has 4 CPU" in caplog.text
    monkeypatch.setattr("ray.available_resources", lambda: {"CPU": 1.0})
    train(replace(config, num_workers=2))
    assert "no worker has begun yet: the workers ask for 2 CPU, free are 1 CPU" in caplog.text


def _replace_ray(monkeypatch: pytest.MonkeyPatch, trainer: object) -> None:
    """A machine of four cores, and something in place of the trainer."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("pipelines.runtime.ray_session", nullcontext)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0, "memory": 1e9})
    monkeypatch.setattr("pipelines.train._make_trainer", lambda *_: trainer)


def test_scaling(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
    monkeypatch.setenv(variable, "7")
    config = config_for(data, tmp_path, launcher="ray", num_workers=4)
    assert scaling_config(config).num_workers == 4
    elastic = scaling_config(replace(config, min_workers=2, resize_seconds=9.0))
    assert elastic.num_workers == (2, 4)
    assert elastic.elastic_resize_monitor_interval_s == 9.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"launcher": "ray", "num_workers": 2, "min_workers": 3}, "min_workers=3 .* num_workers=2"),
        ({"launcher": "ray", "num_workers": 2, "min_workers": -1}, "min_workers=-1"),
        ({"min_workers": 1}, "launcher local is one process, .* min_workers 1"),
    ],
)
def test_numbers_of_workers_that_cannot_be_are_refused(
    data: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        train(config_for(data, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()
