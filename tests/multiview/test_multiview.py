"""Several cameras: reading them, rays that meet, cameras that move, people told apart, a body."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from extpose.body_model import load_body_model
from extpose.keypoints import COCO17_OF_BODY44
from extpose.multiview import body as body_module
from extpose.multiview.associate import group_tracks
from extpose.multiview.body import (
    OVERLAP,
    FittedBody,
    fit_body,
    join_parts,
    split_frames,
    start_pose,
)
from extpose.multiview.cameras import CalibrationError, read_cameras, write_cameras
from extpose.multiview.gaps import nearest_known
from extpose.multiview.refine import move_cameras, refine_cameras
from extpose.multiview.triangulate import smooth, triangulate
from extpose.rotations import axis_angle_to_matrix
from tests.multiview.scene import make_cameras, make_points, make_track, see

SCALE = 6.0


def test_projection_is_opencvs() -> None:
    cameras, points = make_cameras(), make_points()
    seen = see(cameras, points)
    for camera, views in zip(cameras, seen, strict=True):
        np.testing.assert_allclose(camera.project(points), views[..., :2], atol=1e-6)
        local = camera.to_camera(points)
        np.testing.assert_allclose(
            camera.normalise(views[..., :2]), local[..., :2] / local[..., 2:], atol=1e-5
        )


def test_cameras_survive_their_file_and_toml_says_the_same(tmp_path: Path) -> None:
    cameras = make_cameras(2)
    write_cameras(tmp_path / "a.json", cameras)
    lines = []
    for camera in cameras:
        lines += [f"[{camera.name}]", f'name = "{camera.name}"', "size = [1280.0, 720.0]"]
        rotation = Rotation.from_matrix(camera.R).as_rotvec()
        for key, value in (
            ("matrix", camera.K),
            ("distortions", camera.dist[:4]),
            ("rotation", rotation),
            ("translation", camera.t),
        ):
            lines.append(f"{key} = {value.tolist()}")
    (tmp_path / "b.toml").write_text("\n".join([*lines, "[metadata]", "adjusted = false"]))
    for name in ("a.json", "b.toml"):
        for found, camera in zip(read_cameras(tmp_path / name), cameras, strict=True):
            assert (found.name, found.size) == (camera.name, camera.size)
            for field in ("K", "R", "t", "dist"):
                np.testing.assert_allclose(getattr(found, field), getattr(camera, field), atol=1e-9)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("R", np.eye(3).tolist()[:2], "cam0: R is .* expected numbers of shape"),
        ("R", (2 * np.eye(3)).tolist(), "not a rotation"),
        ("K", np.zeros((3, 3)).tolist(), "not a camera matrix"),
        ("t", None, "cam0: t is"),
        ("dist", [0.0] * 8, "dist has 8 numbers, at most 5"),
    ],
)
def test_a_calibration_that_cannot_be(
    tmp_path: Path, field: str, value: object, message: str
) -> None:
    path = tmp_path / "a.json"
    write_cameras(path, make_cameras(2))
    values = json.loads(path.read_text())
    values["cameras"][0][field] = value
    path.write_text(json.dumps(values))
    with pytest.raises(CalibrationError, match=message):
        read_cameras(path)


def test_a_file_that_is_no_calibration(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("{")
    with pytest.raises(CalibrationError, match=r"a\.json: not a calibration"):
        read_cameras(path)


def test_rays_meet_where_the_points_are() -> None:
    cameras, points = make_cameras(), make_points()
    found = triangulate(cameras, see(cameras, points), scale=SCALE)
    np.testing.assert_allclose(found.points_world, points, atol=1e-5)
    assert np.nanmax(found.left_out) < 0.01


def test_a_wrong_view_is_outvoted() -> None:
    cameras, points = make_cameras(), make_points()
    seen = see(cameras, points, noise=1.0)
    seen[1, :, 9, :2] += 120
    found = triangulate(cameras, seen, scale=SCALE)
    away = np.linalg.norm(found.points_world[:, 9] - points[:, 9], axis=-1)
    assert np.nanmedian(away) < 0.02
    assert np.nanmedian(found.left_out[1, :, 9]) > 100
    assert np.median(found.uncertainty[:, 8]) < 0.01


def test_what_one_camera_sees_alone_has_no_place() -> None:
    cameras, points = make_cameras(), make_points()
    seen = see(cameras, points)
    seen[1:, :, 10, 2] = 0
    found = triangulate(cameras, seen, scale=SCALE)
    assert np.isnan(found.points_world[:, 10]).all()
    assert np.isfinite(found.points_world[:, 9]).all()


@pytest.mark.parametrize("count", [2, 3])
def test_rays_that_part_meet_nowhere(count: int) -> None:
    """Backwards they meet exactly, so nothing but the side tells that there is no point."""
    cameras = [replace(camera, dist=np.zeros(5)) for camera in make_cameras(count)]
    seen = see(cameras, make_points(3))
    away = np.diag([-1.0, 1.0, -1.0])
    turned = [replace(camera, R=away @ camera.R, t=away @ camera.t) for camera in cameras]
    seen[..., 1] = 2 * 359.5 - seen[..., 1]
    found = triangulate(turned, seen, scale=SCALE)
    assert np.isnan(found.points_world).all()
    assert np.isnan(found.uncertainty).all()


def test_refinement_mends_a_calibration() -> None:
    cameras, points = make_cameras(), make_points(12)
    seen = see(cameras, points, noise=0.5)
    steps = np.zeros((4, 6))
    steps[2] = [0.02, -0.015, 0.01, 0.01, 0.0, -0.01]
    steps[0] = [-0.01, 0.01, 0.0, 0.0, 0.01, 0.0]
    wrong = move_cameras(cameras, steps)
    before = np.nanmedian(triangulate(wrong, seen, scale=SCALE).left_out)
    after = np.nanmedian(
        triangulate(refine_cameras(wrong, seen, scale=SCALE), seen, scale=SCALE).left_out
    )
    assert before > 10
    assert after < 2


def test_two_people_are_told_apart() -> None:
    cameras = make_cameras()
    people = [make_points(place=(-0.6, 0.0)), make_points(place=(0.7, 0.3))]
    views = [see(cameras, points) for points in people]
    tracks = [[make_track(views[0][c]), make_track(views[1][c], 1)] for c in range(4)]
    tracks[2].reverse()
    groups = group_tracks(cameras, tracks)
    assert len(groups) == 2
    assert {tuple(g[c][0] for c in range(4)) for g in groups} == {(0, 0, 1, 0), (1, 1, 0, 1)}


def test_smoothing_keeps_slow_motion_and_fills_short_gaps_only() -> None:
    points = make_points(90)
    rng = np.random.default_rng(0)
    shaken = points + rng.normal(0, 0.01, points.shape)
    shaken[10:12, 3] = np.nan
    shaken[40:70, 4] = np.nan
    found = smooth(shaken, fps=30.0)
    assert np.isfinite(found[10:12, 3]).all()
    assert np.isnan(found[50:60, 4]).all()
    inner = slice(10, 80)
    error = np.nanstd((found - points)[inner, 5:])
    assert error < 0.75 * np.nanstd((shaken - points)[inner, 5:])


def test_a_body_is_found_again() -> None:
    """Points of a posed body, in a world with z up: the fit comes near in every view."""
    body = load_body_model()
    rng = np.random.default_rng(2)
    num_frames = 4
    pose = np.zeros((num_frames, 23, 3), np.float32)
    pose[:, 15, 2], pose[:, 16, 2] = -1.1, 1.1  # arms down
    pose[:, :6] += rng.normal(0, 0.15, (6, 3)).astype(np.float32)
    orient = np.tile(Rotation.from_euler("x", 90, degrees=True).as_rotvec(), (num_frames, 1))
    with torch.inference_mode():
        keypoints = body.find_keypoints(
            axis_angle_to_matrix(torch.from_numpy(orient).float()),
            axis_angle_to_matrix(torch.from_numpy(pose)),
            torch.zeros(num_frames, 10),
        )
    points = keypoints[:, list(COCO17_OF_BODY44)].double().numpy() + np.array([0, 0, 1.2])
    cameras = [replace(camera, dist=np.zeros(5)) for camera in make_cameras()]
    fitted = fit_body(cameras, see(cameras, points), points, body=body, scale=12.0)
    away = np.linalg.norm(fitted.keypoints_world - points, axis=-1)
    assert np.median(away[:, 5:]) < 0.02
    assert away[:, 5:].max() < 0.08


def test_parts_of_a_long_recording_are_one_motion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fitted in parts of 10 frames at most: the shape of the first, which is seen best."""
    monkeypatch.setattr(body_module, "STAGES", ((3, 0.05), (2, 0.02)))
    monkeypatch.setattr(body_module, "PART", 10)
    monkeypatch.setattr(body_module, "OVERLAP", 4)
    body, cameras, points = load_body_model(), make_cameras(), make_points(20)
    points[15:, 5:] = np.nan
    parts = split_frames(20)
    assert [(part.start, part.stop) for part in parts] == [(0, 9), (5, 14), (10, 20)]
    fitted = fit_body(cameras, see(cameras, make_points(20)), points, body=body, scale=12.0)
    assert {len(v) for k, v in vars(fitted).items() if k != "betas"} == {20}
    assert fitted.has_pose.tolist() == [True] * 15 + [False] * 5
    best = fit_body(
        cameras, see(cameras, make_points(20))[:, :9], points[:9], body=body, scale=12.0
    )
    np.testing.assert_array_equal(fitted.betas, best.betas)
    np.testing.assert_array_equal(fitted.pose[:5], best.pose[:5])


def test_a_part_goes_over_into_the_next() -> None:
    """Two parts that turn about one axis, the second 0.62 rad and 31 cm ahead: no jump."""

    def make_part(frames: np.ndarray, ahead: float) -> FittedBody:
        turn = np.zeros((len(frames), 3), np.float32)
        turn[:, 1] = 0.01 * frames + 2 * ahead
        return FittedBody(
            global_orient=turn,
            pose=np.repeat(turn[:, None], 23, 1),
            betas=np.zeros(10, np.float32),
            transl=turn + ahead,
            keypoints_world=np.repeat(turn[:, None], 17, 1),
            has_pose=np.ones(len(frames), bool),
        )

    n = OVERLAP
    first, second = np.arange(50.0), np.arange(50.0 - n, 90.0)
    whole = join_parts([make_part(first, 0.0), make_part(second, 0.31)])
    assert {len(v) for k, v in vars(whole).items() if k != "betas"} == {90}
    expected = 0.01 * np.arange(90) + 0.62 * np.clip(np.arange(90 + 0.0) - 49 + n, 0, n + 1) / (
        n + 1
    )
    for turns in (whole.global_orient, whole.pose[:, 7], whole.keypoints_world[:, 3]):
        np.testing.assert_allclose(turns[:, 1], expected, atol=1e-6)
        np.testing.assert_allclose(turns[:, [0, 2]], 0, atol=1e-6)
    assert whole.transl[89] == pytest.approx([0.31, 0.89 + 0.93, 0.31], abs=1e-6)


@given(arrays(bool, st.integers(1, 30)))
def test_the_nearest_known_frame(known: np.ndarray) -> None:
    if not known.any():
        with pytest.raises(ValueError, match="none of"):
            nearest_known(known)
        return
    places = np.flatnonzero(known)
    expected = places[np.abs(np.arange(len(known))[:, None] - places).argmin(1)]
    np.testing.assert_array_equal(nearest_known(known), expected)


def test_the_start_faces_the_right_way() -> None:
    points = make_points(3)
    turns, pelvis = start_pose(points)
    R = Rotation.from_rotvec(turns[0]).as_matrix()
    np.testing.assert_allclose(R[:, 1], [0, 0, 1], atol=0.2)
    assert R[0, 0] > 0.9
    np.testing.assert_allclose(pelvis, points[:, [11, 12]].mean(1))
    with pytest.raises(ValueError, match="no frame"):
        start_pose(np.full((2, 17, 3), np.nan))
