"""A triangle mesh drawn on an image by the CPU: z-buffer, smooth shading, one thread.

Axes    v vertices   f faces   h w image pixels
Units   metres in camera axes (OpenCV: x right, y down, z forward), pixels, colours 0 to 255
Pixels  sampled at integer coordinates: (0, 0) is the centre of the top left pixel

A pixel (x, y) sees the ray d = K^-1 (x, y, 1). Where the ray meets the plane of a triangle with
corners v0, v1, v2 at depth z, its barycentric weights are l_i = z * d.(v_j x v_k) / det(v0 v1 v2)
and sum to one: both the weights and 1/z are linear in the pixel (Olano and Greer, "Triangle scan
conversion using 2D homogeneous coordinates", 1997). So colours and normals are interpolated in
perspective, and a triangle that reaches behind the camera needs no clipping. A triangle that does
not has the same edges, up to a factor, from its corners in the picture, which is cheaper. Adjacent
triangles evaluate their common edge to exactly opposite numbers: no cracks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, sqrt
from typing import NamedTuple, no_type_check

import numpy as np
from jaxtyping import Float, Float32, Int32, Integer, UInt8

from extpose.compiled import compiled

NEAR = 1e-2
"""Nothing nearer than this is drawn, metres."""
THINNEST = 1e-6
"""Twice the area in square pixels of a triangle that is drawn."""
SLACK = 1e-9
"""By which a triangle reaches over its edges, square pixels: a seam whose two sides differ in the
last digit is no crack."""


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
        _to_grid(points, x0, y0, supersample)
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
        _to_grid(points, x0, y0, 1)
        inverse_depth[:], face_id[:] = 0.0, -1
        geometry = (points, vertices, faces, _window_camera(K, (x0, y0), 1))
        _rasterize(*geometry, True, inverse_depth, face_id, weights)
        _add_picture(faces, colors, face_id, weights, background, total)
        if index == len(drawn) // 2:
            depth[window] = _to_depth(inverse_depth)
    _write_mean(total, len(drawn), whole[window])
    return whole, depth


def vertex_normals(
    vertices: Float[np.ndarray, "v 3"], faces: Integer[np.ndarray, "f 3"]
) -> Float[np.ndarray, "v 3"]:
    """Unit normals, averaged over the faces at a vertex by area; zero where there is no face."""
    return _vertex_normals(
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
    """Points of `_project`, and the pixels (x0, y0, x1, y1) that the mesh can touch: all where it
    reaches behind the camera.
    """
    points, low_x, low_y, high_x, high_y, is_finite, reaches_behind = _project(vertices, K)
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
    return _invert(K) @ from_grid


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
    _rasterize(*geometry, cull, inverse_depth, face_id, weights)
    image = np.empty((height, width, 3), np.uint8)
    background = np.ascontiguousarray(background)
    if light.diffuse == 0:
        lit = colors * light.ambient
        _paint(faces, lit, face_id, weights, background, supersample, image)
    else:
        direction = np.asarray(light.direction, np.float64)
        direction /= max(float(np.linalg.norm(direction)), 1e-12)
        _shade(
            *(vertices, faces, _vertex_normals(vertices, faces), colors, face_id, weights),
            *(direction, light.ambient, light.diffuse, background, supersample, image),
        )
    nearest = slice(supersample // 2, None, supersample)
    depth = _to_depth(inverse_depth[nearest, nearest])
    return Rendering(image, face_id[nearest, nearest], depth)


def _to_depth(inverse_depth: np.ndarray) -> np.ndarray:
    depth = np.full(inverse_depth.shape, np.inf, np.float32)
    np.divide(1.0, inverse_depth, out=depth, where=inverse_depth > 0, casting="same_kind")
    return depth


@compiled
@no_type_check
def _invert(K):
    """Of an upper triangular matrix."""
    out = np.zeros((3, 3))
    for i in range(3):
        out[i, i] = 1.0 / K[i, i]
    out[0, 1] = -K[0, 1] * out[0, 0] * out[1, 1]
    out[1, 2] = -K[1, 2] * out[1, 1] * out[2, 2]
    out[0, 2] = -(K[0, 1] * out[1, 2] + K[0, 2] * out[2, 2]) * out[0, 0]
    return out


@compiled
@no_type_check
def _to_grid(points, x0, y0, supersample):
    """Move `_project`'s points to the samples of a window, in place."""
    offset = (supersample - 1) / 2
    for i in range(len(points)):
        points[i, 0] = supersample * (points[i, 0] - x0) + offset
        points[i, 1] = supersample * (points[i, 1] - y0) + offset


@compiled
@no_type_check
def _rasterize(points, vertices, faces, K_inverse, cull, inverse_depth, face_id, weights):
    """Fill the z-buffer, the visible face, and the perspective-correct weights of two corners.

    Edge functions are positive inside; their sum with factors is 1 / z.
    """
    height, width = inverse_depth.shape
    edge = np.empty((3, 3))
    for face in range(faces.shape[0]):
        a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
        ua, va, wa = points[a, 0], points[a, 1], points[a, 2]
        ub, vb, wb = points[b, 0], points[b, 1], points[b, 2]
        uc, vc, wc = points[c, 0], points[c, 1], points[c, 2]
        if wa > 0.0 and wb > 0.0 and wc > 0.0:
            area = (ub - ua) * (vc - va) - (vb - va) * (uc - ua)
            if cull and area >= 0.0:  # the camera sees it from behind
                continue
            x0 = max(ceil(max(min(ua, ub, uc), -1.0) - 1e-6), 0)
            x1 = min(floor(min(max(ua, ub, uc), width) + 1e-6), width - 1)
            y0 = max(ceil(max(min(va, vb, vc), -1.0) - 1e-6), 0)
            y1 = min(floor(min(max(va, vb, vc), height) + 1e-6), height - 1)
            if x1 < x0 or y1 < y0 or abs(area) < THINNEST:
                continue
            sign = 1.0 if area > 0.0 else -1.0
            # But for the slack exactly the opposite for the face on the other side of an edge.
            p0, q0, r0 = sign * (vb - vc), sign * (uc - ub), sign * (ub * vc - vb * uc) + SLACK
            p1, q1, r1 = sign * (vc - va), sign * (ua - uc), sign * (uc * va - vc * ua) + SLACK
            p2, q2, r2 = sign * (va - vb), sign * (ub - ua), sign * (ua * vb - va * ub) + SLACK
            share = sign / area
            wa, wb, wc = wa * share, wb * share, wc * share
        else:
            if cull and _determinant(vertices, faces, face) >= 0.0:
                continue
            if wa <= 0.0 and wb <= 0.0 and wc <= 0.0:
                continue
            determinant = _edges(vertices, faces, face, K_inverse, edge)
            if determinant == 0.0:
                continue
            if determinant < 0.0:
                edge *= -1.0
            x0, y0, x1, y1 = 0, 0, width - 1, height - 1
            p0, q0, r0 = edge[0, 0], edge[0, 1], edge[0, 2]
            p1, q1, r1 = edge[1, 0], edge[1, 1], edge[1, 2]
            p2, q2, r2 = edge[2, 0], edge[2, 1], edge[2, 2]
            wa = wb = wc = 1.0 / abs(determinant)
        for y in range(y0, y1 + 1):
            s0, s1, s2 = q0 * y + r0, q1 * y + r1, q2 * y + r2
            for x in range(x0, x1 + 1):
                e0, e1, e2 = p0 * x + s0, p1 * x + s1, p2 * x + s2
                if e0 < 0.0 or e1 < 0.0 or e2 < 0.0:
                    continue
                first, second = e0 * wa, e1 * wb
                near = first + second + e2 * wc
                if inverse_depth[y, x] < near < 1.0 / NEAR:
                    inverse_depth[y, x] = near
                    face_id[y, x] = face
                    weights[y, x, 0] = first / near
                    weights[y, x, 1] = second / near


@compiled
@no_type_check
def _project(vertices, K):
    """Pixel coordinates and 1 / z, which is 0 for what is behind the camera or too near; their
    extremes; whether all is finite; whether something is behind.
    """
    points = np.zeros((len(vertices), 3))
    low_x, low_y, high_x, high_y = np.inf, np.inf, -np.inf, -np.inf
    is_finite, reaches_behind = True, False
    for i in range(len(vertices)):
        x, y, z = vertices[i, 0], vertices[i, 1], vertices[i, 2]
        if not np.isfinite(x + y + z):
            is_finite = False
        if z > NEAR:
            u = K[0, 0] * (x / z) + K[0, 1] * (y / z) + K[0, 2]
            v = K[1, 0] * (x / z) + K[1, 1] * (y / z) + K[1, 2]
            points[i, 0], points[i, 1], points[i, 2] = u, v, 1.0 / z
            low_x, high_x = min(low_x, u), max(high_x, u)
            low_y, high_y = min(low_y, v), max(high_y, v)
        else:
            reaches_behind = True
    return points, low_x, low_y, high_x, high_y, is_finite, reaches_behind


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
def _shade(
    vertices, faces, normals, colors, face_id, weights, direction, ambient, diffuse, background,
    supersample, image,
):  # fmt: skip
    """Colour the visible pixels: ambient + diffuse * max(0, normal . light)."""
    total = np.empty(3)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            total[:] = 0.0
            for sample in range(supersample * supersample):
                row = y * supersample + sample // supersample
                column = x * supersample + sample % supersample
                face = face_id[row, column]
                if face < 0:
                    for k in range(3):
                        total[k] += background[y, x, k]
                    continue
                a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
                wa, wb = weights[row, column, 0], weights[row, column, 1]
                wc = 1.0 - wa - wb
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
                    value = wa * colors[a, k] + wb * colors[b, k] + wc * colors[c, k]
                    total[k] += min(max(value * strength, 0.0), 255.0)
            for k in range(3):
                image[y, x, k] = np.uint8(total[k] / (supersample * supersample) + 0.5)


@compiled
@no_type_check
def _paint(faces, colors, face_id, weights, background, supersample, image):
    """Colour the visible pixels without light."""
    share = 1.0 / (supersample * supersample)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            red = green = blue = 0.0
            rest = supersample * supersample
            for row in range(y * supersample, (y + 1) * supersample):
                for column in range(x * supersample, (x + 1) * supersample):
                    if face_id[row, column] >= 0:
                        r, g, b = _mix(faces, colors, face_id, weights, row, column)
                        red, green, blue, rest = red + r, green + g, blue + b, rest - 1
            image[y, x, 0] = np.uint8((red + rest * background[y, x, 0]) * share + 0.5)
            image[y, x, 1] = np.uint8((green + rest * background[y, x, 1]) * share + 0.5)
            image[y, x, 2] = np.uint8((blue + rest * background[y, x, 2]) * share + 0.5)


@compiled
@no_type_check
def _add_picture(faces, colors, face_id, weights, background, total):
    """Add a picture to others."""
    for y in range(total.shape[0]):
        for x in range(total.shape[1]):
            if face_id[y, x] < 0:
                for k in range(3):
                    total[y, x, k] += background[y, x, k]
                continue
            r, g, b = _mix(faces, colors, face_id, weights, y, x)
            total[y, x, 0] += r
            total[y, x, 1] += g
            total[y, x, 2] += b


@compiled
@no_type_check
def _write_mean(total, count, image):
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            for k in range(3):
                image[y, x, k] = np.uint8(total[y, x, k] / count + 0.5)


@compiled
@no_type_check
def _mix(faces, colors, face_id, weights, row, column):
    """The colour of the face that is visible in a pixel."""
    face, wa, wb = face_id[row, column], weights[row, column, 0], weights[row, column, 1]
    wc = 1.0 - wa - wb
    a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
    red = wa * colors[a, 0] + wb * colors[b, 0] + wc * colors[c, 0]
    green = wa * colors[a, 1] + wb * colors[b, 1] + wc * colors[c, 1]
    blue = wa * colors[a, 2] + wb * colors[b, 2] + wc * colors[c, 2]
    return (
        min(max(red, 0.0), 255.0),
        min(max(green, 0.0), 255.0),
        min(max(blue, 0.0), 255.0),
    )


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
