"""What training does to a clip besides cropping it: one draw for all frames, and the masking draw.

Every draw is a pure function of (seed, epoch, sample key): the same whatever the loader worker,
the rank or the restart. The values and their ranges are 4D-Humans'; numpy only, no torch.

Axes    t frames   k keypoints   j joint rotations without the root
Units   pixels, radians, metres
Frames  `_crop` the square that the network sees, `_img` source image, `_cam` camera (OpenCV
        axes). Rotation is in the image plane and turns x
        towards y: `p' = R(rotation) p`, in pixels and in the camera frame alike.
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Float64, Shaped
from scipy.spatial.transform import Rotation

from extpose.config import AugmentConfig
from extpose.data.occluder import Occluder
from extpose.keypoints import FLIP_PAIRS
from extpose.schema import TARGET_SET, BodyName, ClipTargets

FLIP_JOINTS: dict[str, tuple[tuple[int, int], ...]] = {
    "smpl": ((0, 1), (3, 4), (6, 7), (9, 10), (12, 13), (15, 16), (17, 18), (19, 20), (21, 22)),
    "mano": (),
}
"""Left and right among the joint rotations without the root. A mirrored hand is the other hand."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """One draw, for all frames of a clip. The crop is mirrored first, then rotated."""

    scale: float
    """Of the box: 1.3 shows the person smaller."""
    rotation: float
    translation: tuple[float, float]
    """Of the box's centre, as a fraction of the network crop's side."""
    color: Float32[np.ndarray, " 3"]
    """Factors for red, green and blue."""
    is_flipped: bool
    keypoint_noise: float
    """Standard deviation of the noise on the drawn keypoints, fraction of the crop."""
    joint_dropout: float
    """Probability that a keypoint is not drawn in the whole clip."""
    occluders: tuple[Occluder, ...] = ()
    """Things in front of the person, in the pictures only; see `partial.py`."""

    @property
    def moves_pixels(self) -> bool:
        """Whether the crop differs in geometry from the un-augmented one."""
        moved = (self.scale, self.rotation, self.translation) != (1.0, 0.0, (0.0, 0.0))
        return moved or self.is_flipped

    @property
    def changes_skeleton(self) -> bool:
        """Whether the stored drawing no longer serves."""
        return self.moves_pixels or self.keypoint_noise > 0 or self.joint_dropout > 0


@dataclass(frozen=True, kw_only=True)
class Masking:
    """Which modalities of a clip the network does not get to see."""

    rgb: bool
    skeleton: bool


NO_MASKING = Masking(rgb=False, skeleton=False)


def draw_rng(seed: int, epoch: int, key: str, *, purpose: str) -> np.random.Generator:
    """The random numbers of one sample in one epoch; each purpose has its own stream."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{purpose}/{key}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


def no_augmentation(*, is_flipped: bool = False) -> Augmentation:
    """The draw that changes nothing (or mirrors: left hands are always shown as right ones)."""
    return Augmentation(
        scale=1.0,
        rotation=0.0,
        translation=(0.0, 0.0),
        color=np.ones(3, np.float32),
        is_flipped=is_flipped,
        keypoint_noise=0.0,
        joint_dropout=0.0,
    )


def draw_augmentation(
    rng: np.random.Generator, config: AugmentConfig, *, is_right: bool | None
) -> Augmentation:
    """One draw. Hands (`is_right` given) are mirrored exactly when they are left ones.

    The hand network knows right hands only, so mirroring is not an augmentation there; a mirrored
    left hand is a right one.
    """
    always_flip = is_right is False
    if not config.enabled:
        return no_augmentation(is_flipped=always_flip)
    normal = np.clip(rng.standard_normal(4), -1, 1)
    angle = np.clip(rng.standard_normal(), -2, 2) * np.deg2rad(config.rotation_deg)
    chance = rng.random(2)
    color = rng.uniform(1 - config.color, 1 + config.color, 3).astype(np.float32)
    may_flip = is_right is None and bool(chance[1] < config.flip_probability)
    return Augmentation(
        scale=float(1 + config.scale * normal[0]),
        rotation=float(angle) if chance[0] < config.rotation_probability else 0.0,
        translation=(float(config.translation * normal[1]), float(config.translation * normal[2])),
        color=color,
        is_flipped=always_flip or may_flip,
        keypoint_noise=config.keypoint_noise,
        joint_dropout=config.joint_dropout,
    )


def draw_masking(rng: np.random.Generator, *, rgb: float, skeleton: float) -> Masking:
    """Drop each modality whole with its probability; a draw that drops both is repeated.

    With 0.5 and 0.5: image only, skeleton only and both come a third each.
    """
    if not (0 <= rgb <= 1 and 0 <= skeleton <= 1) or (rgb == 1 and skeleton == 1):
        raise ValueError(f"mask_rgb={rgb} and mask_skeleton={skeleton}: no draw can be kept")
    while True:
        drop_rgb, drop_skeleton = rng.random(2) < (rgb, skeleton)
        if not (drop_rgb and drop_skeleton):
            return Masking(rgb=bool(drop_rgb), skeleton=bool(drop_skeleton))


def crop_affine(augmentation: Augmentation, side: int, *, size: int) -> Float64[np.ndarray, "2 3"]:
    """Affine from pixels of the un-augmented network crop, `side` wide, to those of the augmented.

    The augmented crop is `size` wide. Without augmentation the centre stays the centre, HMR2.0's
    rule (`side` / 2 goes to `size` / 2), and for `size` = `side` it is exactly the identity.
    """
    cos, sin = np.cos(augmentation.rotation), np.sin(augmentation.rotation)
    mirror = -1.0 if augmentation.is_flipped else 1.0
    factor = size / (side * augmentation.scale)
    linear = factor * np.array([[cos * mirror, -sin], [sin * mirror, cos]])
    center = side / 2 + side * np.array(augmentation.translation)
    return np.column_stack([linear, size / 2 - linear @ center])


def disturb_keypoints(
    rng: np.random.Generator,
    keypoints_crop: Float32[np.ndarray, "t k 3"],
    augmentation: Augmentation,
    *,
    size: int,
) -> Float32[np.ndarray, "t k 3"]:
    """Noise on the points (each frame its own), and joints left out (of all frames)."""
    disturbed = keypoints_crop.copy()
    if augmentation.keypoint_noise > 0:
        noise = rng.standard_normal(disturbed[..., :2].shape)
        disturbed[..., :2] += (augmentation.keypoint_noise * size * noise).astype(np.float32)
    if augmentation.joint_dropout > 0:
        dropped = rng.random(disturbed.shape[1]) < augmentation.joint_dropout
        disturbed[:, dropped, 2] = 0
    return disturbed


def swap_sides(
    values: Shaped[np.ndarray, "t n c"], pairs: tuple[tuple[int, int], ...]
) -> Shaped[np.ndarray, "t n c"]:
    """Exchange each pair along the second axis."""
    order = np.arange(values.shape[1])
    for left, right in pairs:
        order[left], order[right] = right, left
    return values[:, order]


def augment_targets(
    targets: ClipTargets, augmentation: Augmentation, *, body: BodyName
) -> ClipTargets:
    """The labels of the mirrored and rotated person.

    `keypoints_2d` only change sides: they stay in source pixels and go through the crop's affine.
    `transl` stays that of the source camera: a crop that is rotated about its own centre has no
    camera of its own (HMR2.0 likewise supervises root-relative points only).
    """
    if augmentation.is_flipped:
        targets = flip_targets(targets, body=body)
    if augmentation.rotation:
        targets = rotate_targets(targets, augmentation.rotation)
    return targets


def flip_targets(targets: ClipTargets, *, body: BodyName) -> ClipTargets:
    """Mirror x: rotations (y, z of the axis-angle change sign), 3D points, left and right.

    Stored vertices are left out for bodies: which vertex is which one's mirror image is not known.
    """
    mirror = np.array([1, -1, -1], np.float32)
    pairs = FLIP_PAIRS[TARGET_SET[body]]
    visible, vertices = targets.is_visible, targets.vertices
    if visible is not None:
        visible = swap_sides(visible[..., None], pairs)[..., 0]
    if vertices is not None:
        vertices = vertices * np.array([-1, 1, 1], np.float32) if body == "mano" else None
    return replace(
        targets,
        global_orient=targets.global_orient * mirror,
        pose=swap_sides(targets.pose, FLIP_JOINTS[body]) * mirror,
        keypoints_2d=swap_sides(targets.keypoints_2d, pairs),
        keypoints_3d=swap_sides(targets.keypoints_3d, pairs) * np.array([-1, 1, 1, 1], np.float32),
        is_visible=visible,
        vertices=vertices,
    )


def rotate_targets(targets: ClipTargets, rotation: float) -> ClipTargets:
    """Turn the root rotation and the 3D points about the camera's z axis."""
    turn = Rotation.from_rotvec([0.0, 0.0, rotation])
    orient = (turn * Rotation.from_rotvec(targets.global_orient)).as_rotvec()
    matrix = turn.as_matrix().T.astype(np.float32)
    points = targets.keypoints_3d.copy()
    points[..., :3] = points[..., :3] @ matrix
    vertices = None if targets.vertices is None else targets.vertices @ matrix
    return replace(
        targets,
        global_orient=orient.astype(np.float32),
        keypoints_3d=points,
        vertices=vertices,
    )
