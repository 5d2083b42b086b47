"""ViTPose: crops and heat maps by themselves, and a tiny network in transformers' own format."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from extpose.config import DetectConfig
from extpose.detect import top_down
from extpose.detect.vitpose import VitPose, decode_heatmaps
from extpose.errors import AssetError

BOXES = np.array([[30, 20, 70, 110], [80, 40, 150, 60]], np.float32)


def save_network(folder: Path, *, num_keypoints: int = 17, num_experts: int = 1) -> Path:
    """A random ViTPose of 64 x 48 pixels."""
    transformers = pytest.importorskip("transformers", reason="the extra `detectors`")
    backbone = transformers.VitPoseBackboneConfig(
        image_size=[64, 48],
        patch_size=[16, 16],
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_experts=num_experts,
        part_features=8 if num_experts > 1 else 0,
        out_indices=[1],
    )
    config = transformers.VitPoseConfig(backbone_config=backbone, num_labels=num_keypoints)
    torch.manual_seed(0)
    transformers.VitPoseForPoseEstimation(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_network(tmp_path_factory.mktemp("vitpose"))


def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)


def test_people_do_not_depend_on_the_batch(folder: Path) -> None:
    many, one = (VitPose(DetectConfig(weights=folder, batch=batch)) for batch in (16, 1))
    assert many.name == "vitpose"
    boxes = np.concatenate([BOXES, BOXES + 3])
    found = many.find_keypoints(image(), boxes)
    assert found.shape == (4, 17, 3)
    assert np.abs(found[0] - found[1]).max() > 1
    np.testing.assert_allclose(one.find_keypoints(image(), boxes), found, atol=1e-3)
    assert many.find_keypoints(image(), boxes[:0]).shape == (0, 17, 3)


def test_frames_do_not_depend_on_each_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes by hand: CenterNet sees nobody in noise."""
    boxes = {0: BOXES, 1: BOXES[:0], 2: BOXES[1:] + 2}
    monkeypatch.setattr(top_down, "PersonBoxes", lambda _: find_boxes)

    def find_boxes(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own = boxes[int(rgb[0, 0, 0])]
        return own, np.full(len(own), 0.9, np.float32)

    frames = []
    for i in boxes:
        frames.append(image())
        frames[-1][0, 0] = i
    config = DetectConfig(weights=folder, box_threshold=0.0, batch=2)
    detector = top_down.BatchedTopDownDetector(config, VitPose(config), batch_size=3)
    together, alone = detector.detect_batch(frames), [detector(rgb) for rgb in frames]
    assert [len(found.scores) for found in together] == [2, 0, 1]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.keypoints_2d, other.keypoints_2d, atol=1e-3)
        np.testing.assert_allclose(one.bbox_xyxy, other.bbox_xyxy, atol=1e-3)


def test_hands_come_with_a_whole_body_network(tmp_path: Path, folder: Path) -> None:
    """Of a mixture of experts, as the whole-body checkpoints are."""
    whole = VitPose(DetectConfig(weights=save_network(tmp_path, num_keypoints=133, num_experts=6)))
    assert whole.name == "vitpose-wholebody"
    (everything,) = whole._find_all([image()], [BOXES])
    hands = whole.find_hands(image(), BOXES)
    np.testing.assert_array_equal(hands[:, 0], everything[:, 91:112])
    np.testing.assert_array_equal(hands[:, 1], everything[:, 112:133])
    assert whole.find_keypoints(image(), BOXES).shape == (2, 17, 3)
    with pytest.raises(AssetError, match="133 keypoints, not 17"):
        VitPose(DetectConfig(weights=folder)).find_hands(image(), BOXES)


def test_a_dot_is_found_where_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network whose heat is the picture's brightness: crop and decoding must agree."""
    plug = VitPose(DetectConfig(weights=folder))
    height, width = plug._size

    def brightness(pixels: torch.Tensor) -> Any:
        # Heat maps and crops share their corners' pixel centres.
        grid = torch.nn.functional.interpolate(
            pixels.mean(1, keepdim=True), (height // 4, width // 4), align_corners=True,
            mode="bilinear",
        )  # fmt: skip
        heat = (grid - grid.amin()) / (grid.amax() - grid.amin())
        return SimpleNamespace(heatmaps=heat.expand(-1, 17, -1, -1))

    brightness.config = plug._model.config  # type: ignore[attr-defined]
    monkeypatch.setattr(plug, "_model", brightness)
    for x, y in ((50.0, 60.0), (38.0, 90.0), (61.0, 31.0)):
        rows, columns = np.mgrid[:120, :160]
        spot = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 4.0**2))
        rgb = np.repeat(spot[..., None], 3, -1).astype(np.uint8)
        found = plug.find_keypoints(rgb, BOXES[:1])[0]
        np.testing.assert_allclose(found[:, :2], [[x, y]] * 17, atol=0.6)
        assert found[0, 2] == pytest.approx(1, abs=0.01)


def test_peaks_are_refined_to_parts_of_a_cell() -> None:
    rows, columns = np.mgrid[:16, :12]
    centres = np.array([[4.3, 7.6], [6.0, 5.0], [7.75, 9.2]])
    squared = [(columns - x) ** 2 + (rows - y) ** 2 for x, y in centres]
    heat = 0.8 * np.exp(-np.array(squared) / (2 * 2.0**2))
    found = decode_heatmaps(heat[None].astype(np.float32))
    np.testing.assert_allclose(found[0, :, :2], centres, atol=0.03)
    np.testing.assert_allclose(found[0, :, 2], heat.max((1, 2)), rtol=1e-6)
    assert (decode_heatmaps(np.zeros((1, 3, 16, 12), np.float32)) == 0).all()


def test_decoding_is_transformers_own() -> None:
    module = pytest.importorskip(
        "transformers.models.vitpose.image_processing_pil_vitpose", reason="the extra `detectors`"
    )
    rng = np.random.default_rng(0)
    heat = rng.uniform(0, 0.05, (2, 5, 16, 12)).astype(np.float32)
    for person in range(2):
        for point in range(5):
            heat[person, point] += cv2.GaussianBlur(
                np.eye(16, 12, k=point - 3 + person, dtype=np.float32), (5, 5), 1
            )
    coordinates, scores = module.get_keypoint_predictions(heat)
    refined = module.post_dark_unbiased_data_processing(coordinates, heat, kernel=11)
    found = decode_heatmaps(heat)
    np.testing.assert_allclose(found[..., :2], refined, atol=1e-3)
    np.testing.assert_allclose(found[..., 2], np.clip(scores[..., 0], 0, 1), rtol=1e-6)


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssetError, match=r"hf download .*--detect\.weights"):
        VitPose(DetectConfig())
    with pytest.raises(AssetError, match=r"no folder with config\.json"):
        VitPose(DetectConfig(weights=tmp_path))
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(AssetError, match=r"pip install 'extpose\[detectors\]'"):
        VitPose(DetectConfig(weights=tmp_path))


def test_weights_that_are_none_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="the extra `detectors`")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(AssetError, match="cannot be loaded as ViTPose"):
        VitPose(DetectConfig(weights=tmp_path))
    with pytest.raises(AssetError, match="a network of 20 keypoints"):
        VitPose(DetectConfig(weights=save_network(tmp_path / "n", num_keypoints=20)))


def test_the_module_itself_loads_no_torch() -> None:
    loaded = "{'torch', 'transformers'} & set(sys.modules)"
    code = f"import sys, extpose.detect.vitpose; assert not {loaded}"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
