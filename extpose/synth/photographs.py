"""Places around and pictures behind: the packaged photographs, read and exposed.

Axes    h w pixels of an equirectangular panorama (x: all around, y: zenith to nadir)
World   y up; the middle of a panorama looks along +z, its left part towards +x
"""

import base64
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8

from extpose.errors import AssetError
from extpose.schema import Split

PANORAMAS: dict[Split, tuple[str, ...]] = {
    "train": (
        *("apartment", "bridge", "city", "dawn", "forest", "hall", "lobby", "night", "park"),
        *("studio", "venice", "warehouse"),
    ),
    "val": ("esplanade", "sunrise", "workshop"),
    "test": ("lab", "sky", "sunset"),
}
"""Places of each split, none in two of them."""
PICTURES = ("chelsea.png", "coffee.png", "rocket.jpg")
TEXTURES = ("brick.png", "grass.png", "gravel.png")
WALLS = {
    **{"apartment": 5.0, "bridge": 8.0, "hall": 14.0, "lobby": 9.0, "studio": 6.0},
    **{"warehouse": 14.0, "esplanade": 12.0, "workshop": 14.0, "lab": 9.0},
}
"""Metres to the walls of a room, about; the other places are landscapes."""
FAR = 40.0
FLOORLESS = ("sky",)
"""Places whose lower half is water."""
EXPOSED = 70
"""Percentile of a panorama's brightness that becomes a middle grey."""


@dataclass(frozen=True, kw_only=True)
class Panorama:
    """A place, seen all around."""

    rgb: UInt8[np.ndarray, "h w 3"]
    sun_world: Float64[np.ndarray, " 3"]
    """Unit vector towards where most of the light comes from."""
    tint: Float64[np.ndarray, " 3"]
    """Colour of the light, of mean one."""
    radius: float
    """Metres to which its floor reaches."""
    has_floor: bool


@dataclass(frozen=True, kw_only=True)
class Photographs:
    """What backgrounds are made of."""

    panoramas: tuple[Panorama, ...]
    pictures: tuple[UInt8[np.ndarray, "_ _ 3"], ...]
    textures: tuple[Float32[np.ndarray, "h w"], ...]
    """Brightness, of mean one."""


def load_photographs(panorama_dir: Path, picture_dir: Path, split: Split) -> Photographs:
    """The photographs of a split. Raises AssetError that names a file that is not one."""
    return Photographs(
        panoramas=tuple(
            read_panorama(panorama_dir / f"{name}.exr.js") for name in PANORAMAS[split]
        ),
        pictures=tuple(_read_picture(picture_dir / name) for name in PICTURES),
        textures=tuple(_read_texture(picture_dir / name) for name in TEXTURES),
    )


def read_panorama(path: Path) -> Panorama:
    """An OpenEXR picture inside a JavaScript string, exposed and gamma-corrected."""
    # Only here: worlds without photographs do without this library.
    import OpenEXR

    try:
        data = base64.b64decode(path.read_text().partition("base64,")[2].rstrip("';\n "))
        with tempfile.NamedTemporaryFile(suffix=".exr") as file:  # the library reads files only
            file.write(data)
            file.flush()
            with OpenEXR.File(file.name) as image:
                pixels = image.channels()["RGB"].pixels
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise AssetError(f"{path}: not a packaged panorama ({error})") from error
    # The sun is beyond what half floats hold.
    light = np.nan_to_num(pixels.astype(np.float64), nan=6e4, posinf=6e4, neginf=6e4)
    light = _mend_lamps(light.clip(0, 6e4))
    middle = max(float(np.percentile(light.mean(-1), EXPOSED)), 1e-6)
    exposed = light * (0.5 / middle)
    shown = 255 * np.clip(exposed / (1 + 0.35 * exposed), 0, 1) ** (1 / 2.2)
    tint = np.minimum(exposed, 2.0).mean((0, 1)) ** 0.5
    name = path.name.partition(".")[0]
    return Panorama(
        rgb=shown.astype(np.uint8),
        sun_world=_find_sun(exposed),
        tint=tint / tint.mean(),
        radius=WALLS.get(name, FAR),
        has_floor=name not in FLOORLESS,
    )


def _mend_lamps(light: np.ndarray) -> np.ndarray:
    """Very bright is white; compression leaves black rings around it, which become bright too."""
    brightest = light.max(-1, keepdims=True)
    light = np.where(brightest > 20 * np.median(light), brightest, light)
    grown = np.asarray(cv2.dilate(light, np.ones((5, 5))), np.float64)
    is_ring = (light.min(-1) < 0.02 * grown.max(-1)) & (grown.max(-1) > 20 * np.median(light))
    return np.where(is_ring[..., None], grown, light)


def _find_sun(light: np.ndarray) -> np.ndarray:
    """The mean direction of what is bright, and above the horizon."""
    height, width = light.shape[:2]
    elevation = (0.5 - (np.arange(height) + 0.5) / height) * np.pi
    azimuth = ((np.arange(width) + 0.5) / width - 0.5) * 2 * np.pi
    strength = np.minimum(light.mean(-1), 50.0) ** 1.5 * np.cos(elevation)[:, None]
    direction = np.array(
        [
            -(strength * (np.cos(elevation)[:, None] * np.sin(azimuth))).sum(),
            (strength * np.sin(elevation)[:, None]).sum(),
            (strength * (np.cos(elevation)[:, None] * np.cos(azimuth))).sum(),
        ]
    )
    direction[1] = max(direction[1], 0.4 * np.linalg.norm(direction[[0, 2]]), 1e-9)
    return direction / np.linalg.norm(direction)


def _read_picture(path: Path) -> np.ndarray:
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise AssetError(f"{path}: not a picture; bring it with: extpose doctor --fetch")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def _read_texture(path: Path) -> np.ndarray:
    grey = _read_picture(path).mean(-1)
    return (grey / max(float(grey.mean()), 1.0)).astype(np.float32)
