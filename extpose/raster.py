"""A triangle mesh drawn on an image by the CPU: z-buffer, smooth shading, one thread.

Axes    v vertices   f faces   h w image pixels
Units   metres in camera axes (OpenCV: x right, y down, z forward), pixels, colours 0 to 255
Pixels  sampled at integer coordinates: (0, 0) is the centre of the top left pixel
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int32, Integer, UInt8

from extpose.raster_loops import (
    add_picture,
    invert,
    paint,
    project,
    rasterize,
    shade,
    sum_normals,
    to_grid,
    write_mean,
)


@dataclass(frozen=True, kw_only=True)
class Light:
    """One directional light and an ambient term; both sides of a surface are lit."""

    direction: tuple[float, float, float] = (0.3, -0.6, -0.7)
    """From the surface towards the light, in camera axes."""
    ambient: float = 0.45
    diffuse: float = 0.6


class Rendering(NamedTuple):
    """The picture and what lies behind each pixel."""

    image: UInt8[np.ndarray, "h w 3"]
    face_id: Int32[np.ndarray, "h w"]
    """Index of the visible face, -1 where there is none."""
    depth: Float32[np.ndarray, "h w"]
    """z in metres, infinite where there is no face."""


def render_mesh(
    vertices_cam: Float[np.ndarray, "v 3"],
    faces: Integer[np.ndarray, "f 3"],
    colors: Float[np.ndarray, "v 3"],
    K: Float[np.ndarray, "3 3"],
    image: UInt8[np.ndarray, "h w 3"],
    *,
    light: Light | None = None,
    supersample: int = 1,
    cull: bool = False,
) -> Rendering:
    """Draw a mesh with one colour a vertex over `image` (which is left as it was).

    Several bodies that may hide each other are one call with their meshes concatenated.
    `supersample` = s takes s * s samples a pixel and averages them; `face_id` and `depth` are then
    those of the sample at most half a sample beside the pixel's centre. `cull` leaves out the faces
    that are seen from behind, which closed meshes hide anyway: half the work. A light without a
    diffuse term draws the colours as they are, times the ambient term, and needs no normals.

    Raises:
        ValueError: a vertex is not finite, or a face names a vertex that is not there.
    """
    vertices = np.ascontiguousarray(vertices_cam, np.float64)
    faces = _check_faces(faces, len(vertices))
    colors = np.ascontiguousarray(colors, np.float64)
    height, width = image.shape[:2]
    rendering = Rendering(
        image.copy(),
        np.full((height, width), -1, np.int32),
        np.full((height, width), np.inf, np.float32),
    )
    K = K.astype(np.float64)
    points, (x0, y0, x1, y1) = _window(vertices, K, height, width)
    if x0 < x1 and y0 < y1:
        window = (slice(y0, y1), slice(x0, x1))
        to_grid(points, x0, y0, supersample)
        drawn = _render_window(
            (points, vertices, faces, _window_camera(K, (x0, y0), supersample)),
            colors,
            background=image[window],
            light=light or Light(),
            supersample=supersample,
            cull=cull,
        )
        for whole, part in zip(rendering, drawn, strict=True):
            whole[window] = part
    return rendering


def render_moments(
    moments: Sequence[tuple[Float[np.ndarray, "v 3"], Float[np.ndarray, "3 3"]]],
    faces: Integer[np.ndarray, "f 3"],
    colors: Float[np.ndarray, "v 3"],
    image: UInt8[np.ndarray, "h w 3"],
) -> tuple[UInt8[np.ndarray, "h w 3"], Float32[np.ndarray, "h w"]]:
    """The mean of several pictures (vertices in the camera, K) and the depth of the middle one.

    Colours are drawn as they are; faces that are seen from behind are left out. Raises ValueError
    as `render_mesh` does.
    """
    colors = np.ascontiguousarray(colors, np.float64)
    height, width = image.shape[:2]
    whole, depth = image.copy(), np.full((height, width), np.inf, np.float32)
    drawn = [(np.ascontiguousarray(v, np.float64), K.astype(np.float64)) for v, K in moments]
    faces = _check_faces(faces, min(len(vertices) for vertices, _ in drawn))
    projected = [_window(*moment, height, width) for moment in drawn]
    windows = np.array([window for _, window in projected])
    (x0, y0), (x1, y1) = windows[:, :2].min(0).tolist(), windows[:, 2:].max(0).tolist()
    if x0 >= x1 or y0 >= y1:
        return whole, depth
    window = (slice(y0, y1), slice(x0, x1))
    background = np.ascontiguousarray(image[window])
    total = np.zeros(background.shape, np.float32)
    inverse_depth = np.empty(background.shape[:2], np.float64)
    face_id = np.empty(background.shape[:2], np.int32)
    weights = np.empty((*background.shape[:2], 2), np.float32)
    for index, ((vertices, K), (points, _)) in enumerate(zip(drawn, projected, strict=True)):
        to_grid(points, x0, y0, 1)
        inverse_depth[:], face_id[:] = 0.0, -1
        geometry = (points, vertices, faces, _window_camera(K, (x0, y0), 1))
        rasterize(*geometry, True, inverse_depth, face_id, weights)
        add_picture(faces, colors, face_id, weights, background, total)
        if index == len(drawn) // 2:
            depth[window] = _to_depth(inverse_depth)
    write_mean(total, len(drawn), whole[window])
    return whole, depth


def vertex_normals(
    vertices: Float[np.ndarray, "v 3"], faces: Integer[np.ndarray, "f 3"]
) -> Float[np.ndarray, "v 3"]:
    """Unit normals, averaged over the faces at a vertex by area; zero where there is no face."""
    return sum_normals(
        np.ascontiguousarray(vertices, np.float64), np.ascontiguousarray(faces, np.uint32)
    )


def _check_faces(faces: np.ndarray, num_vertices: int) -> np.ndarray:
    """Unsigned, which compiled code need not test for negative ones."""
    is_low = faces.dtype.kind != "u" and len(faces) > 0 and faces.min() < 0
    if is_low or (len(faces) and faces.max() >= num_vertices):
        raise ValueError(f"faces: {faces.min()} to {faces.max()}, {num_vertices} vertices")
    return np.ascontiguousarray(faces, np.uint32)


def _window(
    vertices: np.ndarray, K: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Points of `project`, and the pixels (x0, y0, x1, y1) that the mesh can touch: all where it
    reaches behind the camera.
    """
    points, low_x, low_y, high_x, high_y, is_finite, reaches_behind = project(vertices, K)
    if not is_finite:
        raise ValueError("vertices_cam: some coordinates are not finite")
    if len(vertices) == 0:
        return points, (0, 0, 0, 0)
    if reaches_behind:
        return points, (0, 0, width, height)
    x0, x1 = (min(max(x, 0), width) for x in (floor(low_x) - 1, ceil(high_x) + 2))
    y0, y1 = (min(max(y, 0), height) for y in (floor(low_y) - 1, ceil(high_y) + 2))
    return points, (x0, y0, x1, y1)


def _window_camera(K: np.ndarray, corner: tuple[int, int], supersample: int) -> np.ndarray:
    """Inverse camera of the finer grid: sample s * x + (s - 1) / 2 is the centre of pixel x."""
    s, offset = supersample, (supersample - 1) / 2
    from_grid = np.array(
        [[1 / s, 0, corner[0] - offset / s], [0, 1 / s, corner[1] - offset / s], [0, 0, 1.0]]
    )
    return invert(K) @ from_grid


def _render_window(
    geometry: tuple[np.ndarray, ...],
    colors: np.ndarray,
    *,
    background: np.ndarray,
    light: Light,
    supersample: int,
    cull: bool,
) -> Rendering:
    height, width = background.shape[:2]
    size = (height * supersample, width * supersample)
    inverse_depth = np.zeros(size, np.float64)
    face_id = np.full(size, -1, np.int32)
    weights = np.empty((*size, 2), np.float32)
    _, vertices, faces, _ = geometry
    rasterize(*geometry, cull, inverse_depth, face_id, weights)
    image = np.empty((height, width, 3), np.uint8)
    background = np.ascontiguousarray(background)
    if light.diffuse == 0:
        lit = colors * light.ambient
        paint(faces, lit, face_id, weights, background, supersample, image)
    else:
        direction = np.asarray(light.direction, np.float64)
        direction /= max(float(np.linalg.norm(direction)), 1e-12)
        shade(
            *(vertices, faces, sum_normals(vertices, faces), colors, face_id, weights),
            *(direction, light.ambient, light.diffuse, background, supersample, image),
        )
    nearest = slice(supersample // 2, None, supersample)
    depth = _to_depth(inverse_depth[nearest, nearest])
    return Rendering(image, face_id[nearest, nearest], depth)


def _to_depth(inverse_depth: np.ndarray) -> np.ndarray:
    depth = np.full(inverse_depth.shape, np.inf, np.float32)
    np.divide(1.0, inverse_depth, out=depth, where=inverse_depth > 0, casting="same_kind")
    return depth
