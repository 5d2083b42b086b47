"""Light on vertices, and shadows on the floor.

Axes    v vertices   h w pixels   Units and axes as in `raster.py`: metres, OpenCV camera
"""

from math import sqrt
from typing import no_type_check

import cv2
import numpy as np
from jaxtyping import Float, Float64, UInt8

from extpose.compiled import compiled
from extpose.raster import Light

SKY = 0.22
"""How much more ambient light comes from above than from below, fraction."""
WRAP = 0.15
"""By how much the diffuse light reaches around a body."""
SHADOW_GRID = 2
"""Pixels of the background to one of the shadow."""
LOWEST_LIGHT = 0.45
"""Sine of the elevation below which a light throws no longer shadows."""


def shade_vertices(
    vertices_cam: Float64[np.ndarray, "v 3"],
    normals: Float64[np.ndarray, "v 3"],
    colors: Float64[np.ndarray, "v 3"],
    *,
    light: Light,
    up_cam: Float64[np.ndarray, " 3"],
) -> Float64[np.ndarray, "v 3"]:
    """Colours as they look in this light: ambient from sky and floor, diffuse, a faint gloss.

    Normals have any length.
    """
    direction = np.asarray(light.direction, np.float64)
    out = np.empty_like(colors)
    _shade_vertices(
        *(vertices_cam, normals, colors),
        *(direction / np.linalg.norm(direction), up_cam, light.ambient, light.diffuse, out),
    )
    return out


@compiled
@no_type_check
def _shade_vertices(vertices, normals, colors, direction, up, ambient, diffuse, out):
    for i in range(vertices.shape[0]):
        nx, ny, nz = normals[i, 0], normals[i, 1], normals[i, 2]
        size = sqrt(nx * nx + ny * ny + nz * nz) + 1e-12
        nx, ny, nz = nx / size, ny / size, nz / size
        above = nx * up[0] + ny * up[1] + nz * up[2]
        lit = nx * direction[0] + ny * direction[1] + nz * direction[2]
        x, y, z = vertices[i, 0], vertices[i, 1], vertices[i, 2]
        length = sqrt(x * x + y * y + z * z) + 1e-12
        facing = max(-(nx * x + ny * y + nz * z) / length, 0.0)
        strength = ambient * (1.0 + SKY * above) * (0.85 + 0.15 * facing)
        strength += diffuse * max((lit + WRAP) / (1.0 + WRAP), 0.0)
        for k in range(3):
            out[i, k] = colors[i, k] * strength


def cast_shadow(
    background: UInt8[np.ndarray, "h w 3"],
    vertices_cam: Float64[np.ndarray, "v 3"],
    K: Float[np.ndarray, "3 3"],
    *,
    light: Light,
    up_cam: Float64[np.ndarray, " 3"],
    eye_level: float,
    strength: float,
) -> UInt8[np.ndarray, "h w 3"]:
    """The floor, `eye_level` metres below the camera, darkened where the light does not reach.

    `K` is the camera of the background's pixels.
    """
    height, width = background.shape[:2]
    size = (-(-height // SHADOW_GRID), -(-width // SHADOW_GRID))
    direction = np.asarray(light.direction, np.float64)
    direction = direction / np.linalg.norm(direction)
    direction = direction + max(LOWEST_LIGHT - float(direction @ up_cam), 0.0) * up_cam
    mask = np.zeros(size, np.float32)
    _drop_points(*(vertices_cam, direction, up_cam, eye_level, float(direction @ up_cam), K, mask))
    if not mask.any():
        return background
    mask = cv2.dilate(mask, np.ones((3, 3)))
    mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), 1.2), np.float32)
    darker = cv2.resize(1 - np.float32(strength) * mask, (width, height))
    darkened = cv2.multiply(background, cv2.merge([darker] * 3), dtype=cv2.CV_8U)
    return np.asarray(darkened, np.uint8)


@compiled
@no_type_check
def _drop_points(vertices, direction, up, eye_level, rise, K, mask):
    """Mark where every fourth vertex throws its shadow on the floor."""
    for i in range(0, len(vertices), 4):
        x, y, z = vertices[i, 0], vertices[i, 1], vertices[i, 2]
        fall = (x * up[0] + y * up[1] + z * up[2] + eye_level) / rise
        x, y, z = x - fall * direction[0], y - fall * direction[1], z - fall * direction[2]
        if z <= 0.1:
            continue
        column = (K[0, 0] * x + K[0, 1] * y) / z + K[0, 2]
        row = (K[1, 0] * x + K[1, 1] * y) / z + K[1, 2]
        column, row = column / SHADOW_GRID + 0.5, row / SHADOW_GRID + 0.5
        if 0.0 <= column < mask.shape[1] and 0.0 <= row < mask.shape[0]:
            mask[int(row), int(column)] = 1.0
