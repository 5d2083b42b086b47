"""What MANO's files are needed for, on the free hand; and what a left hand's parameters mean."""

from pathlib import Path

import numpy as np
import pytest
import torch

from extpose.body_model import load_body_model
from extpose.data.augment import flip_targets
from extpose.rotations import axis_angle_to_matrix
from pipelines.labels.hand_checks import check_hands
from pipelines.labels.hand_model import (
    CHAIN_OF_HAND21,
    MovedHand,
    check_joints,
    read_hand_model,
    turn_hand,
)
from pipelines.labels.hand_records import (
    HandLabels,
    add_ones,
    make_record,
    project_points,
)
from pipelines.records import Record, SourceError, slice_record
from tests.pipelines.sources import hands as h


def make(hands: h.Hands) -> Record:
    points = add_ones(hands.keypoints)
    intrinsics = np.repeat(hands.K[None], len(points), 0)
    return make_record(
        HandLabels(
            keypoints_3d=points,
            keypoints_2d=project_points(points, intrinsics),
            intrinsics=intrinsics,
            pose=moved(hands),
            betas=hands.betas[0],
            vertices=hands.vertices,
        ),
        name="hand",
        frames=[Path("0.jpg")] * len(points),
        image_size=hands.size,
        is_right=hands.is_right,
        path=Path("labels"),
    )


def test_a_mirrored_left_hand_is_a_right_one() -> None:
    """The loader mirrors left hands; the right model must then pose them as they are labelled."""
    left = make(h.pose_hands(3, 4, is_right=False))
    mirrored = flip_targets(left.targets, body="mano")
    betas = np.repeat(mirrored.betas[None].astype(float), 4, 0)
    vertices, keypoints = h.model_output(
        mirrored.global_orient.astype(float), mirrored.pose.astype(float), betas
    )
    shift = mirrored.keypoints_3d[:, :1, :3] - keypoints[:, :1]
    np.testing.assert_allclose(keypoints + shift, mirrored.keypoints_3d[..., :3], atol=1e-5)
    np.testing.assert_allclose(vertices[:, :778] + shift, mirrored.vertices, atol=1e-5)


def moved(hands: h.Hands) -> MovedHand:
    return MovedHand(
        global_orient=hands.global_orient,
        pose=hands.pose,
        transl=hands.transl,
        betas=hands.betas,
    )


@pytest.mark.parametrize("is_right", [True, False])
def test_joints_and_mesh_agree_with_the_body_model(tmp_path: Path, is_right: bool) -> None:
    h.write_mano(tmp_path)
    model = read_hand_model(tmp_path, is_right=is_right)
    assert model is not None
    hands = h.pose_hands(9, 5, is_right=is_right, fixed_betas=False)
    truth = hands.keypoints[:, CHAIN_OF_HAND21]
    np.testing.assert_allclose(model.joints(moved(hands)), truth, atol=1e-6)
    np.testing.assert_allclose(
        model.vertices(moved(hands))[:, : h.NUM_VERTICES], hands.vertices, atol=1e-6
    )
    wrist = h.rest_root(hands.betas, is_right=is_right)
    np.testing.assert_allclose(model.rest_wrist(hands.betas), wrist, atol=1e-6)
    check_joints(model, moved(hands), hands.keypoints, path=Path("file"))
    with pytest.raises(SourceError, match=r"file: .* misses the labelled joints by 30.0 mm"):
        check_joints(model, moved(h.move(hands, np.array([0, 0, 0.03]))), hands.keypoints,
                     path=Path("file"))  # fmt: skip


@pytest.mark.parametrize("is_right", [True, False])
def test_the_mesh_with_pose_correctives(tmp_path: Path, is_right: bool) -> None:
    """Against the body model of the project, on a file that has them."""
    h.write_mano(tmp_path, posedirs=np.random.default_rng(0).normal(0, 1e-3, (1669, 3, 135)))
    model = read_hand_model(tmp_path, is_right=is_right)
    assert model is not None
    hands = h.pose_hands(9, 3, is_right=is_right)
    flip, mirror = (np.ones(3), 1.0) if is_right else (h.FLIP, h.MIRROR)
    body = load_body_model(tmp_path / "mano/MANO_RIGHT.pkl", "mano").double()
    posed = body(
        axis_angle_to_matrix(torch.from_numpy(hands.global_orient * flip)),
        axis_angle_to_matrix(torch.from_numpy(hands.pose * flip)),
        torch.from_numpy(hands.betas),
    )
    expected = posed.vertices.numpy() * mirror + hands.transl[:, None]
    np.testing.assert_allclose(model.vertices(moved(hands)), expected, atol=1e-6)


def test_mean_and_pca(tmp_path: Path) -> None:
    h.write_mano(tmp_path)
    right, left = (read_hand_model(tmp_path, is_right=side) for side in (True, False))
    assert right is not None
    assert left is not None
    zero = np.zeros((1, 45))
    np.testing.assert_allclose(right.add_mean(zero)[0].ravel(), h.HANDS_MEAN)
    np.testing.assert_allclose(left.add_mean(zero), right.add_mean(zero) * h.FLIP)
    first = np.eye(45)[:1]
    expected = h.HANDS_MEAN + h.HANDS_COMPONENTS[0]
    np.testing.assert_allclose(right.expand_pca(first)[0].ravel(), expected)


def test_no_files_no_model(tmp_path: Path) -> None:
    assert read_hand_model(tmp_path, is_right=True) is None
    h.write_mano(tmp_path)
    (tmp_path / "mano/MANO_LEFT.pkl").unlink()
    assert read_hand_model(tmp_path, is_right=False) is None
    assert read_hand_model(tmp_path, is_right=True) is not None
    h.write_pickle(tmp_path / "mano/MANO_LEFT.pkl", {"hands_mean": np.zeros(45)})
    with pytest.raises(SourceError, match=r"MANO_LEFT.pkl: lacks hands_components"):
        read_hand_model(tmp_path, is_right=False)


def test_turn_hand_turns_the_hand() -> None:
    hands = h.pose_hands(4, 3)
    R = np.diag([1.0, -1.0, -1.0])
    turned = h.turn(hands, R)
    np.testing.assert_allclose(turn_hand(R, hands.global_orient), turned.global_orient)
    _, keypoints = h.model_output(turned.global_orient, turned.pose, turned.betas)
    np.testing.assert_allclose(keypoints + turned.transl[:, None], turned.keypoints, atol=1e-9)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("is_right", [True, False])
def test_the_side_is_seen_from_any_direction(seed: int, is_right: bool) -> None:
    hands = h.pose_hands(seed, 5, is_right=is_right)
    check_hands(hands.keypoints, is_right=is_right, path=Path("file"), key="xyz")
    with pytest.raises(SourceError, match=r"file: xyz should be .* mirrored\?"):
        check_hands(hands.keypoints, is_right=not is_right, path=Path("file"), key="xyz")


def test_points_outside_the_picture_are_labels_but_no_evidence() -> None:
    hands = h.pose_hands(0)
    record = make(hands)
    assert record.track.keypoints_2d[..., 2].all()
    uv = hands.uv[0]
    middle = float(np.median(uv[:, 0]))
    shifted = hands.K - np.array([[0, 0, middle], [0, 0, 0], [0, 0, 0]])
    cut = make(h.replace(hands, K=shifted))
    outside = uv[:, 0] - middle <= -0.5
    assert 0 < outside.sum() < 21
    assert (cut.track.keypoints_2d[0, :, 2] == ~outside).all()
    assert cut.targets.keypoints_2d[..., 2].all()


def test_a_slice_is_the_record_of_its_frames() -> None:
    hands = h.pose_hands(2, 6)
    part = slice_record(make(hands), 2, 5)
    h.assert_is(part, hands, slice(2, 5))
    h.assert_posed(part, hands, slice(2, 5))
    assert part.track.first_frame == 2
    assert part.targets.vertices is not None
    np.testing.assert_allclose(part.targets.vertices, hands.vertices[2:5], atol=1e-6)
