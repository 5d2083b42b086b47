"""The operators of TensorFlow.js graphs, each written as ONNX by one small function.

Tensors keep TensorFlow's layout (NHWC); a convolution stands between two transposes, and ONNX
Runtime's optimiser moves them together and removes them. There are the operators that MoveNet and
CenterNet need; https://www.tensorflow.org/api_docs/python/tf/raw_ops says what each computes.
"""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from extpose.errors import AssetError

DTYPES = {
    "DT_FLOAT": TensorProto.FLOAT,
    "DT_INT32": TensorProto.INT32,
}


def split_reference(reference: str) -> tuple[str, int]:
    """Node and number of the output that `node` or `node:2` refers to."""
    name, _, index = reference.partition(":")
    return name, int(index or 0)


class Node:
    """One node of the TensorFlow graph, its attributes decoded."""

    def __init__(self, node: dict[str, Any]) -> None:
        self.name: str = node["name"]
        self.op: str = node["op"]
        self.inputs = [name for name in node.get("input", []) if not name.startswith("^")]
        self._attributes: dict[str, Any] = node.get("attr", {})

    def integer(self, name: str, default: int = 0) -> int:
        """Attribute of type int."""
        return int(self._attributes.get(name, {}).get("i", default))

    def flag(self, name: str) -> bool:
        """Attribute of type bool; False where it is left out."""
        return bool(self._attributes.get(name, {}).get("b", False))

    def integers(self, name: str) -> list[int]:
        """Attribute of type list of int."""
        return [int(value) for value in self._attributes.get(name, {}).get("list", {}).get("i", [])]

    def dtype(self, name: str) -> str:
        """Attribute of type type, such as `DT_FLOAT`."""
        return str(self._attributes[name]["type"])

    def string(self, name: str, default: str = "") -> str:
        """Attribute of type string, stored in base64."""
        value = self._attributes.get(name, {}).get("s")
        return default if value is None else base64.b64decode(value).decode()

    def strings(self, name: str) -> list[str]:
        """Attribute of type list of string."""
        values = self._attributes.get(name, {}).get("list", {}).get("s", [])
        return [base64.b64decode(value).decode() for value in values]

    def shape(self) -> list[int]:
        """Attribute `shape`."""
        return [int(dim["size"]) for dim in self._attributes["shape"]["shape"]["dim"]]


class Graph:
    """The ONNX graph as it grows. Tensors are known by the name of TensorFlow's."""

    def __init__(
        self, path: Path, weights: dict[str, np.ndarray], input_size: tuple[int, int] | None
    ) -> None:
        self.path = path
        self.input_size = input_size
        """Height and width in place of the model's own."""
        self.size_ratio = (1.0, 1.0)
        """Of `input_size` to the model's own."""
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._weights = weights
        self._tensors: dict[str, list[str]] = {}

    def add(self, node: Node) -> None:
        """Translate one node; what it reads was translated before."""
        if node.op == "Const":
            return
        if node.op not in OPERATORS:
            raise self.error(node, "operator not supported")
        outputs = OPERATORS[node.op](self, node)
        self._tensors[node.name] = outputs if isinstance(outputs, list) else [outputs]

    def add_output(self, name: str, dtype: int, rank: int) -> None:
        """Let `name` be an output of the graph, called `output/name`."""
        output = self.emit("Identity", self.tensor(name), outputs=[f"output/{name}"])
        self.outputs.append(helper.make_tensor_value_info(output, dtype, [None] * rank))

    def error(self, node: Node, reason: str) -> AssetError:
        """The error that names the file, the operator and its node."""
        return AssetError(f"{self.path}: {reason}: {node.op} (node {node.name})")

    def tensor(self, reference: str) -> str:
        """ONNX name of what `node` or `node:2` refers to."""
        name, index = split_reference(reference)
        if name not in self._tensors:
            self._tensors[name] = [self.constant(self._weights[name])]
        return self._tensors[name][index]

    def value(self, node: Node, index: int) -> np.ndarray:
        """An input that must be known beforehand: weights, axes, sizes."""
        name = split_reference(node.inputs[index])[0]
        if name not in self._weights:
            raise self.error(node, f"input {index} is not a constant")
        return self._weights[name]

    def constant(self, array: np.ndarray) -> str:
        """Store an array in the file; its ONNX name."""
        name = f"constant/{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def indices(self, values: list[int]) -> str:
        """A one-axis int64 constant."""
        return self.constant(np.array(values, np.int64))

    def emit(
        self, op: str, *inputs: str, outputs: list[str] | None = None, **attributes: Any
    ) -> str:
        """Append a node; the name of its first output."""
        names = outputs or [f"{op}/{len(self.nodes)}"]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names[0]

    def cast(self, tensor: str, dtype: int) -> str:
        """Append a conversion of type."""
        return self.emit("Cast", tensor, to=dtype)


def _convolution(graph: Graph, node: Node) -> str:
    """Conv2D and DepthwiseConv2dNative, alone or with a fused bias and activation."""
    if any(dilation != 1 for dilation in node.integers("dilations")):
        raise graph.error(node, "dilations not supported")
    kernel = graph.value(node, 1)  # h w i o, depthwise h w i m
    channels = kernel.shape[2]
    if "Depthwise" in node.op:
        height, width, _, multiplier = kernel.shape
        kernel = kernel.transpose(2, 3, 0, 1).reshape(channels * multiplier, 1, height, width)
        groups = channels
    else:
        kernel, groups = kernel.transpose(3, 2, 0, 1), 1
    inputs = [_to_nchw(graph, node), graph.constant(kernel)]
    fused = node.strings("fused_ops")
    if fused[:1] == ["BiasAdd"]:
        inputs.append(graph.constant(graph.value(node, 2)))
        fused = fused[1:]
    result = graph.emit(
        "Conv",
        *inputs,
        group=groups,
        kernel_shape=list(kernel.shape[2:]),
        strides=node.integers("strides")[1:3],
        auto_pad=_padding(graph, node),
    )
    for name in fused:
        if name not in ("Relu", "Relu6"):
            raise graph.error(node, f"fused {name} not supported")
        result = _activate(graph, name, result)
    return _to_nhwc(graph, result)


def _resize_bilinear(graph: Graph, node: Node) -> str:
    if node.flag("align_corners"):
        mode = "align_corners"
    else:
        mode = "half_pixel" if node.flag("half_pixel_centers") else "asymmetric"
    sizes = [n * ratio for n, ratio in zip(graph.value(node, 1), graph.size_ratio, strict=True)]
    if any(size != int(size) for size in sizes):
        raise graph.error(node, f"input size {graph.input_size} makes fractional sizes {sizes}")
    images = _to_nchw(graph, node)
    # The optimiser of ONNX Runtime breaks a Resize that is told its axes: give all four sizes.
    kept = graph.emit("Shape", images, end=2)
    size = graph.emit("Concat", kept, graph.indices([int(size) for size in sizes]), axis=0)
    result = graph.emit(
        "Resize", images, "", "", size, mode="linear", coordinate_transformation_mode=mode
    )
    return _to_nhwc(graph, result)


def _to_nchw(graph: Graph, node: Node) -> str:
    if node.string("data_format", "NHWC") != "NHWC":
        raise graph.error(node, f"data_format {node.string('data_format')} not supported")
    return graph.emit("Transpose", graph.tensor(node.inputs[0]), perm=[0, 3, 1, 2])


def _to_nhwc(graph: Graph, tensor: str) -> str:
    return graph.emit("Transpose", tensor, perm=[0, 2, 3, 1])


def _padding(graph: Graph, node: Node) -> str:
    """TensorFlow's SAME puts the odd pixel at the end, as ONNX's SAME_UPPER does."""
    padding = node.string("padding")
    if padding not in ("SAME", "VALID"):
        raise graph.error(node, f"padding {padding} not supported")
    return "SAME_UPPER" if padding == "SAME" else "VALID"


def _activate(graph: Graph, name: str, tensor: str) -> str:
    if name == "Relu":
        return graph.emit("Relu", tensor)
    limits = [graph.constant(np.array(limit, np.float32)) for limit in (0, 6)]
    return graph.emit("Clip", tensor, *limits)


def _renamed(op: str) -> Callable[[Graph, Node], str]:
    """An operator that ONNX has too."""
    return lambda graph, node: graph.emit(op, *(graph.tensor(name) for name in node.inputs))


def _relu6(graph: Graph, node: Node) -> str:
    return _activate(graph, "Relu6", graph.tensor(node.inputs[0]))


def _squared_difference(graph: Graph, node: Node) -> str:
    difference = _renamed("Sub")(graph, node)
    return graph.emit("Mul", difference, difference)


def _floor_div(graph: Graph, node: Node) -> str:
    """Division of ONNX integers rounds towards zero; float64 holds every int32."""
    inputs = [graph.cast(graph.tensor(name), TensorProto.DOUBLE) for name in node.inputs]
    quotient = graph.emit("Floor", graph.emit("Div", *inputs))
    return graph.cast(quotient, DTYPES[node.dtype("T")])


def _placeholder(graph: Graph, node: Node) -> str:
    dtype = DTYPES[node.dtype("dtype")]
    shape = node.shape()
    if graph.input_size is not None:
        height, width = graph.input_size
        graph.size_ratio = (height / shape[1], width / shape[2])
        shape[1:3] = height, width
    graph.inputs.append(helper.make_tensor_value_info(node.name, dtype, shape))
    return node.name


def _cast(graph: Graph, node: Node) -> str:
    return graph.cast(graph.tensor(node.inputs[0]), DTYPES[node.dtype("DstT")])


def _reshape(graph: Graph, node: Node) -> str:
    shape = graph.indices(graph.value(node, 1).tolist())
    return graph.emit("Reshape", graph.tensor(node.inputs[0]), shape)


def _expand_dims(graph: Graph, node: Node) -> str:
    axis = graph.indices([int(graph.value(node, 1))])
    return graph.emit("Unsqueeze", graph.tensor(node.inputs[0]), axis)


def _squeeze(graph: Graph, node: Node) -> str:
    axes = node.integers("squeeze_dims")
    inputs = [graph.indices(axes)] if axes else []
    return graph.emit("Squeeze", graph.tensor(node.inputs[0]), *inputs)


def _unpack(graph: Graph, node: Node) -> list[str]:
    axis, count = node.integer("axis"), node.integer("num")
    parts = [f"{node.name}/part/{index}" for index in range(count)]
    sizes = graph.indices([1] * count)
    graph.emit("Split", graph.tensor(node.inputs[0]), sizes, outputs=parts, axis=axis)
    return [graph.emit("Squeeze", part, graph.indices([axis])) for part in parts]


def _pack(graph: Graph, node: Node) -> str:
    axis = node.integer("axis")
    axes = graph.indices([axis])
    parts = [graph.emit("Unsqueeze", graph.tensor(name), axes) for name in node.inputs]
    return graph.emit("Concat", *parts, axis=axis)


def _concat(graph: Graph, node: Node) -> str:
    axis = int(graph.value(node, len(node.inputs) - 1))
    return graph.emit("Concat", *(graph.tensor(name) for name in node.inputs[:-1]), axis=axis)


def _mean(graph: Graph, node: Node) -> str:
    axes = graph.indices(graph.value(node, 1).reshape(-1).tolist())
    keepdims = int(node.flag("keep_dims"))
    return graph.emit("ReduceMean", graph.tensor(node.inputs[0]), axes, keepdims=keepdims)


def _arg_max(graph: Graph, node: Node) -> str:
    axis = int(graph.value(node, 1))
    result = graph.emit("ArgMax", graph.tensor(node.inputs[0]), axis=axis, keepdims=0)
    return graph.cast(result, TensorProto.INT32)


def _gather_nd(graph: Graph, node: Node) -> str:
    data, index = (graph.tensor(name) for name in node.inputs)
    return graph.emit("GatherND", data, graph.cast(index, TensorProto.INT64))


OPERATORS: dict[str, Callable[[Graph, Node], str | list[str]]] = {
    "Add": _renamed("Add"),
    "AddV2": _renamed("Add"),
    "ArgMax": _arg_max,
    "Cast": _cast,
    "ConcatV2": _concat,
    "Conv2D": _convolution,
    "DepthwiseConv2dNative": _convolution,
    "ExpandDims": _expand_dims,
    "FloorDiv": _floor_div,
    "FusedDepthwiseConv2dNative": _convolution,
    "GatherNd": _gather_nd,
    "Identity": _renamed("Identity"),
    "Mean": _mean,
    "Mul": _renamed("Mul"),
    "Pack": _pack,
    "Placeholder": _placeholder,
    "RealDiv": _renamed("Div"),
    "Relu": _renamed("Relu"),
    "Relu6": _relu6,
    "Reshape": _reshape,
    "ResizeBilinear": _resize_bilinear,
    "Sigmoid": _renamed("Sigmoid"),
    "Sqrt": _renamed("Sqrt"),
    "SquaredDifference": _squared_difference,
    "Squeeze": _squeeze,
    "Sub": _renamed("Sub"),
    "Unpack": _unpack,
    "_FusedConv2D": _convolution,
}
