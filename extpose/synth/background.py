"""Rooms and landscapes without people: photographed or painted.

Axes    h w pixels   colours are RGB, 0 to 255
World   y up, the floor is y = 0
"""

import cv2
import numpy as np
from jaxtyping import Float32, Float64

from extpose.synth.appearance import random_color
from extpose.synth.photographs import Photographs
from extpose.synth.surroundings import Backdrop, coarsen_detail
from extpose.synth.world import Camera

PHOTOGRAPHED = 0.62
"""Share of places that are photographs, where there are any."""
HEIGHT = 1.6
"""Metres above the floor from which panoramas are taken."""
ROOM = 1.5
"""Metres of floor behind whoever is farthest from the camera, at least."""
TILE = 3.2
"""Side of a floor's pattern, metres."""
DETAIL = 256
"""Its pixels."""
WALL = (512, 1024)
"""Height and width of painted panoramas."""
DEGREES = WALL[1] / 360


def paint_backdrop(
    camera: Camera,
    path_world: Float64[np.ndarray, "t 3"],
    *,
    photographs: Photographs | None,
    rng: np.random.Generator,
) -> Backdrop:
    """A photographed place or a painted room, large enough for this camera and this path."""
    centre = camera.position[0, [0, 2]]
    seen = np.concatenate([camera.position, path_world])[:, [0, 2]] - centre
    reach = float(np.linalg.norm(seen, axis=-1).max()) + ROOM
    heading, sun, tint = rng.uniform(0, 2 * np.pi), None, 1 + 0.04 * rng.normal(0, 1, 3)
    if photographs is not None and rng.random() < PHOTOGRAPHED:
        place = photographs.panoramas[rng.integers(len(photographs.panoramas))]
        panorama, radius = place.rgb, place.radius
        if not place.has_floor:
            panorama = panorama.copy()
            _lay_floor(panorama, HEIGHT / radius, rng)
        c, s = np.cos(heading), np.sin(heading)
        x_sun, y_sun, z_sun = place.sun_world
        sun = np.array([c * x_sun + s * z_sun, y_sun, -s * x_sun + c * z_sun])
        tint = place.tint**0.5 * tint
        # The floor's own pattern is in the photograph: what is added is what its pixels lack.
        detail = 1 + rng.uniform(0.1, 0.5) * (_draw_grain(photographs, rng) - 1)
    else:
        radius = max(float(np.exp(rng.uniform(np.log(4), np.log(40)))), reach)
        panorama = _paint_wall(rng)
        if photographs is not None:
            _hang_pictures(panorama, photographs, rng)
        _lay_floor(panorama, HEIGHT / radius, rng)
        detail = _draw_floor(photographs, rng)
    exposed = cv2.convertScaleAbs(panorama, alpha=rng.uniform(0.75, 1.15))
    return Backdrop(
        panorama=np.asarray(exposed, np.uint8),
        heading=float(heading),
        centre=centre,
        height=HEIGHT,
        radius=max(radius, reach),
        detail=coarsen_detail((128 * detail).clip(0, 255).astype(np.uint8)),
        tile=TILE,
        sun_world=sun,
        tint=tint / tint.mean(),
    )


def _paint_wall(rng: np.random.Generator) -> np.ndarray:
    """A gradient with blotches and, mostly, boxes: furniture, windows, houses, trees."""
    ramp = np.linspace(-0.5, 1.5, WALL[0] // 4, dtype=np.float32).clip(0, 1)[:, None, None]
    top, bottom = (random_color(rng, strength=0.35).astype(np.float32) for _ in range(2))
    blotches = rng.uniform(2, 14) * _cloud((WALL[0] // 4, WALL[1] // 4), (8, 16, 32, 64), rng)
    coarse = top * (1 - ramp) + bottom * ramp + blotches[..., None]
    coarse = np.asarray(coarse.clip(0, 255), np.uint8)
    image = np.asarray(cv2.resize(coarse, WALL[::-1]), np.uint8)
    for _ in range(rng.integers(0, 60)):
        color = random_color(rng).tolist()
        w, h = DEGREES * np.exp(rng.uniform(np.log(1.5), np.log([14, 22])))
        x, low = rng.uniform(0, WALL[1]), WALL[0] / 2 + DEGREES * rng.uniform(-30, 12)
        is_round, thickness = rng.random() < 0.2, -1
        if rng.random() < 0.2:
            thickness = int(rng.integers(1, 5))
        for left in (x, x - WALL[1]):  # the panorama goes around
            if is_round:
                center, axes = (int(left), int(low - h / 2)), (int(w / 2) + 1, int(h / 2) + 1)
                cv2.ellipse(image, center, axes, 0, 0, 360, color, thickness, cv2.LINE_AA)
            else:
                corners = (int(left), int(low - h)), (int(left + w), int(low))
                cv2.rectangle(image, *corners, color, thickness, cv2.LINE_AA)
    return image


def _hang_pictures(
    panorama: np.ndarray, photographs: Photographs, rng: np.random.Generator
) -> None:
    """Small framed photographs at the height of eyes."""
    for _ in range(rng.integers(0, 5)):
        picture = photographs.pictures[rng.integers(len(photographs.pictures))]
        width = int(DEGREES * rng.uniform(4, 11))
        height = int(width * picture.shape[0] / picture.shape[1])
        frame = int(rng.integers(1, 4))
        shrunk = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        framed = cv2.copyMakeBorder(
            *(shrunk, frame, frame, frame, frame, cv2.BORDER_CONSTANT),
            value=random_color(rng, strength=0.5).tolist(),
        )
        low = int(WALL[0] / 2 - DEGREES * rng.uniform(0, 8))
        left = int(rng.integers(WALL[1] - framed.shape[1]))
        panorama[low - framed.shape[0] : low, left : left + framed.shape[1]] = framed


def _lay_floor(panorama: np.ndarray, steepest: float, rng: np.random.Generator) -> None:
    """Paint what is below an angle of this tangent: one colour, paler with distance."""
    height = len(panorama)
    angle = ((np.arange(height) + 0.5) / height - 0.5) * np.pi
    is_floor = np.tan(angle.clip(-1.5, 1.5)) > steepest
    distance = HEIGHT / np.tan(angle[is_floor].clip(1e-3, 1.5))
    color, far = (random_color(rng, strength=0.35) for _ in range(2))
    fade = np.exp(-distance / rng.uniform(8, 40))[:, None]
    panorama[is_floor] = (color * fade + far * (1 - fade)).astype(np.uint8)[:, None]


def _draw_floor(
    photographs: Photographs | None, rng: np.random.Generator
) -> Float32[np.ndarray, "n n"]:
    """Plain, planks or tiles, with a little dirt or the grain of a photograph."""
    cells = int(rng.integers(2, 7)) * 2
    row, column = (np.arange(DETAIL) * cells // DETAIL % 2)[:, None], None
    column = row.T
    pattern = rng.choice(["plain", "planks", "tiles"], p=[0.5, 0.25, 0.25])
    odd = {"plain": 0 * row, "planks": row + 0 * column, "tiles": row ^ column}[str(pattern)]
    floor = 1 + rng.uniform(-0.35, 0.35) * odd.astype(np.float32)
    floor = floor + rng.uniform(0.01, 0.05) * _cloud((DETAIL, DETAIL), (4, 8, 16, 32, 64), rng)
    if photographs is not None and rng.random() < 0.6:
        floor = floor * (1 + rng.uniform(0.2, 0.7) * (_draw_grain(photographs, rng) - 1))
    return np.asarray(floor, np.float32)


def _draw_grain(photographs: Photographs, rng: np.random.Generator) -> Float32[np.ndarray, "n n"]:
    """A packaged texture, mirrored so that it goes on at its borders."""
    texture = photographs.textures[rng.integers(len(photographs.textures))]
    part = int(min(texture.shape) * rng.uniform(0.4, 1.0))
    half = DETAIL // 2
    cut = cv2.resize(texture[:part, :part], (half, half), interpolation=cv2.INTER_AREA)
    upper = np.concatenate([cut, cut[:, ::-1]], 1)
    return np.concatenate([upper, upper[::-1]]).astype(np.float32)


def _cloud(
    image_size: tuple[int, int], grids: tuple[int, ...], rng: np.random.Generator
) -> Float32[np.ndarray, "h w"]:
    """Smooth noise of about unit size: random grids of several finenesses, enlarged and added."""
    layers = [
        cv2.resize(
            rng.standard_normal((grid, grid), np.float32),
            image_size[::-1],
            interpolation=cv2.INTER_CUBIC,
        )
        for grid in grids
    ]
    return np.asarray(sum(layers) / len(layers) ** 0.5, np.float32)
