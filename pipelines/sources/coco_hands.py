"""The hands of COCO-WholeBody and of Halpe: 2D keypoints of people in everyday pictures.

Jin et al., "Whole-Body Human Pose Estimation in the Wild" (2020); Li et al., Halpe-FullBody. The
layouts follow the public descriptions of the sets and were not compared with the files themselves:

- COCO-WholeBody: `annotations/coco_wholebody_{train,val}_v1.0.json`; a person has `lefthand_kpts`
  and `righthand_kpts` (63 numbers: x, y, v), `lefthand_valid` and `righthand_valid`. Pictures are
  COCO's `train2017` and `val2017`.
- Halpe: `annotations/halpe_{train,val}_v1.json`; a person has `keypoints` (136 x 3), of which 94 to
  114 are the left and 115 to 135 the right hand. Pictures are HICO-DET's in `images/train2015` and
  COCO's in `images/val2017` (AlphaPose's layout).
- In both, v > 0 is taken for labelled, and the order is OpenPose's. Left is the person's own.

A hand with fewer than five labelled keypoints is filtered as `few_keypoints` (HaMeR's rule); one
that is not annotated is none. 2D only. Units are blocks of 500 pictures by name; the annotations
are read once a process: the text (0.85 GB) while it is read, the hands (under 0.1 GB) afterwards.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
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
from pipelines.labels.long_json import iterate_objects
from pipelines.records import Filtered, Record, Source, SourceError, check_array

MIN_KEYPOINTS = 5
_HALPE_HANDS = {"left": slice(94, 115), "right": slice(115, 136)}


@dataclass(frozen=True)
class _Layout:
    """Where one of the two sets has its files."""

    annotations: str
    folders: dict[str, str]
    is_halpe: bool


@dataclass(frozen=True)
class _Hand:
    """One annotated hand: its name in the picture, its side, x y v."""

    name: str
    side: str
    points: Float64[np.ndarray, "21 3"]


def list_units(root: Path, split: Split, *, layout: _Layout) -> list[str]:
    """Blocks of 500 pictures, by the order of their names."""
    return list_blocks(len(_list_images(root, split, layout)))


def read_unit(
    root: Path, split: Split, unit: str, *, layout: _Layout
) -> Iterator[Record | Filtered]:
    """The hands in one block of pictures."""
    path, start = root / "annotations" / layout.annotations.format(split), int(unit)
    hands = _read_hands(require(path), path.stat().st_mtime_ns, layout.is_halpe)
    for image in _list_images(root, split, layout)[start : start + UNIT_IMAGES]:
        found = hands.get(image.name, ())
        size = read_image_size(image) if found else (0, 0)
        for hand in found:
            labelled = hand.points[:, 2] > 0
            if labelled.sum() < MIN_KEYPOINTS:
                yield Filtered(name=hand.name, num_frames=1, reason="few_keypoints")
                continue
            yield make_record(
                HandLabels(
                    keypoints_3d=np.zeros((1, 21, 4)),
                    keypoints_2d=add_ones(hand.points[None, :, :2], labelled[None]),
                    intrinsics=None,
                ),
                name=hand.name,
                frames=[image],
                image_size=size,
                is_right=hand.side == "right",
                path=path,
            )


def _list_images(root: Path, split: Split, layout: _Layout) -> list[Path]:
    folder = require(root / layout.folders[split])
    found = sorted(folder.glob("*.jpg"))
    if not found:
        raise SourceError(f"{folder}: has no .jpg files")
    return found


@lru_cache(maxsize=1)
def _read_hands(path: Path, _time: int, is_halpe: bool) -> dict[str, tuple[_Hand, ...]]:
    """Hands by the picture's file name."""
    names = {
        image["id"]: Path(image["file_name"]).name for image in iterate_objects(path, "images")
    }
    found: dict[str, list[_Hand]] = {}
    for person in iterate_objects(path, "annotations"):
        number, name = person.get("id"), names.get(person.get("image_id"))
        if name is None:
            raise SourceError(
                f"{path}: annotation {number} is of image {person.get('image_id')}, which is not "
                "in images"
            )
        for side in ("left", "right"):
            points = _read_points(path, person, side, is_halpe=is_halpe)
            if points is not None:
                key = f"{Path(name).stem}-{number}-{side}"
                found.setdefault(name, []).append(_Hand(key, side, points))
    return {name: tuple(hands) for name, hands in found.items()}


def _read_points(
    path: Path, person: dict[str, Any], side: str, *, is_halpe: bool
) -> Float64[np.ndarray, "21 3"] | None:
    place = f"of annotation {person.get('id')}"
    if is_halpe:
        values = check_array(path, f"keypoints {place}", person.get("keypoints"), shape=(408,))
        points = values.reshape(136, 3)[_HALPE_HANDS[side]]
        return points if (points[:, 2] > 0).any() else None
    if f"{side}hand_valid" not in person:
        raise SourceError(f"{path}: lacks {side}hand_valid {place}: not COCO-WholeBody's file?")
    if not person[f"{side}hand_valid"]:
        return None
    key = f"{side}hand_kpts"
    return check_array(path, f"{key} {place}", person.get(key), shape=(63,)).reshape(21, 3)


def _make_source(name: str, layout: _Layout, licence: str) -> Source:
    lines = [f"annotations/{layout.annotations.format('{train,val}')}"]
    lines += [f"{folder}/NAME.jpg" for folder in layout.folders.values()]
    return Source(
        name=name,
        splits=("train", "val"),
        list_units=partial(list_units, layout=layout),
        read_unit=partial(read_unit, layout=layout),
        layout="\n".join(lines),
        licence=licence,
    )


SOURCE_COCO = _make_source(
    "coco-hands",
    _Layout(
        "coco_wholebody_{}_v1.0.json", {"train": "train2017", "val": "val2017"}, is_halpe=False
    ),
    "github.com/jin-s13/COCO-WholeBody: annotations non-commercial; pictures Flickr's terms",
)
SOURCE_HALPE = _make_source(
    "halpe-hands",
    _Layout(
        "halpe_{}_v1.json", {"train": "images/train2015", "val": "images/val2017"}, is_halpe=True
    ),
    "github.com/Fang-Haoshu/Halpe-FullBody: annotations non-commercial; pictures Flickr's terms",
)
