"""Extreme crops and occluders: one for all frames of a clip, labels in their places."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extpose.config import AugmentConfig, DataConfig
from extpose.data.augment import Augmentation, crop_affine, draw_rng, no_augmentation
from extpose.data.crop import apply_affine
from extpose.data.labels import points_to_crop
from extpose.data.loader import ClipDataset
from extpose.data.occluder import Occluder, cover
from extpose.data.partial import PARTS, crop_to, draw_occluders, draw_part, hide_parts
from extpose.data.sampler import Draw
from extpose.data.shards import ShardIndex, write_shard
from extpose.data.window import View, make_batch, plain_view
from extpose.keypoints import KEYPOINT_NAMES
from extpose.schema import Clip
from tests.plain_clips import synthetic_clip

SIDE = 128
ALWAYS = AugmentConfig(extreme_crop_probability=1.0, occlusion_probability=1.0)


def standing(*, num_frames: int = 3, drift: float = 4.0) -> np.ndarray:
    """A person of 40 x 100 pixels who drifts to the right."""
    place = {"nose": (64, 15), "eye": (64, 13), "ear": (64, 14), "shoulder": (64, 30),
             "elbow": (64, 48), "wrist": (64, 62), "hip": (64, 62), "knee": (64, 88),
             "ankle": (64, 112)}  # fmt: skip
    points = np.ones((num_frames, 17, 3), np.float32)
    for row, name in enumerate(KEYPOINT_NAMES["coco17"]):
        side = {"l": 14.0, "r": -14.0}.get(name[0] if "_" in name else "", 0.0)
        points[:, row, :2] = place[name.split("_")[-1]]
        points[:, row, 0] += side + drift * np.arange(num_frames)
    return points


def test_weights_are_a_distribution_over_names_of_coco() -> None:
    assert sum(part.weight for part in PARTS.values()) == pytest.approx(1)
    for part in PARTS.values():
        assert set(part.keypoints) <= set(KEYPOINT_NAMES["coco17"])


def test_a_part_is_in_its_crop_in_all_frames() -> None:
    points, found = standing(), set()
    for seed in range(60):
        box = draw_part(np.random.default_rng(seed), points, side=SIDE)
        assert box is not None
        affine = crop_affine(crop_to(no_augmentation(), box, side=SIDE), SIDE, size=64)
        inside = apply_affine(points[..., :2].astype(np.float64), affine)
        is_inside = ((inside >= 0) & (inside <= 64)).all((0, 2))
        names = {n for n, yes in zip(KEYPOINT_NAMES["coco17"], is_inside, strict=True) if yes}
        found |= {name for name, part in PARTS.items() if set(part.keypoints) <= names}
        assert len(names) < 17
    assert found == set(PARTS)


def test_only_what_is_seen_is_cropped_to() -> None:
    points = standing()
    points[:, 11:, 2] = 0.1
    for seed in range(40):
        box = draw_part(np.random.default_rng(seed), points, side=SIDE)
        assert box is not None
        assert box[1] + box[2] / 2 < 112
    points[..., 2] = 0.1
    assert draw_part(np.random.default_rng(0), points, side=SIDE) is None


def test_shares_of_the_two() -> None:
    config = AugmentConfig(occlusion_probability=0.3)
    draws = [
        hide_parts(draw_rng(0, 0, str(i), purpose="p"), no_augmentation(), config,
                   keypoints_crop=standing(), side=SIDE)
        for i in range(1000)
    ]  # fmt: skip
    assert np.mean([d.moves_pixels for d in draws]) == pytest.approx(0.1, abs=0.03)
    assert np.mean([bool(d.occluders) for d in draws]) == pytest.approx(0.3, abs=0.05)


def test_hands_are_not_cropped() -> None:
    points = np.ones((2, 21, 3), np.float32)
    draw = hide_parts(
        np.random.default_rng(0), no_augmentation(), ALWAYS, keypoints_crop=points, side=SIDE
    )
    assert not draw.moves_pixels
    assert draw.occluders


@settings(max_examples=30)
@given(
    x=st.floats(30, 90), y=st.floats(30, 90), part=st.floats(26, 128), scale=st.floats(0.7, 1.3),
    rotation=st.floats(-1, 1), is_flipped=st.booleans(), tx=st.floats(-0.1, 0.1),
)  # fmt: skip
def test_a_crop_of_a_crop_is_the_crop(
    x: float, y: float, part: float, scale: float, rotation: float, is_flipped: bool, tx: float
) -> None:
    """The draw about a square is the draw about the crop that would have been cut there."""
    draw = Augmentation(
        scale=scale, rotation=rotation, translation=(tx, -tx), color=np.ones(3, np.float32),
        is_flipped=is_flipped, keypoint_noise=0.0, joint_dropout=0.0,
    )  # fmt: skip
    points = np.random.default_rng(0).uniform(0, SIDE, (9, 2))
    once = apply_affine(points, crop_affine(crop_to(draw, np.array([x, y, part]), side=SIDE),
                                            SIDE, size=64))  # fmt: skip
    cut = (points - [x, y]) / part * SIDE + SIDE / 2
    np.testing.assert_allclose(apply_affine(cut, crop_affine(draw, SIDE, size=64)), once, atol=1e-8)


def _evident_clip() -> Clip:
    """Its 2D evidence is the labelled COCO points."""
    clip = synthetic_clip(num_frames=3)
    crop = standing()
    points = crop.copy()
    scale = clip.crop_to_img[0, 0, 0]
    points[..., :2] = (crop[..., :2] + 32) * scale + clip.crop_to_img[0, :, 2]
    assert clip.targets is not None
    labels = clip.targets.keypoints_2d.copy()
    labels[:, [0, 5, 6, 12, 9]] = points[:, [0, 6, 5, 11, 12]]
    return replace(clip, keypoints_2d=points, targets=replace(clip.targets, keypoints_2d=labels))


def test_skeleton_labels_and_boxes_follow_the_crop() -> None:
    clip = _evident_clip()
    points = points_to_crop(clip.keypoints_2d, clip, np.eye(2, 3))
    np.testing.assert_allclose(points, standing(), atol=1e-3)
    for seed in range(8):
        draw = hide_parts(
            np.random.default_rng(seed), no_augmentation(), ALWAYS, keypoints_crop=points, side=SIDE
        )
        batch = make_batch([clip], [replace(plain_view(clip), augmentation=draw)], num_frames=3,
                           size=64, skeleton=DataConfig().skeleton)  # fmt: skip
        assert batch.targets is not None
        evidence, labels = batch.keypoints_crop[0], batch.targets.keypoints_2d[0]
        np.testing.assert_allclose(evidence[:, [0, 6, 5], :2], labels[:, [0, 5, 6], :2], atol=1e-4)
        centre, side = batch.crop_box_img[0, :, :2], batch.crop_box_img[0, :, 2:]
        nose = centre + side * evidence[:, 0, :2]
        np.testing.assert_allclose(nose, clip.keypoints_2d[:, 0, :2], atol=1e-2)


def test_occluders_cover_pictures_only_and_move_evenly() -> None:
    clip = synthetic_clip(num_frames=3)
    red = Occluder(start=(0.25, 0.5), velocity=(0.125, 0.0), size=(0.25, 0.25),
                   cells=np.full((1, 1, 3), (0, 0, 255), np.uint8))  # fmt: skip
    view = plain_view(clip)
    covered = replace(view, augmentation=replace(view.augmentation, occluders=(red,)))
    before, after = (
        make_batch([clip], [v], num_frames=3, size=128, skeleton=DataConfig().skeleton)
        for v in (view, covered)
    )
    changed = (before.rgb != after.rgb).any(2)[0].numpy()
    for frame in range(3):
        rows, columns = np.nonzero(changed[frame])
        assert (rows.min(), rows.max() + 1) == (48, 80)
        assert (columns.min(), columns.max() + 1) == (16 + 16 * frame, 48 + 16 * frame)
    assert after.rgb[0, 0, 0, 64, 20] > 2 > 0 > after.rgb[0, 0, 1, 64, 20]
    assert (before.skeleton == after.skeleton).all()
    assert before.targets is not None
    assert after.targets is not None
    assert (before.targets.keypoints_2d == after.targets.keypoints_2d).all()


@settings(max_examples=50)
@given(seed=st.integers(0, 10**6), frame=st.integers(0, 200))
def test_any_occluder_can_be_drawn(seed: int, frame: int) -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    for occluder in draw_occluders(np.random.default_rng(seed)):
        cover(image, occluder, frame)
    assert image.shape == (40, 40, 3)


def test_the_loader_draws_the_same_again(tmp_path) -> None:
    write_shard(tmp_path / "0.tar", [_evident_clip()])
    with_parts = DataConfig(num_frames=2, augment=ALWAYS)
    index = ShardIndex([tmp_path / "0.tar"])
    draws = [
        ClipDataset(index, config, body="smpl", size=64, seed=5).draw_view(Draw(epoch, 0))[1]
        for config in (with_parts, with_parts, DataConfig(num_frames=2))
        for epoch in (3,)
    ]
    index.close()
    assert isinstance(draws[0], View)
    first, again, usual = (view.augmentation for view in draws)
    assert (first.scale, first.translation) == (again.scale, again.translation)
    assert first.occluders[0].start == again.occluders[0].start
    assert (first.rotation, first.is_flipped) == (usual.rotation, usual.is_flipped)
    assert first.scale < usual.scale
