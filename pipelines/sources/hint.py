"""HInt: 2D keypoints and occlusion flags of hands in New Days, EPIC-Kitchens VISOR and Ego4D.

Pavlakos et al., "Reconstructing Hands in 3D with Transformers" (2024). The layout follows the data
set's public repository and was not compared with the files themselves:

- `TEST_newdays_img/X.jpg` and `X.json` are pairs; the Ego4D pictures are not in the archive and
  must be fetched with Ego4D's licence. `ego4d_seq` (val and test) holds frames up to 1.5 s around
  those of `ego4d_img`: not consecutive, so images here too.
- A JSON is a list of (usually one) hand with `bbox` (x0 y0 x1 y1, sometimes inside another list),
  `keypoints` 21 x 2 in pixels, `occlusion` 21 flags, 1 where the point cannot be seen. The order is
  COCO-WholeBody's, which is OpenPose's. All 21 are taken for labelled, hidden ones too.
- The side is the end of the name: `_r` or `_l`, as the preparation script of the set splits it.
- The annotated box is the hand's box: HaMeR's evaluation is taken to use the same one.

2D only: no camera, no 3D points. `is_visible` separates the protocols' `vis` and `occ`.
"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from extpose.schema import Split
from pipelines.labels.hand_records import (
    UNIT_IMAGES,
    HandLabels,
    add_ones,
    list_blocks,
    make_record,
    read_image_size,
    require,
)
from pipelines.records import Filtered, Record, Source, SourceError, check_array

_FOLDERS: dict[str, str] = {"train": "TRAIN", "val": "VAL", "test": "TEST"}
MIN_INSIDE = 0.5
"""Share of the keypoints that must lie in the box grown by half: else it is no x0 y0 x1 y1."""


def list_units(root: Path, split: Split, *, part: str) -> list[str]:
    """Blocks of 500 annotations, in the order of their names."""
    return list_blocks(len(_list_files(root, split, part)))


def read_unit(root: Path, split: Split, unit: str, *, part: str) -> Iterator[Record | Filtered]:
    """The hands of one block."""
    start = int(unit)
    for path in _list_files(root, split, part)[start : start + UNIT_IMAGES]:
        is_right = _read_side(path)
        image = require(path.with_suffix(".jpg"), "Ego4D's pictures are fetched separately")
        size = read_image_size(image)
        hands = _read_json(path)
        for number, hand in enumerate(hands):
            yield make_record(
                _read_labels(path, hand),
                name=path.stem if len(hands) == 1 else f"{path.stem}-{number}",
                frames=[image],
                image_size=size,
                is_right=is_right,
                path=path,
            )


def _list_files(root: Path, split: Split, part: str) -> list[Path]:
    folder = require(root / f"{_FOLDERS[split]}_{part}")
    found = sorted(folder.glob("*.json"))
    if not found:
        raise SourceError(f"{folder}: has no .json files")
    return found


def _read_side(path: Path) -> bool:
    side = path.stem.rpartition("_")[2]
    if side not in ("l", "r"):
        raise SourceError(f"{path}: the name ends with {side!r}, expected 'l' or 'r'")
    return side == "r"


def _read_json(path: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise SourceError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, list) or not all(isinstance(hand, dict) for hand in content):
        raise SourceError(f"{path}: holds a {type(content).__name__}, expected a list of hands")
    return content


def _read_labels(path: Path, hand: dict[str, Any]) -> HandLabels:
    points = check_array(path, "keypoints", hand.get("keypoints"), shape=(21, 2))
    hidden = check_array(path, "occlusion", hand.get("occlusion"), shape=(21,))
    if not np.isin(hidden, (0, 1)).all():
        raise SourceError(f"{path}: occlusion holds {sorted(set(hidden))}, expected 0 and 1")
    return HandLabels(
        keypoints_3d=np.zeros((1, 21, 4)),
        keypoints_2d=add_ones(points[None]),
        intrinsics=None,
        is_visible=(hidden == 0)[None],
        bbox_xyxy=_read_box(path, hand.get("bbox"), points)[None],
    )


def _read_box(
    path: Path, value: object, points: Float64[np.ndarray, "21 2"]
) -> Float64[np.ndarray, " 4"]:
    nested = isinstance(value, list) and len(value) == 1
    box = check_array(path, "bbox", value[0] if nested else value, shape=(4,))  # type: ignore[index]
    margin = (box[2:] - box[:2]) / 2
    inside = ((points >= box[:2] - margin) & (points <= box[2:] + margin)).all(1).mean()
    if inside < MIN_INSIDE or (margin <= 0).any():
        low, high = points.min(0).round(), points.max(0).round()
        raise SourceError(
            f"{path}: bbox {box.tolist()} is not x0 y0 x1 y1 around keypoints that reach from "
            f"{low.tolist()} to {high.tolist()}"
        )
    return box


def _make_source(name: str, part: str, splits: tuple[Split, ...]) -> Source:
    return Source(
        name=name,
        splits=splits,
        list_units=partial(list_units, part=part),
        read_unit=partial(read_unit, part=part),
        layout=f"{{TRAIN,VAL,TEST}}_{part}/NAME_{{l,r}}.json\n"
        f"{{TRAIN,VAL,TEST}}_{part}/NAME_{{l,r}}.jpg",
        licence="github.com/ddshan/hint, and those of Hands23, EPIC-Kitchens VISOR or Ego4D",
    )


SOURCE_NEWDAYS = _make_source("hint-newdays", "newdays_img", ("train", "val", "test"))
SOURCE_VISOR = _make_source("hint-visor", "epick_img", ("train", "val", "test"))
SOURCE_EGO4D = _make_source("hint-ego4d", "ego4d_img", ("train", "val", "test"))
SOURCE_EGO4D_SEQ = _make_source("hint-ego4d-seq", "ego4d_seq", ("val", "test"))
