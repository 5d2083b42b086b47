"""Checkpoints are complete or not there."""

import json
import logging
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from extpose.errors import CheckpointError
from extpose.training import checkpoint
from extpose.training.checkpoint import (
    CheckpointMeta,
    CheckpointWriter,
    find_latest,
    last_written,
    newest_step,
    read_meta,
    read_state,
    write_checkpoint,
)
from tests.processes import small_disk

STATE = {"weights/a": torch.arange(6.0).reshape(2, 3), "step/a": torch.tensor(3.0)}


def meta(step: int) -> CheckpointMeta:
    return CheckpointMeta(
        step=step,
        seconds=1.5,
        world_size=1,
        backend="plain",
        zero_stage=0,
        config_hash="abc",
        version="1",
        model_config={"width": 8},
    )


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[CheckpointWriter]:
    made = CheckpointWriter(tmp_path, keep=2, start_step=0)
    yield made
    made.close()


def test_newest_is_found_and_old_ones_go(writer: CheckpointWriter, tmp_path: Path) -> None:
    assert find_latest(tmp_path / "nothing") is None
    for step in (5, 10, 1_000_000):
        writer.save(STATE, meta(step))
    writer.finish()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_000010", "step_1000000"]
    folder = tmp_path / "step_1000000"
    assert find_latest(tmp_path) == (folder, meta(1_000_000))
    found = read_state(folder)
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], value) for name, value in STATE.items())


def test_training_waits_for_the_checkpoint_before_only(
    writer: CheckpointWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write, writing = threading.Event(), list[str]()
    real = checkpoint.save_file

    def slow(state: dict[str, Tensor], path: Path) -> None:
        writing.append(threading.current_thread().name)
        assert may_write.wait(20)
        real(state, path)

    monkeypatch.setattr(checkpoint, "save_file", slow)
    writer.save(STATE, meta(1))
    assert find_latest(tmp_path) is None
    second = threading.Thread(target=writer.save, args=(STATE, meta(2)))
    second.start()
    second.join(0.1)
    assert second.is_alive()
    assert len(writing) <= 1
    may_write.set()
    second.join(20)
    writer.finish()
    assert find_latest(tmp_path) == (tmp_path / "step_000002", meta(2))
    assert all(name.startswith("checkpoint") for name in writing)


def test_full_disk_once_is_told_and_twice_ends(
    writer: CheckpointWriter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer.save(STATE, meta(1))
    writer.finish()
    with small_disk():
        writer.save(STATE, meta(2))
        while writer.is_writing:
            time.sleep(0.01)
    writer.save(STATE, meta(3))
    assert "File too large" in caplog.text
    assert find_latest(tmp_path) == (tmp_path / "step_000003", meta(3))
    with small_disk():
        writer.save(STATE, meta(4))
        with pytest.raises(CheckpointError, match=r"cannot be written.*step_000003$"):
            writer.save(STATE, meta(5))
    assert not list(tmp_path.glob("*.tmp"))
    assert find_latest(tmp_path) == (tmp_path / "step_000003", meta(3))


@pytest.mark.parametrize("damage", ["cut", "flip", "missing file", "no meta", "bad meta"])
def test_damaged_ones_are_named_and_skipped(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_checkpoint(tmp_path, STATE, meta(1), keep=5)
    folder = write_checkpoint(tmp_path, STATE, meta(2), keep=5)
    state, meta_file = folder / "state.safetensors", folder / "meta.json"
    data = bytearray(state.read_bytes())
    if damage == "cut":
        state.write_bytes(data[:-10])
    elif damage == "flip":
        data[len(data) // 2] ^= 1
        state.write_bytes(data)
    elif damage == "missing file":
        state.unlink()
    elif damage == "no meta":
        meta_file.unlink()
    else:
        meta_file.write_text(json.dumps({"step": 2}))
    with caplog.at_level(logging.WARNING):
        found = find_latest(tmp_path)
    assert found == (tmp_path / "step_000001", meta(1))
    assert "step_000002" in caplog.text
    with pytest.raises(CheckpointError):
        read_meta(folder)


def test_damaged_ones_count_neither_as_kept_nor_as_progress(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1000, 2000, 3000):
        folder = write_checkpoint(tmp_path, STATE, meta(step), keep=5)
        if step > 1000:
            (folder / "state.safetensors").write_bytes(b"half")
    before = last_written(tmp_path)
    found = find_latest(tmp_path)
    assert found is not None
    writer = CheckpointWriter(tmp_path, keep=2, start_step=found[1].step)
    assert "step_003000 is now step_003000.damaged" in caplog.text
    assert (newest_step(tmp_path), last_written(tmp_path) <= before) == (1000, True)
    for step in (1500, 1600):
        writer.save(STATE, meta(step))
    writer.close()
    assert last_written(tmp_path) > before
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "step_001500", "step_001600", "step_002000.damaged", "step_003000.damaged",
    ]  # fmt: skip


def test_what_a_crash_leaves_is_removed(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, STATE, meta(1), keep=5)
    shutil.copytree(folder, tmp_path / "step_000002.tmp")
    assert find_latest(tmp_path) == (folder, meta(1))
    CheckpointWriter(tmp_path, keep=1, start_step=1).close()
    assert [p.name for p in tmp_path.iterdir()] == ["step_000001"]


def test_a_state_that_is_no_safetensors_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match=r"state\.safetensors"):
        read_state(tmp_path)
