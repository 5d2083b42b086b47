"""What decides a run's numbers: config, code, libraries and data, written down at every start.

The files in the run folder are those of the last start; each start keeps its own in
`starts/000/`, `starts/001/`, ...
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from extpose.config import TrainConfig
from extpose.data.contents import hash_listed
from extpose.model.kernels import describe_backend
from extpose.training.plain import AUTOCAST
from extpose.training.source_code import find_commit, find_edits, find_versions
from extpose.training.throughput import Throughput

PACKAGES = ("extpose", "torch", "deepspeed", "ray", "numpy", "opencv-python-headless", "webdataset")
CONFIG, VERSIONS, DATA, EDITS = "config.json", "versions.json", "data.json", "code.diff"
STARTS = "starts"
PEAK = "peak rate"
"""Measured at each start, so no two are alike."""
logger = logging.getLogger(__name__)


def config_to_json(config: TrainConfig) -> dict[str, Any]:
    """The config as plain JSON values."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(config), default=str))
    return values


def config_hash(config: TrainConfig) -> str:
    """Of what decides the numbers of a step: network, data, losses, optimiser, batch and seed.

    Engines agree within rounding, so which one it is does not count, like the number of workers
    and the clips of a forward pass.
    """
    values = config_to_json(config)
    names = ("model", "loader", "loss", "adversary", "mix", "engine", "batch", "seed")
    # Files and folders may move; what is in them is compared when a run goes on.
    parts = {name: values[name] for name in names} | {"mocap": config.mocap is not None}
    for name in ("workers", "max_damaged"):
        del parts["loader"][name]
    for name in (
        "threads", "activation_checkpointing", "micro_batch", "backend", "zero_stage", "offload",
    ):  # fmt: skip
        del parts["engine"][name]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def write_facts(config: TrainConfig, throughput: Throughput, *, start: int) -> None:
    """The files, for start number `start` of the run; what changed since the last one is told."""
    data = {str(folder): hash_listed(folder) for folder in config.data}
    facts = {
        CONFIG: json.dumps(config_to_json(config), indent=1),
        VERSIONS: json.dumps(_versions(config, throughput), indent=1),
        DATA: json.dumps(data, indent=1),
        EDITS: find_edits(),
    }
    if start:
        _tell_changes(config.out, facts)
    own = config.out / STARTS / f"{start:03d}"
    own.mkdir(parents=True, exist_ok=True)
    for folder in (own, config.out):
        for name, text in facts.items():
            (folder / name).write_text(text)


def attention_backend(config: TrainConfig) -> str:
    """Which kernel the network's attention runs on."""
    dtype = AUTOCAST.get(config.engine.precision, torch.float32)
    device, head_dim = (
        "cuda" if config.use_gpu else "cpu",
        config.model.width // config.model.num_heads,
    )
    return describe_backend(device, dtype, head_dim)


def _versions(config: TrainConfig, throughput: Throughput) -> dict[str, str]:
    found = find_versions(PACKAGES)
    found["attention"] = attention_backend(config)
    logger.info("attention: %s", found["attention"])
    peak = throughput.peak
    found[PEAK] = f"{peak.flops / 1e12:.4g} TFLOP/s a device ({peak.source})"
    found["commit"] = find_commit()
    return found


def _tell_changes(out: Path, facts: Mapping[str, str]) -> None:
    """Other code or libraries are no error, but a resume with them is not exact."""
    try:
        before = json.loads((out / VERSIONS).read_text())
        edits = (out / EDITS).read_text()
    except (OSError, ValueError) as error:
        logger.warning("what the last start ran with cannot be read: %s", error)
        return
    now = json.loads(facts[VERSIONS])
    changed = [
        f"{name} was {before.get(name, 'not there')}, is {now.get(name, 'not there')}"
        for name in sorted({*before, *now} - {PEAK})
        if before.get(name) != now.get(name)
    ]
    if edits != facts[EDITS]:
        changed.append(f"{EDITS} is another")
    if changed:
        logger.warning("goes on with something else than before: %s", "; ".join(changed))
