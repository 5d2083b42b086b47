"""Retargeting and resampling: splits, axes, mirrors, loops."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from extpose.body_model import BodyModel, load_body_model
from extpose.errors import AssetError
from extpose.rotations import axis_angle_to_matrix
from extpose.synth.motion import JOINTS, MOTIONS, Motion, read_motion, sample_motion
from tests.synth.figure import write_walk


@pytest.fixture(scope="module")
def body() -> BodyModel:
    return load_body_model()


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Motion:
    return read_motion(write_walk(tmp_path_factory.mktemp("motion"), "walk"))


def joints_of(body: BodyModel, rotations: np.ndarray) -> np.ndarray:
    matrices = axis_angle_to_matrix(torch.from_numpy(rotations)).float()
    betas = torch.zeros(len(rotations), 10)
    return body(matrices[:, 0], matrices[:, 1:], betas).joints.numpy()


def test_no_clip_is_in_two_splits() -> None:
    names = [name for split in MOTIONS.values() for name in split]
    assert len(names) == len(set(names)) == 15


def test_a_walker_is_upright_faces_forward_and_bends_its_knees_backwards(
    body: BodyModel, walk: Motion
) -> None:
    rotations, root = sample_motion(walk, np.linspace(0, walk.duration, 30))
    joints = {name: joints_of(body, rotations)[:, i] for i, name in enumerate(JOINTS)}
    assert (joints["head"][:, 1] - joints["pelvis"][:, 1] > 0.4).all()
    assert (joints["pelvis"][:, 1] - joints["left_ankle"][:, 1] > 0.5).all()
    assert (joints["left_shoulder"][:, 0] > joints["right_shoulder"][:, 0]).all()
    # Arms hang beside the body: the recording was of arms down, the body's rest is a T.
    assert (joints["left_shoulder"][:, 1] - joints["left_wrist"][:, 1] > 0.3).all()
    assert (joints["left_foot"][:, 2] > joints["left_ankle"][:, 2]).mean() > 0.9
    assert root[-1, 2] - root[0, 2] == pytest.approx(1.2, abs=0.05)
    # The shin of the bent leg is behind the thigh's line, never in front of it.
    for side in ("left", "right"):
        thigh = joints[f"{side}_knee"] - joints[f"{side}_hip"]
        shin = joints[f"{side}_ankle"] - joints[f"{side}_knee"]
        bend = np.cross(thigh, shin)[:, 0]
        assert bend.max() > 0.02
        assert bend.min() > -0.02


def test_a_mirrored_motion_is_the_mirror_image(body: BodyModel, walk: Motion) -> None:
    times = np.array([0.1, 0.4, 0.9])
    plain, plain_root = sample_motion(walk, times)
    mirrored, mirrored_root = sample_motion(walk, times, mirror=True)
    np.testing.assert_allclose(mirrored_root, plain_root * [-1, 1, 1])
    left, right = JOINTS.index("left_wrist"), JOINTS.index("right_wrist")
    # The free body is not symmetric to the millimetre.
    np.testing.assert_allclose(
        joints_of(body, mirrored)[:, left], joints_of(body, plain)[:, right] * [-1, 1, 1], atol=0.02
    )
    assert np.abs(plain[:, 1:] - mirrored[:, 1:]).max() > 0.05


def test_a_loop_goes_on_without_a_jump(walk: Motion) -> None:
    times = walk.duration + np.linspace(-0.05, 0.05, 41)
    rotations, root = sample_motion(walk, times)
    for joint in range(len(JOINTS)):
        turns = Rotation.from_rotvec(rotations[:, joint])
        assert (turns[:-1].inv() * turns[1:]).magnitude().max() < 0.05
    assert np.diff(root[:, 2]).max() < 0.01
    assert (np.diff(root[:, 2]) > 0).all()


def test_other_clips_are_played_to_and_fro(tmp_path: Path) -> None:
    motion = read_motion(write_walk(tmp_path, "kick"))
    times = motion.duration + np.array([-0.2, 0.2])
    rotations, root = sample_motion(motion, times)
    np.testing.assert_allclose(rotations[0], rotations[1], atol=1e-9)
    np.testing.assert_allclose(root[0], root[1], atol=1e-9)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no json", "not a motion file"),
        (json.dumps({"Frames": [[0.1] * 20] * 3}), r"shape \(3, 20\), expected \(t, 44\)"),
        (json.dumps({"Frames": [[0.0] * 44] * 3}), "durations"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "humanoid3d_walk.txt"
    path.write_text(content)
    with pytest.raises(AssetError, match=message) as error:
        read_motion(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="humanoid3d_run"):
        read_motion(tmp_path / "humanoid3d_run.txt")


@pytest.mark.assets
def test_the_recorded_walk_and_run_are_upright(asset, body: BodyModel) -> None:  # type: ignore[no-untyped-def]
    folder = asset("motion")
    for name in ("walk", "run"):
        motion = read_motion(folder / f"humanoid3d_{name}.txt")
        rotations, root = sample_motion(motion, np.linspace(0, 3, 60))
        joints = joints_of(body, rotations)
        assert (joints[:, JOINTS.index("head"), 1] - joints[:, 0, 1] > 0.3).all()
        assert root[-1, 2] - root[0, 2] > 1.5
