"""The hand detector: its geometry by itself, and the real networks on renders of the free hand."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from extpose.body_model import load_body_model
from extpose.config import DetectConfig
from extpose.detect import hands
from extpose.detect.hands import HandDetector
from extpose.detect.runtime import LiteNetwork
from extpose.errors import AssetError
from extpose.raster import render_mesh

SIZE = 384
# Columns: where the right hand's axes come to lie in the camera. Its fingers point to -x, its
# thumb to +z, its back to +y. Fingers up, thumb on the picture's right: the palm is seen.
PALM_SEEN = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], np.float64)
BACK_SEEN = np.array([[0, 0, -1], [1, 0, 0], [0, -1, 0]], np.float64)


@pytest.mark.parametrize("angle", [0.0, 0.7, -2.0, np.pi])
def test_the_square_turns_the_hand_upright(angle: float) -> None:
    """A hand that was turned clockwise by `angle`: its crop shows it as it was."""
    upright = np.random.default_rng(0).uniform(-50, 50, (21, 2))
    upright[0], upright[[5, 9, 13]] = (0, 90), ((-20, -60), (0, -60), (20, -60))
    cosine, sine = np.cos(angle), np.sin(angle)
    turned = upright @ np.array([[cosine, sine], [-sine, cosine]]) + [300, 200]
    square = hands._square_around(turned)
    assert np.cos(square.angle - angle) == pytest.approx(1)
    crop_to_img = hands._crop_to_img(square)
    crop = np.linalg.solve(crop_to_img[:, :2], (turned - crop_to_img[:, 2]).T).T
    wrist, middle = crop[0], crop[9]
    assert wrist[0] == pytest.approx(middle[0], abs=1e-6)
    assert wrist[1] > middle[1]
    assert (crop > 0).all()
    assert (crop < hands.LANDMARK_INPUT).all()


def test_anchors_cover_the_input() -> None:
    anchors = hands._make_anchors()
    assert anchors.shape == (2016, 2)
    np.testing.assert_array_equal(anchors[[0, 1, 2, -1]], [[4, 4], [4, 4], [12, 4], [184, 184]])


def test_without_the_runtime_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(AssetError, match=r"pip install 'extpose\[hands\]'"):
        LiteNetwork(tmp_path / "model.tflite", threads=1)


@pytest.fixture(scope="module")
def detector(asset: Callable[[str], Path]) -> HandDetector:
    asset("palm-detection")
    asset("hand-landmarks")
    return HandDetector(DetectConfig())


def _render_hand(rotation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The free right hand, slightly bent, before a grey wall; and where its keypoints are."""
    model = load_body_model(body="mano")
    eye = torch.eye(3).expand(1, model.num_rotations, 3, 3)
    output = model(
        torch.from_numpy(rotation).float()[None], eye, torch.zeros(1, 10), torch.zeros(1, 3)
    )
    vertices = output.vertices[0].detach().numpy().astype(np.float64)
    shift = -(vertices.max(0) + vertices.min(0)) / 2 + [0, 0, 0.6]
    K = np.array([[800, 0, SIZE / 2], [0, 800, SIZE / 2], [0, 0, 1]], np.float64)
    colors = np.broadcast_to(np.array([215.0, 165, 140]), vertices.shape).copy()
    wall = np.full((SIZE, SIZE, 3), 90, np.uint8)
    image = render_mesh(vertices + shift, model.faces.numpy(), colors, K, wall, supersample=2).image
    points = (output.keypoints[0].detach().numpy() + shift) @ K.T
    return image, points[:, :2] / points[:, 2:]


@pytest.mark.assets
@pytest.mark.parametrize("rotation", [PALM_SEEN, BACK_SEEN], ids=["palm", "back"])
def test_a_rendered_hand_is_found(detector: HandDetector, rotation: np.ndarray) -> None:
    image, points = _render_hand(rotation)
    found = detector(image)
    assert len(found.scores) == 1
    error = np.linalg.norm(found.keypoints_2d[0, :, :2] - points, axis=-1)
    size = np.ptp(points, axis=0).max()
    assert np.median(error) < 0.06 * size
    # Every finger tip is its own: a wrong order would be a finger's width off at least.
    assert error[[4, 8, 12, 16, 20]].max() < 0.12 * size
    np.testing.assert_array_equal(found.keypoints_2d[0, :, 2], found.scores[0])
    assert found.is_right.tolist() == [True]


@pytest.mark.assets
def test_in_a_mirror_it_is_a_left_hand(detector: HandDetector) -> None:
    image, _ = _render_hand(PALM_SEEN)
    assert detector(np.ascontiguousarray(image[:, ::-1])).is_right.tolist() == [False]


@pytest.mark.assets
def test_no_hands_in_an_empty_picture(detector: HandDetector) -> None:
    found = detector(np.full((120, 200, 3), 128, np.uint8))
    assert found.keypoints_2d.shape == (0, 21, 3)
    assert found.is_right.shape == (0,)
    with pytest.raises(TypeCheckError):
        detector(np.zeros((120, 200), np.uint8))
