"""Windows to batches: pictures, drawings and labels stay on top of each other."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from extpose.config import AugmentConfig, SkeletonConfig
from extpose.data.augment import (
    NO_MASKING,
    Masking,
    crop_affine,
    draw_augmentation,
    draw_rng,
    no_augmentation,
)
from extpose.data.clip import encode_jpeg, encode_png, redraw_skeleton
from extpose.data.skeleton import COLORS, draw_skeleton
from extpose.data.window import View, make_batch, network_boxes, plain_view, skeleton_keypoints
from extpose.errors import ShardError
from extpose.keypoints import COCO17_OF_BODY44
from extpose.schema import Clip
from tests.plain_clips import synthetic_clip

MEAN = np.array([0.485, 0.456, 0.406])[:, None, None]
STD = np.array([0.229, 0.224, 0.225])[:, None, None]


def drawn_clip(**options: object) -> Clip:
    """A clip whose stored drawings are those of its keypoints, inside the picture."""
    clip = synthetic_clip(**options)
    drawn = [
        redraw_skeleton(
            points,
            affine,
            keypoint_set=clip.meta.keypoint_set,
            crop_size=clip.meta.crop_size,
            skeleton_size=clip.meta.skeleton_size,
            config=SkeletonConfig(),
        )
        for points, affine in zip(clip.keypoints_2d, clip.crop_to_img, strict=True)
    ]
    return replace(clip, skeleton=tuple(encode_png(image) for image in drawn))


def view(clip: Clip, seed: int = 0, **config: object) -> View:
    draw = draw_augmentation(
        draw_rng(seed, 0, clip.key, purpose="a"),
        AugmentConfig(**config),
        is_right=clip.meta.is_right,
    )
    return View(
        augmentation=draw, masking=NO_MASKING, noise_rng=draw_rng(0, 0, "", purpose="noise")
    )


def batch_of(clip: Clip, shown: View, *, num_frames: int = 4, size: int = 128, **options: object):
    return make_batch(
        [clip], [shown], num_frames=num_frames, size=size, skeleton=SkeletonConfig(), **options
    )


def to_pixels(images: torch.Tensor) -> np.ndarray:
    return np.clip(np.rint((images.numpy() * STD + MEAN) * 255), 0, 255).astype(np.uint8)


def test_redraw_without_augmentation_equals_the_stored_drawing() -> None:
    clip = drawn_clip()
    stored = batch_of(clip, plain_view(clip)).skeleton
    shown = plain_view(clip)
    points = skeleton_keypoints(
        clip, shown, affine=crop_affine(shown.augmentation, 128, size=128), size=128
    )
    redrawn = [draw_skeleton(p, "coco17", 128, SkeletonConfig()) for p in points]
    np.testing.assert_array_equal(to_pixels(stored[0]), np.stack(redrawn).transpose(0, 3, 1, 2))


def test_colour_of_the_stored_drawing_is_not_touched_by_colour_augmentation() -> None:
    clip = drawn_clip()
    colored = replace(
        plain_view(clip), augmentation=replace(no_augmentation(), color=np.float32([0.5, 1.2, 1]))
    )
    plain, changed = batch_of(clip, plain_view(clip)), batch_of(clip, colored)
    assert torch.equal(plain.skeleton, changed.skeleton)
    assert not torch.equal(plain.rgb, changed.rgb)


def test_plain_crop_is_the_middle_of_the_stored_one() -> None:
    clip = synthetic_clip()
    stored = cv2.imdecode(np.frombuffer(clip.rgb[0], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    found = to_pixels(batch_of(clip, plain_view(clip)).rgb[0, 0])
    np.testing.assert_array_equal(found, stored[32:160, 32:160].transpose(2, 0, 1))


@pytest.mark.parametrize("size", [128, 96, 64])
@pytest.mark.parametrize("seed", range(6))
def test_a_mark_on_the_person_stays_under_its_keypoint(seed: int, size: int) -> None:
    """Bright dots at two keypoints of the source; found again where labels and drawing say."""
    clip = synthetic_clip(num_frames=1)
    img_points = np.array([[300.0, 200.0], [345.0, 260.0]])
    linear, offset = clip.crop_to_img[0, :, :2], clip.crop_to_img[0, :, 2]
    stored = (img_points - offset) / np.diag(linear)
    picture = np.zeros((192, 192, 3), np.uint8)
    ys, xs = np.mgrid[:192, :192]
    for channel, (x, y) in enumerate(stored):
        dot = np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * 3.0**2))
        picture[..., channel] = np.rint(255 * dot)
    keypoints = np.zeros((1, 17, 3), np.float32)
    keypoints[0, 5], keypoints[0, 6] = (*img_points[0], 1), (*img_points[1], 1)
    labelled = np.zeros((1, 44, 3), np.float32)
    labelled[:, list(COCO17_OF_BODY44)] = keypoints
    targets = replace(clip.targets, keypoints_2d=labelled)
    clip = replace(clip, rgb=(encode_jpeg(picture, 100),), keypoints_2d=keypoints, targets=targets)
    shown = view(clip, seed, color=0.0)
    batch = batch_of(clip, shown, num_frames=1, size=size)
    pixels = to_pixels(batch.rgb[0, 0]).astype(float)
    drawn = to_pixels(batch.skeleton[0, 0]).transpose(1, 2, 0)
    labels = (batch.targets.keypoints_2d[0, 0, list(COCO17_OF_BODY44), :2].numpy() + 0.5) * size
    joints = (6, 5) if shown.augmentation.is_flipped else (5, 6)
    for channel, joint in enumerate(joints):
        weight = np.where(pixels[channel] > 60, pixels[channel], 0)
        ys, xs = np.mgrid[:size, :size]
        found = np.array([(weight * xs).sum(), (weight * ys).sum()]) / weight.sum()
        np.testing.assert_allclose(found, labels[joint], atol=0.6)
        x, y = np.rint(labels[joint]).astype(int)
        assert drawn[y, x].argmax() == np.argmax(COLORS["coco17"][joint])
        assert drawn[y, x].max() > 120


def test_mirrored_person_is_drawn_with_the_right_sides() -> None:
    clip = drawn_clip()
    flipped = replace(plain_view(clip), augmentation=no_augmentation(is_flipped=True))
    affine = crop_affine(flipped.augmentation, 128, size=128)
    before = skeleton_keypoints(clip, plain_view(clip), affine=np.eye(2, 3), size=128)
    after = skeleton_keypoints(clip, flipped, affine=affine, size=128)
    np.testing.assert_allclose(after[:, 5, 0], 128 - before[:, 6, 0], atol=1e-3)
    np.testing.assert_allclose(after[:, 5, 1:], before[:, 6, 1:], atol=1e-3)


def test_short_window_repeats_its_last_frame_and_is_not_labelled_there() -> None:
    clip = drawn_clip(num_frames=2)
    batch = batch_of(clip, plain_view(clip), num_frames=5)
    assert batch.valid.tolist() == [[True, True, False, False, False]]
    for frame in (2, 3, 4):
        assert torch.equal(batch.rgb[0, frame], batch.rgb[0, 1])
        assert torch.equal(batch.skeleton[0, frame], batch.skeleton[0, 1])
        assert torch.equal(batch.crop_box_img[0, frame], batch.crop_box_img[0, 1])
    assert batch.targets.has_pose.tolist() == [[True, True, False, False, False]]
    assert batch.targets.keypoints_3d[0, 2:].abs().sum() == 0
    assert batch.targets.keypoints_2d[0, 2:].abs().sum() == 0


@pytest.mark.parametrize("masked", ["rgb", "skeleton"])
def test_masked_modality_is_zero_and_not_even_decoded(masked: str) -> None:
    clip = drawn_clip()
    broken = replace(clip, **{masked: (b"no image",) * clip.num_frames})
    shown = replace(
        plain_view(clip), masking=Masking(rgb=masked == "rgb", skeleton=masked == "skeleton")
    )
    batch = batch_of(broken, shown)
    other = "skeleton" if masked == "rgb" else "rgb"
    assert getattr(batch, masked).abs().sum() == 0
    assert torch.equal(getattr(batch, other), getattr(batch_of(clip, plain_view(clip)), other))


def test_a_broken_image_is_named() -> None:
    clip = replace(drawn_clip(), rgb=(b"no image",) * 4)
    with pytest.raises(ShardError, match=r"clip-000000\.000\.jpg: 8 bytes"):
        batch_of(clip, plain_view(clip))


def test_unlabelled_clips_have_no_targets_or_unlabelled_ones() -> None:
    bare, labelled = drawn_clip(labelled=False), drawn_clip(key="other")
    assert batch_of(bare, plain_view(bare)).targets is None
    targets = batch_of(bare, plain_view(bare), with_targets=True).targets
    assert not targets.has_pose.any()
    assert not targets.has_betas.any()
    assert targets.keypoints_3d.abs().sum() == 0
    mixed = make_batch(
        [bare, labelled], [plain_view(bare), plain_view(labelled)],
        num_frames=4, size=128, skeleton=SkeletonConfig(),
    )  # fmt: skip
    assert mixed.targets.has_betas.tolist() == [False, True]


def test_box_of_the_crop_in_the_source() -> None:
    """The stored crop is 240 source pixels wide about (320, 240), the network's two thirds."""
    clip = synthetic_clip()
    np.testing.assert_allclose(network_boxes(clip, no_augmentation()), [[320, 240, 160]] * 4)
    moved = replace(no_augmentation(is_flipped=True), scale=1.2, translation=(0.1, 0.0))
    np.testing.assert_allclose(network_boxes(clip, moved), [[336, 240, 192]] * 4, rtol=1e-6)


def test_left_hands_are_shown_and_labelled_as_right_ones() -> None:
    clip = drawn_clip(body="mano")
    left = replace(clip, meta=replace(clip.meta, is_right=False))
    right, mirrored = batch_of(clip, plain_view(clip)), batch_of(left, plain_view(left))
    x = right.targets.keypoints_2d[..., 0]
    torch.testing.assert_close(mirrored.targets.keypoints_2d[..., 0], -x, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        mirrored.targets.keypoints_3d[..., 0], -right.targets.keypoints_3d[..., 0]
    )
