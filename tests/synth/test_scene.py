"""What is in a clip of a body besides the body, how it is filmed, what is stored of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from extpose.config import CropConfig, SynthConfig
from extpose.data.shards import encode_clip
from extpose.synth.motion import JOINTS, Motion, load_motions
from extpose.synth.photographs import Photographs
from extpose.synth.render import (
    Scene,
    Studio,
    build_scene,
    film,
    find_seen,
    make_synthetic_clip,
    open_studio,
)
from extpose.synth.scene import outline, project
from extpose.synth.sensor import Degradation, degrade, sample_degradation
from extpose.synth.world import HINGES, Purpose, make_rng, sample_camera, sample_person
from tests.synth.figure import write_motions
from tests.synth.photographs_made import make_photographs

CONFIG = SynthConfig(
    out=Path("unused"), num_frames=3, image_size=(96, 128), crop=CropConfig(size=32), vertices=True
)
NUM_SCENES = 16
WEIGHTS = {"walk": 1.0, "run": 1.0}


@pytest.fixture(scope="module")
def photographs() -> Photographs:
    return make_photographs()


@pytest.fixture(scope="module")
def motion_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_motions(tmp_path_factory.mktemp("motion"))


@pytest.fixture(scope="module")
def motions(motion_dir: Path) -> dict[str, Motion]:
    return load_motions(motion_dir, "train")


@pytest.fixture(scope="module")
def studio(motion_dir: Path, photographs: Photographs) -> Studio:
    return open_studio(CONFIG, motion_dir, photographs=photographs)


@pytest.fixture(scope="module")
def scenes(studio: Studio) -> list[Scene]:
    return [build_scene(studio, CONFIG, index) for index in range(NUM_SCENES)]


def test_a_world_with_photographs_is_the_same_again(studio: Studio) -> None:
    first, again = (encode_clip(make_synthetic_clip(studio, CONFIG, 0)) for _ in range(2))
    assert first == again
    painted = replace(studio, photographs=None)
    assert encode_clip(make_synthetic_clip(painted, CONFIG, 0)) != first


def test_other_people_things_and_seats_are_in_the_scenes(scenes: list[Scene]) -> None:
    num_vertices = scenes[0].vertices_cam.shape[1]
    others = [[p for p in s.props if p.vertices_cam.shape[1] == num_vertices] for s in scenes]
    things = [[p for p in s.props if p.vertices_cam.shape[1] != num_vertices] for s in scenes]
    assert 2 <= sum(len(found) > 0 for found in others) <= 10
    assert 3 <= sum(len(found) > 0 for found in things) <= 14
    for scene in scenes:
        for prop in scene.props:
            assert prop.vertices_cam.shape[0] == CONFIG.num_frames
            assert np.isfinite(prop.vertices_cam).all()
            # Nothing is below the floor, but for bags that reach there.
            up, eye = scene.camera.R[0, :, 1], scene.camera.position[0, 1]
            assert (prop.vertices_cam[0] @ up + eye).min() > -0.6


def test_who_sits_has_a_seat_below(studio: Studio) -> None:
    seated = 0
    for index in range(60):
        person = sample_person(
            studio.motions,
            WEIGHTS,
            CONFIG,
            leg_length=studio.leg_length,
            rng=make_rng(0, "train", index, Purpose.PERSON),
        )
        if not person.is_seated:
            continue
        scene = build_scene(studio, CONFIG, index)
        up = scene.camera.R[1, :, 1]
        pelvis = scene.targets.keypoints_3d[1, 8, :3] @ up
        below = []
        for prop in scene.props:
            height = prop.vertices_cam[1] @ up
            aside = np.linalg.norm(
                (prop.vertices_cam[1] - scene.targets.keypoints_3d[1, 8, :3])
                - np.outer(height - pelvis, up),
                axis=-1,
            )
            below.append(bool(((aside < 0.4) & (np.abs(height - pelvis + 0.1) < 0.2)).sum() >= 4))
        assert any(below)
        seated += 1
        if seated == 2:
            return
    assert seated > 0


def test_the_stored_vertices_and_what_is_seen_of_a_body(
    studio: Studio, scenes: list[Scene]
) -> None:
    clip = make_synthetic_clip(studio, CONFIG, 0)
    assert clip.targets is not None
    np.testing.assert_array_equal(clip.targets.vertices, scenes[0].vertices_cam.astype(np.float32))
    shares = []
    for index, scene in enumerate(scenes[:8]):
        shots = list(film(studio, scene, CONFIG, index))
        seen = find_seen(studio.body, scene, shots)
        assert seen.shape == scene.targets.keypoints_2d.shape[:2]
        points = scene.targets.keypoints_2d[..., :2]
        inside = ((points > -0.5) & (points < [127.5, 95.5])).all(-1)
        assert not (seen & ~inside).any()
        shares.append(seen[inside].mean())
        covered = [replace(shot, depth=np.full_like(shot.depth, 0.1)) for shot in shots]
        assert not find_seen(studio.body, scene, covered).any()
        bare = [replace(shot, depth=np.full_like(shot.depth, np.inf)) for shot in shots]
        np.testing.assert_array_equal(find_seen(studio.body, scene, bare), inside)
    assert 0.3 < np.mean(shares) < 0.98


def test_the_outline_is_that_of_the_projected_mesh(scenes: list[Scene]) -> None:
    scene = scenes[0]
    points = project(scene.vertices_cam, scene.camera.K)
    expected = np.concatenate([points.min(1), points.max(1)], -1)
    np.testing.assert_allclose(outline(scene.vertices_cam, scene.camera.K), expected)


def test_motion_blur_is_where_something_moves(studio: Studio, scenes: list[Scene]) -> None:
    """The subject is pushed sideways: its picture is smeared, that of who stands still is not."""
    step = np.array([0.15, 0, 0]) * np.arange(CONFIG.num_frames)[:, None, None]
    still = np.repeat(scenes[2].subject.vertices_cam[:1], CONFIG.num_frames, 0)
    camera = replace(scenes[2].camera, R=np.repeat(scenes[2].camera.R[:1], 3, 0))
    changes = []
    for vertices in (still, still + step):
        subject = replace(scenes[2].subject, vertices_cam=vertices)
        sharp, blurred = (
            next(
                film(
                    studio,
                    replace(
                        scenes[2],
                        camera=camera,
                        subject=subject,
                        props=(),
                        shadow=0.0,
                        degradation=replace(_clean(), shutter=shutter),
                    ),
                    CONFIG,
                    0,
                )
            ).rgb.astype(int)
            for shutter in (0.0, 1.0)
        )
        changes.append(np.abs(sharp - blurred).mean())
    assert changes[1] > 3 * changes[0]


def _clean() -> Degradation:
    return replace(
        sample_degradation(CONFIG.image_size, np.random.default_rng(0)),
        **{"blur": 0.0, "noise": np.zeros((160, 192), np.float32), "gain": np.ones(3)},
        **{"jpeg_quality": 100, "coarseness": 1.0, "shutter": 0.0},
    )


def test_lens_sensor_and_codec() -> None:
    rng = np.random.default_rng(0)
    # Grey: JPEG keeps little of the colour of single pixels.
    picture = np.repeat(rng.integers(0, 255, (96, 128, 1)).astype(np.uint8), 3, -1)

    def spoil(degradation: Degradation) -> np.ndarray:
        return degrade(picture, degradation, np.random.default_rng(1)).astype(int)

    assert np.abs(spoil(_clean()) - picture).mean() < 6
    drawn = [sample_degradation((96, 128), np.random.default_rng(i)) for i in range(30)]
    assert {d.shutter > 0 for d in drawn} == {d.coarseness > 1 for d in drawn} == {True, False}
    for degradation in drawn[:6]:
        np.testing.assert_array_equal(spoil(degradation), spoil(degradation))
        assert spoil(degradation).shape == picture.shape
    for change in ({"blur": 1.5}, {"coarseness": 2.0}):
        assert spoil(replace(_clean(), **change)).std() < 0.8 * picture.std()
    darker = spoil(replace(_clean(), gain=np.array([0.5, 1.0, 1.0])))
    assert darker[..., 0].mean() < 0.6 * picture[..., 0].mean()
    noisy = replace(_clean(), noise=rng.normal(0, 8, (160, 192)).astype(np.float32))
    grey = np.full((96, 128, 3), 128, np.uint8)
    assert 5 < degrade(grey, noisy, rng).std() < 11


def test_knees_and_elbows_bend_one_way(motions: dict[str, Motion]) -> None:
    """The figure's legs are nearly straight: variation alone would bend them backwards."""
    lowest, config = np.inf, replace(CONFIG, num_frames=8)
    for seed in range(24):
        person = sample_person(
            motions, WEIGHTS, config, leg_length=0.85, rng=np.random.default_rng(seed)
        )
        for joint, axis, low, high in HINGES:
            angle = person.rotations[:, JOINTS.index(joint), axis]
            assert low <= angle.min() <= angle.max() <= high
            lowest = min(lowest, np.abs(angle).min())
    assert lowest == 0.0


def test_recordings_are_warped_in_time_mirrored_and_given_other_arms(
    motions: dict[str, Motion],
) -> None:
    speeds, arms = [], []
    config = replace(CONFIG, num_frames=16)
    for seed in range(36):
        person = sample_person(
            motions, {"walk": 1.0}, config, leg_length=0.8318, rng=np.random.default_rng(seed)
        )
        if person.is_composed:
            continue
        seconds = (config.num_frames - 1) / config.fps
        path = np.linalg.norm((person.pelvis_world[-1] - person.pelvis_world[0])[[0, 2]])
        speeds.append(path / seconds / 1.2)  # the figure walks at 1.2 m/s
        elbow = Rotation.from_rotvec(person.rotations[:, JOINTS.index("left_elbow")])
        arms.append(float(elbow.magnitude().mean()))
    assert 0.7 < min(speeds) < 0.85
    assert 1.15 < max(speeds) < 1.3
    assert np.ptp(arms) > 0.5  # the figure's own elbows hardly differ


def test_cameras_are_held_by_hand_or_stand_still(motions: dict[str, Motion]) -> None:
    turns, config = [], replace(CONFIG, num_frames=8)
    for seed in range(30):
        rng = np.random.default_rng(seed)
        camera = sample_camera(np.tile([0.0, 0.95, 0.0], (8, 1)), config, rng=rng)
        assert camera.position[:, 1].min() > 0.1
        moved = Rotation.from_matrix(camera.R[1:] @ camera.R[:-1].transpose(0, 2, 1)).magnitude()
        turns.append(moved.max())
        assert np.linalg.norm(np.diff(camera.position, axis=0), axis=-1).max() < 0.03
    assert 0.1 < np.mean(np.array(turns) < 1e-9) < 0.6
    assert max(turns) < 0.05
