"""Frames per CPU second of the loader, one thread: 256 x 256, two streams, augmentation on.

    python tests/benchmarks/bench_loader.py [--frames 16] [--seconds 5] [--steps 4]

The crops are photographs' stand-ins (smoothed noise, JPEG quality 92, 384 x 384, about 45 kB).
Beside it, in the same run, a straightforward loader of the same shard: WebDataset, and for each
sample OpenCV and numpy as one would write them. With --steps also a few training steps of `small`
with two loader processes, and how long they waited for data.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from extpose.config import AugmentConfig, DataConfig
from extpose.data.clip import encode_jpeg, encode_png, redraw_skeleton
from extpose.data.loader import ClipDataset
from extpose.data.normalise import IMAGE_MEAN, IMAGE_STD
from extpose.data.sampler import Draw
from extpose.data.shards import ShardIndex, write_shard
from extpose.recipes import RECIPES
from extpose.schema import Clip
from extpose.training.page import read_table
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


def straightforward_rate(shard: Path, *, num_frames: int, seconds: float) -> float:
    """Frames a CPU second of `straightforward_samples`, batches of 4 windows."""
    best, stop = 0.0, time.perf_counter() + seconds
    rng = np.random.default_rng(0)
    while time.perf_counter() < stop:
        began, frames, windows = time.process_time(), 0, []
        for window in straightforward_samples(shard, rng, num_frames=num_frames):
            windows.append(window)
            if len(windows) == 4:
                frames += sum(len(rgb) for rgb, _ in windows)
                for part in zip(*windows, strict=True):
                    torch.from_numpy(np.stack(part))
                windows = []
        best = max(best, frames / (time.process_time() - began))
    return best


def straightforward_samples(
    shard: Path, rng: np.random.Generator, *, num_frames: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """One window a clip: every picture of both streams decoded, warped and normalised in floats.

    The same draw for all frames, the skeleton warped as a picture (so its left and right colours
    are wrong when mirrored: a straightforward loader's mistake that costs nothing here).
    """
    import webdataset

    for sample in webdataset.WebDataset(str(shard), shardshuffle=False, empty_check=False):
        names = sorted(name for name in sample if name.endswith(".jpg") or name == "jpg")
        start = int(rng.integers(len(names) - num_frames + 1))
        scale, angle = 1 + 0.3 * rng.uniform(-1, 1), 30 * rng.uniform(-1, 1)
        color = rng.uniform(0.8, 1.2, 3).astype(np.float32)
        is_flipped, streams = rng.random() < 0.5, []
        for suffix, factors in ((".jpg", color), (".skeleton.png", np.ones(3, np.float32))):
            pictures = []
            for name in names[start : start + num_frames]:
                data = np.frombuffer(sample[name.removesuffix(".jpg") + suffix], np.uint8)
                image = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
                centre = (image.shape[1] / 2, image.shape[0] / 2)
                affine = cv2.getRotationMatrix2D(centre, angle, 1 / scale)
                affine[:, 2] += 128 - np.array(centre)
                crop = cv2.warpAffine(image, affine, (256, 256))
                crop = crop[:, ::-1] if is_flipped else crop
                values = np.clip(crop.astype(np.float32) * factors, 0, 255) / 255
                pictures.append(((values - IMAGE_MEAN) / IMAGE_STD).transpose(2, 0, 1))
            streams.append(np.stack(pictures).astype(np.float32))
        yield streams[0], streams[1]


def data_wait(shards: Path, *, steps: int, num_frames: int) -> tuple[float, float]:
    """Mean seconds of a step of `small` and the share that it waited; the first is not counted.

    Two CPU threads and two loader processes on the same cores; 1 clip a step.
    """
    from pipelines.train import train

    with tempfile.TemporaryDirectory() as out:
        small = RECIPES["small"]
        config = replace(
            small, data=type(small.data)((shards,)) if isinstance(small.data, tuple) else shards,
            out=Path(out), steps=steps + 1, batch=1, checkpoint_every=10**6, launcher="local",
            use_gpu=False, loader=replace(small.loader, num_frames=num_frames, workers=2),
            engine=replace(small.engine, backend="plain", micro_batch=1, threads=2),
        )  # fmt: skip
        train(config)
        log = read_table(Path(out) / "log.csv")
    seconds = [num_frames / rate for rate in log["frames_per_second"][1:]]
    return sum(seconds) / steps, sum(log["data_wait"][1:]) / sum(seconds)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--steps", type=int, default=0)
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
        rate = straightforward_rate(path, num_frames=options.frames, seconds=options.seconds)
        print(f"{'straightforward: WebDataset, OpenCV, numpy':45} {rate:7.0f} frames/s")
        if options.steps:
            seconds, share = data_wait(Path(folder), steps=options.steps, num_frames=options.frames)
            told = f"{options.frames} frames, 2 threads, 2 loader processes"
            print(f"`small`, {told}: {seconds:.2f} s a step")
            print(f"of that it waited for data: {share:.2%}")


if __name__ == "__main__":
    main()
