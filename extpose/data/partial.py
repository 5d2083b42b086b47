"""Augmentations after which a person is seen in part: extreme crops, and things in front.

An extreme crop (4D-Humans' aggressive scheme) shows a part of the body that is visible: one square
for all frames of a clip, about the keypoints of the part in all of them. Occluders are boxes of one
colour or of noise that drift over the pictures in a straight line; the skeleton is not covered,
since keypoints come from elsewhere. Labels stay complete: the network is to guess what it cannot
see. Numpy only, no torch.

Axes    t frames   k keypoints   h w pixels
Frames  `_crop` pixels of the un-augmented network crop; occluders live in the augmented one, in
        fractions of its side
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from extpose.config import AugmentConfig
from extpose.data.augment import Augmentation
from extpose.data.crop import ASPECT
from extpose.data.occluder import Occluder
from extpose.keypoints import KEYPOINT_NAMES

MIN_SIDE = 0.2
"""An extreme crop is at least this part of the network's crop: stored pixels end there."""
MIN_CONFIDENCE = 0.3
"""Keypoints below do not count as visible."""
NOISE_CELLS = 24
_HEAD = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")
_SHOULDERS = ("left_shoulder", "right_shoulder")
_HIPS = ("left_hip", "right_hip")
_ARMS = tuple(f"{side}_{part}" for part in ("elbow", "wrist") for side in ("left", "right"))
_SHINS = tuple(f"{side}_{part}" for part in ("knee", "ankle") for side in ("left", "right"))


@dataclass(frozen=True)
class Part:
    """A part of the body to crop to."""

    keypoints: tuple[str, ...]
    margin: float
    """Side of the crop over that of the tight box (4D-Humans' values)."""
    weight: float
    """Among the parts, when the whole body is visible."""


def _limb(side: str, *joints: str) -> tuple[str, ...]:
    return tuple(f"{side}_{joint}" for joint in joints)


PARTS: dict[str, Part] = {
    "down to the hips": Part((*_HEAD, *_SHOULDERS, *_ARMS, *_HIPS), 1.1, 0.2),
    "down to the shoulders": Part((*_HEAD, *_SHOULDERS), 1.2, 0.1),
    "head": Part(_HEAD, 1.3, 0.1),
    "torso": Part((*_SHOULDERS, *_HIPS), 1.1, 0.1),
    "right arm": Part(_limb("right", "shoulder", "elbow", "wrist"), 1.1, 0.1),
    "left arm": Part(_limb("left", "shoulder", "elbow", "wrist"), 1.1, 0.1),
    "legs": Part((*_HIPS, *_SHINS), 1.1, 0.1),
    "right leg": Part(_limb("right", "hip", "knee", "ankle"), 1.1, 0.1),
    "left leg": Part(_limb("left", "hip", "knee", "ankle"), 1.1, 0.1),
}
"""Weights: 4D-Humans'. Parts of which something is not visible are left out of the draw."""


def hide_parts(
    rng: np.random.Generator,
    augmentation: Augmentation,
    config: AugmentConfig,
    *,
    keypoints_crop: Float32[np.ndarray, "t k 3"],
    side: int,
) -> Augmentation:
    """Draw an extreme crop (bodies only: COCO's keypoints) and occluders for a clip.

    `keypoints_crop` are its keypoints in the un-augmented network crop, `side` pixels wide. Scale
    and translation that were drawn before are then relative to the extreme crop.
    """
    chance = rng.random(2)
    is_body = keypoints_crop.shape[1] == len(KEYPOINT_NAMES["coco17"])
    if is_body and chance[0] < config.extreme_crop_probability:
        box = draw_part(rng, keypoints_crop, side=side)
        if box is not None:
            augmentation = crop_to(augmentation, box, side=side)
    if chance[1] < config.occlusion_probability:
        augmentation = replace(augmentation, occluders=draw_occluders(rng))
    return augmentation


def draw_part(
    rng: np.random.Generator, keypoints_crop: Float32[np.ndarray, "t k 3"], *, side: int
) -> Float64[np.ndarray, " 3"] | None:
    """Square (centre x, centre y, side) about a visible part in all frames; None without any."""
    seen = np.max(keypoints_crop[..., 2], axis=0) >= MIN_CONFIDENCE
    candidates = [part for part in PARTS.values() if _is_visible(part, seen)]
    if not candidates:
        return None
    weights = np.array([part.weight for part in candidates])
    part = candidates[int(rng.choice(len(candidates), p=weights / weights.sum()))]
    points = keypoints_crop[:, _rows(part)].reshape(-1, 3).astype(np.float64)
    points = points[points[:, 2] >= MIN_CONFIDENCE, :2]
    low, high = points.min(0), points.max(0)
    width, height = high - low
    wanted = part.margin * max(height, width / ASPECT)
    return np.array([*(low + high) / 2, np.clip(wanted, MIN_SIDE * side, side)])


def crop_to(
    augmentation: Augmentation, box_crop: Float64[np.ndarray, " 3"], *, side: int
) -> Augmentation:
    """The same draw about another square (centre x, centre y, side) of the network's crop."""
    share = float(box_crop[2]) / side
    x, y = (
        float(centre) / side - 0.5 + share * moved
        for centre, moved in zip(box_crop[:2], augmentation.translation, strict=True)
    )
    return replace(augmentation, scale=augmentation.scale * share, translation=(x, y))


def draw_occluders(rng: np.random.Generator) -> tuple[Occluder, ...]:
    """One to three boxes, a tenth to four tenths of the crop wide and high."""
    return tuple(_draw_occluder(rng) for _ in range(int(rng.integers(1, 4))))


def _draw_occluder(rng: np.random.Generator) -> Occluder:
    size, start = rng.uniform(0.1, 0.4, 2), rng.uniform(0.1, 0.9, 2)
    velocity = np.clip(rng.normal(0, 0.02, 2), -0.05, 0.05)
    colour = rng.integers(0, 256, (1, 1, 3), np.uint8)
    cells: UInt8[np.ndarray, "h w 3"] = colour
    if rng.random() < 0.5:
        cells = rng.integers(0, 256, (NOISE_CELLS, NOISE_CELLS, 3), np.uint8)
    return Occluder(
        start=(float(start[0]), float(start[1])),
        velocity=(float(velocity[0]), float(velocity[1])),
        size=(float(size[0]), float(size[1])),
        cells=cells,
    )


def _rows(part: Part) -> list[int]:
    return [KEYPOINT_NAMES["coco17"].index(name) for name in part.keypoints]


def _is_visible(part: Part, seen: Bool[np.ndarray, " k"]) -> bool:
    """The whole part; of the head two points will do (the ears hide each other)."""
    head = [row for row in _rows(part) if KEYPOINT_NAMES["coco17"][row] in _HEAD]
    rest = [row for row in _rows(part) if row not in head]
    return bool(seen[rest].all() and (not head or seen[head].sum() >= 2))
