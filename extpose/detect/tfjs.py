"""TensorFlow.js graph models (model.json and .bin) as ONNX, without TensorFlow and torch."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from extpose.detect.tfjs_operators import DTYPES, Graph, Node, split_reference
from extpose.errors import AssetError

CONVERTER_VERSION = 1
"""Part of the name of cached files: raise it with every change of the result."""
OPSET = 18
IR_VERSION = 10


def convert_cached(
    folder: Path, *, input_size: tuple[int, int] | None = None, outputs: tuple[str, ...] = ()
) -> Path:
    """ONNX file of the one model in `folder`, made at the first call and kept beside it.

    Arguments and errors are those of `convert`.
    """
    models = sorted(folder.glob("*.json"))
    if len(models) != 1:
        raise AssetError(f"{folder}: {len(models)} model.json files, expected 1")
    identity = repr((CONVERTER_VERSION, input_size, outputs))
    path = models[0].with_suffix(f".{hashlib.sha256(identity.encode()).hexdigest()[:8]}.onnx")
    if not path.exists():
        model = convert(models[0], input_size=input_size, outputs=outputs)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        partial.write_bytes(model.SerializeToString())
        partial.replace(path)
    return path


def convert(
    path: Path, *, input_size: tuple[int, int] | None = None, outputs: tuple[str, ...] = ()
) -> onnx.ModelProto:
    """The ONNX model of a `model.json`.

    `input_size` is another height and width for a convolutional model: the sizes it resizes to
    inside change in proportion. `outputs` are the wanted ones, in this order (empty: all); they
    are called `output/NAME`, with the name in the model's signature, less `:0`.

    Raises AssetError when the file is not such a model, or for an operator that is not known.
    """
    try:
        model = json.loads(path.read_text())
        nodes = {node["name"]: Node(node) for node in model["modelTopology"]["node"]}
        signature = model.get("signature") or model["userDefinedMetadata"]["signature"]
        infos = {info["name"].removesuffix(":0"): info for info in signature["outputs"].values()}
        wanted = {name: infos[name] for name in outputs or infos}
        ordered = _sorted_nodes(nodes, [split_reference(name)[0] for name in wanted])
        graph = Graph(path, _read_weights(model["weightsManifest"], path.parent), input_size)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AssetError(f"{path}: not a usable TensorFlow.js graph model: {error!r}") from error
    for node in ordered:
        graph.add(node)
    for name, info in wanted.items():
        rank = len(info["tensorShape"].get("dim", []))
        graph.add_output(name, DTYPES[info["dtype"]], rank)
    proto = helper.make_graph(
        graph.nodes, path.stem, graph.inputs, graph.outputs, initializer=graph.initializers
    )
    opset = helper.make_opsetid("", OPSET)
    result = helper.make_model(proto, opset_imports=[opset], ir_version=IR_VERSION)
    onnx.checker.check_model(result)
    return result


def _sorted_nodes(nodes: dict[str, Node], outputs: list[str]) -> list[Node]:
    """What the outputs need, each node after its inputs."""
    result: dict[str, Node] = {}
    stack = [(name, False) for name in reversed(outputs)]
    while stack:
        name, is_expanded = stack.pop()
        if name in result:
            continue
        if is_expanded:
            result[name] = nodes[name]
        else:
            stack.append((name, True))
            stack += [(split_reference(reference)[0], False) for reference in nodes[name].inputs]
    return list(result.values())


def _read_weights(manifest: list[dict[str, Any]], folder: Path) -> dict[str, np.ndarray]:
    """All constants; those stored as float16 become float32."""
    weights = {}
    for group in manifest:
        data = b"".join((folder / path).read_bytes() for path in group["paths"])
        offset = 0
        for entry in group["weights"]:
            stored = np.dtype(entry.get("quantization", {}).get("dtype", entry["dtype"]))
            if stored != entry["dtype"] and stored != np.float16:
                raise ValueError(f"{entry['name']}: quantization {stored} is not supported")
            count = int(np.prod(entry["shape"], dtype=np.int64))
            array = np.frombuffer(data, stored, count, offset).reshape(entry["shape"])
            weights[entry["name"]] = array.astype(entry["dtype"])
            offset += count * stored.itemsize
    return weights
