"""Networks of inference runtimes: ONNX Runtime, and LiteRT (extra `hands`). No torch."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from jaxtyping import UInt8

from extpose.errors import AssetError


def open_session(path: Path, *, threads: int, device: str = "cpu") -> onnxruntime.InferenceSession:
    """An ONNX file on `device` (`cpu`, `cuda` or `cuda:1`).

    Raises AssetError where this ONNX Runtime has no such device, or the file is no ONNX model.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Waiting threads that spin take the cores from the other processes of a pipeline.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = onnx_providers(device)
    try:
        model = path.read_bytes()
    except OSError as error:
        raise AssetError(f"{path}: cannot be read ({error})") from error
    try:
        return onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as error:  # ONNX Runtime's errors have no common class of their own
        raise AssetError(f"{path}: ONNX Runtime cannot open it ({error})") from error


def onnx_providers(device: str) -> list[Any]:
    """ONNX Runtime's name of a device. Raises AssetError for one that it does not have."""
    kind, _, index = device.partition(":")
    if kind == "cpu":
        return ["CPUExecutionProvider"]
    there = onnxruntime.get_available_providers()
    if kind != "cuda" or "CUDAExecutionProvider" not in there:
        raise AssetError(
            f"detect.device is {device!r}, this ONNX Runtime has {', '.join(there)}: "
            "pip install onnxruntime-gpu"
        )
    return [("CUDAExecutionProvider", {"device_id": int(index or 0)}), "CPUExecutionProvider"]


class LiteNetwork:
    """A .tflite file: one square uint8 picture in, arrays out."""

    def __init__(self, path: Path, *, threads: int) -> None:
        """Raises AssetError without the runtime."""
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise AssetError(
                f"{path.stem} needs the LiteRT runtime, which is not installed: "
                "pip install 'extpose[hands]'"
            ) from error
        self._interpreter = Interpreter(str(path), num_threads=threads)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._outputs = [detail["index"] for detail in self._interpreter.get_output_details()]

    def __call__(self, picture: UInt8[np.ndarray, "s s 3"]) -> list[Any]:
        """The network's outputs for one RGB picture, in the file's order."""
        self._interpreter.set_tensor(self._input, picture[None].astype(np.float32) / 255)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]
