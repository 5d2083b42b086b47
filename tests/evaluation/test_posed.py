"""What a protocol sees of a posed body, and what it takes for the truth."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from extpose.body_file import BodyArrays, read_body_file
from extpose.body_model import FREE_FILES, BodyModel, load_body_model
from extpose.errors import AssetError, ExtPoseError
from extpose.evaluation.posed import load_reader
from extpose.evaluation.protocols import PROTOCOLS
from extpose.evaluation.truth import read_truth
from extpose.rotations import axis_angle_to_matrix
from tests.clips import random_targets

T = 6
BOX = np.tile(np.float32([0, 0, 100, 50]), (T, 1))
SEEN = np.ones(T, bool)


@pytest.fixture(scope="module")
def bodies() -> dict[str, BodyModel]:
    return {"smpl": load_body_model(None, "smpl"), "mano": load_body_model(None, "mano")}


def synthetic_smpl() -> BodyArrays:
    """The free body cut to as many vertices as SMPL has."""
    free = read_body_file(FREE_FILES["smpl"])
    n = 6890
    return replace(
        free,
        v_template=free.v_template[:n],
        shapedirs=free.shapedirs[:n],
        J_regressor=free.J_regressor[:, :n],
        weights=free.weights[:n],
        faces=free.faces[(free.faces < n).all(1)],
        coco_regressor=None,
        extra_regressor=None,
    )


def test_nothing_stands_in_on_the_licensed_meshes(tmp_path):
    body = BodyModel(synthetic_smpl())
    for name, file in (("3dpw-14-wham", "J_regressor_h36m.npy"), ("h36m-p2", "SMPL_to_J19.pkl")):
        with pytest.raises(AssetError, match=f"{name} needs {file}"):
            load_reader(PROTOCOLS[name], body)
    wrong = tmp_path / "J_regressor_h36m.npy"
    np.save(wrong, np.zeros((17, 10778), np.float32))
    with pytest.raises(AssetError, match=r"\(17, 10778\), expected \(17, 6890\)"):
        load_reader(PROTOCOLS["3dpw-14-wham"], body, files={wrong.name: wrong})


def test_regressors_are_applied_to_posed_vertices(tmp_path):
    body = BodyModel(synthetic_smpl())
    path = tmp_path / "J_regressor_h36m.npy"
    matrix = np.zeros((17, 6890), np.float32)
    matrix[np.arange(17), np.arange(17) * 100] = 1
    np.save(path, matrix)
    protocol = PROTOCOLS["3dpw-14-wham"]
    reader = load_reader(protocol, body, files={path.name: path})
    assert reader.stand_in == ()
    rotations = axis_angle_to_matrix(torch.randn(2, 24, 3, generator=torch.manual_seed(0)))
    output = body(rotations[:, 0], rotations[:, 1:], torch.zeros(2, 10))
    found = reader.read(output)
    torch.testing.assert_close(found.joints, output.vertices[:, [100 * j for j in protocol.joints]])
    torch.testing.assert_close(found.root, output.vertices[:, [400, 100]].mean(1))


def test_one_free_body_for_both_genders_is_said(bodies):
    for name in ("3dpw-24-smpl", "emdb1"):
        assert "male and female" in load_reader(PROTOCOLS[name], bodies["smpl"]).stand_in[0]
        assert load_reader(PROTOCOLS[name], BodyModel(synthetic_smpl())).stand_in == ()
    assert load_reader(PROTOCOLS["free-body"], bodies["smpl"]).stand_in == ()


def test_the_wrong_kind_of_body_is_refused(bodies):
    with pytest.raises(ExtPoseError, match="freihand is for mano, not for smpl"):
        load_reader(PROTOCOLS["freihand"], bodies["smpl"])


def test_finger_tips_are_the_protocols_own():
    free = read_body_file(FREE_FILES["mano"])
    n = 778
    cut = {"v_template": free.v_template[:n], "shapedirs": free.shapedirs[:n]}
    cut |= {"J_regressor": free.J_regressor[:, :n], "weights": free.weights[:n]}
    faces = free.faces[(free.faces < n).all(1)]
    hand = BodyModel(replace(free, **cut, faces=faces))
    eye = torch.eye(3).expand(1, 16, 3, 3)
    output = hand(eye[:, 0], eye[:, 1:], torch.zeros(1, 10))
    for name in ("freihand", "ho3d-v2", "freihand-smplx-tips"):
        protocol = PROTOCOLS[name]
        reader = load_reader(protocol, hand)
        found = reader.read(output).joints
        assert reader.stand_in == ()
        assert torch.equal(found[:, [4, 8, 12, 16, 20]], output.vertices[:, list(protocol.tips)])
    assert torch.equal(found, output.keypoints)


def test_the_truth_names_what_is_missing(bodies):
    targets = random_targets(0, T, "mano")
    reader = load_reader(PROTOCOLS["hint-visor-occ"], bodies["mano"])
    with pytest.raises(ExtPoseError, match=r"hint-visor-occ needs target\.is_visible"):
        read_truth(reader, targets, bbox_xyxy=BOX, is_detected=SEEN)
    reader = load_reader(PROTOCOLS["freihand"], bodies["mano"])
    nothing = replace(targets, has_pose=np.zeros(T, bool))
    with pytest.raises(ExtPoseError, match=r"freihand needs target\.vertices"):
        read_truth(reader, nothing, bbox_xyxy=BOX, is_detected=SEEN)


def test_frames_are_left_out_for_the_first_reason(bodies):
    targets = random_targets(0, T)
    targets = replace(targets, has_pose=np.array([0, 1, 1, 1, 1, 1], bool))
    reader = load_reader(PROTOCOLS["3dpw-24-smpl"], bodies["smpl"])
    seen = np.array([0, 0, 1, 1, 1, 1], bool)
    truth = read_truth(reader, targets, bbox_xyxy=BOX, is_detected=seen)
    assert truth.valid.tolist() == [False, False, True, True, True, True]
    assert truth.left_out == {"no labelled pose": 1, "not detected": 1}


def test_visible_and_occluded_points_add_up(bodies):
    targets = random_targets(1, T, "mano")
    count = {}
    for subset in ("all", "vis", "occ"):
        reader = load_reader(PROTOCOLS[f"hint-newdays-{subset}"], bodies["mano"])
        truth = read_truth(reader, targets, bbox_xyxy=BOX, is_detected=SEEN)
        count[subset] = int(truth.has_2d.sum())
        assert truth.scale_2d.tolist() == [100] * T
    assert count["vis"] + count["occ"] == count["all"] == 21 * T
    assert 0 < count["vis"] < count["all"]
