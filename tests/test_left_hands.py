"""The network knows right hands: left ones are shown in the mirror, and told un-mirrored."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from extpose.body_model import BodyModel, load_body_model
from extpose.config import ModelConfig, SkeletonConfig
from extpose.data.clip import encode_png, redraw_skeleton
from extpose.data.window import make_batch, network_boxes, plain_view
from extpose.geometry import mirror_points, mirror_rotations, project_to_crop
from extpose.inference import Network, predict_clip
from extpose.model.ablations import build_network
from extpose.motion import FramePrediction, Motion, join_motion, save_motion, unmirror
from extpose.rotations import axis_angle_to_matrix
from extpose.schema import Clip
from tests.clips import random_clip

INPUTS = ("drawing", "heatmap", "coordinates")


@pytest.fixture(scope="module")
def hand() -> BodyModel:
    return load_body_model(body="mano")


@pytest.fixture(scope="module")
def networks(tiny_model_config: ModelConfig, hand: BodyModel) -> dict[str, Network]:
    """Random weights, for each kind of 2D input."""
    made = {}
    for kind in INPUTS:
        torch.manual_seed(0)
        config = replace(tiny_model_config, body="mano", skeleton_input=kind, head_context="image")
        model = build_network(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
        made[kind] = Network(model=model, body=hand)
    return made


def in_the_mirror(clip: Clip) -> Clip:
    """The clip of the mirrored video: x becomes the width minus x, the other hand is seen."""
    size, width = clip.meta.crop_size, clip.meta.image_size[1]
    affine = np.array([[-1.0, 0, size], [0, 1, 0]])
    pictures = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in clip.rgb]
    mirrored = [cv2.warpAffine(picture, affine, (size, size)) for picture in pictures]
    keypoints, boxes = clip.keypoints_2d.copy(), clip.bbox_xyxy.copy()
    keypoints[..., 0] = width - keypoints[..., 0]
    boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    to_img = clip.crop_to_img.astype(np.float64)
    to_img[:, 0, 2] = width - to_img[:, 0, 0] * size - to_img[:, 0, 2]
    to_img = to_img.astype(np.float32)
    drawn = [
        redraw_skeleton(
            points,
            matrix,
            keypoint_set=clip.meta.keypoint_set,
            crop_size=size,
            skeleton_size=clip.meta.skeleton_size,
            config=SkeletonConfig(),
        )
        for points, matrix in zip(keypoints, to_img, strict=True)
    ]
    return replace(
        clip,
        meta=replace(clip.meta, is_right=not clip.meta.is_right),
        rgb=tuple(encode_png(picture[..., ::-1]) for picture in mirrored),
        skeleton=tuple(encode_png(picture) for picture in drawn),
        keypoints_2d=keypoints,
        bbox_xyxy=boxes,
        crop_to_img=to_img,
    )


def left_clip(seed: int, num_frames: int = 3) -> Clip:
    clip = random_clip(seed, num_frames, body="mano")
    return replace(clip, meta=replace(clip.meta, is_right=False))


@settings(max_examples=8)
@given(seed=st.integers(0, 1000), kind=st.sampled_from(INPUTS))
def test_a_left_hand_is_the_mirrored_right_hand_of_the_mirrored_video(
    networks: dict[str, Network], seed: int, kind: str
) -> None:
    network, clip = networks[kind], left_clip(seed)
    other = in_the_mirror(clip)
    left, right = (join_motion([(c, predict_clip(c, network))], 0.0) for c in (clip, other))
    mirror, turn = np.float32([-1, 1, 1]), np.float32([1, -1, -1])
    close = {"rtol": 0, "atol": 2e-3}
    for name in ("global_orient", "pose"):
        found, expected = (
            axis_angle_to_matrix(torch.from_numpy(values))
            for values in (getattr(left, name), getattr(right, name) * turn)
        )
        torch.testing.assert_close(found, expected, **close)
    np.testing.assert_allclose(left.betas, right.betas, **close)
    scale = np.abs(right.transl).max()
    np.testing.assert_allclose(left.transl / scale, right.transl * mirror / scale, **close)
    found, expected = (motion.posed(network.body) for motion in (left, right))
    for name in ("vertices", "joints", "keypoints"):
        a, b = getattr(found, name).numpy(), getattr(expected, name).numpy() * mirror
        np.testing.assert_allclose(a / scale, b / scale, **close)
    assert np.abs(left.pose - right.pose).max() > 0.01  # else nothing was compared


def some_prediction(clip: Clip, seed: int) -> FramePrediction:
    """A right hand, as the network would say it, somewhere in the crop."""
    generator = torch.Generator().manual_seed(seed)
    t = clip.num_frames
    orient = torch.tensor([torch.pi, 0, 0]) + 0.4 * torch.randn(t, 3, generator=generator)
    pose = 0.3 * torch.randn(t, 15, 3, generator=generator)
    return FramePrediction(
        global_orient=axis_angle_to_matrix(orient),
        pose=axis_angle_to_matrix(pose),
        betas=torch.randn(1, 10, generator=generator).expand(t, 10),
        crop_cam=torch.tensor([7.0, 0.03, -0.02]).expand(t, 3),
        crop_box_img=torch.from_numpy(network_boxes(clip, plain_view(clip).augmentation)),
    )


@settings(max_examples=10)
@given(seed=st.integers(0, 1000), is_right=st.booleans())
def test_the_mesh_lies_on_what_the_network_was_shown(
    hand: BodyModel, seed: int, is_right: bool
) -> None:
    """Projected into the full image, then cropped (and mirrored) as the network's input is."""
    clip = random_clip(seed, 2, body="mano")
    clip = replace(clip, meta=replace(clip.meta, is_right=is_right))
    said = some_prediction(clip, seed)
    motion = join_motion([(clip, said)], 0.0)
    projected = motion.posed(hand).keypoints.numpy() @ motion.intrinsics.T
    points = np.ones_like(clip.keypoints_2d)
    points[..., :2] = projected[..., :2] / projected[..., 2:]
    seen = make_batch(
        [replace(clip, keypoints_2d=points)],
        [plain_view(clip)],
        num_frames=2,
        size=64,
        skeleton=SkeletonConfig(),
    ).keypoints_crop[0]
    own = hand(said.global_orient, said.pose, said.betas).keypoints
    expected = project_to_crop(own, said.crop_cam)
    torch.testing.assert_close(seen[..., :2], expected, rtol=0, atol=1.5e-2)
    assert expected.std() > 0.05  # a hand, not a dot


@given(seed=st.integers(0, 10_000))
def test_mirroring_rotations_and_points_go_together(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    axis_angle = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    points = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    matrix = axis_angle_to_matrix(axis_angle)
    mirrored = mirror_rotations(matrix)
    turned = mirror_points((matrix @ points[..., None])[..., 0])
    torch.testing.assert_close((mirrored @ mirror_points(points)[..., None])[..., 0], turned)
    torch.testing.assert_close(torch.linalg.det(mirrored), torch.ones(4, dtype=torch.float64))
    assert torch.equal(mirror_rotations(mirrored), matrix)
    signs = torch.tensor([1.0, -1, -1], dtype=torch.float64)
    torch.testing.assert_close(axis_angle_to_matrix(axis_angle * signs), mirrored)


def test_unmirroring_twice_is_nothing_and_keeps_shape_box_and_scale() -> None:
    said = some_prediction(left_clip(0), 0)
    twice = unmirror(unmirror(said))
    for name in FramePrediction.__dataclass_fields__:
        assert torch.equal(getattr(twice, name), getattr(said, name)), name
    once = unmirror(said)
    assert torch.equal(once.betas, said.betas)
    assert torch.equal(once.crop_box_img, said.crop_box_img)
    assert torch.equal(once.crop_cam[:, [0, 2]], said.crop_cam[:, [0, 2]])
    assert torch.equal(once.crop_cam[:, 1], -said.crop_cam[:, 1])


def volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Positive where the triangles run counter-clockwise, seen from outside."""
    a, b, c = (vertices[faces[:, i]].astype(np.float64) for i in range(3))
    return float((np.cross(a, b) * c).sum() / 6)


@pytest.mark.parametrize("is_right", [True, False])
def test_triangles_face_outwards(hand: BodyModel, is_right: bool) -> None:
    clip = random_clip(0, 1, body="mano")
    clip = replace(clip, meta=replace(clip.meta, is_right=is_right))
    motion: Motion = join_motion([(clip, some_prediction(clip, 0))], 0.0)
    vertices = motion.posed(hand).vertices[0].numpy()
    assert volume(vertices - vertices.mean(0), motion.faces(hand)) > 0
    if not is_right:
        assert volume(vertices - vertices.mean(0), hand.faces.numpy()) < 0


@pytest.mark.parametrize(("body", "sides"), [("smpl", (None,)), ("mano", (True, False))])
def test_the_side_is_in_the_file_of_a_hand(
    body: str, sides: tuple[bool | None, ...], tmp_path: Path, make_clip: Callable[..., Clip]
) -> None:
    for side in sides:
        clip = make_clip(1, 2, body=body)
        clip = replace(clip, meta=replace(clip.meta, is_right=side))
        said = some_prediction(clip, 0)
        motion = join_motion([(clip, said)], 0.0)
        save_motion(tmp_path / "one.npz", motion)
        with np.load(tmp_path / "one.npz", allow_pickle=False) as file:
            assert ("is_right" in file) == (side is not None)
            assert side is None or bool(file["is_right"]) == side
