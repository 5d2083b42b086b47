"""Synthetic hands: right and left, the truth reprojects onto the picture."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from extpose.config import CropConfig, SynthConfig
from extpose.data.shards import encode_clip
from extpose.detect.people import Detections
from extpose.errors import AssetError
from extpose.motion import pose_body
from extpose.raster import render_mesh
from extpose.rotations import axis_angle_to_matrix
from extpose.synth.render import (
    Scene,
    Studio,
    build_scene,
    film,
    find_seen,
    make_synthetic_clip,
    open_studio,
    project,
)

CONFIG = SynthConfig(
    out=Path("unused"),
    body="hand",
    num_frames=2,
    image_size=(96, 128),
    crop=CropConfig(size=64),
    photographs=False,
)


@pytest.fixture(scope="module")
def studio() -> Studio:
    return open_studio(CONFIG, None)


@pytest.fixture(scope="module")
def scenes(studio: Studio) -> list[Scene]:
    return [build_scene(studio, CONFIG, index) for index in range(10)]


def test_right_and_left_truth_give_the_filmed_mesh(studio: Studio, scenes: list[Scene]) -> None:
    assert {scene.is_right for scene in scenes} == {True, False}
    for scene in scenes:
        targets = scene.targets
        posed = pose_body(
            studio.body,
            *(
                axis_angle_to_matrix(torch.from_numpy(a))
                for a in (targets.global_orient, targets.pose)
            ),
            torch.from_numpy(targets.betas).expand(2, 10),
            torch.from_numpy(targets.transl),
            is_right=scene.is_right,
        )
        np.testing.assert_allclose(posed.vertices.numpy(), scene.vertices_cam, atol=1e-5)
        keypoints = posed.keypoints.numpy().astype(np.float64)
        np.testing.assert_allclose(keypoints, targets.keypoints_3d[..., :3], atol=1e-5)
        projected = project(keypoints, scene.camera.K)
        np.testing.assert_allclose(projected, targets.keypoints_2d[..., :2], atol=0.02)
        assert scene.vertices_cam[..., 2].min() > 0.079


def test_a_hand_is_seen_from_outside(scenes: list[Scene]) -> None:
    """Hand and forearm are closed: with hidden faces left out they cover the same pixels."""
    for scene in scenes:
        hand, arm = scene.subject, scene.props[0]
        vertices = np.concatenate([hand.vertices_cam[0], arm.vertices_cam[0]])
        parts = (vertices, np.concatenate([hand.faces, arm.faces + hand.vertices_cam.shape[1]]))
        black, K = np.zeros_like(vertices), scene.camera.K
        image = np.zeros((96, 128, 3), np.uint8)
        both = render_mesh(*parts, black, K, image).face_id >= 0
        front = render_mesh(*parts, black, K, image, cull=True).face_id >= 0
        assert not (front & ~both).any()
        assert front.sum() > 0.97 * both.sum()


def test_clips_of_hands(studio: Studio) -> None:
    config = replace(CONFIG, vertices=True)
    clip = make_synthetic_clip(studio, config, 1)
    assert encode_clip(make_synthetic_clip(studio, config, 1)) == encode_clip(clip)
    assert (clip.meta.body, clip.meta.keypoint_set) == ("mano", "hand21")
    assert clip.meta.is_right is not None
    assert clip.keypoints_2d.shape == (2, 21, 3)
    assert clip.targets is not None
    assert clip.targets.vertices is not None
    assert clip.targets.vertices.shape == (2, 1669, 3)
    assert clip.targets.is_visible is not None


def test_what_is_behind_a_hand_or_outside_is_not_seen(studio: Studio, scenes: list[Scene]) -> None:
    shares = []
    for index, scene in enumerate(scenes):
        shots = list(film(studio, scene, CONFIG, index))
        seen = find_seen(studio.body, scene, shots)
        points = scene.targets.keypoints_2d[..., :2]
        outside = ((points < -0.5) | (points > [127.5, 95.5])).any(-1)
        assert not (seen & outside).any()
        shares.append(seen[~outside].mean() if (~outside).any() else np.nan)
        covered = [replace(shot, depth=np.full_like(shot.depth, 0.05)) for shot in shots]
        assert not find_seen(studio.body, scene, covered).any()
    assert 0.5 < np.nanmean(shares) < 0.98


def test_a_hand_detector_gives_the_evidence(studio: Studio) -> None:
    config = replace(CONFIG, keypoints="detector")
    exact = project((scene := build_scene(studio, config, 0)).evidence_cam, scene.camera.K).astype(
        np.float32
    )

    def see(num_keypoints: int) -> Studio:
        frames = iter(exact)

        def observer(rgb: np.ndarray) -> Detections:
            points = next(frames)[:num_keypoints]
            box = np.concatenate([points.min(0), points.max(0)]).astype(np.float32)
            sure = np.full((1, num_keypoints, 1), 0.5, np.float32)
            return Detections(
                bbox_xyxy=box[None],
                scores=np.ones(1, np.float32),
                keypoints_2d=np.concatenate([points[None], sure], -1),
            )

        return replace(studio, observer=observer)

    clip = make_synthetic_clip(see(21), config, 0)
    assert clip.meta.detector == "mediapipe-hands"
    assert clip.is_detected.all()
    np.testing.assert_array_equal(clip.keypoints_2d[..., :2], exact)
    with pytest.raises(ValueError, match="17 keypoints, asked 21"):
        make_synthetic_clip(see(17), config, 0)


def test_bodies_need_motion() -> None:
    with pytest.raises(AssetError, match="extpose doctor --fetch"):
        open_studio(replace(CONFIG, body="body"), None)
