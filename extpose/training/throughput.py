"""How fast a step was, and how much of what the device could do (MFU).

Units   clips, frames and FLOPs a second; shares from 0 to 1
"""

import math
import time
from dataclasses import dataclass
from functools import lru_cache

import torch

from extpose.config import TrainConfig
from extpose.training.flops import training_flops
from extpose.training.loop import StepRecord

COLUMNS = ("frames_per_second", "clips_per_second", "data_wait", "data_wait_share", "mfu")
"""What depends on the machine."""
MATRIX_SIZE = 1024
MATRIX_TRIES = 5


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """Of a data sheet: dense products, fp32 not on tensor cores (PyTorch's default)."""

    half: float
    """FLOPs a second in bf16 or fp16."""
    fp32: float
    memory_gb: tuple[int, ...]
    """Sizes that it is sold with."""


GPUS: dict[str, Gpu] = {
    "A100": Gpu(half=312e12, fp32=19.5e12, memory_gb=(80, 40)),
    "H100": Gpu(half=989e12, fp32=67e12, memory_gb=(80,)),
    "H200": Gpu(half=989e12, fp32=67e12, memory_gb=(141,)),
}
"""The SXM versions. Others are measured."""


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The rate that MFU is a share of."""

    flops: float
    """A second, of one device."""
    source: str
    """For people: data sheet or measurement."""


def find_peak(device: torch.device, precision: str) -> Peak:
    """The data sheet's rate of a known GPU, else that of a large matrix product, measured here."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known, gpu in GPUS.items():
            if known in name and "PCIe" not in name:
                rate = gpu.fp32 if precision == "fp32" else gpu.half
                return Peak(flops=rate, source=f"data sheet of {known}, {precision}")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    rate = measure_matrix_rate(device, dtype, torch.get_num_threads())
    return Peak(flops=rate, source=f"matrix product of {MATRIX_SIZE}, {precision}, measured")


@lru_cache
def measure_matrix_rate(device: torch.device, dtype: torch.dtype, _threads: int) -> float:
    """FLOPs a second of the fastest of a few products; kept for the process."""
    matrix = torch.full((MATRIX_SIZE, MATRIX_SIZE), 0.5, dtype=dtype, device=device)
    best = math.inf
    for _ in range(MATRIX_TRIES):
        began = time.perf_counter()
        (matrix @ matrix)[0, 0].item()
        best = min(best, time.perf_counter() - began)
    return 2 * MATRIX_SIZE**3 / best


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """From the record of a step to the numbers of `COLUMNS`."""

    peak: Peak
    workers: int
    num_frames: int
    clip_flops: float
    """Forward and backward; not a number for networks that are not counted."""

    def values(self, record: StepRecord) -> dict[str, float]:
        """Of all workers together; padding frames count as frames."""
        clips = record.frames_per_second / self.num_frames
        seconds = record.num_frames / record.frames_per_second
        return {
            "frames_per_second": record.frames_per_second,
            "clips_per_second": clips,
            "data_wait": record.data_wait,
            "data_wait_share": record.data_wait / seconds,
            "mfu": clips * self.clip_flops / (self.peak.flops * self.workers),
        }


def open_throughput(config: TrainConfig, device: torch.device, *, workers: int) -> Throughput:
    """For one run, on one of its devices."""
    frames = config.loader.num_frames
    counted = not config.model.adds_modules
    return Throughput(
        peak=find_peak(device, config.engine.precision),
        workers=workers,
        num_frames=frames,
        clip_flops=training_flops(config.model, num_frames=frames) if counted else math.nan,
    )
