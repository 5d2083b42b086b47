"""Photographs of noise, so that worlds with photographs need no downloads."""

import numpy as np

from extpose.synth.photographs import Panorama, Photographs


def make_photographs(*, has_floor: bool = True) -> Photographs:
    """One small place, one picture, one texture."""
    rng = np.random.default_rng(0)
    return Photographs(
        panoramas=(
            Panorama(
                rgb=rng.integers(40, 200, (32, 64, 3)).astype(np.uint8),
                sun_world=np.array([0.0, 0.8, 0.6]),
                tint=np.array([1.05, 1.0, 0.95]),
                radius=5.0,
                has_floor=has_floor,
            ),
        ),
        pictures=(rng.integers(0, 255, (30, 40, 3)).astype(np.uint8),),
        textures=(rng.uniform(0.5, 1.5, (64, 64)).astype(np.float32),),
    )
