"""2D evidence made from the truth: what a detector would have said, errors included.

Axes    t frames   k keypoints
Units   source pixels; sizes of the noise are fractions of the person's size
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64

from extpose.keypoints import FLIP_PAIRS, KeypointSet

HIDDEN_BEHIND = 0.16
"""A keypoint lies inside the body: it counts as hidden when a surface is this much nearer."""


@dataclass(frozen=True, kw_only=True)
class KeypointNoise:
    """How a detector errs. Defaults follow MoveNet Thunder on such pictures."""

    jitter: float = 0.011
    """Deviation of a visible keypoint on each axis, fraction of the person's size."""
    hidden_factor: float = 3.5
    """How much larger the deviation of a hidden keypoint is."""
    correlation: float = 0.8
    """Of the deviation from one frame to the next."""
    miss: float = 0.015
    """Probability that a visible keypoint is not found in a frame."""
    hidden_miss: float = 0.15
    swap: float = 0.01
    """Probability that left and right of a pair of limbs are exchanged in a frame."""
    confidence: float = 0.82
    """Of a visible keypoint without error."""
    hidden_confidence: float = 0.45
    confidence_noise: float = 0.1
    confidence_scale: float = 0.03
    """Error, as a fraction of the person's size, that lowers the confidence to 60 %."""


def find_visible(
    keypoints_2d: Float[np.ndarray, "k 2"],
    depth: Float[np.ndarray, " k"],
    depth_map: Float32[np.ndarray, "h w"],
) -> Bool[np.ndarray, " k"]:
    """Which keypoints are in the picture, in front of the camera and not behind another part."""
    height, width = depth_map.shape
    is_inside = (
        (depth > 0)
        & (keypoints_2d >= -0.5).all(-1)
        & (keypoints_2d[:, 0] < width - 0.5)
        & (keypoints_2d[:, 1] < height - 0.5)
    )
    x, y = np.where(is_inside[:, None], np.rint(keypoints_2d), 0).astype(int).T
    return is_inside & (depth_map[y, x] > depth - HIDDEN_BEHIND)


def add_noise(
    keypoints_2d: Float[np.ndarray, "t k 2"],
    is_visible: Bool[np.ndarray, "t k"],
    is_inside: Bool[np.ndarray, "t k"],
    *,
    size: Float[np.ndarray, " t"],
    keypoint_set: KeypointSet,
    noise: KeypointNoise,
    rng: np.random.Generator,
) -> Float32[np.ndarray, "t k 3"]:
    """Positions and confidences as a detector would give them; what it misses has confidence 0.

    `size` is the person's size in pixels; keypoints outside the picture are never found.
    """
    shape = is_visible.shape
    deviation = noise.jitter * np.where(is_visible, 1.0, noise.hidden_factor)
    error = deviation[..., None] * correlated_noise((*shape, 2), noise.correlation, rng)
    found = keypoints_2d + error * size[:, None, None]
    confidence = np.where(is_visible, noise.confidence, noise.hidden_confidence)
    # A pair of left and right that is taken for its opposite is wrong by their distance.
    order = np.tile(np.arange(shape[1]), (shape[0], 1))
    for left, right in FLIP_PAIRS[keypoint_set]:
        is_swapped = rng.random(shape[0]) < noise.swap
        order[is_swapped, left], order[is_swapped, right] = right, left
    found = np.take_along_axis(found, order[..., None], 1)
    relative = np.linalg.norm(error, axis=-1) / noise.confidence_scale
    confidence = confidence * np.exp(-0.5 * np.take_along_axis(relative, order, 1) ** 2)
    confidence += rng.normal(0, noise.confidence_noise, shape)
    is_missed = rng.random(shape) < np.where(is_visible, noise.miss, noise.hidden_miss)
    confidence = np.where(is_inside & ~is_missed, np.clip(confidence, 0.05, 1.0), 0.0)
    return np.concatenate([found, confidence[..., None]], -1).astype(np.float32)


def correlated_noise(
    shape: tuple[int, ...], correlation: float, rng: np.random.Generator
) -> Float64[np.ndarray, "*n"]:
    """Unit normal noise whose neighbours along the first axis are correlated (AR(1))."""
    noise = rng.normal(0, 1, shape)
    for i in range(1, shape[0]):
        noise[i] = correlation * noise[i - 1] + np.sqrt(1 - correlation**2) * noise[i]
    return noise
