"""The shard contract: what preprocessing and synthesis write and the loader reads.

The same in prose, for people who write shards with other tools: `docs/data.md`.

One WebDataset sample is one *clip*: one tracked person or hand over `t` consecutive frames.
This module and nothing else defines it. It imports no torch, so Ray CPU workers stay small.

Axes        t frames    k keypoints of the evidence    p keypoints of the labels (`TARGET_SET`)
            j joint rotations without the root    v vertices    h w pixels
Units       pixels, metres, radians (axis-angle), seconds
Pixels      OpenCV's: (0, 0) is the *centre* of the top left pixel
Camera      OpenCV's: x right, y down, z forward
Frames      `_img` source image, `_crop` the square that the network sees, `_cam` camera
Missing     never guessed, never zero-filled silently: None, `has_*` False, or confidence 0
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64

from extpose.keypoints import KeypointSet

SCHEMA_VERSION = 2
MAX_CLIP_FRAMES = 64

BodyName = Literal["smpl", "mano"]
Split = Literal["train", "val", "test"]
Gender = Literal["neutral", "male", "female"]

NUM_ROTATIONS: dict[str, int] = {"smpl": 23, "mano": 15}
"""Joint rotations besides the root."""
TARGET_SET: dict[str, KeypointSet] = {"smpl": "body44", "mano": "hand21"}
"""What the keypoints of `ClipTargets` are."""


@dataclass(frozen=True, kw_only=True)
class ClipMeta:
    """Where a clip comes from. Stored as `<key>.meta.json`."""

    schema_version: int
    source: str
    """The data set: `video`, `synth`, later `3dpw`, `freihand`, ..."""
    split: Split
    video_id: str
    track_id: int
    first_frame: int
    """Index of the clip's first frame in the video."""
    fps: float
    image_size: tuple[int, int]
    """Source image (height, width)."""
    body: BodyName
    is_right: bool | None
    """Hands only."""
    gender: Gender
    """Of the body model that the parameters in `targets` belong to."""
    keypoint_set: KeypointSet
    """Of the 2D evidence: `coco17` or `hand21`."""
    crop_size: int
    """Side of the stored RGB crops and of the network's crop times the margin, pixels."""
    skeleton_size: int
    """Side of the stored skeleton images = side of the network's crop, pixels."""
    detector: str
    """What produced `keypoints_2d`: `movenet-thunder`, `truth`, `truth+noise`, ..."""


@dataclass(frozen=True, kw_only=True)
class ClipTargets:
    """Ground truth in the camera frame. Stored inside `<key>.arrays.npz` with prefix `target.`."""

    global_orient: Float32[np.ndarray, "t 3"]
    pose: Float32[np.ndarray, "t j 3"]
    betas: Float32[np.ndarray, " 10"]
    """One shape for the clip."""
    transl: Float32[np.ndarray, "t 3"]
    """`vertices_cam = body(global_orient, pose, betas) + transl` (smplx convention)."""
    keypoints_2d: Float32[np.ndarray, "t p 3"]
    """x y in source pixels, and 1 where it is labelled (0: not)."""
    keypoints_3d: Float32[np.ndarray, "t p 4"]
    """x y z in metres along the camera's axes, and 1 where it is labelled (0: not). The origin is
    the camera, or the root keypoint where the data set knows no more."""
    has_pose: Bool[np.ndarray, " t"]
    has_betas: Bool[np.ndarray, ""]
    is_visible: Bool[np.ndarray, "t p"] | None = None
    """Whether a keypoint can be seen in the picture; None: nobody has said."""
    vertices: Float32[np.ndarray, "t v 3"] | None = None
    """The mesh in the frame of `keypoints_3d`, where a data set gives it besides parameters."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One sample of a shard."""

    key: str
    """Unique in the data set; letters, digits, `_` and `-` (tar readers split at the first dot)."""
    meta: ClipMeta
    rgb: tuple[bytes, ...]
    """t JPEG crops of `crop_size` (with margin): `<key>.000.jpg`, ..."""
    skeleton: tuple[bytes, ...]
    """t PNG drawings of `keypoints_2d` in the un-augmented network crop, `skeleton_size` wide:
    `<key>.000.skeleton.png`, ..."""
    bbox_xyxy: Float32[np.ndarray, "t 4"]
    """The person's box in source pixels, after tracking."""
    crop_to_img: Float32[np.ndarray, "t 2 3"]
    """Affine from pixels of the stored RGB crop to source pixels."""
    keypoints_2d: Float32[np.ndarray, "t k 3"]
    """The 2D evidence: x y in source pixels and confidence in [0, 1]; 0 = not seen."""
    timestamps: Float64[np.ndarray, " t"]
    """Presentation time of each frame, seconds, as the container says."""
    is_detected: Bool[np.ndarray, " t"]
    """False where the tracker bridged a gap."""
    intrinsics: Float32[np.ndarray, "t 3 3"] | None
    """Camera matrix in source pixels; None where it is not known."""
    targets: ClipTargets | None
    """None: unlabelled."""

    def __post_init__(self) -> None:
        """Check what shapes alone cannot."""
        num_frames = len(self.bbox_xyxy)
        for name in ("rgb", "skeleton"):
            if len(getattr(self, name)) != num_frames:
                raise ValueError(
                    f"{self.key}: {len(getattr(self, name))} {name} images, {num_frames} boxes"
                )
        if not 1 <= num_frames <= MAX_CLIP_FRAMES:
            raise ValueError(f"{self.key}: {num_frames} frames, allowed 1 to {MAX_CLIP_FRAMES}")
        if not self.key or not all(c.isascii() and (c.isalnum() or c in "_-") for c in self.key):
            raise ValueError(f"key {self.key!r}: only letters, digits, '_' and '-' are allowed")

    @property
    def num_frames(self) -> int:
        """Frames of the clip."""
        return len(self.bbox_xyxy)
