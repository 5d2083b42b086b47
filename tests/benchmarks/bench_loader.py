"""Frames per second of the loader on one core: 256 x 256, two streams, augmentation on.

    python tests/benchmarks/bench_loader.py [--frames 16] [--seconds 5]

The crops are photographs' stand-ins (smoothed noise, JPEG quality 92, 384 x 384, about 45 kB).
"""

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from extpose.config import AugmentConfig, CropConfig, DataConfig
from extpose.data.clip import encode_jpeg
from extpose.data.loader import ClipDataset
from extpose.data.sampler import Draw
from extpose.data.shards import ShardIndex, write_shard
from extpose.schema import Clip
from tests.clips import random_clip


def detailed_clip(seed: int) -> Clip:
    """A full-size clip with the texture, and so the decoding time, of a photograph."""
    rng = np.random.default_rng(seed)
    clip = random_clip(seed, 64, crop=CropConfig(size=256, margin=1.5))
    images = []
    for _ in range(64):
        noise = rng.integers(0, 256, (384, 384, 3), np.uint8)
        smooth = cv2.GaussianBlur(noise, (0, 0), 3).astype(np.float32)
        images.append(np.clip((smooth - 127) * 12 + 127, 0, 255).astype(np.uint8))
    return replace(clip, rgb=tuple(encode_jpeg(image, 92) for image in images))


def frames_per_second(dataset: ClipDataset, *, seconds: float) -> float:
    """Of `ClipDataset` in this process, with micro-batches of 4 clips."""
    dataset.__getitems__([Draw(0, 0)])
    started, frames, epoch = time.perf_counter(), 0, 0
    while time.perf_counter() - started < seconds:
        epoch += 1
        batch = dataset.__getitems__([Draw(epoch, i % len(dataset)) for i in range(4)])
        frames += batch.valid.numel()
    return frames / (time.perf_counter() - started)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clips.tar"
        write_shard(path, [detailed_clip(seed) for seed in range(4)])
        index = ShardIndex([path])
        size = np.mean([len(image) for image in index.read_clip(0).rgb])
        print(f"JPEG crops of {size / 1000:.0f} kB on average; windows of {options.frames}")
        base = DataConfig(num_frames=options.frames)
        rows = {
            "augmentation, masking 0.5 / 0.5 (training)": base,
            "augmentation, both modalities": replace(base, mask_rgb=0, mask_skeleton=0),
            "plain, both modalities": replace(
                base, mask_rgb=0, mask_skeleton=0, augment=AugmentConfig(enabled=False)
            ),
        }
        for name, config in rows.items():
            dataset = ClipDataset(index, config, body="smpl", size=256)
            rate = frames_per_second(dataset, seconds=options.seconds)
            print(f"{name:45} {rate:7.0f} frames/s")
        index.close()


if __name__ == "__main__":
    main()
