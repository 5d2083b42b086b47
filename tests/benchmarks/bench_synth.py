"""Synthetic clips: CPU milliseconds a frame by stage, frames a second, what workers add.

python tests/benchmarks/bench_synth.py            # one thread, stages and frames a CPU second
python tests/benchmarks/bench_synth.py --workers  # also whole runs with 1 and 2 Ray workers
"""

import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import mean

from extpose.assets import fetch
from extpose.config import CropConfig, SynthConfig
from extpose.data.shards import encode_clip
from extpose.synth.photographs import load_photographs
from extpose.synth.render import build_scene, film, make_synthetic_clip, open_studio
from pipelines.synth import synthesize

CLIPS = 16


def print_stages(config: SynthConfig) -> None:
    """One row: the mean over clips."""
    photographs = load_photographs(fetch("panoramas"), fetch("photographs"), config.split)
    studio = open_studio(config, fetch("motion"), photographs=photographs)
    make_synthetic_clip(studio, config, CLIPS)
    rows = []
    for index in range(CLIPS):
        marks = [time.process_time()]
        scene = build_scene(studio, config, index)
        marks.append(time.process_time())
        list(film(studio, scene, config, index))
        marks.append(time.process_time())
        encode_clip(make_synthetic_clip(studio, config, index))
        marks.append(time.process_time())
        build, shoot, total = (b - a for a, b in pairwise(marks))
        rows.append((build, shoot, max(total - build - shoot, 0.0), total))
    cost = [mean(column) / config.num_frames * 1e3 for column in zip(*rows, strict=True)]
    size = f"{config.image_size[1]}x{config.image_size[0]}"
    print(
        f"{config.body:5} {size:9} {config.crop.size:4}  {cost[0]:5.1f} {cost[1]:5.1f} "
        f"{cost[2]:18.1f} {cost[3]:6.1f} {1000 / cost[3]:13.0f}"
    )


def print_scaling(num_clips: int = 128) -> None:
    """Frames a second of whole runs, from each worker's first shard to the last: without starts."""
    rates = []
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            config = SynthConfig(
                out=Path(folder) / "0",
                image_size=(256, 256),
                num_clips=num_clips,
                clips_per_shard=4,
                workers=workers,
            )
            synthesize(config)
            times = sorted(path.stat().st_mtime for path in config.out.glob("*.tar"))[workers - 1 :]
        frames = (len(times) - 1) * config.clips_per_shard * config.num_frames
        rates.append(frames / (times[-1] - times[0]))
        print(f"{workers} workers: {rates[-1]:.0f} frames/s written")
    print(f"the second worker: {rates[1] / rates[0]:.2f} times as many")


def main() -> None:
    print("body  picture   crop  scene  film  crops and drawings  total  frames/CPU s")
    for body, image_size, crop in (
        ("body", (256, 256), 256),
        ("body", (360, 480), 256),
        ("body", (256, 256), 128),
        ("hand", (256, 256), 256),
    ):
        print_stages(
            SynthConfig(
                out=Path("unused"), body=body, image_size=image_size, crop=CropConfig(size=crop)
            )
        )
    if "--workers" in sys.argv:
        print_scaling()


if __name__ == "__main__":
    main()
