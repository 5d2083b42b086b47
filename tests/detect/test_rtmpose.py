"""RTMPose: a tiny ONNX file of its interface whose right answer is known."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from extpose.config import DetectConfig
from extpose.detect.rtmpose import RtmPose
from extpose.errors import AssetError

HEIGHT, WIDTH = 64, 48
BOXES = np.array([[30, 20, 70, 110], [80, 40, 150, 60], [10, 10, 90, 100]], np.float32)


def save_network(path: Path, *, num_keypoints: int = 17, batch: int | str = "b") -> Path:
    """Finds the brightest column and row: the two vectors are the picture's mean along each."""
    picture = helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, HEIGHT, WIDTH])
    # Black is negative after normalisation, and a peak that is not above zero counts for nothing.
    nodes, outputs = [helper.make_node("Add", ["input", "three"], ["bright"])], []
    for name, size in (("x", WIDTH), ("y", HEIGHT)):
        nodes += [
            helper.make_node("ReduceMean", ["bright", f"axes_{name}"], [f"m{name}"], keepdims=0),
            helper.make_node("Unsqueeze", [f"m{name}", "one"], [f"u{name}"]),
            helper.make_node(
                "Resize", [f"u{name}", "", "twice"], [f"r{name}"], mode="nearest",
                coordinate_transformation_mode="asymmetric", nearest_mode="floor",
            ),
            helper.make_node("Tile", [f"r{name}", "points"], [f"simcc_{name}"]),
        ]  # fmt: skip
        shape = [batch, num_keypoints, 2 * size]
        outputs.append(helper.make_tensor_value_info(f"simcc_{name}", TensorProto.FLOAT, shape))
    constants = [
        helper.make_tensor("axes_x", TensorProto.INT64, [2], [1, 2]),
        helper.make_tensor("axes_y", TensorProto.INT64, [2], [1, 3]),
        helper.make_tensor("three", TensorProto.FLOAT, [1], [3]),
        helper.make_tensor("one", TensorProto.INT64, [1], [1]),
        helper.make_tensor("twice", TensorProto.FLOAT, [3], [1, 1, 2]),
        helper.make_tensor("points", TensorProto.INT64, [3], [1, num_keypoints, 1]),
    ]
    graph = helper.make_graph(nodes, "tiny", [picture], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("rtmlib", reason="pip install --no-deps rtmlib")
    return save_network(tmp_path_factory.mktemp("rtmpose") / "end2end.onnx")


def dot(x: int, y: int) -> np.ndarray:
    rgb = np.zeros((120, 160, 3), np.uint8)
    rgb[y - 2 : y + 3, x - 2 : x + 3] = 255
    return rgb


@pytest.mark.parametrize(("x", "y"), [(50, 60), (38, 90), (61, 31)])
def test_a_dot_is_found_where_it_is(weights: Path, x: int, y: int) -> None:
    found = RtmPose(DetectConfig(weights=weights)).find_keypoints(dot(x, y), BOXES[:1])
    # A pixel of the crop is 1.76 of the image: the box is 40 x 90, 1.25 times that is seen.
    np.testing.assert_allclose(found[0, :, :2], [[x, y]] * 17, atol=3)
    assert (found[0, :, 2] > 0).all()
    assert (found[0, :, 2] <= 1).all()


def test_it_is_rtmlibs_answer_in_any_batch(weights: Path, tmp_path: Path) -> None:
    rtmlib = pytest.importorskip("rtmlib")
    rgb = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    reference = rtmlib.RTMPose(str(weights), (WIDTH, HEIGHT), backend="onnxruntime")
    points, scores = reference(rgb, BOXES)
    fixed = save_network(tmp_path / "one.onnx", batch=1)
    for config in (
        DetectConfig(weights=weights),
        DetectConfig(weights=weights, batch=2),
        DetectConfig(weights=fixed),
    ):
        found = RtmPose(config).find_keypoints(rgb, BOXES)
        np.testing.assert_allclose(found[..., :2], points, atol=1e-3)
        np.testing.assert_allclose(found[..., 2], np.clip(scores, 0, 1), atol=1e-5)
    assert RtmPose(config).find_keypoints(rgb, BOXES[:0]).shape == (0, 17, 3)


def test_hands_come_with_a_whole_body_network(weights: Path, tmp_path: Path) -> None:
    whole = RtmPose(DetectConfig(weights=save_network(tmp_path / "whole.onnx", num_keypoints=133)))
    assert whole.name == "rtmpose-wholebody"
    assert whole.find_hands(dot(50, 60), BOXES).shape == (3, 2, 21, 3)
    with pytest.raises(AssetError, match="133 keypoints, not 17"):
        RtmPose(DetectConfig(weights=weights)).find_hands(dot(50, 60), BOXES)


def test_what_is_missing_or_wrong_is_said(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AssetError, match=r"--detect\.weights end2end\.onnx"):
        RtmPose(DetectConfig())
    (tmp_path / "a.onnx").write_bytes(b"nonsense")
    with pytest.raises(AssetError, match=r"a\.onnx: ONNX Runtime cannot open it"):
        RtmPose(DetectConfig(weights=tmp_path / "a.onnx"))
    with pytest.raises(AssetError, match="a network of 20 keypoints"):
        RtmPose(DetectConfig(weights=save_network(tmp_path / "b.onnx", num_keypoints=20)))
    with pytest.raises(AssetError, match=r"detect\.device is 'tpu'"):
        RtmPose(DetectConfig(weights=weights, device="tpu"))
    monkeypatch.setitem(sys.modules, "rtmlib", None)
    with pytest.raises(AssetError, match="pip install --no-deps rtmlib"):
        RtmPose(DetectConfig(weights=weights))


def test_another_interface_is_refused(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, HEIGHT, WIDTH])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 3, HEIGHT, WIDTH])
    graph = helper.make_graph([helper.make_node("Relu", ["input"], ["out"])], "g", [value], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "c.onnx")
    with pytest.raises(AssetError, match="not RTMPose's interface"):
        RtmPose(DetectConfig(weights=tmp_path / "c.onnx"))
