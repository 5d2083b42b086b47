"""The compiled loops of `raster.py`, over vertices, triangles and pixels.

Axes    v vertices   f faces   h w samples: image pixels, or a finer grid

A pixel (x, y) sees the ray d = K^-1 (x, y, 1). Where the ray meets the plane of a triangle with
corners v0, v1, v2 at depth z, its barycentric weights are l_i = z * d.(v_j x v_k) / det(v0 v1 v2)
and sum to one: both the weights and 1/z are linear in the pixel (Olano and Greer, "Triangle scan
conversion using 2D homogeneous coordinates", 1997). So colours and normals are interpolated in
perspective, and a triangle that reaches behind the camera needs no clipping. A triangle that does
not has the same edges, up to a factor, from its corners in the picture, which is cheaper. Adjacent
triangles evaluate their common edge to exactly opposite numbers: no cracks.
"""

from math import ceil, floor, sqrt
from typing import no_type_check

import numpy as np

from extpose.compiled import compiled

NEAR = 1e-2
"""Nothing nearer than this is drawn, metres."""
THINNEST = 1e-6
"""Twice the area in square pixels of a triangle that is drawn."""
SLACK = 1e-9
"""By which a triangle reaches over its edges, square pixels: a seam whose two sides differ in the
last digit is no crack."""


@compiled
@no_type_check
def invert(K):
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
def to_grid(points, x0, y0, supersample):
    """Move `project`'s points to the samples of a window, in place."""
    offset = (supersample - 1) / 2
    for i in range(len(points)):
        points[i, 0] = supersample * (points[i, 0] - x0) + offset
        points[i, 1] = supersample * (points[i, 1] - y0) + offset


@compiled
@no_type_check
def rasterize(points, vertices, faces, K_inverse, cull, inverse_depth, face_id, weights):
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
def project(vertices, K):
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
def sum_normals(vertices, faces):
    """Unit normals of the vertices: the sum of their faces', by area."""
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
def shade(
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
def paint(faces, colors, face_id, weights, background, supersample, image):
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
def add_picture(faces, colors, face_id, weights, background, total):
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
def write_mean(total, count, image):
    """Of `count` pictures that were added up, rounded."""
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
