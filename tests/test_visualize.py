"""Overlays and the contact sheet: right place, right side, and what they say."""

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from extpose.body_model import find_evidence, load_body_model
from extpose.errors import ShardError
from extpose.schema import Clip
from extpose.visualize import (
    LEFT_COLOR,
    LINE_HEIGHT,
    RIGHT_COLOR,
    contact_sheet,
    draw_keypoints,
    overlay_mesh,
    track_color,
)

K = np.array([[200.0, 0, 80], [0, 200, 60], [0, 0, 1]])
FRAME = np.full((120, 160, 3), 100, np.uint8)
SQUARE = 0.101 * np.array([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
FACES = np.array([[0, 1, 2], [0, 2, 3]])


def place(x: float, z: float) -> np.ndarray:
    return SQUARE + np.array([x, 0, z])


def test_a_mesh_covers_its_projection_and_nothing_else() -> None:
    drawn = overlay_mesh(FRAME, [place(0.2, 1.0)], FACES, K=K, alpha=1.0)
    rows, columns = np.nonzero((drawn != FRAME).any(-1))
    assert (rows.min(), rows.max()) == (40, 80)
    assert (columns.min(), columns.max()) == (100, 140)
    assert (FRAME == 100).all()


def test_the_nearer_mesh_hides_the_other_whatever_the_order() -> None:
    near, far = place(0.0, 1.0), place(0.02, 1.5)
    red, blue = (255.0, 0.0, 0.0), (0.0, 0.0, 255.0)
    one = overlay_mesh(FRAME, [near, far], FACES, K=K, colors=[red, blue], alpha=1.0)
    two = overlay_mesh(FRAME, [far, near], FACES, K=K, colors=[blue, red], alpha=1.0)
    np.testing.assert_array_equal(one, two)
    assert one[60, 80, 0] > 100 > one[60, 80, 2]


def test_alpha_shows_the_frame() -> None:
    whole = overlay_mesh(FRAME, [place(0, 1)], FACES, K=K, alpha=1.0)[60, 80].astype(int)
    half = overlay_mesh(FRAME, [place(0, 1)], FACES, K=K, alpha=0.5)[60, 80]
    np.testing.assert_allclose(half, (whole + 100) / 2, atol=1)
    np.testing.assert_array_equal(overlay_mesh(FRAME, [], FACES, K=K), FRAME)


def test_colours_and_meshes_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="1 colors for 2 meshes"):
        overlay_mesh(FRAME, [SQUARE + 1.0] * 2, FACES, K=K, colors=[(1.0, 1.0, 1.0)])


def test_tracks_have_colours_of_their_own() -> None:
    colors = np.array([track_color(i) for i in range(8)])
    apart = np.abs(colors[:, None] - colors[None]).sum(-1)[~np.eye(8, dtype=bool)]
    assert apart.min() > 20
    assert colors.min() >= 0
    assert colors.max() <= 255


def test_the_persons_left_is_warm_and_on_the_viewers_right() -> None:
    model = load_body_model()
    eye = torch.eye(3)
    out = model(eye, eye.expand(23, 3, 3), torch.zeros(10))
    to_camera = np.array([1.0, -1, -1])  # y up, facing +z, seen from +z
    points = find_evidence(out, model).numpy() * to_camera + np.array([0, 0, 3.0])
    uv = points @ K.T
    keypoints = np.c_[uv[:, :2] / uv[:, 2:], np.ones(17)]
    drawn = draw_keypoints(np.zeros_like(FRAME), keypoints, radius=4.0)
    left_wrist, right_wrist = np.round(keypoints[[9, 10], :2]).astype(int)
    assert tuple(drawn[left_wrist[1], left_wrist[0]]) == LEFT_COLOR
    assert tuple(drawn[right_wrist[1], right_wrist[0]]) == RIGHT_COLOR
    assert left_wrist[0] > 80 > right_wrist[0]


def test_unsure_keypoints_and_their_limbs_are_left_out() -> None:
    keypoints = np.zeros((21, 3))
    keypoints[:3] = [[20, 20, 0.9], [60, 20, 0.9], [60, 90, 0.1]]
    keypoints[3] = [np.nan, 0, 1]
    drawn = draw_keypoints(FRAME, keypoints, limbs=[(0, 1), (1, 2), (1, 3)])
    changed = (drawn != FRAME).any(-1)
    assert changed[20, 20:61].all()
    assert not changed[30:].any()
    with pytest.raises(ValueError, match="5 keypoints"):
        draw_keypoints(FRAME, np.zeros((5, 3)))


@pytest.mark.parametrize("far", [4e9, -4e9, 1e300, np.nan])
def test_keypoints_beside_the_camera_are_left_out(far: float) -> None:
    """They are projected out of all bounds; what is in the picture is still drawn."""
    black = np.zeros((40, 40, 3), np.uint8)
    points = np.zeros((17, 3))
    points[5], points[7] = (10, 10, 1), (far, 12, 1)
    drawn = draw_keypoints(black, points, limbs=[(5, 7)])
    assert drawn[10, 10].any()
    assert not drawn[:, 20:].any()


def test_a_contact_sheet_shows_the_networks_part(make_clip: Callable[..., Clip]) -> None:
    clip = make_clip(num_frames=3)
    stored, size = clip.meta.crop_size, clip.meta.skeleton_size
    border = (stored - size) // 2
    assert border > 4
    crop = np.zeros((stored, stored, 3), np.uint8)
    crop[border:-border, border:-border] = (0, 200, 0)
    skeleton = np.zeros((size, size, 3), np.uint8)
    skeleton[30:34, 10:20] = (255, 0, 0)
    jpeg, png = (
        cv2.imencode(suffix, image[..., ::-1], options)[1].tobytes()
        for suffix, image, options in (
            (".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, 100]),
            (".png", skeleton, []),
        )
    )
    clip = replace(clip, rgb=(jpeg,) * 3, skeleton=(png,) * 3)
    sheet = contact_sheet(clip, num_columns=4, cell=size)
    top = (3 * LINE_HEIGHT + 6) + (2 * LINE_HEIGHT + 6)
    assert sheet.shape == (top + 3 * size, 4 * size, 3)
    first, drawn, both = sheet[top:, :size].astype(int).reshape(3, size, size, 3)
    assert np.abs(first[2:-2, 2:-2] - [0, 200, 0]).max() < 12
    np.testing.assert_array_equal(drawn, skeleton)
    np.testing.assert_array_equal(both[32, 15], [255, 0, 0])
    assert np.abs(both[50, 15] - [32, 132, 32]).max() < 12
    assert (sheet[top:, 3 * size :] == 250).all()  # no fourth frame


def test_bridged_frames_stand_out(make_clip: Callable[..., Clip]) -> None:
    clip = replace(make_clip(num_frames=2), is_detected=np.array([True, True]))
    bridged = replace(clip, is_detected=np.array([True, False]))
    before, after = contact_sheet(clip, num_columns=2), contact_sheet(bridged, num_columns=2)
    title = 3 * LINE_HEIGHT + 6
    caption = slice(title + LINE_HEIGHT, title + 2 * LINE_HEIGHT + 6)
    np.testing.assert_array_equal(before[title:, :160], after[title:, :160])
    red = (after[caption, 160:].astype(int) @ [1, -0.5, -0.5]) > 60
    assert red.sum() > 20
    assert (before[:title] != after[:title]).any()


@pytest.mark.parametrize("data", [b"", b"no image"])
def test_images_that_cannot_be_decoded_are_named(
    make_clip: Callable[..., Clip], data: bytes
) -> None:
    clip = make_clip(num_frames=2)
    broken = replace(clip, key="walk-1", skeleton=(clip.skeleton[0], data))
    with pytest.raises(ShardError, match="walk-1: image skeleton 1 cannot be decoded"):
        contact_sheet(broken)
