"""Checkpoints are complete or not there."""

import json
import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from extpose.config import EngineConfig
from extpose.errors import CheckpointError
from extpose.training.checkpoint import CheckpointMeta, find_latest, read_meta, save_checkpoint
from extpose.training.engine import Engine, create_engine


def meta(step: int) -> CheckpointMeta:
    return CheckpointMeta(
        step=step,
        seconds=1.5,
        world_size=1,
        backend="plain",
        zero_stage=0,
        config_hash="abc",
        version="1",
    )


@pytest.fixture
def engine() -> Engine:
    torch.manual_seed(0)
    config = EngineConfig(backend="plain")
    return create_engine(nn.Linear(4, 4), config, accumulation=1, micro_batch=1, use_gpu=False)


def test_newest_is_found_and_old_ones_go(engine: Engine, tmp_path: Path) -> None:
    assert find_latest(tmp_path / "nothing") is None
    for step in (5, 10, 1_000_000):
        save_checkpoint(tmp_path, engine, meta(step), keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_000010", "step_1000000"]
    assert find_latest(tmp_path) == (tmp_path / "step_1000000", meta(1_000_000))


@pytest.mark.parametrize("damage", ["cut", "flip", "missing file", "no meta", "bad meta"])
def test_damaged_ones_are_named_and_skipped(
    engine: Engine, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    save_checkpoint(tmp_path, engine, meta(1), keep=5)
    folder = save_checkpoint(tmp_path, engine, meta(2), keep=5)
    state, meta_file = folder / "state.pt", folder / "meta.json"
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


def test_a_crash_while_writing_leaves_the_last_one(engine: Engine, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, engine, meta(1), keep=5)

    def fail(folder: Path) -> None:
        (folder / "state.pt").write_bytes(b"half")
        raise OSError("disk full")

    engine.save_state = fail  # type: ignore[method-assign]
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path, engine, meta(2), keep=5)
    assert find_latest(tmp_path) == (tmp_path / "step_000001", meta(1))
