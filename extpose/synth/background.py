"""Rooms and landscapes without people, and what a camera does to a picture.

Axes    h w pixels   colours are RGB, 0 to 255
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8

from extpose.data.clip import decode_image, encode_jpeg
from extpose.synth.appearance import random_color

MAX_FLOOR = 40.0
"""Metres to which the pattern of the floor is drawn."""

NOISE_MARGIN = 64
"""Pixels by which the sensor's noise can be shifted from frame to frame."""


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """What the lens, the sensor and the codec do, the same in all frames of a clip."""

    blur: float
    """Deviation in pixels."""
    noise: Float32[np.ndarray, "noise_h noise_w"]
    """In grey levels; larger than a frame, each of which takes another part of it."""
    gain: Float64[np.ndarray, " 3"]
    jpeg_quality: int


def paint_background(
    image_size: tuple[int, int],
    K: Float64[np.ndarray, "3 3"],
    R: Float64[np.ndarray, "3 3"],
    *,
    eye_level: float,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "h w 3"]:
    """A floor in perspective (y = 0, seen from `eye_level` metres) below a wall or a sky."""
    size = (image_size[0] // 2, image_size[1] // 2)  # half as fine: a background is out of focus
    y, x = 2 * np.mgrid[: size[0], : size[1]].astype(np.float64) + 0.5
    rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(K).T @ R
    image = _paint_wall(size, rng)
    steep = -rays[..., 1] / np.linalg.norm(rays, axis=-1)
    is_floor = steep > eye_level / MAX_FLOOR
    distance = eye_level / np.maximum(-rays[..., 1], 1e-6)
    ground = rays[..., [0, 2]] * distance[..., None]
    image[is_floor] = _paint_floor(ground[is_floor], rng)
    painted = np.clip(image, 0, 255).astype(np.uint8)
    return np.asarray(
        cv2.resize(painted, image_size[::-1], interpolation=cv2.INTER_LINEAR), np.uint8
    )


def turn_background(
    background: UInt8[np.ndarray, "h w 3"],
    K: Float64[np.ndarray, "3 3"],
    R: Float64[np.ndarray, "3 3"],
    *,
    R_painted: Float64[np.ndarray, "3 3"],
) -> UInt8[np.ndarray, "h w 3"]:
    """The background as a camera of rotation `R` sees it, if it is far away."""
    homography = K @ R @ R_painted.T @ np.linalg.inv(K)
    size = (background.shape[1], background.shape[0])
    turned = cv2.warpPerspective(background, homography, size, borderMode=cv2.BORDER_REFLECT_101)
    return turned.astype(np.uint8, copy=False)


def sample_degradation(image_size: tuple[int, int], rng: np.random.Generator) -> Degradation:
    """Slight, mostly."""
    noise_size = (image_size[0] + NOISE_MARGIN, image_size[1] + NOISE_MARGIN)
    return Degradation(
        blur=float(max(rng.uniform(-0.6, 1.0), 0.0)),
        noise=rng.standard_normal(noise_size, np.float32) * np.float32(rng.uniform(0, 5)),
        gain=rng.uniform(0.8, 1.15) * rng.uniform(0.94, 1.06, 3),
        jpeg_quality=int(rng.integers(45, 96)),
    )


def degrade(
    rgb: UInt8[np.ndarray, "h w 3"], degradation: Degradation, rng: np.random.Generator
) -> UInt8[np.ndarray, "h w 3"]:
    """Blur, colour, noise and JPEG, in the order of a camera."""
    image = rgb.astype(np.float32)
    if degradation.blur > 0.2:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), degradation.blur), np.float32)
    image *= degradation.gain.astype(np.float32)
    top, left = rng.integers(0, NOISE_MARGIN, 2)
    height, width = image.shape[:2]
    image += degradation.noise[top : top + height, left : left + width, None]
    image = np.clip(image, 0, 255, out=image).astype(np.uint8)
    return decode_image(encode_jpeg(image, degradation.jpeg_quality))


def _paint_wall(image_size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A gradient with blotches and, mostly, boxes: furniture, windows, houses, trees."""
    height, width = image_size
    ramp = np.linspace(0, 1, height)[:, None, None]
    top, bottom = (random_color(rng, strength=0.5) for _ in range(2))
    image = top * (1 - ramp) + bottom * ramp + np.zeros((1, width, 1))
    image += rng.uniform(3, 24) * _cloud(image_size, rng)[..., None]
    for _ in range(rng.integers(0, 14)):
        x, y = rng.uniform(-0.1, 1) * width, rng.uniform(-0.1, 0.9) * height
        w, h = rng.uniform(0.03, 0.35, 2) * (width, height)
        color = random_color(rng).tolist()
        if rng.random() < 0.25:
            center, axes = (int(x), int(y)), (int(w / 2) + 1, int(h / 2) + 1)
            cv2.ellipse(image, center, axes, 0, 0, 360, color, -1, cv2.LINE_AA)
        else:
            corners = (int(x), int(y)), (int(x + w), int(y + h))
            thickness = -1 if rng.random() < 0.75 else int(rng.integers(1, 6))
            cv2.rectangle(image, *corners, color, thickness, cv2.LINE_AA)
    return image + rng.uniform(0, 14) * _cloud(image_size, rng, finest=True)[..., None]


def _paint_floor(ground: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Plain, planks or tiles, paler with distance, with a little dirt; `ground` in metres, n 2."""
    color, far = (random_color(rng, strength=0.5) for _ in range(2))
    angle, period = rng.uniform(0, np.pi), rng.uniform(0.3, 1.2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    cell = np.floor(ground @ turn / period)
    pattern = rng.choice(["plain", "planks", "tiles"], p=[0.5, 0.25, 0.25])
    odd = {"plain": 0 * cell[:, 0], "planks": cell[:, 0] % 2, "tiles": cell.sum(-1) % 2}[
        str(pattern)
    ]
    colors = color * (1 + rng.uniform(-0.35, 0.35) * odd[:, None])
    distance = np.linalg.norm(ground, axis=-1)
    waves = rng.normal(0, 1, (8, 2)) * rng.uniform(1, 12, (8, 1))
    dirt = np.sin(ground @ waves.T + rng.uniform(0, 6, 8)).sum(-1) / (1 + distance / 8)
    fade = np.exp(-distance / rng.uniform(8, 40))[:, None]
    return colors * fade + far * (1 - fade) + rng.uniform(1, 5) * dirt[:, None]


def _cloud(
    image_size: tuple[int, int], rng: np.random.Generator, *, finest: bool = False
) -> Float32[np.ndarray, "h w"]:
    """Smooth noise of about unit size: random grids of several finenesses, enlarged and added."""
    height, width = image_size
    grids = (48, 96) if finest else (4, 8, 16, 32)
    layers = [
        cv2.resize(
            rng.standard_normal((grid, grid), np.float32),
            (width, height),
            interpolation=cv2.INTER_CUBIC,
        )
        for grid in grids
    ]
    return np.asarray(sum(layers) / len(layers) ** 0.5, np.float32)
