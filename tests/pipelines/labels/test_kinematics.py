"""SMPL's joints and translations from data sets' own numbers."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pipelines.labels.kinematics import (
    SMPL_PARENTS,
    check_rest_joints,
    find_rest_root,
    fit_intrinsics,
    fit_joints,
    rotate_chain,
    turn_body,
)
from pipelines.records import SourceError
from tests.pipelines.sources.bodies import INTRINSICS, body_model, make_world, repose


def test_the_chain_is_the_body_models() -> None:
    assert body_model().parents == SMPL_PARENTS


@pytest.mark.parametrize(
    ("num_frames", "decimals", "atol"), [(12, 9, 1e-5), (60, 9, 1e-6), (60, 0, 5e-3)]
)
def test_joints_follow_from_their_projections(num_frames: int, decimals: int, atol: float) -> None:
    """Also from projections rounded to whole pixels, then to millimetres."""
    intrinsics = np.array([[1500.0, 0, 720], [0, 1500, 960], [0, 0, 1]])
    world = make_world(seed=1, num_frames=num_frames, intrinsics=intrinsics)
    person, extrinsics = world.people[0], world.extrinsics
    rotation, offset = extrinsics[:, :3, :3], extrinsics[:, :3, 3]
    joints, rest, uncertainty = fit_joints(
        person.joints_img.round(decimals),
        rotation[:, None] @ rotate_chain(person.pose[:, 0], person.pose[:, 1:]),
        np.einsum("trc,tc->tr", rotation, person.transl) + offset,
        np.tile(intrinsics, (num_frames, 1, 1)),
        rotation,
    )
    np.testing.assert_allclose(joints, person.joints_cam, atol=atol)
    truth = repose(np.zeros((1, 24, 3)), person.betas, np.zeros((1, 3)))["joints"][0]
    np.testing.assert_allclose(rest, truth, atol=2 * atol)
    assert 0 < uncertainty < 0.5


def test_a_still_body_is_known_to_be_undetermined() -> None:
    person = make_world(seed=1, num_frames=2, move=0.0).people[0]
    _, _, uncertainty = fit_joints(
        np.tile(person.joints_img[:1], (20, 1, 1)),
        rotate_chain(
            np.tile(person.pose[:1, 0], (20, 1)), np.tile(person.pose[:1, 1:], (20, 1, 1))
        ),
        np.tile(person.transl[:1], (20, 1)),
        np.tile(INTRINSICS, (20, 1, 1)),
        np.tile(np.eye(3), (20, 1, 1)),
    )
    assert uncertainty > 1


def test_a_body_turned_into_the_camera_is_the_turned_body() -> None:
    """Turning the parameters and posing equals posing and turning the mesh."""
    world = make_world(seed=2, num_frames=3)
    person = world.people[0]
    rest = find_rest_root("here", person.joints[:, 0], person.transl)
    orient, transl = turn_body(
        person.pose[:, 0],
        person.transl,
        rest_root=rest,
        rotation=world.extrinsics[:, :3, :3],
        offset=world.extrinsics[:, :3, 3],
    )
    pose = np.concatenate([orient[:, None], person.pose[:, 1:]], 1)
    found = repose(pose, person.betas, transl)["vertices"]
    np.testing.assert_allclose(found, person.vertices_cam, atol=1e-5)


def test_the_naive_translation_is_centimetres_off() -> None:
    """What the convention is about: R t + T is not the translation in the camera."""
    world = make_world(seed=2, num_frames=3)
    person = world.people[0]
    rest = find_rest_root("here", person.joints[:, 0], person.transl)
    rotation, offset = world.extrinsics[:, :3, :3], world.extrinsics[:, :3, 3]
    _, transl = turn_body(
        person.pose[:, 0], person.transl, rest_root=rest, rotation=rotation, offset=offset
    )
    naive = np.einsum("trc,tc->tr", rotation, person.transl) + offset
    assert np.linalg.norm(naive - transl, axis=-1).min() > 0.05


def test_a_root_that_is_no_root_is_refused() -> None:
    with pytest.raises(SourceError, match=r"here: SMPL's root .* \[5\.0, 5\.0, 5\.0\] m"):
        find_rest_root("here", np.full((4, 3), 5.0), np.zeros((4, 3)))


def test_swapped_sides_are_refused() -> None:
    rest = repose(np.zeros((1, 24, 3)), np.zeros(10), np.zeros((1, 3)))["joints"][0]
    assert check_rest_joints("here", rest)[1] == pytest.approx(-0.23, abs=0.01)
    rest[[1, 2]] = rest[[2, 1]]
    with pytest.raises(SourceError, match="here: joint 1 is left of joint 2"):
        check_rest_joints("here", rest)


def test_a_camera_is_fitted_to_points_and_pixels() -> None:
    person = make_world(num_frames=2).people[0]
    found = fit_intrinsics("here", person.joints_cam, person.joints_img)
    np.testing.assert_allclose(found, INTRINSICS, rtol=1e-5)
    turned = Rotation.from_rotvec([0, 0, 1.0]).apply(person.joints_cam[0])
    with pytest.raises(SourceError, match="here: no pinhole camera"):
        fit_intrinsics("here", turned[None], person.joints_img[:1])
    with pytest.raises(SourceError, match="here: median depth -"):
        fit_intrinsics("here", person.joints_cam * (1, -1, -1), person.joints_img)
