"""A triangle mesh drawn on an image by the CPU: z-buffer, smooth shading, one thread.

Axes    v vertices   f faces   h w image pixels
Units   metres in camera axes (OpenCV: x right, y down, z forward), pixels, colours 0 to 255
Pixels  sampled at integer coordinates: (0, 0) is the centre of the top left pixel

A pixel (x, y) sees the ray d = K^-1 (x, y, 1). Where the ray meets the plane of a triangle with
corners v0, v1, v2 at depth z, its barycentric weights are l_i = z * d.(v_j x v_k) / det(v0 v1 v2)
and sum to one: both the weights and 1/z are linear in the pixel (Olano and Greer, "Triangle scan
conversion using 2D homogeneous coordinates", 1997). So colours and normals are interpolated in
perspective, and a triangle that reaches behind the camera needs no clipping. Adjacent triangles
evaluate their common edge to exactly opposite numbers: no cracks.
"""

from dataclasses import dataclass
from math import ceil, floor, sqrt
from typing import NamedTuple, no_type_check

import cv2
import numpy as np
from jaxtyping import Float, Float32, Int32, Integer, UInt8

from extpose.compiled import compiled

NEAR = 1e-2
"""Nothing nearer than this is drawn, metres."""


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
    if not np.isfinite(vertices_cam).all():
        raise ValueError("vertices_cam: some coordinates are not finite")
    if len(faces) and not 0 <= faces.min() <= faces.max() < len(vertices_cam):
        raise ValueError(f"faces: {faces.min()} to {faces.max()}, {len(vertices_cam)} vertices")
    height, width = image.shape[:2]
    rendering = Rendering(
        image.copy(),
        np.full((height, width), -1, np.int32),
        np.full((height, width), np.inf, np.float32),
    )
    K = K.astype(np.float64)
    vertices = np.ascontiguousarray(vertices_cam, np.float64)
    x0, y0, x1, y1 = _window(vertices, K, height, width)
    if x0 < x1 and y0 < y1:
        window = (slice(y0, y1), slice(x0, x1))
        drawn = _render_window(
            vertices,
            np.ascontiguousarray(faces, np.int64),
            np.ascontiguousarray(colors, np.float64),
            K=_window_camera(K, (x0, y0), supersample),
            background=image[window],
            light=light or Light(),
            supersample=supersample,
            cull=cull,
        )
        for whole, part in zip(rendering, drawn, strict=True):
            whole[window] = part
    return rendering


def vertex_normals(
    vertices: Float[np.ndarray, "v 3"], faces: Integer[np.ndarray, "f 3"]
) -> Float[np.ndarray, "v 3"]:
    """Unit normals, averaged over the faces at a vertex by area; zero where there is no face."""
    return _vertex_normals(
        np.ascontiguousarray(vertices, np.float64), np.ascontiguousarray(faces, np.int64)
    )


def _window(vertices: np.ndarray, K: np.ndarray, height: int, width: int) -> tuple[int, ...]:
    """Pixels (x0, y0, x1, y1) that the mesh can touch; all where it reaches behind the camera."""
    if len(vertices) == 0:
        return 0, 0, 0, 0
    if vertices[:, 2].min() <= NEAR:
        return 0, 0, width, height
    x, y = vertices[:, 0] / vertices[:, 2], vertices[:, 1] / vertices[:, 2]
    uv = [row[0] * x + row[1] * y + row[2] for row in K[:2]]  # by column: minima of rows are slow
    low = [floor(float(column.min())) - 1 for column in uv]
    high = [ceil(float(column.max())) + 2 for column in uv]
    limit = (width, height)
    x0, y0 = (int(np.clip(low[i], 0, limit[i])) for i in range(2))
    x1, y1 = (int(np.clip(high[i], 0, limit[i])) for i in range(2))
    return x0, y0, x1, y1


def _window_camera(K: np.ndarray, corner: tuple[int, int], supersample: int) -> np.ndarray:
    """Camera of the finer grid: sample s * x + (s - 1) / 2 is the centre of pixel x."""
    s, offset = supersample, (supersample - 1) / 2
    to_grid = np.array(
        [[s, 0, offset - s * corner[0]], [0, s, offset - s * corner[1]], [0, 0, 1]], np.float64
    )
    return to_grid @ K


def _render_window(
    vertices: np.ndarray,
    faces: np.ndarray,
    colors: np.ndarray,
    *,
    K: np.ndarray,
    background: np.ndarray,
    light: Light,
    supersample: int,
    cull: bool,
) -> Rendering:
    height, width = background.shape[:2]
    size = (height * supersample, width * supersample)
    inverse_depth = np.zeros(size, np.float64)
    face_id = np.full(size, -1, np.int32)
    weights = np.zeros((*size, 3), np.float32)
    _rasterize(vertices, faces, K, np.linalg.inv(K), cull, inverse_depth, face_id, weights)
    image = np.ascontiguousarray(background)
    if supersample > 1:
        fine = cv2.resize(image, size[::-1], interpolation=cv2.INTER_NEAREST)
        image = np.asarray(fine, np.uint8)
    else:
        image = image.copy()
    if light.diffuse == 0:
        _paint(faces, colors * light.ambient, face_id, weights, image)
    else:
        direction = np.asarray(light.direction, np.float64)
        direction /= max(float(np.linalg.norm(direction)), 1e-12)
        _shade(
            *(vertices, faces, _vertex_normals(vertices, faces), colors, face_id, weights),
            *(direction, light.ambient, light.diffuse, image),
        )
    if supersample > 1:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    nearest = slice(supersample // 2, None, supersample)
    inverse_depth = inverse_depth[nearest, nearest]
    depth = np.full((height, width), np.inf, np.float32)
    np.divide(1.0, inverse_depth, out=depth, where=inverse_depth > 0, casting="same_kind")
    return Rendering(image, face_id[nearest, nearest], depth)


@compiled
@no_type_check
def _rasterize(vertices, faces, K, K_inverse, cull, inverse_depth, face_id, weights):
    """Fill the z-buffer, the visible face and its perspective-correct weights."""
    height, width = inverse_depth.shape
    uv = _project(vertices, K)
    edge = np.empty((3, 3))
    for face in range(faces.shape[0]):
        if cull and _determinant(vertices, faces, face) >= 0.0:
            continue
        x0, y0, x1, y1 = _bounds(uv, faces, face, width, height)
        if x1 < x0 or y1 < y0:
            continue
        determinant = _edges(vertices, faces, face, K_inverse, edge)
        if determinant == 0.0:
            continue
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                e0 = edge[0, 0] * x + edge[0, 1] * y + edge[0, 2]
                e1 = edge[1, 0] * x + edge[1, 1] * y + edge[1, 2]
                e2 = edge[2, 0] * x + edge[2, 1] * y + edge[2, 2]
                if determinant < 0.0:
                    e0, e1, e2 = -e0, -e1, -e2
                if e0 < 0.0 or e1 < 0.0 or e2 < 0.0:
                    continue
                total = e0 + e1 + e2
                inverse_z = total / abs(determinant)
                if inverse_depth[y, x] < inverse_z < 1.0 / NEAR:
                    inverse_depth[y, x] = inverse_z
                    face_id[y, x] = face
                    weights[y, x, 0] = e0 / total
                    weights[y, x, 1] = e1 / total
                    weights[y, x, 2] = e2 / total


@compiled
@no_type_check
def _project(vertices, K):
    """Pixel coordinates; nan for what is behind the camera or too near."""
    uv = np.full((len(vertices), 2), np.nan)
    for i in range(len(vertices)):
        if vertices[i, 2] > NEAR:
            x, y = vertices[i, 0] / vertices[i, 2], vertices[i, 1] / vertices[i, 2]
            uv[i, 0] = K[0, 0] * x + K[0, 1] * y + K[0, 2]
            uv[i, 1] = K[1, 0] * x + K[1, 1] * y + K[1, 2]
    return uv


@compiled
@no_type_check
def _determinant(vertices, faces, face):
    """Positive where the camera sees the face from behind."""
    a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
    bx, by, bz = vertices[b, 0], vertices[b, 1], vertices[b, 2]
    cx, cy, cz = vertices[c, 0], vertices[c, 1], vertices[c, 2]
    return (
        vertices[a, 0] * (by * cz - bz * cy)
        + vertices[a, 1] * (bz * cx - bx * cz)
        + vertices[a, 2] * (bx * cy - by * cx)
    )


@compiled
@no_type_check
def _edges(vertices, faces, face, K_inverse, edge):
    """Write the three edge functions, each linear in (x, y, 1); return the determinant."""
    determinant = 0.0
    for i in range(3):
        a, b = faces[face, (i + 1) % 3], faces[face, (i + 2) % 3]
        ax, ay, az = vertices[a, 0], vertices[a, 1], vertices[a, 2]
        bx, by, bz = vertices[b, 0], vertices[b, 1], vertices[b, 2]
        nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        for k in range(3):
            edge[i, k] = nx * K_inverse[0, k] + ny * K_inverse[1, k] + nz * K_inverse[2, k]
        if i == 0:
            c = faces[face, 0]
            determinant = vertices[c, 0] * nx + vertices[c, 1] * ny + vertices[c, 2] * nz
    return determinant


@compiled
@no_type_check
def _bounds(uv, faces, face, width, height):
    """First and last pixel column and row that the triangle can cover; none: last < first."""
    low_x = low_y = np.inf
    high_x = high_y = -np.inf
    num_behind = 0
    for i in range(3):
        corner = faces[face, i]
        u, v = uv[corner, 0], uv[corner, 1]
        if np.isnan(u):
            num_behind += 1
        low_x, high_x = min(low_x, u), max(high_x, u)
        low_y, high_y = min(low_y, v), max(high_y, v)
    if num_behind == 3:
        return 0, 0, -1, -1
    if num_behind > 0:
        return 0, 0, width - 1, height - 1
    # Clipped before the conversion to integers, which a far off coordinate would overflow; the
    # small slack lets the edge functions alone decide about a pixel that lies on the border.
    x0 = int(max(ceil(max(low_x, -1.0) - 1e-6), 0.0))
    y0 = int(max(ceil(max(low_y, -1.0) - 1e-6), 0.0))
    x1 = int(min(floor(min(high_x, width) + 1e-6), width - 1.0))
    y1 = int(min(floor(min(high_y, height) + 1e-6), height - 1.0))
    return x0, y0, x1, y1


@compiled
@no_type_check
def _vertex_normals(vertices, faces):
    normals = np.zeros_like(vertices)
    for face in range(faces.shape[0]):
        a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
        nx, ny, nz = _face_normal(vertices, a, b, c)
        for corner in (a, b, c):
            normals[corner, 0] += nx
            normals[corner, 1] += ny
            normals[corner, 2] += nz
    for i in range(len(normals)):
        length = sqrt(normals[i, 0] ** 2 + normals[i, 1] ** 2 + normals[i, 2] ** 2)
        if length > 0.0:
            normals[i] /= length
    return normals


@compiled
@no_type_check
def _shade(vertices, faces, normals, colors, face_id, weights, direction, ambient, diffuse, image):
    """Colour the visible pixels: ambient + diffuse * max(0, normal . light)."""
    height, width = face_id.shape
    for y in range(height):
        for x in range(width):
            face = face_id[y, x]
            if face < 0:
                continue
            a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
            wa, wb, wc = weights[y, x, 0], weights[y, x, 1], weights[y, x, 2]
            nx = wa * normals[a, 0] + wb * normals[b, 0] + wc * normals[c, 0]
            ny = wa * normals[a, 1] + wb * normals[b, 1] + wc * normals[c, 1]
            nz = wa * normals[a, 2] + wb * normals[b, 2] + wc * normals[c, 2]
            length = sqrt(nx * nx + ny * ny + nz * nz) + 1e-12
            lit = (nx * direction[0] + ny * direction[1] + nz * direction[2]) / length
            # A face that the camera, at the origin, sees from behind is lit on that side.
            fx, fy, fz = _face_normal(vertices, a, b, c)
            if fx * vertices[a, 0] + fy * vertices[a, 1] + fz * vertices[a, 2] > 0.0:
                lit = -lit
            strength = ambient + diffuse * max(lit, 0.0)
            for k in range(3):
                value = (wa * colors[a, k] + wb * colors[b, k] + wc * colors[c, k]) * strength
                image[y, x, k] = np.uint8(min(max(value, 0.0), 255.0) + 0.5)


@compiled
@no_type_check
def _paint(faces, colors, face_id, weights, image):
    """Colour the visible pixels without light."""
    height, width = face_id.shape
    for y in range(height):
        for x in range(width):
            face = face_id[y, x]
            if face < 0:
                continue
            a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
            wa, wb, wc = weights[y, x, 0], weights[y, x, 1], weights[y, x, 2]
            for k in range(3):
                value = wa * colors[a, k] + wb * colors[b, k] + wc * colors[c, k]
                image[y, x, k] = np.uint8(min(max(value, 0.0), 255.0) + 0.5)


@compiled
@no_type_check
def _face_normal(vertices, a, b, c):
    """Twice the area long, towards the side that sees the corners counter-clockwise."""
    ux, uy, uz = (
        vertices[b, 0] - vertices[a, 0],
        vertices[b, 1] - vertices[a, 1],
        vertices[b, 2] - vertices[a, 2],
    )
    wx, wy, wz = (
        vertices[c, 0] - vertices[a, 0],
        vertices[c, 1] - vertices[a, 1],
        vertices[c, 2] - vertices[a, 2],
    )
    return uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
