"""What the world is made of: skinning, composed poses, things, photographs, splits."""

import base64
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from extpose.body_model import BodyModel, load_body_model
from extpose.errors import AssetError
from extpose.rotations import axis_angle_to_matrix
from extpose.schema import BodyName
from extpose.synth.appearance import dress
from extpose.synth.hand_scene import find_border
from extpose.synth.hands import compose_hand
from extpose.synth.motion import JOINTS
from extpose.synth.photographs import PANORAMAS, read_panorama
from extpose.synth.poses import STANCES, compose_motion
from extpose.synth.posing import find_bones, gather_skin, shape_body, skin_mesh
from extpose.synth.props import Mesh, draw_held, draw_obstacle, make_ball, make_box


@pytest.fixture(scope="module")
def body() -> BodyModel:
    return load_body_model()


@pytest.mark.parametrize("name", ["smpl", "mano"])
def test_fast_skinning_is_the_body_model(name: BodyName) -> None:
    model, rng = load_body_model(body=name), np.random.default_rng(0)
    rotations = rng.normal(0, 0.5, (2, model.num_rotations + 1, 3))
    betas = rng.normal(0, 1, 10)
    matrices = axis_angle_to_matrix(torch.from_numpy(rotations)).float()
    posed = model(matrices[:, 0], matrices[:, 1:], torch.from_numpy(betas).float().expand(2, 10))
    shaped, rest = shape_body(model, betas)
    bones = find_bones(rotations, rest, model.parents)
    found = skin_mesh(shaped, gather_skin(model.lbs_weights), bones) + rest[0]
    np.testing.assert_allclose(found, posed.vertices.numpy(), atol=2e-6)
    turn = Rotation.from_rotvec([[0.1, 0.2, 0.3], [0.5, 0, 0]]).as_matrix()
    moved = bones.move(turn, np.ones((2, 3)))
    expected = np.einsum("tij,tnj->tni", turn, bones.joints) + 1
    np.testing.assert_allclose(moved.joints, expected)


def test_composed_motion_is_smooth_and_inside_the_limits() -> None:
    names = set()
    for seed in range(60):
        name, rotations = compose_motion(30, 30.0, rng=np.random.default_rng(seed))
        names.add(name)
        knees = rotations[:, [JOINTS.index("left_knee"), JOINTS.index("right_knee")]]
        assert knees[..., 0].min() > -0.01
        assert knees[..., 0].max() < np.deg2rad(145)
        for joint in range(len(JOINTS)):
            turns = Rotation.from_rotvec(rotations[:, joint])
            assert (turns[:-1].inv() * turns[1:]).magnitude().max() < 0.6
    assert names <= set(STANCES)
    assert len(names) > 10


def test_arms_overhead_are_above_the_head(body: BodyModel) -> None:
    """Poses that recordings lack are there: raised hands, lifted feet, sitting."""
    raised = lifted = seated = 0
    for seed in range(40):
        _, rotations = compose_motion(1, 30.0, rng=np.random.default_rng(seed))
        bones = find_bones(rotations, shape_body(body, np.zeros(10))[1], body.parents)
        height = dict(zip(JOINTS, bones.joints[0, :, 1], strict=True))
        raised += max(height["left_wrist"], height["right_wrist"]) > height["head"]
        lifted += abs(height["left_ankle"] - height["right_ankle"]) > 0.25
        seated += -min(height["left_knee"], height["right_knee"]) < 0.25
    assert min(raised, lifted, seated) >= 4


def test_fingers_bend_towards_the_palm() -> None:
    model = load_body_model(body="mano")
    shaped, rest = shape_body(model, np.zeros(10))
    assert shaped[:, 0].min() < rest[0, 0]  # fingers towards -x
    below = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        _, rotations = compose_hand(4, 30.0, rest_joints=rest, rng=rng)
        rotations[:, 0] = 0
        bones = find_bones(rotations, rest, model.parents)
        below.append(bones.joints[:, [3, 6, 9, 12], 1] - (rest - rest[0])[[3, 6, 9, 12], 1])
    assert np.mean(np.array(below) < 0.005) > 0.9


def volume(mesh: Mesh) -> float:
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    return float((a * np.cross(b, c)).sum() / 6)


def test_things_are_closed_and_face_outwards() -> None:
    color = np.ones(3)
    assert volume(make_box((-1, 0, 0), (1, 1, 1), color)) == pytest.approx(2)
    assert volume(make_ball(1.0, color)) == pytest.approx(4.19, rel=0.12)
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert volume(draw_obstacle(rng)) > 0
        assert volume(draw_held(rng)) > 0


def test_clothes_stand_off_the_skin(body: BodyModel) -> None:
    for seed in range(5):
        outfit = dress(body, np.random.default_rng(seed))
        assert outfit.offset.min() >= 0
        assert 0.003 < outfit.offset.max() < 0.08
        assert len(np.unique(outfit.colors.round(), axis=0)) > 20


def test_the_border_of_the_hand_is_one_loop() -> None:
    model = load_body_model(body="mano")
    loop = find_border(model.faces.numpy())
    assert len(set(loop.tolist())) == len(loop) > 10
    assert model.v_template[loop, 0].min() > model.joints_template[0, 0]


def test_no_place_is_in_two_splits() -> None:
    names = [name for split in PANORAMAS.values() for name in split]
    assert len(names) == len(set(names)) == 18


def test_a_broken_panorama_is_named(tmp_path: Path) -> None:
    path = tmp_path / "city.exr.js"
    path.write_text("export default 'data:;base64," + base64.b64encode(b"nothing").decode() + "';")
    with pytest.raises(AssetError, match="not a packaged panorama") as error:
        read_panorama(path)
    assert str(path) in str(error.value)
