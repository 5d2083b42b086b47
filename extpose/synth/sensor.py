"""What lens, sensor and codec do to a picture.

Axes    h w pixels   colours are RGB, 0 to 255
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8

from extpose.data.clip import decode_image, encode_jpeg

NOISE_MARGIN = 64
"""Pixels by which the sensor's noise can be shifted from frame to frame."""


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """The same in all frames of a clip."""

    blur: float
    """Deviation in pixels."""
    noise: Float32[np.ndarray, "noise_h noise_w"]
    """In grey levels; larger than a frame, each of which takes another part of it."""
    gain: Float64[np.ndarray, " 3"]
    jpeg_quality: int
    coarseness: float = 1.0
    """By how much the picture was smaller once."""
    shutter: float = 0.0
    """Part of the time between frames during which light is gathered; 0: no motion blur."""


def sample_degradation(image_size: tuple[int, int], rng: np.random.Generator) -> Degradation:
    """Slight, mostly."""
    noise_size = (image_size[0] + NOISE_MARGIN, image_size[1] + NOISE_MARGIN)
    amount = rng.uniform(0, 4) if rng.random() < 0.88 else rng.uniform(4, 11)
    noise = rng.standard_normal(noise_size, np.float32)
    return Degradation(
        blur=float(max(rng.uniform(-0.6, 1.0), 0.0)),
        noise=noise * np.float32(amount),
        gain=rng.uniform(0.75, 1.2) * rng.uniform(0.94, 1.06, 3),
        jpeg_quality=int(rng.integers(40, 96)),
        coarseness=float(rng.uniform(1.3, 2.5)) if rng.random() < 0.15 else 1.0,
        shutter=float(rng.uniform(0.3, 1.0)) if rng.random() < 0.3 else 0.0,
    )


def degrade(
    rgb: UInt8[np.ndarray, "h w 3"], degradation: Degradation, rng: np.random.Generator
) -> UInt8[np.ndarray, "h w 3"]:
    """Blur, colour, noise and JPEG, in the order of a camera."""
    height, width = rgb.shape[:2]
    image = rgb
    if degradation.blur > 0.2:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), degradation.blur), np.uint8)
    if degradation.coarseness > 1:
        small = (round(width / degradation.coarseness), round(height / degradation.coarseness))
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        image = cv2.resize(image, (width, height)).astype(np.uint8, copy=False)
    top, left = rng.integers(0, NOISE_MARGIN, 2)
    noise = degradation.noise[top : top + height, left : left + width]
    grain = cv2.merge([noise, noise, noise])
    table = np.clip(np.arange(256)[:, None] * degradation.gain, 0, 255).astype(np.uint8)
    gained = cv2.LUT(image, table[None])
    noisy = np.asarray(cv2.add(gained, grain, dtype=cv2.CV_8U), np.uint8)
    return decode_image(encode_jpeg(noisy, degradation.jpeg_quality))
