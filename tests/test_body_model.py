"""The body layer against smplx, against stored numbers, and against its own symmetries."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from extpose.body_file import MANO_TO_OPENPOSE, read_body_file
from extpose.body_model import FREE_FILES, BodyModel, BodyOutput, find_evidence, load_body_model
from extpose.errors import AssetError
from extpose.keypoints import COCO17_OF_BODY44, KEYPOINT_NAMES
from extpose.rotations import axis_angle_to_matrix
from extpose.schema import BodyName
from tests.reference_recipe import uniform

DATA = Path(__file__).parent / "data"
SMPL_PARENTS = [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21]
LEFT_RIGHT = ((1, 2), (4, 5), (7, 8), (10, 11), (13, 14), (16, 17), (18, 19), (20, 21), (22, 23))


def synthetic_body(num_vertices: int = 6890) -> dict[str, np.ndarray]:
    """A body in SMPL's layout whose arrays are functions of their names."""
    joints = np.arange(24)
    regressor = np.zeros((24, num_vertices), np.float32)
    for offset in (0, 97):
        regressor[joints, (joints * 281 + offset) % num_vertices] += 0.5
    shares = ((uniform("smpl.weights", (num_vertices, 24)).astype(np.float64) + 1) / 2) ** 6
    corner = np.arange(2 * num_vertices - 4)
    return {
        "v_template": uniform("smpl.v_template", (num_vertices, 3)) * np.float32([0.4, 0.9, 0.15]),
        "shapedirs": np.float32(0.03) * uniform("smpl.shapedirs", (num_vertices, 3, 10)),
        "posedirs": np.float32(0.01) * uniform("smpl.posedirs", (num_vertices, 3, 207)),
        "J_regressor": regressor,
        "weights": (shares / shares.sum(1, keepdims=True)).astype(np.float32),
        "kintree_table": np.array([SMPL_PARENTS, joints]),
        "f": np.stack([(corner + i) % num_vertices for i in range(3)], 1),
    }


def synthetic_regressor(num_vertices: int = 6890) -> np.ndarray:
    """Stands for `SMPL_to_J19.pkl`: each joint between two vertices."""
    regressor, joints = np.zeros((19, num_vertices), np.float32), np.arange(19)
    for offset, share in ((11, 0.25), (1200, 0.75)):
        regressor[joints, (joints * 353 + offset) % num_vertices] += share
    return regressor


def small_file(tmp_path: Path, **changes: Any) -> Path:
    """The synthetic body with few vertices, some fields changed or (None) left out."""
    fields = {**synthetic_body(300), **changes}
    path = tmp_path / "body.npz"
    np.savez(path, **{name: value for name, value in fields.items() if value is not None})
    return path


def random_pose(model: BodyModel, *batch: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float) -> Tensor:
        return torch.randn(*batch, *shape, generator=generator) * scale

    return {
        "global_orient": axis_angle_to_matrix(normal(3, scale=1.0)),
        "pose": axis_angle_to_matrix(normal(model.num_rotations, 3, scale=0.4)),
        "betas": normal(10, scale=1.0),
        "transl": normal(3, scale=1.0),
    }


@pytest.fixture(scope="module")
def free_body() -> BodyModel:
    return load_body_model()


@pytest.fixture(scope="module")
def free_hand() -> BodyModel:
    return load_body_model(body="mano")


@pytest.mark.parametrize("kind", ["smpl", "mano"])
def test_the_free_models_equal_smplx(kind: BodyName, tmp_path: Path) -> None:
    smplx = pytest.importorskip("smplx")
    fields = dict(np.load(FREE_FILES[kind]))
    fields["shapedirs"] = fields["shapedirs"].astype(np.float32)
    model = load_body_model(body=kind)
    correctives = (len(fields["v_template"]), 3, 9 * model.num_rotations)
    name = "SMPL_NEUTRAL.pkl" if kind == "smpl" else "MANO_RIGHT.pkl"
    (tmp_path / name).write_bytes(pickle.dumps({**fields, "posedirs": np.zeros(correctives)}))
    if kind == "smpl":
        theirs = smplx.SMPL(tmp_path / name, gender="neutral")
    else:
        theirs = smplx.MANO(tmp_path / name, is_rhand=True, use_pca=False, flat_hand_mean=True)
    draw = torch.Generator().manual_seed(0)
    turn, betas, transl = (torch.randn(4, n, generator=draw) for n in (3, 10, 3))
    pose = 0.5 * torch.randn(4, 3 * model.num_rotations, generator=draw)
    key = "body_pose" if kind == "smpl" else "hand_pose"
    expected = theirs(global_orient=turn, betas=betas, transl=transl, **{key: pose})
    ours = model(
        axis_angle_to_matrix(turn),
        axis_angle_to_matrix(pose.unflatten(-1, (-1, 3))),
        betas,
        transl,
    )
    num_joints = model.num_rotations + 1
    torch.testing.assert_close(ours.vertices, expected.vertices, atol=2e-6, rtol=0)
    torch.testing.assert_close(ours.joints, expected.joints[:, :num_joints], atol=2e-6, rtol=0)


def test_stored_numbers_with_pose_correctives(tmp_path: Path) -> None:
    stored = np.load(DATA / "smpl_synthetic_io.npz")
    path = tmp_path / "body.pkl"
    path.write_bytes(pickle.dumps(synthetic_body(), protocol=2))
    rotations = torch.from_numpy(stored["rotmats"])
    extra = tmp_path / "J19.npy"
    np.save(extra, synthetic_regressor())
    model = load_body_model(path, extra_regressor=extra)
    out = model(rotations[:, 0], rotations[:, 1:], torch.tensor(stored["betas"]))
    vertices = out.vertices[:, stored["vertex_ids"]].numpy()
    np.testing.assert_allclose(vertices, stored["vertices"], atol=1e-6)
    np.testing.assert_allclose(out.joints.numpy(), stored["joints"], atol=1e-6)
    np.testing.assert_allclose(out.keypoints.numpy(), stored["joints44"], atol=1e-6)
    assert model.has_keypoint.all()
    # Without the regressor of the extra joints a file knows OpenPose's 25, and says so.
    plain = load_body_model(path)
    first = plain(rotations[:, 0], rotations[:, 1:], torch.tensor(stored["betas"])).keypoints
    torch.testing.assert_close(first[:, :25], out.keypoints[:, :25])
    assert plain.has_keypoint.sum() == 25
    assert not first[:, 25:].any()


def test_a_regressor_of_another_body_is_refused(tmp_path: Path) -> None:
    extra = tmp_path / "J19.npy"
    np.save(extra, synthetic_regressor(300))
    wrong = r"J19.npy: regressor has shape \(19, 300\), expected \(19, 13718\)"
    with pytest.raises(AssetError, match=wrong):
        load_body_model(extra_regressor=extra)


@pytest.mark.parametrize("body", ["smpl", "mano"])
def test_leading_axes_equal_a_loop(body: BodyName) -> None:
    model = load_body_model(body=body)
    args = random_pose(model, 2, 3)
    out = model(**args)
    num_keypoints = 44 if body == "smpl" else 21
    assert out.vertices.shape == (2, 3, len(model.v_template), 3)
    assert out.joints.shape == (2, 3, model.num_rotations + 1, 3)
    assert out.keypoints.shape == (2, 3, num_keypoints, 3)
    for b in range(2):
        for t in range(3):
            one: BodyOutput = model(**{name: value[b, t] for name, value in args.items()})
            torch.testing.assert_close(out.vertices[b, t], one.vertices, atol=4e-6, rtol=0)
            torch.testing.assert_close(out.joints[b, t], one.joints, atol=4e-6, rtol=0)
            torch.testing.assert_close(out.keypoints[b, t], one.keypoints, atol=4e-6, rtol=0)


def test_gradients_reach_every_input() -> None:
    model = load_body_model(body="mano")
    args = {name: value.requires_grad_() for name, value in random_pose(model, 2).items()}
    model(**args).keypoints.square().sum().backward()
    for name, value in args.items():
        assert value.grad is not None, name
        assert value.grad.abs().amax() > 1e-4, name
    double = model.double()
    args = {name: value.detach().double() for name, value in args.items()}
    step = 1e-6 * torch.ones(2, 10, dtype=torch.float64)
    betas = args.pop("betas").requires_grad_()

    def loss(betas: Tensor) -> Tensor:
        return double(**args, betas=betas).keypoints.square().sum()

    (slope,) = torch.autograd.grad(loss(betas), betas)
    measured = (loss(betas + step) - loss(betas - step)) / 2
    torch.testing.assert_close((slope * step).sum(), measured, rtol=1e-4, atol=1e-12)


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_the_root_turns_and_moves_the_body_rigidly(free_body: BodyModel, seed: int) -> None:
    args = random_pose(free_body, seed=seed)
    out = free_body(**args)
    eye, zero = torch.eye(3), torch.zeros(3)
    still = free_body(**{**args, "global_orient": eye, "transl": zero})
    root = still.joints[0]
    turned = (still.vertices - root) @ args["global_orient"].T + root + args["transl"]
    torch.testing.assert_close(out.vertices, turned, atol=5e-6, rtol=0)
    bones = [(j, p) for j, p in enumerate(free_body.parents) if j]
    rest = free_body(eye, eye.expand(23, 3, 3), args["betas"])
    for child, parent in bones:
        length = (out.joints[child] - out.joints[parent]).norm()
        expected = (rest.joints[child] - rest.joints[parent]).norm()
        torch.testing.assert_close(length, expected, atol=5e-6, rtol=0)


def test_the_free_body_stands_as_smpl_does(free_body: BodyModel) -> None:
    eye = torch.eye(3)
    out = free_body(eye, eye.expand(23, 3, 3), torch.zeros(10))
    height = np.ptp(out.vertices[:, 1].numpy())
    assert 1.7 < height < 1.8
    for left, right in LEFT_RIGHT:
        mirrored = out.joints[right] * torch.tensor([-1, 1, 1])
        assert out.joints[left, 0] > 0.02
        torch.testing.assert_close(out.joints[left], mirrored, atol=2e-3, rtol=0)
    evidence = find_evidence(out, free_body)
    nose, left_eye, right_eye, left_ear, right_ear = evidence[:5]
    assert nose[2] > left_ear[2] + 0.05  # it faces +z
    assert left_eye[0] > nose[0] > right_eye[0]
    assert left_ear[0] > left_eye[0]
    assert right_ear[0] < right_eye[0]
    # COCO's keypoints, by their regressor, lie near those of the same names.
    same = out.keypoints[list(COCO17_OF_BODY44)]
    assert (evidence - same).norm(dim=-1).max() < 0.05
    assert free_body.has_keypoint.all()
    named = dict(zip(KEYPOINT_NAMES["body44"], out.keypoints, strict=True))
    assert named["left_big_toe"][2] > named["left_heel"][2] + 0.1
    assert named["lsp_head_top"][1] > named["h36m_head"][1] > named["h36m_jaw"][1]
    for limb in ("ankle", "knee", "hip", "wrist", "elbow", "shoulder"):
        for side in ("left", "right"):
            away = named[f"lsp_{side}_{limb}"] - named[f"{side}_{limb}"]
            assert away.norm() < 0.05
    feet, head = out.joints[[7, 8], 1], out.joints[15, 1]
    assert (feet < -0.9).all()
    assert head > 0.3


def test_positive_first_beta_is_taller(free_body: BodyModel) -> None:
    eye = torch.eye(3).expand(23, 3, 3)
    betas = torch.zeros(3, 10)
    betas[:, 0] = torch.tensor([-2.0, 0, 2])
    vertices = free_body(eye[:3], eye.expand(3, 23, 3, 3), betas).vertices
    heights = np.ptp(vertices[..., 1].numpy(), axis=1)
    assert heights[0] + 0.1 < heights[1] < heights[2] - 0.1


def test_the_free_hand_is_a_right_hand(free_hand: BodyModel) -> None:
    eye = torch.eye(3)
    out = free_hand(eye, eye.expand(15, 3, 3), torch.zeros(10))
    wrist, thumb, index, middle, ring, little = out.keypoints[[0, 4, 8, 12, 16, 20]]
    assert (out.keypoints[[8, 12, 16, 20], 0] < wrist[0] - 0.1).all()  # fingers along -x
    assert thumb[2] > index[2] > middle[2] > ring[2] > little[2]  # thumb forward
    # Down is the palm: a finger bends there, and the tip follows the chain.
    pose = eye.repeat(15, 1, 1)
    pose[:3] = axis_angle_to_matrix(torch.tensor([0, 0, 0.4]))
    bent = free_hand(eye, pose, torch.zeros(10)).keypoints
    assert bent[8, 1] < index[1] - 0.03
    torch.testing.assert_close(bent[12], middle)
    assert torch.equal(out.keypoints[list(range(5, 8))], out.joints[list(MANO_TO_OPENPOSE[5:8])])


@pytest.mark.parametrize("body", ["smpl", "mano"])
def test_the_free_files_are_well_formed(body: BodyName) -> None:
    arrays = read_body_file(FREE_FILES[body])
    assert FREE_FILES[body].stat().st_size < 1_300_000
    np.testing.assert_allclose(arrays.weights.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(arrays.J_regressor.sum(1), 1, atol=1e-5)
    assert arrays.weights.min() >= 0
    assert arrays.J_regressor.min() >= 0
    assert len(np.unique(arrays.faces)) == len(arrays.v_template)
    a, b, c = arrays.v_template[arrays.faces].transpose(1, 0, 2)
    volume = np.einsum("fc,fc->", a, np.cross(b, c)) / 6
    assert volume > 0  # triangles turn outwards
    assert volume == pytest.approx(0.07 if body == "smpl" else 4e-4, rel=0.5)


def test_checkpoints_never_carry_a_body_model(free_body: BodyModel) -> None:
    assert free_body.state_dict() == {}
    assert not list(free_body.parameters())


@pytest.mark.parametrize("root", [-1, 2**32 - 1])
def test_both_notations_of_the_root_are_read(tmp_path: Path, root: int) -> None:
    table = np.array([[root, *SMPL_PARENTS[1:]], range(24)])
    arrays = read_body_file(small_file(tmp_path, kintree_table=table))
    assert list(arrays.parents) == SMPL_PARENTS


def test_only_ten_betas_are_kept_and_correctives_may_be_absent(tmp_path: Path) -> None:
    shapedirs = uniform("many", (300, 3, 16))
    arrays = read_body_file(small_file(tmp_path, shapedirs=shapedirs, posedirs=None))
    np.testing.assert_array_equal(arrays.shapedirs, shapedirs[..., :10])
    assert arrays.posedirs is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": np.zeros((300, 23))}, r"weights has shape \(300, 23\), expected \(300, 24\)"),
        ({"shapedirs": np.zeros((300, 3, 9))}, r"shapedirs .*\(300, 3, 9\), .*\(300, 3, >=10\)"),
        ({"posedirs": np.zeros((300, 3, 9))}, r"posedirs .*\(300, 3, 9\), .*\(300, 3, 207\)"),
        ({"J_regressor": np.zeros((24, 6890))}, r"J_regressor .*\(24, 6890\), .*\(24, 300\)"),
        ({"kintree_table": np.zeros((2, 55), int)}, r"kintree_table has shape \(2, 55\)"),
        ({"kintree_table": np.zeros((2, 24), int)}, "kintree_table .* a child before its parent"),
        ({"f": np.array([[0, 1, 300]])}, "f names vertex 300, v_template has 300"),
        ({"v_template": np.full((300, 3), np.nan)}, "v_template .* not finite"),
        ({"J_regressor": None, "f": None}, "lacks J_regressor, f"),
    ],
)
def test_broken_fields_are_named(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(AssetError, match=rf"body\.npz: {message}"):
        read_body_file(small_file(tmp_path, **changes))


def test_wrong_files_are_named(tmp_path: Path, free_body: BodyModel) -> None:
    with pytest.raises(AssetError, match=r"gone\.npz: no such file"):
        load_body_model(tmp_path / "gone.npz")
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(AssetError, match=r"text\.npz: not a readable npz"):
        load_body_model(tmp_path / "text.npz")
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([1]))
    with pytest.raises(AssetError, match=r"list\.pkl: holds a list"):
        load_body_model(tmp_path / "list.pkl")
    with pytest.raises(AssetError, match=r"holds a smpl model .* asked for mano"):
        load_body_model(FREE_FILES["smpl"], "mano")
    with pytest.raises(AssetError, match="has 300 vertices, the keypoints of smpl need"):
        load_body_model(small_file(tmp_path))
    with pytest.raises(ValueError, match="15 joint rotations, a smpl model has 23"):
        free_body(torch.eye(3), torch.eye(3).expand(15, 3, 3), torch.zeros(10))
