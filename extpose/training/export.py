"""The weights in a checkpoint of a training run, as a file that `load_model` reads."""

from pathlib import Path
from typing import Any, Literal

import torch

from extpose.errors import CheckpointError
from extpose.model.weights import build_empty, save_model
from extpose.model_config import ModelConfig
from extpose.training.checkpoint import META_FILE, find_latest, read_meta, read_state
from extpose.training.state import WEIGHTS, check_state, section

Precision = Literal["fp32", "fp16"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16}


def export_weights(
    source: Path,
    out: Path,
    *,
    precision: Precision = "fp32",
) -> Path:
    """Write the weights of one checkpoint to `out`; returns the checkpoint's folder.

    `source` is a checkpoint, or a run, whose newest complete one is taken. One process, without
    DeepSpeed. Raises CheckpointError where there is none, or it is damaged.
    """
    if (source / META_FILE).exists():
        folder, meta = source, read_meta(source)
    elif found := find_latest(source / "checkpoints"):
        folder, meta = found
    else:
        raise CheckpointError(f"{source}: neither a checkpoint nor a run with a complete one")
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in meta.model_config.items()
    }
    try:
        config = ModelConfig(**values)
    except TypeError as error:
        raise CheckpointError(f"{folder / META_FILE}: model_config: {error}") from error
    model, state = build_empty(config, folder), read_state(folder)
    check_state(model, state)
    model.load_state_dict(section(state, WEIGHTS), assign=True)
    save_model(out, model, {"config_hash": meta.config_hash}, dtype=DTYPES[precision])
    return folder
