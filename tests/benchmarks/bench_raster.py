"""Frames a CPU second of the rasteriser on a sphere with as many vertices as the free body.

python tests/benchmarks/bench_raster.py
"""

import time

import numpy as np

from extpose.raster import render_mesh

NUM_VERTICES = 13_718


def grid_sphere(num_vertices: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit sphere of about `num_vertices` vertices and twice as many faces."""
    steps = round(num_vertices**0.5)
    theta, phi = np.meshgrid(
        np.linspace(0, np.pi, steps), np.linspace(0, 2 * np.pi, steps), indexing="ij"
    )
    vertices = np.stack(
        [np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], -1
    )
    index = np.arange(steps * steps).reshape(steps, steps)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = np.concatenate(
        [np.stack([i.ravel() for i in face], -1) for face in ((a, b, c), (a, c, d))]
    )
    return vertices.reshape(-1, 3), faces


def main() -> None:
    vertices, faces = grid_sphere(NUM_VERTICES)
    # A person's outline: about as tall as the picture and a third as wide.
    vertices = vertices * [0.3, 0.9, 0.3] + [0, 0, 3]
    colors = np.full_like(vertices, 180.0)
    print(f"{len(vertices)} vertices, {len(faces)} faces, one thread")
    print("size  samples  frames/CPU s")
    for size in (256, 512):
        K = np.array([[1.5 * size, 0, size / 2], [0, 1.5 * size, size / 2], [0, 0, 1]])
        background = np.full((size, size, 3), 127, np.uint8)
        for supersample in (1, 2):
            times = []
            for _ in range(20):
                start = time.process_time()
                render_mesh(vertices, faces, colors, K, background, supersample=supersample)
                times.append(time.process_time() - start)
            print(f"{size:4d}  {supersample**2:7d}  {1 / np.median(times):8.0f}")


if __name__ == "__main__":
    main()
