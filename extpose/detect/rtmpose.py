"""Keypoints of the person in a box by RTMPose, an ONNX file, through the package `rtmlib`.

Jiang et al. 2023 (arXiv 2303.07399). Crops and the decoding of the network's two vectors a keypoint
are rtmlib's; people are batched where the file allows it. COCO-17 or COCO-WholeBody.
"""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from extpose.config import DetectConfig
from extpose.detect.runtime import open_session
from extpose.detect.wholebody import NUM_WHOLEBODY, PersonNetwork, check_num_keypoints
from extpose.errors import AssetError

GET_IT = (
    "unpack one of the ONNX archives that rtmlib's README lists (rtmpose-m_simcc-body7..., "
    "rtmw-dw-x-l... with hands), then --detect.weights end2end.onnx"
)


class RtmPose(PersonNetwork):
    """Keypoints of the one person in a box. One instance a process."""

    def __init__(self, config: DetectConfig) -> None:
        """Opens the file `detect.weights`.

        Raises AssetError without rtmlib or without the file; the message says how to get them.
        """
        path = config.weights
        if path is None or not path.is_file():
            raise AssetError(f"rtmpose needs its weights ({path} is no file): {GET_IT}")
        self._session = open_session(path, threads=config.threads, device=config.device)
        shape = self._check_interface(path)
        self.batch = config.batch if not isinstance(shape[0], int) else shape[0]
        self._tool = _open_tool(path, size=(int(shape[3]), int(shape[2])))
        kind = "-wholebody" if self.num_keypoints == NUM_WHOLEBODY else ""
        self.name = f"rtmpose{kind}"

    def _check_interface(self, path: Path) -> list[Any]:
        """One picture in, two vectors a keypoint out. Returns the shape of the input."""
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shape = inputs[0].shape
        sides = [s for s in shape[2:] if isinstance(s, int)]
        if len(inputs) != 1 or len(outputs) != 2 or len(sides) != 2 or len(outputs[0].shape) != 3:
            shapes = [(o.name, o.shape) for o in [*inputs, *outputs]]
            raise AssetError(
                f"{path}: not RTMPose's interface (one input b 3 h w, two outputs b k n): {shapes}"
            )
        self.num_keypoints = int(outputs[0].shape[1])
        check_num_keypoints(self.num_keypoints, path)
        return list(shape)

    def _read_batch(self, people: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        name = self._session.get_inputs()[0].name
        # RGB goes in: mean and deviation are those of RGB.
        group = [self._tool.preprocess(rgb, box.astype(np.float64)) for rgb, box in people]
        crops = np.stack([view[0].transpose(2, 0, 1) for view in group]).astype(np.float32)
        outputs = self._session.run(None, {name: crops})
        found = []
        for i, (_, centre, scale) in enumerate(group):
            own = [output[i : i + 1] for output in outputs]
            points, scores = self._tool.postprocess(own, centre, scale)
            # Its scores are heights of a peak and may exceed 1.
            found.append(np.column_stack([points[0], np.clip(np.nan_to_num(scores[0]), 0, 1)]))
        return np.stack(found)


def _open_tool(path: Path, *, size: tuple[int, int]) -> Any:
    """rtmlib's RTMPose, for its crops and its decoding. `size` is width, height."""
    try:
        from rtmlib import RTMPose
    except ImportError as error:
        raise AssetError(
            "rtmpose needs the package rtmlib, which is not installed: pip install --no-deps rtmlib"
        ) from error
    # It prints a line for every file that it opens.
    with contextlib.redirect_stdout(io.StringIO()):
        tool = RTMPose(str(path), model_input_size=size, backend="onnxruntime", device="cpu")
    # The network is run in a session of our own: with its threads, device and batch.
    del tool.session
    return tool
