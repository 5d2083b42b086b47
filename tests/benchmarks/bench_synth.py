"""CPU milliseconds a frame of the stages of a synthetic clip, on one thread.

python tests/benchmarks/bench_synth.py
"""

import time
from itertools import pairwise
from pathlib import Path
from statistics import median

from extpose.assets import fetch
from extpose.config import CropConfig, SynthConfig
from extpose.synth.render import build_scene, film, make_synthetic_clip, open_studio

CLIPS = 8


def main() -> None:
    print("picture    crop  scene  film  crops and drawings  total   (CPU ms a frame)")
    for image_size, crop in (((360, 480), 256), ((360, 480), 128), ((256, 256), 128)):
        config = SynthConfig(out=Path("unused"), image_size=image_size, crop=CropConfig(size=crop))
        studio = open_studio(config, fetch("motion"))
        make_synthetic_clip(studio, config, CLIPS)
        rows = []
        for index in range(CLIPS):
            marks = [time.process_time()]
            scene = build_scene(studio, config, index)
            marks.append(time.process_time())
            list(film(studio, scene, config, index))
            marks.append(time.process_time())
            make_synthetic_clip(studio, config, index)
            marks.append(time.process_time())
            build, shoot, total = (b - a for a, b in pairwise(marks))
            rows.append((build, shoot, max(total - build - shoot, 0.0), total))
        cost = [median(column) / config.num_frames * 1e3 for column in zip(*rows, strict=True)]
        size = f"{image_size[1]}x{image_size[0]}"
        print(f"{size:9}  {crop:4}  {cost[0]:5.1f} {cost[1]:5.1f} {cost[2]:18.1f} {cost[3]:6.1f}")


if __name__ == "__main__":
    main()
