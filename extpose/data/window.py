"""A window of a clip as the network's input: decode, warp, normalise, redraw, label.

Training, evaluation and prediction all come through `make_batch`; un-augmented and unmasked it is
what they share. The only work on pixels is: decode a frame, warp it once, and look its values up
in a table that holds colour factor and normalisation together.

Axes    b clips   t frames   k keypoints   h w crop pixels   c channels (RGB)
Frames  `_img` source pixels, `_crop` pixels of the network's crop (in `Batch`: [-0.5, 0.5])
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float32, Float64, UInt8

from extpose.batch import Batch
from extpose.config import SkeletonConfig
from extpose.data.augment import (
    NO_MASKING,
    Augmentation,
    Masking,
    crop_affine,
    disturb_keypoints,
    draw_rng,
    no_augmentation,
    swap_sides,
)
from extpose.data.crop import compose_affine
from extpose.data.labels import make_targets, points_to_crop
from extpose.data.memory import Memory
from extpose.data.normalise import normalisation_table, normalise
from extpose.data.occluder import cover
from extpose.data.skeleton import draw_skeleton
from extpose.errors import ShardError
from extpose.keypoints import FLIP_PAIRS
from extpose.schema import Clip


@dataclass(frozen=True, kw_only=True)
class View:
    """How one window is shown."""

    augmentation: Augmentation
    masking: Masking
    noise_rng: np.random.Generator
    """Of the disturbances of the skeleton's points."""


def plain_view(clip: Clip, masking: Masking = NO_MASKING) -> View:
    """Un-augmented; left hands are mirrored to right ones, the only ones the network knows."""
    return View(
        augmentation=no_augmentation(is_flipped=clip.meta.is_right is False),
        masking=masking,
        noise_rng=draw_rng(0, 0, clip.key, purpose="noise"),
    )


def make_batch(
    clips: Sequence[Clip],
    views: Sequence[View],
    *,
    num_frames: int,
    size: int,
    skeleton: SkeletonConfig,
    with_targets: bool = False,
    memory: Memory | None = None,
) -> Batch:
    """Collate windows of at most `num_frames` frames; a shorter one repeats its last frame.

    `size` is the side of the network's crop. Padding has `valid` False and no labels. `targets`
    is None when no clip has any, unless `with_targets`. `memory` is that of earlier batches. Raises
    ShardError for an image that cannot be decoded, and ValueError for a clip that is too long or of
    another body than the first.
    """
    _check(clips, num_frames)
    shape = (len(clips), num_frames, 3, size, size)
    memory = memory or Memory()
    rgb, drawn = memory.empty(shape), memory.empty(shape)
    valid = np.zeros((len(clips), num_frames), bool)
    boxes = np.empty((len(clips), num_frames, 3), np.float32)
    keypoints = np.zeros((*shape[:2], *clips[0].keypoints_2d.shape[1:]), np.float32)
    affines = [
        crop_affine(view.augmentation, clip.meta.skeleton_size, size=size)
        for clip, view in zip(clips, views, strict=True)
    ]
    for i, (clip, view, affine) in enumerate(zip(clips, views, affines, strict=True)):
        t = clip.num_frames
        valid[i, :t] = True
        if view.masking.rgb:
            rgb[i] = 0
        else:
            _fill_rgb(rgb[i], clip, view, affine=affine)
        if view.masking.skeleton:
            drawn[i] = 0
        else:
            points = skeleton_keypoints(clip, view, affine=affine, size=size)
            _fill_skeleton(drawn[i, :t], clip, view, points=points, config=skeleton)
            keypoints[i, :t] = normalise_keypoints(points, size=size)
        boxes[i, :t] = network_boxes(clip, view.augmentation)
        for filled in (rgb, drawn, keypoints, boxes):
            filled[i, t:] = filled[i, t - 1]
    labelled = with_targets or any(clip.targets is not None for clip in clips)
    augmentations = [view.augmentation for view in views]
    return Batch(
        keys=tuple(clip.key for clip in clips),
        rgb=torch.from_numpy(rgb),
        skeleton=torch.from_numpy(drawn),
        valid=torch.from_numpy(valid),
        crop_box_img=torch.from_numpy(boxes),
        keypoints_crop=torch.from_numpy(keypoints),
        image_size=torch.tensor([clip.meta.image_size for clip in clips], dtype=torch.float32),
        targets=make_targets(clips, augmentations, affines, num_frames=num_frames, size=size)
        if labelled
        else None,
    )


def network_boxes(clip: Clip, augmentation: Augmentation) -> Float32[np.ndarray, "t 3"]:
    """Centre x, centre y and side of the network's crop, in source pixels."""
    meta = clip.meta
    center = meta.crop_size / 2 + meta.skeleton_size * np.array(augmentation.translation)
    linear = clip.crop_to_img[:, :, :2].astype(np.float64)
    scale = np.sqrt(np.abs(np.linalg.det(linear)))
    centers = linear @ center + clip.crop_to_img[:, :, 2]
    sides = scale * meta.skeleton_size * augmentation.scale
    return np.column_stack([centers, sides]).astype(np.float32)


NO_COLOR = np.ones(3, np.float32)


def _fill_rgb(
    out: Float32[np.ndarray, "t 3 h w"],
    clip: Clip,
    view: View,
    *,
    affine: Float64[np.ndarray, "2 3"],
) -> None:
    """The frames of the clip, warped and normalised, into the first of `out`."""
    size, border = out.shape[-1], (clip.meta.crop_size - clip.meta.skeleton_size) / 2
    stored_to_crop = compose_affine(affine, np.array([[1, 0, -border], [0, 1, -border]]))
    # Decoding at half size is a cheap and proper low-pass where the crop shrinks that much.
    reduced = bool(np.sqrt(abs(np.linalg.det(affine[:, :2]))) <= 0.5)
    if reduced:
        stored_to_crop = compose_affine(stored_to_crop, np.array([[2, 0, 0.5], [0, 2, 0.5]]))
    flag = cv2.IMREAD_REDUCED_COLOR_2 if reduced else cv2.IMREAD_COLOR
    side = -(-clip.meta.crop_size // 2) if reduced else clip.meta.crop_size
    shift = -stored_to_crop[:, 2]
    is_slice = bool((stored_to_crop[:, :2] == np.eye(2)).all() and (shift % 1 == 0).all())
    table = normalisation_table(view.augmentation.color)
    for frame, data in enumerate(clip.rgb):
        bgr = _decode(data, flag, clip, f"{frame:03d}.jpg", side=side)
        if is_slice:
            x, y = (int(v) for v in shift)
            bgr = bgr[y : y + size, x : x + size]
        else:
            bgr = cv2.warpAffine(bgr, stored_to_crop, (size, size), flags=cv2.INTER_LINEAR)
        for occluder in view.augmentation.occluders:
            cover(bgr, occluder, frame)
        normalise(out[frame], bgr, table, is_bgr=True)


def _fill_skeleton(
    out: Float32[np.ndarray, "t 3 h w"],
    clip: Clip,
    view: View,
    *,
    points: Float32[np.ndarray, "t k 3"],
    config: SkeletonConfig,
) -> None:
    """The stored drawings where they serve, else new ones of the points."""
    size, meta = out.shape[-1], clip.meta
    table = normalisation_table(NO_COLOR)
    if size == meta.skeleton_size and not view.augmentation.changes_skeleton:
        for frame, data in enumerate(clip.skeleton):
            member = f"{frame:03d}.skeleton.png"
            bgr = _decode(data, cv2.IMREAD_COLOR, clip, member, side=size)
            normalise(out[frame], bgr, table, is_bgr=True)
        return
    for frame, keypoints in enumerate(points):
        normalise(out[frame], draw_skeleton(keypoints, meta.keypoint_set, size, config), table)


def skeleton_keypoints(
    clip: Clip, view: View, *, affine: Float64[np.ndarray, "2 3"], size: int
) -> Float32[np.ndarray, "t k 3"]:
    """The keypoints to draw, in pixels of the augmented crop."""
    points = points_to_crop(clip.keypoints_2d, clip, affine)
    if view.augmentation.is_flipped:
        points = swap_sides(points, FLIP_PAIRS[clip.meta.keypoint_set])
    return disturb_keypoints(view.noise_rng, points, view.augmentation, size=size)


def normalise_keypoints(
    points: Float32[np.ndarray, "t k 3"], *, size: int
) -> Float32[np.ndarray, "t k 3"]:
    """Pixels of the crop to [-0.5, 0.5]; all zero where the confidence is."""
    normalised = points.copy()
    normalised[..., :2] = points[..., :2] / size - 0.5
    normalised[points[..., 2] == 0] = 0
    return normalised


def _decode(
    data: bytes, flag: int, clip: Clip, member: str, *, side: int
) -> UInt8[np.ndarray, "h w 3"]:
    """A square picture. Raises ShardError where it is none, or of another size."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flag) if data else None
    if image is None:
        raise ShardError(f"{clip.key}.{member}: {len(data)} bytes that are no image")
    if image.shape[:2] != (side, side):
        raise ShardError(f"{clip.key}.{member}: {image.shape[:2]} pixels, expected {(side, side)}")
    return image


def _check(clips: Sequence[Clip], num_frames: int) -> None:
    for clip in clips:
        if clip.num_frames > num_frames:
            raise ValueError(f"{clip.key}: {clip.num_frames} frames in a window of {num_frames}")
        if clip.meta.body != clips[0].meta.body:
            raise ValueError(
                f"{clip.key}: body {clip.meta.body!r} in a batch of {clips[0].meta.body!r}"
            )
