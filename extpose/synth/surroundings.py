"""How a place looks from a moving camera: a floor that lies still, walls or a sky around it.

A place is a panorama. What lies below its horizon is laid on the floor, the rest stands on a
cylinder around: a person's feet, their shadow and the floor agree, and a camera that is carried
along sees the floor go by.

Axes    h w pixels   colours are RGB, 0 to 255
World   y up, metres, the floor is y = 0
"""

from dataclasses import dataclass
from math import floor, pi, sqrt
from typing import no_type_check

import cv2
import numpy as np
from jaxtyping import Float64, UInt8

from extpose.compiled import compiled

COARSENESS = 2
"""Pixels of a picture to one of its background, which is out of focus."""
LEVELS = 5
"""Of a floor's detail, each twice as coarse as the one before."""
SHARPEST_SMEAR = 0.75
"""Pixels of the background below which its motion is not seen."""


@dataclass(frozen=True, kw_only=True)
class Backdrop:
    """What is around, and the light that it gives."""

    panorama: UInt8[np.ndarray, "h w 3"]
    """Equirectangular, seen from `height` above `centre`; its middle looks along +z."""
    heading: float
    """By which the place is turned about y, radians."""
    centre: Float64[np.ndarray, " 2"]
    """x and z."""
    height: float
    radius: float
    """Metres to which the floor reaches."""
    detail: UInt8[np.ndarray, "levels n n"]
    """Brightness of the floor, 128 in the mean, repeated every `tile` metres; finest first."""
    tile: float
    sun_world: Float64[np.ndarray, " 3"] | None
    """Unit vector towards the light; None: from anywhere."""
    tint: Float64[np.ndarray, " 3"]


def coarse_camera(K: Float64[np.ndarray, "3 3"]) -> Float64[np.ndarray, "3 3"]:
    """The camera matrix of backgrounds: their pixels are `COARSENESS` as large."""
    shift = (COARSENESS - 1) / 2
    to_coarse = np.array([[1, 0, -shift], [0, 1, -shift], [0, 0, COARSENESS]]) / COARSENESS
    return np.asarray(to_coarse @ K)


def look_around(
    backdrop: Backdrop,
    K: Float64[np.ndarray, "3 3"],
    R: Float64[np.ndarray, "3 3"],
    position: Float64[np.ndarray, " 3"],
    *,
    image_size: tuple[int, int],
) -> UInt8[np.ndarray, "y x 3"]:
    """The place in coarse pixels, which cover a picture of this height and width."""
    size = (-(-image_size[0] // COARSENESS), -(-image_size[1] // COARSENESS))
    out = np.empty((*size, 3), np.uint8)
    K_inverse = np.ascontiguousarray(np.linalg.inv(coarse_camera(K)))
    eye = position - np.array([backdrop.centre[0], 0.0, backdrop.centre[1]])
    _look_around(
        *(backdrop.panorama, backdrop.detail, K_inverse, np.ascontiguousarray(R, np.float64), eye),
        *(backdrop.heading, backdrop.height, backdrop.radius, backdrop.tile, backdrop.centre, out),
    )
    return out


def smear(
    image: UInt8[np.ndarray, "y x 3"], motion: Float64[np.ndarray, " 2"]
) -> UInt8[np.ndarray, "y x 3"]:
    """A picture that moved by this many of its pixels (x, y) while the shutter was open."""
    length = float(np.linalg.norm(motion))
    if length < SHARPEST_SMEAR:
        return image
    reach = int(np.ceil(length / 2)) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    for part in np.linspace(-0.5, 0.5, 4 * reach):
        x, y = reach + part * motion
        left, top = int(x), int(y)
        weights = np.outer([1 - y + top, y - top], [1 - x + left, x - left])
        kernel[top : top + 2, left : left + 2] += weights
    smeared = cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(smeared, np.uint8)


def enlarge(
    image: UInt8[np.ndarray, "y x 3"], image_size: tuple[int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    """Coarse pixels to a picture of this height and width."""
    size = (image.shape[1] * COARSENESS, image.shape[0] * COARSENESS)
    whole = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(whole[: image_size[0], : image_size[1]], np.uint8)


def coarsen_detail(finest: UInt8[np.ndarray, "n n"]) -> UInt8[np.ndarray, "levels n n"]:
    """A floor's detail as it is seen from farther and farther away."""
    side, levels = len(finest), [finest]
    for level in range(1, LEVELS):
        small = cv2.resize(finest, (side >> level, side >> level), interpolation=cv2.INTER_AREA)
        levels.append(np.asarray(cv2.resize(small, (side, side)), np.uint8))
    return np.stack(levels)


@compiled
@no_type_check
def _look_around(panorama, detail, K_inverse, R, eye, heading, height, radius, tile, centre, out):
    """`eye` is relative to the point of the floor from above which the panorama was taken."""
    rays = R.T @ K_inverse
    texels = detail.shape[1] / tile
    inner = eye[0] * eye[0] + eye[2] * eye[2] - radius * radius
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            dx = rays[0, 0] * j + rays[0, 1] * i + rays[0, 2]
            dy = rays[1, 0] * j + rays[1, 1] * i + rays[1, 2]
            dz = rays[2, 0] * j + rays[2, 1] * i + rays[2, 2]
            flat = dx * dx + dz * dz + 1e-12
            half = eye[0] * dx + eye[2] * dz
            to_wall = (-half + sqrt(max(half * half - flat * inner, 0.0))) / flat
            shade = 1.0
            t, y = to_wall, eye[1] + to_wall * dy
            if y < 0.0:
                t, y = -eye[1] / dy, 0.0
                # Metres of the floor to a pixel, away from the camera.
                step = t * K_inverse[0, 0] * sqrt(flat + dy * dy) / -dy
                u = (eye[0] + t * dx + centre[0]) * texels
                v = (eye[2] + t * dz + centre[1]) * texels
                shade = _read_detail(detail, u, v, step * texels) / 128.0
            x, z = eye[0] + t * dx, eye[2] + t * dz
            column = (_angle(z, -x) + heading) / (2 * pi) + 0.5
            row = 0.5 - _angle(sqrt(x * x + z * z), y - height) / pi
            _read_panorama(panorama, row, column - floor(column), shade, out[i, j])


@compiled
@no_type_check
def _read_detail(detail, u, v, step):
    """Bilinear, from the level whose texels are about a pixel large."""
    level = 0
    while step > 1.5 and level + 1 < detail.shape[0]:
        step *= 0.5
        level += 1
    side = detail.shape[1]
    left, top = floor(u), floor(v)
    a, b = u - left, v - top
    x0, y0 = int(left) % side, int(top) % side
    x1, y1 = (x0 + 1) % side, (y0 + 1) % side
    upper = (1 - a) * detail[level, y0, x0] + a * detail[level, y0, x1]
    lower = (1 - a) * detail[level, y1, x0] + a * detail[level, y1, x1]
    found = (1 - b) * upper + b * lower
    # Beyond the coarsest level nothing is left of it.
    return 128.0 + (found - 128.0) / max(1.0, step / 1.5)


@compiled
@no_type_check
def _read_panorama(panorama, row, column, shade, out):
    """Bilinear; `row` from the zenith (0) to the nadir (1), `column` all around."""
    height, width = panorama.shape[0], panorama.shape[1]
    y = min(max(row * height - 0.5, 0.0), height - 1.0)
    x = column * width - 0.5
    top, left = int(y), floor(x)
    b, a = y - top, x - left
    y1 = min(top + 1, height - 1)
    x0, x1 = int(left) % width, (int(left) + 1) % width
    for k in range(3):
        upper = (1 - a) * panorama[top, x0, k] + a * panorama[top, x1, k]
        lower = (1 - a) * panorama[y1, x0, k] + a * panorama[y1, x1, k]
        out[k] = np.uint8(min(((1 - b) * upper + b * lower) * shade + 0.5, 255.0))


@compiled
@no_type_check
def _angle(x, y):
    """`atan2(y, x)` to 2e-5: the library's is four times as slow."""
    steep = abs(y) > abs(x)
    high, low = (abs(y), abs(x)) if steep else (abs(x), abs(y))
    part = low / max(high, 1e-30)
    square = part * part
    angle = part * (
        0.999866
        + square * (-0.3302995 + square * (0.180141 + square * (-0.085133 + square * 0.0208351)))
    )
    if steep:
        angle = pi / 2 - angle
    if x < 0.0:
        angle = pi - angle
    return -angle if y < 0.0 else angle
