"""Milliseconds a frame of each stage of detection, one thread, on the packaged videos.

    python tests/benchmarks/bench_detect.py [--frames 20] [--threads 1]

Fetches the weights and videos at the first call. Median and fastest; other work on the machine
shows in the first, not in the second.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from extpose.assets import fetch
from extpose.config import DetectConfig
from extpose.detect.hands import HandDetector
from extpose.detect.movenet import PersonDetector
from extpose.video import read_frames

VIDEOS = ("video-walkers", "video-cam01")


def measure(function: Callable[[Any], Any], values: list[Any]) -> str:
    function(values[0])
    times = []
    for value in values:
        start = time.perf_counter()
        function(value)
        times.append(1000 * (time.perf_counter() - start))
    return f"{np.median(times):8.1f} {min(times):8.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    config = DetectConfig(threads=options.threads)
    people, hands = PersonDetector(config), HandDetector(config)
    print(f"{'video':14} {'stage':28} {'median':>8} {'fastest':>8}  ms")
    for name in VIDEOS:
        frames = [frame.rgb for frame in read_frames(fetch(name), stop=100)]
        frames = frames[:: max(1, len(frames) // options.frames)]
        box = people.find_boxes(frames[0])[0][:1]
        counts = [len(people(frame).scores) for frame in frames]
        stages: dict[str, Callable[[Any], Any]] = {
            "boxes": people.find_boxes,
            "keypoints of one person": lambda rgb, box=box: people.find_keypoints(rgb, box),
            f"all people ({np.mean(counts):.1f} a frame)": people,
            "palms": hands.find_palms,
            "all hands": hands,
        }
        for stage, function in stages.items():
            print(f"{name:14} {stage:28} {measure(function, frames)}")


if __name__ == "__main__":
    main()
