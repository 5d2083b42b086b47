"""COCO-WholeBody (Jin et al., ECCV 2020): its hands, 2D keypoints only.

Files   `annotations/coco_wholebody_{train,val}_v1.0.json`, `train2017/*.jpg`, `val2017/*.jpg`
Keys    of each person and side: `lefthand_kpts` 21 times x y v (wrist, thumb to little finger, base
        to tip: `hand21`), `lefthand_box` x y w h, `lefthand_valid`; `righthand_*` alike
Units   pixels; left and right are the person's own

A unit is 500 pictures, a record one hand. Hands that are not valid, with fewer than 5 labelled
keypoints or with a box below 2 pixels are filtered as `no_hand`, `few_keypoints`, `small_box`. Left
hands are left hands here; whoever trains mirrors them. The layout was learned from the data format
page of the data set's repository, which allows v to be any number and says that v > 0 is reliable.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from extpose.schema import Split
from pipelines.annotations import get_value, need_folder
from pipelines.coco_files import (
    MIN_KEYPOINTS,
    Picture,
    list_blocks,
    make_record,
    name_person,
    read_block,
    read_box,
    read_triples,
    with_confidence,
)
from pipelines.records import Filtered, Record, Source


def list_units(root: Path, split: Split) -> list[str]:
    """Blocks of pictures. Reads the whole annotation file: seconds."""
    return list_blocks(*_find(root, split))


def read_unit(root: Path, split: Split, unit: str) -> Iterator[Record | Filtered]:
    """The hands of a block."""
    yield from read_block(*_find(root, split), unit, _read_hands)


def _read_hands(
    file: Path, picture: Picture, person: dict[str, Any]
) -> Iterator[Record | Filtered]:
    for side in ("left", "right"):
        name = f"{name_person(file, picture, person)}-{side}"
        if not get_value(file, person, f"{side}hand_valid", (bool, int)):
            yield Filtered(name=name, num_frames=1, reason="no_hand")
            continue
        points = read_triples(file, person, f"{side}hand_kpts", "hand21", name)
        box = read_box(file, person, f"{side}hand_box", name)
        if (points[:, 2] > 0).sum() < MIN_KEYPOINTS:
            yield Filtered(name=name, num_frames=1, reason="few_keypoints")
        elif min(box[2] - box[0], box[3] - box[1]) < 2:
            yield Filtered(name=name, num_frames=1, reason="small_box")
        else:
            labels = with_confidence(points)
            yield make_record(name, picture, box, labels, evidence=labels, is_right=side == "right")


def _find(root: Path, split: Split) -> tuple[Path, Path]:
    file = root / "annotations" / f"coco_wholebody_{split}_v1.0.json"
    return file, need_folder(root / f"{split}2017")


SOURCE = Source(
    name="coco_hands",
    splits=("train", "val"),
    list_units=list_units,
    read_unit=read_unit,
    layout="""annotations/coco_wholebody_{train,val}_v1.0.json
train2017/000000000009.jpg ...
val2017/000000000139.jpg ...""",
    licence="COCO-WholeBody, repository of the authors; non-commercial research, pictures of COCO",
)
