"""Synthetic clips: the truth reprojects onto the picture, and nothing depends on who asks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from extpose.config import CropConfig, SynthConfig
from extpose.data.shards import encode_clip
from extpose.detect.people import Detections
from extpose.keypoints import COCO17_OF_BODY44
from extpose.raster import Light, render_mesh
from extpose.rotations import axis_angle_to_matrix
from extpose.schema import Clip, ClipTargets
from extpose.synth.render import (
    Scene,
    Studio,
    build_scene,
    film,
    make_synthetic_clip,
    open_studio,
    project,
)
from tests.synth.figure import write_motions

CONFIG = SynthConfig(
    out=Path("unused"),
    num_frames=3,
    image_size=(120, 160),
    crop=CropConfig(size=64),
    photographs=False,
)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return open_studio(CONFIG, write_motions(tmp_path_factory.mktemp("motion")))


@pytest.fixture(scope="module")
def clip(studio: Studio) -> Clip:
    return make_synthetic_clip(studio, CONFIG, 0)


def replay(studio: Studio, targets: ClipTargets) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and keypoints in the camera frame from what a shard stores."""
    rotations = [
        axis_angle_to_matrix(torch.from_numpy(a)) for a in (targets.global_orient, targets.pose)
    ]
    betas = torch.from_numpy(targets.betas).expand(len(targets.transl), 10)
    posed = studio.body(*rotations, betas, torch.from_numpy(targets.transl))
    return posed.vertices.numpy(), posed.keypoints.numpy()


@pytest.mark.parametrize("index", range(4))
def test_the_stored_truth_gives_the_filmed_mesh_and_keypoints(studio: Studio, index: int) -> None:
    scene = build_scene(studio, CONFIG, index)
    vertices, keypoints = replay(studio, scene.targets)
    np.testing.assert_allclose(vertices, scene.vertices_cam, atol=1e-5)
    # The rows of the keypoint regressor sum to one to 3e-5 only: moving the mesh by 3 m shows it.
    np.testing.assert_allclose(keypoints, scene.targets.keypoints_3d[..., :3], atol=2e-4)
    np.testing.assert_allclose(
        project(keypoints.astype(np.float64), scene.camera.K),
        scene.targets.keypoints_2d[..., :2],
        atol=0.02,
    )
    assert scene.vertices_cam[..., 2].min() > 0.39


def test_the_mesh_is_in_the_picture_where_the_truth_says(studio: Studio) -> None:
    """Pixels that differ from the bare background are the ones that the replayed mesh covers."""
    plain = replace(CONFIG, num_frames=1)
    scene = _without_dirt(build_scene(studio, plain, 2))
    (shot,) = film(studio, scene, plain, 2)
    vertices, _ = replay(studio, scene.targets)
    faces, K = studio.body.faces.numpy(), scene.camera.K
    white = np.full((*CONFIG.image_size, 3), 255, np.uint8)
    drawn = render_mesh(vertices[0], faces, np.zeros_like(vertices[0]), K, white)
    covered, changed = drawn.face_id >= 0, shot.rgb.astype(int).min(-1) < 90
    assert covered.sum() > 300
    assert (covered & changed).sum() / (covered | changed).sum() > 0.9


def _without_dirt(scene: Scene) -> Scene:
    """Black on white, through a perfect camera."""
    clean = replace(
        scene.degradation,
        blur=0.0,
        noise=np.zeros_like(scene.degradation.noise),
        gain=np.ones(3),
        jpeg_quality=100,
        coarseness=1.0,
        shutter=0.0,
    )
    return replace(
        scene,
        subject=replace(
            scene.subject,
            vertices_cam=scene.vertices_cam,
            colors=np.zeros_like(scene.subject.colors),
        ),
        props=(),
        shadow=0.0,
        backdrop=replace(
            scene.backdrop,
            panorama=np.full_like(scene.backdrop.panorama, 255),
            detail=np.full_like(scene.backdrop.detail, 128),
        ),
        degradation=clean,
        light=Light(),
    )


def test_people_stand_upright_and_in_view(studio: Studio) -> None:
    upright, in_view = [], []
    for index in range(12):
        keypoints = build_scene(studio, CONFIG, index).targets.keypoints_2d
        hips, nose = keypoints[:, 8, 1], keypoints[:, 0, 1]
        upright.append(hips > nose)
        inside = (keypoints[..., :2] >= 0).all(-1) & (keypoints[..., :2] < [160, 120]).all(-1)
        in_view.append(inside.mean())
    assert np.mean(upright) > 0.8
    assert np.mean(in_view) > 0.6
    assert min(in_view) > 0.1


def test_the_person_who_faces_the_camera_has_the_left_on_the_right(studio: Studio) -> None:
    for index in range(8):
        scene = build_scene(studio, CONFIG, index)
        left, right, nose = scene.evidence_cam[0, 5], scene.evidence_cam[0, 6], 0
        middle = (left + right) / 2
        facing = np.cross(left - right, [0.0, -1.0, 0.0])
        ahead = (scene.evidence_cam[0, nose] - middle) * [1, 0, 1]
        assert facing @ ahead > 0


def test_a_clip_is_a_function_of_seed_and_index(studio: Studio, clip: Clip) -> None:
    other = make_synthetic_clip(studio, CONFIG, 1)
    assert encode_clip(make_synthetic_clip(studio, CONFIG, 0)) == encode_clip(clip)
    assert other.key != clip.key
    assert other.rgb != clip.rgb
    assert make_synthetic_clip(studio, replace(CONFIG, seed=1), 0).rgb != clip.rgb


def test_meta_and_evidence(studio: Studio, clip: Clip) -> None:
    assert clip.meta.source == "synth"
    assert clip.meta.detector == "truth+noise"
    assert clip.targets is not None
    truth = make_synthetic_clip(studio, replace(CONFIG, keypoints="truth"), 0)
    assert truth.targets is not None
    exact = truth.keypoints_2d
    height = np.ptp(truth.targets.keypoints_2d[..., 1])
    same = truth.targets.keypoints_2d[:, list(COCO17_OF_BODY44)]
    np.testing.assert_allclose(exact, same, atol=0.05 * height)
    assert truth.rgb != ()
    np.testing.assert_array_equal(clip.targets.pose, truth.targets.pose)
    seen = clip.keypoints_2d[..., 2] > 0.6
    error = np.linalg.norm(clip.keypoints_2d - exact, axis=-1)[seen]
    assert 0 < np.median(error) < 0.05 * height


def test_a_detector_gives_the_evidence(studio: Studio) -> None:
    config = replace(CONFIG, keypoints="detector")
    scene = build_scene(studio, config, 0)
    calls = iter(range(config.num_frames))
    exact = project(scene.evidence_cam, scene.camera.K)

    def observer(rgb: np.ndarray) -> Detections:
        frame = next(calls)
        keypoints = np.full((2, 17, 3), 0.5, np.float32)
        keypoints[0, :, :2] = 3.0
        keypoints[1, :, :2] = exact[frame]
        boxes = np.array([[0, 0, 9, 9], [*keypoints[1, :, :2].min(0), *keypoints[1, :, :2].max(0)]])
        keep = slice(0, 1 if frame == 1 else 2)
        return Detections(
            bbox_xyxy=boxes.astype(np.float32)[keep],
            scores=np.ones(2, np.float32)[keep],
            keypoints_2d=keypoints[keep],
        )

    made = make_synthetic_clip(replace(studio, observer=observer), config, 0)
    assert made.is_detected.tolist() == [True, False, True]
    assert (made.keypoints_2d[1, :, 2] == 0).all()
    np.testing.assert_allclose(made.keypoints_2d[0, :, :2], exact[0], atol=1e-3)
    with pytest.raises(ValueError, match="needs an observer"):
        make_synthetic_clip(studio, config, 0)
