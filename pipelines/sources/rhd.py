"""RHD, the Rendered Handpose Dataset: synthetic people, both hands, 320 x 320 images.

Zimmermann and Brox, "Learning to Estimate 3D Hand Pose from Single RGB Images" (2017), version 1.1
(`RHD_published_v2`). The layout follows the data set's public reader and was not compared with the
files themselves:

- `training/color/00000.png` and `training/anno_training.pickle`, likewise `evaluation`; the pickle
  maps the number of an image to `xyz` (42 x 3 metres), `uv_vis` (42 x 3: pixels, and 1 where the
  point can be seen) and `K` (3 x 3); OpenCV axes.
- Points 0 to 20 are the left hand, 21 to 41 the right: wrist, then thumb to little, each finger
  from its tip to the palm.
- Each image shows a person, so both hands are labelled, often hidden or outside: a hand of which
  fewer than 11 points can be seen is filtered as `hidden`. (The authors' reader takes the hand
  with more pixels in the mask instead.)

The pickle (41,258 images) is read once a process, and takes about 0.3 GB of memory (estimated).
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from extpose.pickles import read_pickle
from extpose.schema import Split
from pipelines.labels.hand_checks import check_hands
from pipelines.labels.hand_records import (
    UNIT_IMAGES,
    WRIST_THEN_TIPS,
    HandLabels,
    add_ones,
    list_blocks,
    make_record,
    order_hand,
    read_image_size,
    require,
)
from pipelines.records import Filtered, Record, Source, SourceError, check_array

MIN_VISIBLE = 11
_FOLDERS: dict[str, str] = {"train": "training", "test": "evaluation"}
_HANDS = (("left", slice(0, 21)), ("right", slice(21, 42)))


def list_units(root: Path, split: Split) -> list[str]:
    """Blocks of 500 images, by the order of their names."""
    return list_blocks(len(_list_images(root, split)))


def read_unit(root: Path, split: Split, unit: str) -> Iterator[Record | Filtered]:
    """The left and right hands of one block's images."""
    folder, start = _FOLDERS[split], int(unit)
    path = root / folder / f"anno_{folder}.pickle"
    annotations = _read_annotations(require(path), path.stat().st_mtime_ns)
    images = _list_images(root, split)[start : start + UNIT_IMAGES]
    size = read_image_size(images[0])
    rows = [_read_row(path, annotations, image) for image in images]
    for side, part in _HANDS:
        points = np.stack([xyz[part] for xyz, _, _ in rows])
        check_hands(
            order_hand(points, WRIST_THEN_TIPS), is_right=side == "right", path=path, key="xyz"
        )
    for image, (xyz, uv_vis, K) in zip(images, rows, strict=True):
        for side, part in _HANDS:
            name = f"{image.stem}-{side}"
            visible = uv_vis[part, 2] == 1
            if visible.sum() < MIN_VISIBLE:
                yield Filtered(name=name, num_frames=1, reason="hidden")
                continue
            yield make_record(
                HandLabels(
                    keypoints_3d=add_ones(order_hand(xyz[None, part], WRIST_THEN_TIPS)),
                    keypoints_2d=add_ones(order_hand(uv_vis[None, part, :2], WRIST_THEN_TIPS)),
                    intrinsics=K[None],
                    is_visible=order_hand(visible[None], WRIST_THEN_TIPS),
                ),
                name=name,
                frames=[image],
                image_size=size,
                is_right=side == "right",
                path=path,
            )


def _list_images(root: Path, split: Split) -> list[Path]:
    folder = require(root / _FOLDERS[split] / "color")
    found = sorted(folder.glob("*.png"))
    if not found:
        raise SourceError(f"{folder}: has no .png files")
    return found


@lru_cache(maxsize=2)
def _read_annotations(path: Path, _time: int) -> dict[int, dict[str, Any]]:
    content = read_pickle(path)
    if not isinstance(content, dict):
        raise SourceError(f"{path}: holds a {type(content).__name__}, expected image numbers")
    return content


def _read_row(
    path: Path, annotations: dict[int, dict[str, Any]], image: Path
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    number = int(image.stem) if image.stem.isdigit() else -1
    if number not in annotations:
        raise SourceError(f"{path}: has no number {number} for {image.name}")
    shapes = {"xyz": (42, 3), "uv_vis": (42, 3), "K": (3, 3)}
    xyz, uv_vis, K = (
        check_array(path, f"{key} of {number}", annotations[number].get(key), shape=shape)
        for key, shape in shapes.items()
    )
    return xyz, uv_vis, K


SOURCE = Source(
    name="rhd",
    splits=("train", "test"),
    list_units=list_units,
    read_unit=read_unit,
    layout="""training/color/00000.png ...  training/anno_training.pickle
evaluation/color/00000.png ...  evaluation/anno_evaluation.pickle""",
    licence="lmb.informatik.uni-freiburg.de (RenderedHandposeDataset): research only",
)
