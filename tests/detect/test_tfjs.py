"""Small TensorFlow.js graphs, written here, against torch and numpy."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn import functional as F

from extpose.detect.tfjs import convert, convert_cached
from extpose.errors import AssetError

RNG = np.random.default_rng(0)


def _text(value: str) -> str:
    return base64.b64encode(value.encode()).decode()


class GraphFile:
    """Writes model.json and model.bin as the TensorFlow.js converter does."""

    def __init__(self, input_shape: tuple[int, ...], dtype: str = "DT_FLOAT") -> None:
        dims = [{"size": str(size)} for size in input_shape]
        placeholder = {"dtype": {"type": dtype}, "shape": {"shape": {"dim": dims}}}
        self.nodes = [{"name": "x", "op": "Placeholder", "attr": placeholder}]
        self.weights: list[dict[str, Any]] = []
        self.data = b""

    def constant(self, name: str, array: np.ndarray, *, is_half: bool = False) -> str:
        entry = {"name": name, "shape": list(array.shape), "dtype": str(array.dtype)}
        if is_half:
            entry["quantization"] = {"dtype": "float16", "original_dtype": "float32"}
            array = array.astype(np.float16)
        self.weights.append(entry)
        self.data += array.tobytes()
        self.nodes.append({"name": name, "op": "Const"})
        return name

    def node(self, op: str, *inputs: str, name: str = "y", **attributes: Any) -> str:
        self.nodes.append({"name": name, "op": op, "input": list(inputs), "attr": attributes})
        return name

    def save(self, folder: Path, dtype: str = "DT_FLOAT", rank: int = 4) -> Path:
        (folder / "model.bin").write_bytes(self.data)
        output = {"name": "y:0", "dtype": dtype, "tensorShape": {"dim": [{"size": "1"}] * rank}}
        model = {
            # Not in order: a reader has to sort.
            "modelTopology": {"node": self.nodes[::-1]},
            "signature": {"outputs": {"y": output}},
            "weightsManifest": [{"paths": ["model.bin"], "weights": self.weights}],
        }
        path = folder / "model.json"
        path.write_text(json.dumps(model))
        return path


def _run(path: Path, x: np.ndarray, **options: Any) -> np.ndarray:
    model = convert(path, **options).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(["output/y"], {"x": x})[0]


def _pad_same(x: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    """TensorFlow's SAME: the output is ceil(n / stride), the odd pixel at the end."""
    pads = []
    for n in (x.shape[3], x.shape[2]):
        total = max((-(-n // stride) - 1) * stride + kernel - n, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


def _conv_attributes(stride: int, padding: str, dilation: int = 1) -> dict[str, Any]:
    return {
        "strides": {"list": {"i": ["1", str(stride), str(stride), "1"]}},
        "dilations": {"list": {"i": ["1", str(dilation), str(dilation), "1"]}},
        "padding": {"s": _text(padding)},
        "data_format": {"s": _text("NHWC")},
    }


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        ((8, 8), 3, 2, "SAME"),
        ((9, 7), 3, 2, "SAME"),
        ((8, 9), 5, 2, "SAME"),
        ((8, 9), 2, 1, "SAME"),
        ((9, 8), 3, 2, "VALID"),
    ],
)
@pytest.mark.parametrize("is_depthwise", [False, True])
def test_convolution(
    tmp_path: Path,
    size: tuple[int, int],
    kernel: int,
    stride: int,
    padding: str,
    is_depthwise: bool,
) -> None:
    x = RNG.normal(size=(1, *size, 3)).astype(np.float32)
    weight = RNG.normal(size=(kernel, kernel, 3, 2)).astype(np.float32)
    bias = RNG.normal(size=6 if is_depthwise else 2).astype(np.float32)
    graph = GraphFile(x.shape)
    graph.node(
        "FusedDepthwiseConv2dNative" if is_depthwise else "_FusedConv2D",
        "x",
        graph.constant("w", weight),
        graph.constant("b", bias),
        fused_ops={"list": {"s": [_text("BiasAdd"), _text("Relu6")]}},
        **_conv_attributes(stride, padding),
    )
    result = _run(graph.save(tmp_path), x)

    images = torch.from_numpy(x).permute(0, 3, 1, 2)
    if padding == "SAME":
        images = _pad_same(images, kernel, stride)
    if is_depthwise:
        kernels = torch.from_numpy(weight).permute(2, 3, 0, 1).reshape(6, 1, kernel, kernel)
    else:
        kernels = torch.from_numpy(weight).permute(3, 2, 0, 1)
    expected = F.conv2d(
        images, kernels, torch.from_numpy(bias), stride, 0, 1, 3 if is_depthwise else 1
    )
    np.testing.assert_allclose(result, expected.clamp(0, 6).permute(0, 2, 3, 1).numpy(), atol=1e-5)


def _resize_numpy(x: np.ndarray, size: tuple[int, int], rule: str) -> np.ndarray:
    for axis, n in enumerate(size, start=1):
        old = x.shape[axis]
        at = np.arange(n)
        if rule == "align_corners":
            source = at * (old - 1) / (n - 1)
        else:
            half = 0.5 if rule == "half_pixel_centers" else 0
            source = (at + half) * old / n - half
        source = np.clip(source, 0, old - 1)
        low = np.floor(source).astype(int)
        high = np.minimum(low + 1, old - 1)
        weight = (source - low).reshape([-1 if a == axis else 1 for a in range(4)])
        x = np.take(x, low, axis) * (1 - weight) + np.take(x, high, axis) * weight
    return x


@pytest.mark.parametrize("rule", ["half_pixel_centers", "align_corners", "legacy"])
def test_resize(tmp_path: Path, rule: str) -> None:
    x = RNG.normal(size=(1, 4, 6, 2)).astype(np.float32)
    graph = GraphFile(x.shape)
    size = graph.constant("size", np.array([8, 9], np.int32))
    graph.node("ResizeBilinear", "x", size, **({} if rule == "legacy" else {rule: {"b": True}}))
    np.testing.assert_allclose(
        _run(graph.save(tmp_path), x), _resize_numpy(x, (8, 9), rule), atol=1e-5
    )


def test_another_input_size_scales_the_sizes_inside(tmp_path: Path) -> None:
    graph = GraphFile((1, 4, 4, 1))
    graph.node("ResizeBilinear", "x", graph.constant("size", np.array([8, 2], np.int32)))
    path = graph.save(tmp_path)
    x = RNG.normal(size=(1, 2, 6, 1)).astype(np.float32)
    assert _run(path, x, input_size=(2, 6)).shape == (1, 4, 3, 1)
    with pytest.raises(AssetError, match="fractional"):
        convert(path, input_size=(2, 5))


def test_half_precision_weights(tmp_path: Path) -> None:
    graph = GraphFile((1, 1, 1, 3))
    weight = RNG.normal(size=3).astype(np.float32)
    graph.node("Mul", "x", graph.constant("w", weight, is_half=True))
    result = _run(graph.save(tmp_path), np.ones((1, 1, 1, 3), np.float32))
    np.testing.assert_array_equal(result.ravel(), weight.astype(np.float16).astype(np.float32))


def test_integer_division_rounds_down(tmp_path: Path) -> None:
    graph = GraphFile((5,), "DT_INT32")
    divisor = graph.constant("d", np.array([4], np.int32))
    graph.node("FloorDiv", "x", divisor, T={"type": "DT_INT32"})
    x = np.array([-5, -4, -1, 3, 16_777_217], np.int32)
    result = _run(graph.save(tmp_path, "DT_INT32", rank=1), x)
    np.testing.assert_array_equal(result, x // 4)


def test_indexing(tmp_path: Path) -> None:
    """Pick from each of 5 columns (channels last) the row that is largest."""
    x = RNG.normal(size=(4, 5)).astype(np.float32)
    graph = GraphFile(x.shape)
    axis = graph.constant("axis", np.array(0, np.int32))
    rows = graph.node("ArgMax", "x", axis, name="rows")
    columns = graph.constant("columns", np.arange(5, dtype=np.int32))
    index = graph.node("Pack", rows, columns, name="index", axis={"i": "1"})
    graph.node("GatherNd", "x", index)
    np.testing.assert_array_equal(_run(graph.save(tmp_path, rank=1), x), x.max(0))


def test_unpacked_parts_are_told_apart(tmp_path: Path) -> None:
    x = RNG.normal(size=(3, 2)).astype(np.float32)
    graph = GraphFile(x.shape)
    parts = graph.node("Unpack", "x", name="parts", axis={"i": "1"}, num={"i": "2"})
    graph.node("Sub", f"{parts}:1", parts)
    np.testing.assert_array_equal(_run(graph.save(tmp_path, rank=1), x), x[:, 1] - x[:, 0])


def test_an_unknown_operator_is_named(tmp_path: Path) -> None:
    graph = GraphFile((1, 2, 2, 1))
    graph.node("Erfinv", "x")
    with pytest.raises(AssetError, match=r"model.json: operator not supported: Erfinv \(node y\)"):
        convert(graph.save(tmp_path))


def test_a_dilated_convolution_is_refused(tmp_path: Path) -> None:
    graph = GraphFile((1, 5, 5, 1))
    weight = graph.constant("w", np.ones((3, 3, 1, 1), np.float32))
    graph.node("Conv2D", "x", weight, **_conv_attributes(1, "SAME", dilation=2))
    with pytest.raises(AssetError, match="dilations not supported: Conv2D"):
        convert(graph.save(tmp_path))


def test_an_unknown_activation_is_named(tmp_path: Path) -> None:
    graph = GraphFile((1, 2, 2, 1))
    weight = graph.constant("w", np.ones((1, 1, 1, 1), np.float32))
    fused = {"list": {"s": [_text("Elu")]}}
    graph.node("_FusedConv2D", "x", weight, fused_ops=fused, **_conv_attributes(1, "SAME"))
    with pytest.raises(AssetError, match="fused Elu"):
        convert(graph.save(tmp_path))


@pytest.mark.parametrize("content", ["", "{}", '{"modelTopology": {"node": []}}'])
def test_another_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "model.json"
    path.write_text(content)
    with pytest.raises(AssetError, match=r"model.json: not a usable TensorFlow.js"):
        convert(path)


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    graph = GraphFile((1, 1, 1, 3))
    graph.node("Mul", "x", graph.constant("w", np.ones(3, np.float32)))
    path = graph.save(tmp_path)
    (tmp_path / "model.bin").write_bytes(b"\x00" * 4)
    with pytest.raises(AssetError, match=r"model.json"):
        convert(path)


def test_the_result_is_cached_beside_the_model(tmp_path: Path) -> None:
    graph = GraphFile((1, 4, 4, 1))
    graph.node("Relu", "x")
    graph.save(tmp_path)
    path = convert_cached(tmp_path)
    written = path.stat().st_mtime_ns
    assert convert_cached(tmp_path) == path
    assert path.stat().st_mtime_ns == written
    assert convert_cached(tmp_path, input_size=(8, 8)) != path
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".bin", ".json", ".onnx", ".onnx"]
