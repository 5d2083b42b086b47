"""How fast 2D evidence is drawn from the fitted noise model, on one core.

python tests/benchmarks/bench_noise.py
"""

import time

import numpy as np

from extpose.synth.noise import draw_evidence, load_noise
from tests.synth.people import IMAGE_SIZE, make_people

CLIPS = 200


def main() -> None:
    people, noise = make_people(1), load_noise()
    start = time.process_time()
    for seed in range(CLIPS):
        draw_evidence(
            people.truth[0],
            people.depth[0],
            people.is_visible[0],
            boxes=people.boxes[0],
            image_size=IMAGE_SIZE,
            fps=30.0,
            noise=noise,
            rng=np.random.default_rng(seed),
        )
    seconds = time.process_time() - start
    frames = CLIPS * people.truth.shape[1]
    print(f"clips of {people.truth.shape[1]} frames: {frames / seconds:.0f} frames a CPU second")


if __name__ == "__main__":
    main()
