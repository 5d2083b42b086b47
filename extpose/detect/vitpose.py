"""Keypoints of the person in a box by ViTPose, the paper's detector. `transformers` and torch.

Xu et al. 2022 (arXiv 2204.12484). COCO-17, or COCO-WholeBody with its hands, as the checkpoint has
it. Crops and heat maps follow "unbiased data processing" (Huang et al. 2020): pixel centres of the
first and last column lie on the sides of the box, and peaks are refined on the logarithm of the
smoothed map (DARK, Zhang et al. 2020).

The one detector that loads torch, in the process that runs it and nowhere else.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8
from scipy.ndimage import gaussian_filter

from extpose.config import DetectConfig
from extpose.detect.wholebody import NUM_WHOLEBODY, PersonNetwork, check_num_keypoints
from extpose.errors import AssetError

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
BOX_PADDING = 1.25
SMOOTHING, SMOOTHING_RADIUS = 0.8, 5
"""Of a heat map before its peak is refined, cells."""
HEAT_RANGE = (0.001, 50.0)
COCO_EXPERT, WHOLEBODY_EXPERT = 0, 5
"""Of the mixtures of experts (ViTPose+): the data set whose expert answers."""
GET_IT = (
    "hf download usyd-community/vitpose-plus-huge --local-dir vitpose-plus-huge, then "
    "--detect.weights vitpose-plus-huge"
)


class VitPose(PersonNetwork):
    """Keypoints of the one person in a box; people are batched. One instance a process."""

    def __init__(self, config: DetectConfig) -> None:
        """Loads the folder `detect.weights`, as `save_pretrained` wrote it.

        Raises AssetError without the extra `detectors` or without weights; the message says how to
        get them.
        """
        self.batch, self._device = config.batch, config.device
        self._model = _load(config.weights, config)
        height, width = self._model.config.backbone_config.image_size
        self._size = (int(height), int(width))
        self.num_keypoints = int(self._model.config.num_labels)
        check_num_keypoints(self.num_keypoints, config.weights)
        kind = "-wholebody" if self.num_keypoints == NUM_WHOLEBODY else ""
        self.name = f"vitpose{kind}"

    def _read_batch(self, people: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        group = [_region(box, self._size) for _, box in people]
        crops = np.stack(
            [
                crop_region(rgb, region, self._size)
                for (rgb, _), region in zip(people, group, strict=True)
            ]
        )
        heat = self._run(((crops / np.float32(255)) - MEAN) / STD)
        points = decode_heatmaps(heat)
        cells = np.array([heat.shape[3] - 1, heat.shape[2] - 1], np.float64)
        for i, (centre, sides) in enumerate(group):
            points[i, :, :2] = points[i, :, :2] / cells * sides + centre - sides / 2
        return points

    def _run(self, crops: Float32[np.ndarray, "p h w 3"]) -> Float32[np.ndarray, "p m y x"]:
        import torch

        pixels = torch.from_numpy(np.ascontiguousarray(crops.transpose(0, 3, 1, 2)))
        options: dict[str, Any] = {}
        if getattr(self._model.config.backbone_config, "num_experts", 1) > 1:
            is_whole = self.num_keypoints == NUM_WHOLEBODY
            expert = WHOLEBODY_EXPERT if is_whole else COCO_EXPERT
            options["dataset_index"] = torch.full((len(crops),), expert, device=self._device)
        with torch.inference_mode():
            heat = self._model(pixels.to(self._device), **options).heatmaps
        return heat.float().cpu().numpy()


def _load(folder: Path | None, config: DetectConfig) -> Any:
    if folder is None:
        raise AssetError(f"vitpose needs its weights: {GET_IT}")
    if not (folder / "config.json").is_file():
        raise AssetError(f"{folder}: no folder with config.json and weights of ViTPose: {GET_IT}")
    try:
        import torch
        from transformers import VitPoseForPoseEstimation
    except ImportError as error:
        raise AssetError(
            "vitpose needs the package transformers, which is not installed: "
            "pip install 'extpose[detectors]'"
        ) from error
    if config.device == "cpu":
        torch.set_num_threads(config.threads)
    try:
        model = VitPoseForPoseEstimation.from_pretrained(folder, local_files_only=True)
        return model.to(config.device).eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise AssetError(f"{folder}: cannot be loaded as ViTPose ({error})") from error


def _region(
    box: Float32[np.ndarray, " 4"], size: tuple[int, int]
) -> tuple[Float64[np.ndarray, " 2"], Float64[np.ndarray, " 2"]]:
    """Centre and sides (x, y) of the part of the image that the network sees of a box."""
    wide = box.astype(np.float64)
    centre, (width, height) = (wide[:2] + wide[2:]) / 2, wide[2:] - wide[:2]
    aspect = size[1] / size[0]
    sides = np.array([max(width, height * aspect), max(height, width / aspect)])
    return centre, np.maximum(sides * BOX_PADDING, 1.0)


def crop_region(
    rgb: UInt8[np.ndarray, "h w 3"],
    region: tuple[Float64[np.ndarray, " 2"], Float64[np.ndarray, " 2"]],
    size: tuple[int, int],
) -> UInt8[np.ndarray, "height width 3"]:
    """The region (centre, sides), its sides on the centres of the crop's outer pixels."""
    centre, sides = region
    height, width = size
    scale = np.array([width - 1, height - 1]) / sides
    shift = -(centre - sides / 2) * scale
    affine = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]])
    return cv2.warpAffine(rgb, affine, (width, height), flags=cv2.INTER_LINEAR).astype(
        np.uint8, copy=False
    )


def decode_heatmaps(heat: Float[np.ndarray, "p m y x"]) -> Float64[np.ndarray, "p m 3"]:
    """Peaks in cells and their height, within 0 and 1; where nothing is above zero, all is 0."""
    height, width = heat.shape[2:]
    flat = heat.reshape(*heat.shape[:2], -1)
    best = flat.argmax(-1)
    score = np.take_along_axis(flat, best[..., None], -1)[..., 0]
    y, x = np.divmod(best, width)
    smooth = gaussian_filter(
        heat, sigma=(0, 0, SMOOTHING, SMOOTHING), radius=(0, 0, SMOOTHING_RADIUS, SMOOTHING_RADIUS)
    )
    log = np.log(np.clip(smooth, *HEAT_RANGE)).astype(np.float64)
    person, point = np.indices(best.shape)

    def at(dx: int, dy: int) -> np.ndarray:
        return log[person, point, np.clip(y + dy, 0, height - 1), np.clip(x + dx, 0, width - 1)]

    centre = at(0, 0)
    dx, dy = (at(1, 0) - at(-1, 0)) / 2, (at(0, 1) - at(0, -1)) / 2
    dxx, dyy = at(1, 0) - 2 * centre + at(-1, 0), at(0, 1) - 2 * centre + at(0, -1)
    dxy = (at(1, 1) - at(1, 0) - at(0, 1) + 2 * centre - at(-1, 0) - at(0, -1) + at(-1, -1)) / 2
    hessian = np.stack([np.stack([dxx, dxy], -1), np.stack([dxy, dyy], -1)], -2)
    hessian += np.finfo(np.float32).eps * np.eye(2)
    step = np.linalg.solve(hessian, np.stack([dx, dy], -1)[..., None])[..., 0]
    points = np.stack([x, y], -1) - step
    is_there = score > 0
    return np.where(
        is_there[..., None],
        np.concatenate([points, np.clip(score, 0, 1)[..., None]], -1),
        0.0,
    )
