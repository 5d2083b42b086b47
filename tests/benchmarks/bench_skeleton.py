"""Time of one skeleton drawing: `python tests/benchmarks/bench_skeleton.py` (budget: 0.2 ms)."""

import time

import numpy as np

from extpose.config import SkeletonConfig
from extpose.data.skeleton import draw_skeleton
from extpose.keypoints import NUM_KEYPOINTS, KeypointSet

PERSON = (
    (128, 50), (134, 44), (122, 44), (140, 48), (116, 48), (150, 75), (106, 75), (165, 110),
    (92, 112), (175, 140), (60, 95), (142, 140), (114, 140), (150, 185), (110, 186), (152, 230),
    (105, 232),
)  # fmt: skip
"""Somebody who fills a crop of 256."""


def best_ms(keypoints: np.ndarray, keypoint_set: KeypointSet, size: int) -> float:
    """The fastest of ten rounds of 200 drawings, per drawing."""
    config = SkeletonConfig()
    draw_skeleton(keypoints, keypoint_set, size, config)
    rounds = []
    for _ in range(10):
        start = time.perf_counter()
        for _ in range(200):
            draw_skeleton(keypoints, keypoint_set, size, config)
        rounds.append((time.perf_counter() - start) / 200 * 1e3)
    return min(rounds)


def main() -> None:
    rng = np.random.default_rng(0)
    person = np.concatenate([np.array(PERSON), np.ones((17, 1))], 1).astype(np.float32)
    print(f"{'what':<28}{'size':>6}{'ms':>9}")
    print(f"{'coco17, a person':<28}{256:>6}{best_ms(person, 'coco17', 256):>9.3f}")
    for keypoint_set in ("coco17", "hand21"):
        for size in (128, 256):
            k = NUM_KEYPOINTS[keypoint_set]
            points = np.concatenate([rng.uniform(0, size, (k, 2)), np.ones((k, 1))], 1)
            ms = best_ms(points.astype(np.float32), keypoint_set, size)
            print(f"{keypoint_set + ', random (longest)':<28}{size:>6}{ms:>9.3f}")


if __name__ == "__main__":
    main()
