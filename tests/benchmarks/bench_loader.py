"""Frames per CPU second of the loader, one thread: 256 x 256, two streams, augmentation on.

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

from extpose.config import AugmentConfig, DataConfig
from extpose.data.clip import encode_jpeg, encode_png, redraw_skeleton
from extpose.data.loader import ClipDataset
from extpose.data.sampler import Draw
from extpose.data.shards import ShardIndex, write_shard
from extpose.schema import Clip
from tests.plain_clips import synthetic_clip


def detailed_clip(seed: int) -> Clip:
    """A full-size clip with the texture, and so the decoding time, of a photograph."""
    rng = np.random.default_rng(seed)
    clip = synthetic_clip(
        f"clip-{seed}", num_frames=64, crop_size=384, skeleton_size=256, seed=seed
    )
    images = []
    for _ in range(64):
        noise = rng.integers(0, 256, (384, 384, 3), np.uint8)
        smooth = cv2.GaussianBlur(noise, (0, 0), 3).astype(np.float32)
        images.append(np.clip((smooth - 127) * 7 + 127, 0, 255).astype(np.uint8))
    drawn = [
        redraw_skeleton(
            points,
            affine,
            keypoint_set="coco17",
            crop_size=384,
            skeleton_size=256,
            config=DataConfig().skeleton,
        )
        for points, affine in zip(clip.keypoints_2d, clip.crop_to_img, strict=True)
    ]
    return replace(
        clip,
        rgb=tuple(encode_jpeg(image, 92) for image in images),
        skeleton=tuple(encode_png(image) for image in drawn),
    )


def frames_per_second(dataset: ClipDataset, *, seconds: float) -> float:
    """Of `ClipDataset` in this process, per CPU second: the best of rounds of 12 clips.

    The best, because other work on the machine only ever slows a round down.
    """
    dataset.__getitems__([Draw(0, 0)])
    stop, best, epoch = time.perf_counter() + seconds, 0.0, 0
    while time.perf_counter() < stop:
        began, frames = time.process_time(), 0
        for _ in range(3):
            epoch += 1
            batch = dataset.__getitems__([Draw(epoch, i % len(dataset)) for i in range(4)])
            frames += batch.valid.numel()
        best = max(best, frames / (time.process_time() - began))
    return best


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
