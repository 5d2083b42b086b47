"""The folder of a training run: what was run, and how it went.

    config.json  versions.json  code.diff     the config, library versions and commit, local edits
    data.json                                 a hash of each data set, from its manifest
    starts/000/ ...                           these four, as they were at each start
    parameters.json                           how many there are, are trained, and were added
    log.csv                                   one line a step
    starts.csv                                one line a start: workers, steps done again, time lost
    first_batch.png                           what the network got first
    validation.csv  best.safetensors          metrics on held-out clips; the best weights
    report.html                               curves, to be looked at
    tensorboard/                              the same numbers, where TensorBoard is installed

Only rank 0 writes.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict

import cv2
import numpy as np
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from extpose.batch import Batch
from extpose.config import TrainConfig
from extpose.data.normalise import IMAGE_MEAN, IMAGE_STD
from extpose.training.facts import config_to_json, write_facts
from extpose.training.loop import StepRecord
from extpose.training.page import write_page
from extpose.training.starts import delete_leftovers, note_start, silence_of
from extpose.training.throughput import Throughput
from extpose.training.trackers import open_trackers
from extpose.training.trainable import ParameterCount
from extpose.training.validation import append_row, drop_rows_after

COLUMNS = ("step", "seconds", "loss", "lr", "grad_norm", "skipped")
MAX_CLIPS_SHOWN, MAX_FRAMES_SHOWN = 8, 8
SHEET_WIDTH, SHOWN_SIDE, GAP = 1100, 128, 4
"""Pixels: of the first batch's picture, a crop in it at least, between two clips."""
logger = logging.getLogger(__name__)


class RunLog:
    """Called with every step's record; a log that is continued drops lines after `start_step`.

    A disk that is full does not end the training: it is told, and lines of the log wait until
    there is room again.
    """

    def __init__(self, config: TrainConfig, *, start_step: int = 0, throughput: Throughput) -> None:
        self.config, self.out, self.throughput = config, config.out, throughput
        self.out.mkdir(parents=True, exist_ok=True)
        self.path = self.out / "log.csv"
        self._late: list[dict[str, object]] = []
        idle = silence_of(self.path)
        lost = drop_rows_after(self.path, start_step)
        delete_leftovers(self.out)
        start = note_start(
            self.out, step=start_step, workers=throughput.workers, lost=lost, idle=idle
        )
        write_facts(config, throughput, start=start)
        settings = config_to_json(config)
        self.trackers = open_trackers(config, settings, start_step=start_step)

    def __call__(self, record: StepRecord) -> None:
        """Append a line; now and then tell the progress, and draw the report."""
        values = {name: getattr(record, name) for name in COLUMNS}
        values |= self.throughput.values(record) | record.terms
        self._late.append(values)
        self._write(self._append_lines)
        is_last = record.step == self.config.steps
        if record.step % self.config.log_every == 0 or is_last:
            logger.info("%s", progress_line(record, self.config.steps))
            self._track({n: v for n, v in values.items() if n != "step"}, record.step)
        if record.step % self.config.checkpoint_every == 0:
            self.write_page()

    def draw_first(self, batch: Batch) -> None:
        """`first_batch.png`: what the network gets first."""
        path, picture = self.out / "first_batch.png", draw_batch(batch)
        found, data = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))
        assert found
        self._write(lambda: path.write_bytes(data.tobytes()))

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

    def write_page(self) -> None:
        """The report, of what is there."""
        self._write(lambda: write_page(self.out, steps=self.config.steps))

    def close(self) -> None:
        """The last report, however the run ended; flush what the trackers hold."""
        self._write(self._append_lines)
        self.write_page()
        for tracker in self.trackers:
            self._write(tracker.close)

    def _append_lines(self) -> None:
        while self._late:
            append_row(self.path, self._late[0])
            self._late.pop(0)

    def _track(self, values: Mapping[str, float], step: int) -> None:
        for tracker in self.trackers:
            self._write(lambda tracker=tracker: tracker.add(values, step))  # type: ignore[misc]

    def _write(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            logger.error("%s: not everything is logged: %s", self.out, error)


def progress_line(record: StepRecord, steps: int) -> str:
    """One step for people."""
    return (
        f"step {record.step}/{steps}  {record.seconds:.0f} s  loss {record.loss:.4f}  "
        f"lr {record.lr:.2e}  gradient {record.grad_norm:.3g}  "
        f"{record.frames_per_second:.0f} frames/s  waited {record.data_wait:.2f} s for data"
    )


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
