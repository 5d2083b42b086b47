"""Whole training runs: resumed, overfitted, refused, and on Ray."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from extpose.body_model import load_body_model
from extpose.config import AugmentConfig, EngineConfig, TrainConfig
from extpose.data.contents import hash_listed
from extpose.data.shards import write_shard
from extpose.errors import ExtPoseError, TrainingError
from extpose.rotations import axis_angle_to_matrix
from extpose.schema import Clip
from extpose.training import logs, run
from extpose.training.facts import config_hash
from extpose.training.inputs import check_inputs
from extpose.training.plain import PlainEngine
from extpose.training.validation import append_row
from pipelines.cli import main
from pipelines.train import _last_row, train
from tests.pipelines.train_runs import LOSS, config_for, read_log, write_data, write_poses
from tests.plain_clips import synthetic_clip
from tests.processes import small_disk

SCRIPT = Path(__file__).parent / "train_runs.py"
ENGINE_OF_ONE = EngineConfig(backend="plain", micro_batch=1, threads=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("train") / "data")


def assert_same_run(a: Path, b: Path) -> None:
    assert read_log(a) == read_log(b)
    first, second = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_resumed_run_is_the_straight_run_bit_for_bit(data: Path, tmp_path: Path) -> None:
    straight, stopped = (config_for(data, tmp_path / name) for name in ("straight", "stopped"))
    assert train(straight) == straight.out / "model.safetensors"
    train(replace(stopped, steps=3))
    # A checkpoint that was cut off and a later log line: what a kill leaves behind.
    broken = stopped.out / "checkpoints" / "step_000005"
    broken.mkdir()
    (broken / "state.pt").write_bytes(b"half")
    with (stopped.out / "log.csv").open("a") as file:
        file.write("4,1.0,")
    train(stopped)
    assert_same_run(straight.out, stopped.out)
    train(stopped)
    assert_same_run(straight.out, stopped.out)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_export_is_the_last_weights(data: Path, tmp_path: Path) -> None:
    config = config_for(data, tmp_path / "run", steps=2)
    train(config)
    expected = load_file(config.out / "model.safetensors")
    for source in (config.out, config.out / "checkpoints" / "step_000002"):
        assert main(["export", str(source), str(tmp_path / "out.safetensors")]) == 0
        found = load_file(tmp_path / "out.safetensors")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert main(["export", str(tmp_path), str(tmp_path / "out.safetensors")]) == 1


@pytest.mark.slow
def test_resume_with_deepspeed_is_bit_for_bit(data: Path, tmp_path: Path) -> None:
    straight, stopped = str(tmp_path / "straight"), str(tmp_path / "stopped")
    others = {str(tmp_path / f"zero-{stage}"): f"1@{stage}" for stage in (1, 3)}
    runs = [straight, "6", stopped, "2", stopped, "6", *(w for run in others.items() for w in run)]
    command = [sys.executable, "-W", "ignore", str(SCRIPT), str(data), *runs]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")
    for out in (straight, *others):
        assert_export_is_what_the_run_wrote(Path(out), tmp_path / "out.safetensors")


def assert_export_is_what_the_run_wrote(run: Path, out: Path) -> None:
    assert main(["export", str(run), str(out)]) == 0
    expected, found = load_file(run / "model.safetensors"), load_file(out)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def _consistent_clip() -> Clip:
    """One still pose in three frames; its 3D points are those of the free body."""
    clip = synthetic_clip(num_frames=3)
    targets = clip.targets
    assert targets is not None
    orient, pose = (np.repeat(a[:1], 3, axis=0) for a in (targets.global_orient, targets.pose))
    output = load_body_model()(
        axis_angle_to_matrix(torch.from_numpy(orient)),
        axis_angle_to_matrix(torch.from_numpy(pose)),
        torch.from_numpy(targets.betas).expand(3, 10),
        torch.from_numpy(targets.transl),
    )
    points = targets.keypoints_3d.copy()
    points[..., :3] = output.keypoints.numpy()
    targets = replace(targets, global_orient=orient, pose=pose, keypoints_3d=points)
    return replace(clip, targets=targets)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_one_clip_is_overfitted_and_the_run_folder_is_complete(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_shard(tmp_path / "data" / "0.tar", [_consistent_clip()])
    config = config_for(
        tmp_path / "data", tmp_path / "run", steps=60, batch=1, checkpoint_every=100
    )
    loader = replace(
        config.loader, augment=AugmentConfig(enabled=False), mask_rgb=0.0, mask_skeleton=0.0
    )
    engine = replace(config.engine, lr=5e-3, micro_batch=1)
    model = replace(config.model, drop_path=0.0)
    loss = replace(config.loss, keypoints_2d=0.0)
    train(replace(config, loader=loader, engine=engine, model=model, loss=loss))
    losses = [float(value) for value in read_log(config.out)["loss"]]
    assert losses[-1] < 0.4 * losses[0]
    assert json.loads((config.out / "config.json").read_text())["steps"] == 60
    versions = json.loads((config.out / "versions.json").read_text())
    assert "torch" in versions
    assert versions["attention"].startswith("PyTorch's CPU flash kernel (cpu, ")
    hashes = json.loads((config.out / "data.json").read_text())
    assert hashes == {str(folder): hash_listed(folder) for folder in config.data}
    assert cv2.imread(str(config.out / "first_batch.png")).shape == (260, 260, 3)
    assert not list(config.out.rglob("*.tmp"))


def test_time_limit_ends_with_a_checkpoint(data: Path, tmp_path: Path) -> None:
    config = config_for(data, tmp_path / "run", steps=10**6, max_seconds=0.5)
    train(config)
    steps = len(read_log(config.out)["step"])
    folders = sorted(p.name for p in (config.out / "checkpoints").iterdir())
    assert folders[-1] == f"step_{steps:06d}"
    train(config)
    assert len(read_log(config.out)["step"]) == steps


def test_loss_that_is_not_finite_names_the_clips(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = run.compute_losses

    def broken(prediction, batch, body_model, config):
        total, terms = real(prediction, batch, body_model, config)
        return (total * float("nan") if "clip-2" in batch.keys else total), terms

    monkeypatch.setattr(run, "compute_losses", broken)
    config = config_for(data, tmp_path / "run", steps=20, batch=6, engine=ENGINE_OF_ONE)
    with pytest.raises(TrainingError, match=r"step 1: the loss is not finite .*: clip-2$"):
        train(config)
    # What the network got, and how far it came, is there to be looked at.
    assert cv2.imread(str(config.out / "first_batch.png")) is not None
    assert "No step is done yet" in (config.out / "report.html").read_text()


def test_gradient_that_is_not_finite_names_all_clips_of_the_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PlainEngine, "step", lambda self, lr: float("nan"))
    config = config_for(data, tmp_path / "run", batch=6, engine=ENGINE_OF_ONE)
    named = ", ".join(f"clip-{i}" for i in range(6))
    with pytest.raises(TrainingError, match=rf"the gradient is not finite .*clips: {named}$"):
        train(config)


def test_a_run_goes_on_with_the_same_inputs_only(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_for(data, tmp_path / "run", steps=2)
    train(config)
    moved = write_data(tmp_path / "moved")
    config = replace(config, data=(moved,), steps=4)
    (config.out / "code.diff").write_text("another")
    train(config)
    assert "goes on with something else than before: code.diff is another" in caplog.text
    starts = [config.out / "starts" / f"00{i}" for i in range(2)]
    steps = [json.loads((start / "config.json").read_text())["steps"] for start in starts]
    assert steps == [2, 4]
    assert (starts[1] / "code.diff").read_text() == (starts[0] / "code.diff").read_text()
    more = write_data(tmp_path / "more", clips=7)
    message = r"more: was 6 clips in 1 shards, hash \w+, is 7 clips in 1 shards, hash \w+"
    with pytest.raises(TrainingError, match=message):
        train(replace(config, data=(more,), steps=6))
    with pytest.raises(TrainingError, match="body_model: was the free one, is hash"):
        check_inputs(config, config.out, {"body_model": "the free one"}, {"body_model": "hash 1"})


def test_a_full_disk_of_the_log_is_told_and_nothing_is_lost(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without room for a while: neither lines nor the report can be written."""

    def fail_at_first(name: str, count: int) -> None:
        real, left = getattr(logs, name), [count]

        def write(*args: object, **kwargs: object) -> None:
            left[0] -= 1
            if left[0] >= 0:
                raise OSError(28, "No space left on device")
            real(*args, **kwargs)

        monkeypatch.setattr(logs, name, write)

    fail_at_first("append_row", 3)
    fail_at_first("write_page", 2)
    config = config_for(data, tmp_path / "run")
    train(config)
    assert read_log(config.out)["step"] == ["1", "2", "3", "4", "5", "6"]
    assert "not everything is logged: [Errno 28]" in caplog.text
    assert (config.out / "report.html").exists()


def test_half_a_line_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    append_row(path, {"step": 1})
    with small_disk(12), pytest.raises(OSError, match="too large"):
        append_row(path, {"step": "x" * 100})
    assert path.read_text().split() == ["step", "1"]


def test_weights_that_cannot_be_written_are_named(data: Path, tmp_path: Path) -> None:
    config = config_for(data, tmp_path / "run", steps=1)
    (config.out / "model.safetensors").mkdir(parents=True)
    with pytest.raises(TrainingError, match=r"model\.safetensors"):
        train(config)


def test_one_run_at_a_time_in_a_folder(data: Path, tmp_path: Path) -> None:
    """A second is refused; one that was killed is not in the way."""
    config = config_for(data, tmp_path / "run", steps=1)
    script = (
        "import sys, time; from pathlib import Path; from pipelines.locking import hold\n"
        "with hold(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(config.out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ExtPoseError, match="another run is writing to this folder"):
            train(config)
        assert not (config.out / "log.csv").exists()
        other.kill()
    train(config)


def test_the_last_line_is_found_without_reading_all(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    assert _last_row(path) == {}
    path.write_text("step,loss\n")
    assert _last_row(path) == {}
    path.write_text("step,loss\n" + "".join(f"{i},0.5\n" for i in range(5000)) + "5000,0.")
    assert _last_row(path) == {"step": "4999", "loss": "0.5"}


def _unlabelled(tmp_path: Path) -> Path:
    write_shard(tmp_path / "0.tar", [synthetic_clip(labelled=False)])
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_workers": 2}, "num_workers is 2"),
        ({"engine": EngineConfig(backend="plain", precision="fp16")}, "fp16 needs a GPU"),
        ({"use_gpu": True}, "no CUDA device"),
        ({"batch": 0}, "batch=0"),
        ({"launcher": "ray", "num_workers": 3}, "batch=4 .* num_workers=3"),
        ({"launcher": "ray", "num_workers": 0}, "num_workers=0"),
        ({"keep_checkpoints": 0}, "keep_checkpoints is 0, at least 1"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
        ({"log_every": 0}, "log_every is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"loss": replace(LOSS, clips_per_sum=0)}, "clips_per_sum is 0"),
    ],
)
def test_configs_that_cannot_work_are_refused(
    data: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        train(config_for(data, tmp_path / "run", **changes))


def test_unlabelled_data_and_another_config_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no clip has targets"):
        train(config_for(_unlabelled(tmp_path), tmp_path / "run"))
    config = config_for(data, tmp_path / "run", steps=2)
    train(config)
    with pytest.raises(TrainingError, match="another config"):
        train(replace(config, seed=5, steps=4))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_smaller_forward_pass_is_the_same_objective(data: Path, tmp_path: Path) -> None:
    """Summed losses and the adversarial term, with clipping: as in runs that go on elastically."""
    config = config_for(
        data, tmp_path, steps=3, checkpoint_every=9, mocap=write_poses(tmp_path / "poses.npz")
    )
    model = replace(config.model, drop_path=0.0)
    loss = replace(config.loss, reduction="sum", adversarial=1.0)
    config = replace(config, model=model, loss=loss)
    logs = []
    for clips in (1, 2, 4):
        engine = replace(config.engine, micro_batch=clips)
        run = replace(config, engine=engine, out=tmp_path / str(clips))
        assert config_hash(run) == config_hash(config)
        train(run)
        logs.append({name: np.array(v, float) for name, v in read_log(run.out).items()})
    for name, expected in logs[-1].items():
        for found in logs[:-1]:
            np.testing.assert_allclose(found[name], expected, rtol=1e-3, err_msg=name)


def _on_ray(config: TrainConfig, workers: int) -> TrainConfig:
    engine = replace(config.engine, backend="deepspeed", zero_stage=2)
    return replace(config, launcher="ray", num_workers=workers, engine=engine)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
@pytest.mark.filterwarnings("ignore")
def test_two_workers_with_zero_2_are_one_worker_and_survive_a_kill(
    data: Path, tmp_path: Path
) -> None:
    """The run with two workers loses one of them to SIGKILL and is compared nevertheless."""
    alone = config_for(data, tmp_path / "alone", steps=40, checkpoint_every=4)
    model, loss = replace(alone.model, drop_path=0.0), replace(alone.loss, reduction="sum")
    alone = replace(alone, model=model, loss=loss)
    both = replace(_on_ray(alone, 2), out=tmp_path / "both")
    # Neither workers nor the size of a forward pass are part of the objective.
    alone = replace(alone, engine=replace(alone.engine, micro_batch=4))
    killed: list[int] = []
    killer = threading.Thread(target=_kill_a_worker, args=(both.out, killed), daemon=True)
    train(alone)
    killer.start()
    train(both)
    killer.join(timeout=1)
    assert killed
    expected, found = read_log(alone.out), read_log(both.out)
    assert found["step"] == expected["step"]
    for name in expected:
        assert [float(v) for v in found[name]] == pytest.approx(
            [float(v) for v in expected[name]], rel=1e-3
        ), name
    assert not (both.out / "ray").exists()


def _kill_a_worker(out: Path, killed: list[int]) -> None:
    """SIGKILL the process that writes the log, once there is a checkpoint."""
    deadline = time.time() + 600
    while time.time() < deadline and not list(out.glob("checkpoints/step_*/meta.json")):
        time.sleep(0.02)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            is_worker = b"RayTrainWorker" in (entry / "cmdline").read_bytes()
            # Other runs on the machine have workers too: ours were started by our own raylet.
            if is_worker and _is_descendant(int(entry.name), os.getpid()):
                os.kill(int(entry.name), signal.SIGKILL)
                killed.append(int(entry.name))
                return
        except (FileNotFoundError, ProcessLookupError):
            continue


def _is_descendant(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        pid = int((Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[1])
    return False
