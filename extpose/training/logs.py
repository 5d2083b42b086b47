"""The folder of a training run: what was run, and how it went.

    config.json  versions.json  code.diff     the config, library versions and commit, local edits
    data.json                                 a hash of each data set, from its manifest
    parameters.json                           how many there are, are trained, and were added
    log.csv                                   one line a step
    starts.csv                                one line a start: workers, steps done again, time lost
    first_batch.png                           what the network got first
    validation.csv  best.safetensors          metrics on held-out clips; the best weights
    report.html                               curves, to be looked at
    tensorboard/                              the same numbers, where TensorBoard is installed

Only rank 0 writes.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import cv2
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from extpose.batch import Batch
from extpose.config import TrainConfig
from extpose.data.contents import hash_listed
from extpose.data.normalise import IMAGE_MEAN, IMAGE_STD
from extpose.model.kernels import describe_backend
from extpose.provenance import ask_git, find_commit, library_versions
from extpose.training.loop import StepRecord
from extpose.training.page import write_page
from extpose.training.plain import AUTOCAST
from extpose.training.starts import delete_leftovers, note_start, silence_of
from extpose.training.throughput import Throughput
from extpose.training.trackers import open_trackers
from extpose.training.trainable import ParameterCount
from extpose.training.validation import append_row, drop_rows_after

PACKAGES = ("extpose", "torch", "deepspeed", "ray", "numpy", "opencv-python-headless", "webdataset")
COLUMNS = ("step", "seconds", "loss", "lr", "grad_norm", "skipped")
MAX_CLIPS_SHOWN, MAX_FRAMES_SHOWN = 8, 8
SHEET_WIDTH, SHOWN_SIDE, GAP = 1100, 128, 4
"""Pixels: of the first batch's picture, a crop in it at least, between two clips."""
logger = logging.getLogger(__name__)


class RunLog:
    """Called with every step's record; a log that is continued drops lines after `start_step`."""

    def __init__(self, config: TrainConfig, *, start_step: int = 0, throughput: Throughput) -> None:
        self.config, self.out, self.throughput = config, config.out, throughput
        self.out.mkdir(parents=True, exist_ok=True)
        write_run_facts(config, throughput)
        self.path = self.out / "log.csv"
        idle = silence_of(self.path)
        lost = drop_rows_after(self.path, start_step)
        delete_leftovers(self.out)
        note_start(self.out, step=start_step, workers=throughput.workers, lost=lost, idle=idle)
        settings = config_to_json(config)
        self.trackers = open_trackers(config, settings, start_step=start_step)

    def __call__(self, record: StepRecord, batch: Batch) -> None:
        """Append a line; now and then tell the progress, and draw the report."""
        values = {name: getattr(record, name) for name in COLUMNS}
        values |= self.throughput.values(record) | record.terms
        append_row(self.path, values)
        if record.step == 1:
            picture = draw_batch(batch)
            cv2.imwrite(str(self.out / "first_batch.png"), np.ascontiguousarray(picture[..., ::-1]))
        is_last = record.step == self.config.steps
        if record.step % self.config.log_every == 0 or is_last:
            logger.info("%s", progress_line(record, self.config.steps))
            self._track({n: v for n, v in values.items() if n != "step"}, record.step)
        if record.step % self.config.checkpoint_every == 0:
            write_page(self.out, steps=self.config.steps)

    def add_validation(self, values: Mapping[str, float], step: int) -> None:
        """Metrics on held-out clips."""
        self._track({f"validation/{name}": value for name, value in values.items()}, step)

    def write_parameters(self, count: ParameterCount) -> None:
        """`parameters.json`, and a line for people."""
        (self.out / "parameters.json").write_text(json.dumps(asdict(count), indent=1))
        extra = ", ".join(f"{name} {number:,}" for name, number in count.extra.items())
        logger.info(
            "%s parameters, %s trained; beside the image model's: %s",
            f"{count.total:,}",
            f"{count.trained:,}",
            extra or "none",
        )

    def close(self) -> None:
        """The last report; flush what the trackers hold."""
        write_page(self.out, steps=self.config.steps)
        for tracker in self.trackers:
            tracker.close()

    def _track(self, values: Mapping[str, float], step: int) -> None:
        for tracker in self.trackers:
            tracker.add(values, step)


def progress_line(record: StepRecord, steps: int) -> str:
    """One step for people."""
    return (
        f"step {record.step}/{steps}  {record.seconds:.0f} s  loss {record.loss:.4f}  "
        f"lr {record.lr:.2e}  gradient {record.grad_norm:.3g}  "
        f"{record.frames_per_second:.0f} frames/s  waited {record.data_wait:.2f} s for data"
    )


def config_to_json(config: TrainConfig) -> dict[str, Any]:
    """The config as plain JSON values."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(config), default=str))
    return values


def config_hash(config: TrainConfig) -> str:
    """Of what decides the numbers of a step: network, data, losses, optimiser, batch and seed.

    Engines agree within rounding, so which one it is does not count, like the number of workers.
    """
    values = config_to_json(config)
    names = ("model", "loader", "loss", "adversary", "mix", "engine", "batch", "seed")
    # A file may move; what is in it is compared when a run goes on.
    parts = {name: values[name] for name in names} | {"mocap": config.mocap is not None}
    for name in ("workers", "max_damaged"):
        del parts["loader"][name]
    for name in (
        "threads", "activation_checkpointing", "micro_batch", "backend", "zero_stage", "offload",
    ):  # fmt: skip
        del parts["engine"][name]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def write_run_facts(config: TrainConfig, throughput: Throughput) -> None:
    """`config.json`, `data.json`, `versions.json`; in a git checkout the commit and `code.diff`."""
    found = library_versions(PACKAGES)
    found["attention"] = attention_backend(config)
    logger.info("attention: %s", found["attention"])
    peak = throughput.peak
    found["peak rate"] = f"{peak.flops / 1e12:.4g} TFLOP/s a device ({peak.source})"
    found["commit"] = find_commit()
    (config.out / "config.json").write_text(json.dumps(config_to_json(config), indent=1))
    (config.out / "versions.json").write_text(json.dumps(found, indent=1))
    data = {str(folder): hash_listed(folder) for folder in config.data}
    (config.out / "data.json").write_text(json.dumps(data, indent=1))
    (config.out / "code.diff").write_text(ask_git("diff", "HEAD"))


def attention_backend(config: TrainConfig) -> str:
    """Which kernel the network's attention runs on."""
    dtype = AUTOCAST.get(config.engine.precision, torch.float32)
    device, head_dim = (
        "cuda" if config.use_gpu else "cpu",
        config.model.width // config.model.num_heads,
    )
    return describe_backend(device, dtype, head_dim)


def code_version() -> str:
    """Of this package."""
    try:
        return version("extpose")
    except PackageNotFoundError:
        return "unknown"


def draw_batch(batch: Batch) -> UInt8[np.ndarray, "h w 3"]:
    """A block a clip: images with the labelled 2D points, below them skeletons; grey is masked.

    Blocks stand side by side as far as the sheet is wide. Small crops are enlarged; of long clips
    some frames are shown.
    """
    blocks = [_draw_clip(batch, i) for i in range(min(len(batch.keys), MAX_CLIPS_SHOWN))]
    columns = min(max(SHEET_WIDTH // blocks[0].shape[1], 1), len(blocks))
    blocks += [np.zeros_like(blocks[0])] * (-len(blocks) % columns)
    return rearrange(np.stack(blocks), "(r c) h w ch -> (r h) (c w) ch", c=columns)


def _draw_clip(batch: Batch, clip: int) -> UInt8[np.ndarray, "h w 3"]:
    num_frames, size = batch.rgb.shape[1], batch.rgb.shape[-1]
    chosen = np.linspace(0, num_frames - 1, min(num_frames, MAX_FRAMES_SHOWN)).round().astype(int)
    factor = max(SHOWN_SIDE // size, 1)
    is_padding = ~batch.valid[clip, chosen].cpu().numpy()
    points = None
    if batch.targets is not None:
        points = batch.targets.keypoints_2d[clip, chosen].cpu().numpy()
    rows = []
    for stream in (batch.rgb, batch.skeleton):
        images = _to_pixels(stream[clip, chosen])
        images = images.repeat(factor, axis=1).repeat(factor, axis=2)
        if points is not None and stream is batch.rgb:
            _draw_points(images, points)
        images[is_padding] //= 3
        rows.append(rearrange(images, "t h w c -> h (t w) c"))
    return np.pad(np.concatenate(rows), ((0, GAP), (0, GAP), (0, 0)))


def _to_pixels(images: Float[Tensor, "t 3 h w"]) -> UInt8[np.ndarray, "t h w 3"]:
    values = rearrange(images.detach().cpu().float().numpy(), "t c h w -> t h w c")
    values = (values * np.array(IMAGE_STD) + np.array(IMAGE_MEAN)) * 255
    return np.ascontiguousarray(np.clip(np.rint(values), 0, 255), np.uint8)


def _draw_points(images: UInt8[np.ndarray, "t h w 3"], points: np.ndarray) -> None:
    size = images.shape[-2]
    for image, frame in zip(images, points, strict=True):
        for x, y, confidence in frame:
            if confidence > 0:
                pixel = (round((x + 0.5) * size), round((y + 0.5) * size))
                cv2.circle(image, pixel, max(size // 96, 1), (0, 255, 0), -1, cv2.LINE_AA)
