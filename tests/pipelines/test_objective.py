"""Whole runs: the adversarial term, mixes of data sets, clips that cannot be read; free poses."""

import logging
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from extpose.config import TrainConfig
from extpose.data.shards import write_shard
from extpose.errors import ShardError, TrainingError
from extpose.recipes import RECIPES
from extpose.synth.motion import MOTIONS
from extpose.training.mocap import read_mocap
from pipelines import cli, free_mocap
from pipelines.train import train
from tests.pipelines.train_runs import config_for, read_log, write_data, write_poses
from tests.plain_clips import synthetic_clip
from tests.synth.figure import write_walk


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("objective") / "data")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second data set, of single images."""
    folder = tmp_path_factory.mktemp("images")
    write_shard(
        folder / "0.tar", [synthetic_clip(f"image-{i}", num_frames=1, seed=i) for i in range(3)]
    )
    return folder


@pytest.fixture(scope="module")
def mocap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_poses(tmp_path_factory.mktemp("mocap") / "mocap.npz")


def with_all(data: Path, images: Path, mocap: Path, out: Path, **changes: object) -> TrainConfig:
    config = config_for(data, out, mix=(0.7, 0.3), mocap=mocap, **changes)
    return replace(config, data=(data, images))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_resumed_with_adversary_and_mix_bit_for_bit(
    data: Path, images: Path, mocap: Path, tmp_path: Path
) -> None:
    straight, stopped = (
        with_all(data, images, mocap, tmp_path / name) for name in ("straight", "stopped")
    )
    train(straight)
    train(replace(stopped, steps=3))
    train(stopped)
    log = read_log(straight.out)
    assert log == read_log(stopped.out)
    for row in range(6):
        terms = ("keypoints_3d", "keypoints_2d", "global_orient", "pose", "betas", "adversarial")
        total = sum(float(log[name][row]) for name in terms)
        assert float(log["loss"][row]) == pytest.approx(total, rel=1e-5)
        assert float(log["discriminator"][row]) > 0
    assert set(log["skipped"]) == {"0"}
    for name in ("model.safetensors", "checkpoints/step_000006/state.safetensors"):
        first, second = (load_file(config.out / name) for config in (straight, stopped))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first), name


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_adversary_changes_the_weights_and_nothing_before(
    data: Path, mocap: Path, tmp_path: Path
) -> None:
    plain, judged = (config_for(data, tmp_path / name, steps=2) for name in ("plain", "judged"))
    train(plain)
    train(replace(judged, mocap=mocap, loss=replace(judged.loss, adversarial=1.0)))
    first, second = read_log(plain.out), read_log(judged.out)
    assert first["pose"][0] == second["pose"][0]
    assert first["pose"][1] != second["pose"][1]


def test_bad_settings_are_refused(data: Path, images: Path, mocap: Path, tmp_path: Path) -> None:
    good = with_all(data, images, mocap, tmp_path / "run", steps=2)
    bad: list[tuple[str, dict[str, object]]] = [
        ("no effect with loss.adversarial 0", {"loss": replace(good.loss, adversarial=0.0)}),
        ("none.npz: not a readable npz", {"mocap": tmp_path / "none.npz"}),
        ("3 weights for 2 data sets", {"mix": (1.0, 1.0, 1.0)}),
        ("must be a number above 0", {"mix": (1.0, 0.0)}),
        ("none.ckpt", {"adversary": replace(good.adversary, init=tmp_path / "none.ckpt")}),
    ]
    for message, changes in bad:
        with pytest.raises(TrainingError, match=message):
            train(replace(good, **changes))
    train(good)
    other = write_poses(tmp_path / "other.npz", seed=1)
    with pytest.raises(TrainingError, match="real poses are not those of this run's mocap file"):
        train(replace(good, steps=4, mocap=other))
    for changes in ({"mix": (1.0, 2.0)}, {"mocap": None}):
        with pytest.raises(TrainingError, match="another config"):
            train(replace(good, steps=4, **changes))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_damaged_clips_are_told_counted_and_limited(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_data(tmp_path / "data")
    with tarfile.open(folder / "0.tar") as tar:
        offset = tar.getmember("clip-3.arrays.npz").offset_data
    with (folder / "0.tar").open("r+b") as file:
        file.seek(offset)
        file.write(bytes(50))
    config = config_for(folder, tmp_path / "run")
    loader = replace(config.loader, max_damaged=0.2)
    with caplog.at_level(logging.WARNING):
        train(replace(config, loader=loader))
    told = [r.message for r in caplog.records if "skipped, the next clip" in r.message]
    assert len(told) == 1
    assert "0.tar: clip-3: arrays.npz: not readable" in told[0]
    # Six steps of four are four epochs of six clips: each met the damaged one once.
    assert sum(int(value) for value in read_log(config.out)["skipped"]) == 4
    with pytest.raises(
        TrainingError, match=r"1 of 6 clips cannot be read.*max_damaged=0\.01 allow.*clip-3"
    ):
        train(replace(config, out=tmp_path / "strict"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_shard_that_breaks_is_damage_also_at_the_next_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At the defaults, however large its share; a new run with that shard is refused."""
    folder = write_data(tmp_path / "data", clips=3)
    more = [synthetic_clip(f"more-{i}", num_frames=3, seed=i) for i in range(3)]
    write_shard(folder / "1.tar", more)
    config = config_for(folder, tmp_path / "run", steps=4)
    train(replace(config, steps=2))
    (folder / "1.tar").write_bytes((folder / "1.tar").read_bytes()[:2000])
    write_shard(folder / "2.tar", [synthetic_clip("new", num_frames=3)])
    with caplog.at_level(logging.WARNING):
        train(config)
    assert "not used, came after the run began: 1 shards" in caplog.text
    told = [r.message for r in caplog.records if "skipped, the next clip" in r.message]
    assert told
    assert all("1.tar: more-" in line and "shorter than" in line for line in told)
    with pytest.raises(ShardError, match=r"1\.tar: .*truncated"):
        train(replace(config, out=tmp_path / "other"))


def test_free_poses_are_drawn_from_training_motions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in MOTIONS["train"]:
        write_walk(tmp_path, name)
    monkeypatch.setattr(free_mocap, "fetch", lambda _name: tmp_path)
    out = tmp_path / "mocap.npz"
    assert cli.main(["mocap", "--free", "--out", str(out), "--num-poses", "50"]) == 0
    assert "50 poses of 10 files" in capsys.readouterr().out
    found = read_mocap(out, "smpl")
    assert found.pose.shape == (50, 23, 3)
    assert 0.02 < found.pose.std() < 1
    assert (np.abs(found.betas) <= 2.2).all()
    assert len(np.unique(found.betas[:, 0])) == 4
    assert cli.main(["mocap", "--free", "--out", str(out), "--num-poses", "50"]) == 0
    assert read_mocap(out, "smpl").fingerprint() == found.fingerprint()
    for args in ([], ["--free", "--root", str(tmp_path)]):
        assert cli.main(["mocap", "--out", str(out), *args]) == 2
    assert cli.main(["mocap", "--free", "--out", str(out), "--num-poses", "0"]) == 1


def test_the_command_line_takes_several_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    import pipelines.train

    seen: list[TrainConfig] = []

    def remember(config: TrainConfig) -> Path:
        seen.append(config)
        return config.out

    monkeypatch.setattr(pipelines.train, "train", remember)
    line = "train tiny --data a b --mix 2 1 --mocap m.npz --loss.velocity 0.1"
    assert cli.main(line.split()) == 0
    (config,) = seen
    assert (config.data, config.mix) == ((Path("a"), Path("b")), (2.0, 1.0))
    assert config.mocap == Path("m.npz")
    assert (config.loss.velocity, config.loss.adversarial) == (0.1, 0.001)
    for recipe in ("body-video", "hand-image"):
        values = RECIPES[recipe]
        assert (values.loss.adversarial, values.adversary.lr) == (0.0005, 1e-5)
        assert (values.loss.velocity, values.loss.acceleration, values.mix) == (0.0, 0.0, ())
