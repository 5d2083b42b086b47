"""Rooms and landscapes without people: photographed or painted.

Axes    h w pixels   colours are RGB, 0 to 255
World   y up, the floor is y = 0
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8

from extpose.synth.appearance import random_color
from extpose.synth.photographs import Photographs, look_up

MAX_FLOOR = 40.0
"""Metres to which the pattern of the floor is drawn."""
TEXTURE_METRES = 1.6
"""Side of a packaged texture on a floor."""


@dataclass(frozen=True, kw_only=True)
class Backdrop:
    """What is behind, and the light that it gives."""

    image: UInt8[np.ndarray, "h w 3"]
    sun_world: Float64[np.ndarray, " 3"] | None
    """Unit vector towards the light; None: from anywhere."""
    tint: Float64[np.ndarray, " 3"]
    has_floor: bool
    """Whether a shadow has a place to fall on."""


def paint_backdrop(
    image_size: tuple[int, int],
    K: Float64[np.ndarray, "3 3"],
    R: Float64[np.ndarray, "3 3"],
    *,
    eye_level: float,
    photographs: Photographs | None,
    rng: np.random.Generator,
) -> Backdrop:
    """A photographed place, a picture, or a painted room, as a camera of rotation `R` sees it."""
    # Half as fine: a background is out of focus.
    size = (-(-image_size[0] // 2), -(-image_size[1] // 2))
    y, x = 2 * np.mgrid[: size[0], : size[1]].astype(np.float64) + 0.5
    rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(K).T @ R
    kind, sun, tint = rng.random(), None, 1 + 0.04 * rng.normal(0, 1, 3)
    has_floor = True
    if photographs is not None and kind < 0.6:
        place = photographs.panoramas[rng.integers(len(photographs.panoramas))]
        heading = rng.uniform(0, 2 * np.pi)
        image = look_up(place.rgb, rays, heading).astype(np.float64)
        image *= 1 + 0.05 * rng.uniform(0, 1.5) * _cloud(size, rng, finest=True)[..., None]
        c, s = np.cos(heading), np.sin(heading)
        x_sun, y_sun, z_sun = place.sun_world
        sun = np.array([c * x_sun + s * z_sun, y_sun, -s * x_sun + c * z_sun])
        tint = place.tint**0.5 * tint
    elif photographs is not None and kind < 0.66:
        image, has_floor = _cut_picture(photographs.pictures, size, rng), False
    else:
        image = _paint_room(rays, size, eye_level=eye_level, photographs=photographs, rng=rng)
    painted = np.clip(image * rng.uniform(0.75, 1.15), 0, 255).astype(np.uint8)
    whole = cv2.resize(painted, image_size[::-1], interpolation=cv2.INTER_LINEAR)
    return Backdrop(
        image=np.asarray(whole, np.uint8),
        sun_world=sun,
        tint=tint / tint.mean(),
        has_floor=has_floor,
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


def _cut_picture(
    pictures: tuple[np.ndarray, ...], size: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """A random part of a random picture, out of focus."""
    picture = pictures[rng.integers(len(pictures))]
    part = rng.uniform(0.5, 1.0) * min(picture.shape[0] / size[0], picture.shape[1] / size[1])
    height, width = int(part * size[0]), int(part * size[1])
    top = int(rng.integers(picture.shape[0] - height + 1))
    left = int(rng.integers(picture.shape[1] - width + 1))
    cut = picture[top : top + height, left : left + width]
    cut = cut[:, :: -1 if rng.random() < 0.5 else 1]
    shrunk = cv2.resize(np.ascontiguousarray(cut), size[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.GaussianBlur(shrunk, (0, 0), rng.uniform(0.4, 3)), np.float64)


def _paint_room(
    rays: np.ndarray,
    size: tuple[int, int],
    *,
    eye_level: float,
    photographs: Photographs | None,
    rng: np.random.Generator,
) -> np.ndarray:
    """A floor in perspective, seen from `eye_level` metres, below a wall or a sky."""
    image = _paint_wall(size, rng)
    if photographs is not None and rng.random() < 0.2:
        image = _cut_picture(photographs.pictures, size, rng)
    steep = -rays[..., 1] / np.linalg.norm(rays, axis=-1)
    is_floor = steep > eye_level / MAX_FLOOR
    distance = eye_level / np.maximum(-rays[..., 1], 1e-6)
    ground = (rays[..., [0, 2]] * distance[..., None])[is_floor]
    floor = _paint_floor(ground, rng)
    if photographs is not None and rng.random() < 0.6:
        texture = photographs.textures[rng.integers(len(photographs.textures))]
        at = (ground * (len(texture) / TEXTURE_METRES / rng.uniform(0.7, 3))).astype(int)
        found = texture[at[:, 1] % texture.shape[0], at[:, 0] % texture.shape[1]]
        floor *= 1 + rng.uniform(0.2, 0.7) * (found[:, None] - 1)
    image[is_floor] = floor
    return image


def _paint_wall(image_size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A gradient with blotches and, mostly, boxes: furniture, windows, houses, trees."""
    height, width = image_size
    ramp = np.linspace(0, 1, height)[:, None, None]
    top, bottom = (random_color(rng, strength=0.35) for _ in range(2))
    image = top * (1 - ramp) + bottom * ramp + np.zeros((1, width, 1))
    image += rng.uniform(2, 14) * _cloud(image_size, rng)[..., None]
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
    return image + rng.uniform(0, 8) * _cloud(image_size, rng, finest=True)[..., None]


def _paint_floor(ground: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Plain, planks or tiles, paler with distance, with a little dirt; `ground` in metres, n 2."""
    color, far = (random_color(rng, strength=0.35) for _ in range(2))
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
