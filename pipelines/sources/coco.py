"""COCO (Lin et al., 2014): people in pictures with 17 keypoints.

Files   `annotations/person_keypoints_{train,val}2017.json`, `train2017/*.jpg`, `val2017/*.jpg`.
        (The pictures of 2014 are the same ones in another split.) A unit is 500 pictures with
        people, a record one person.
Keys    `pipelines/labels/coco_files.py`
Units   pixels; COCO's order of keypoints; left and right are the person's own

Crowds (`iscrowd` 1), people with fewer than 5 labelled keypoints, and boxes without area are
filtered as `crowd`, `few_keypoints`, `empty_box`. The keypoints are labels and evidence alike;
hidden ones (v = 1) are labelled but not visible.

The layout is that of the COCO API's and the dataset's documentation. Verified on files of the same
format only.
"""

from collections.abc import Iterator
from pathlib import Path

from extpose.schema import Split
from pipelines.labels.annotations import need_folder
from pipelines.labels.coco_files import list_blocks, read_block, read_person
from pipelines.records import Filtered, Record, Source


def list_units(root: Path, split: Split) -> list[str]:
    """Blocks of pictures. Reads the whole annotation file: seconds."""
    return list_blocks(*_find(root, split))


def read_unit(root: Path, split: Split, unit: str) -> Iterator[Record | Filtered]:
    """The people of a block."""
    yield from read_block(*_find(root, split), unit, read_person)


def _find(root: Path, split: Split) -> tuple[Path, Path]:
    file = root / "annotations" / f"person_keypoints_{split}2017.json"
    return file, need_folder(root / f"{split}2017")


SOURCE = Source(
    name="coco",
    splits=("train", "val"),
    list_units=list_units,
    read_unit=read_unit,
    layout="""annotations/person_keypoints_{train,val}2017.json
train2017/000000000009.jpg ...
val2017/000000000139.jpg ...""",
    licence="COCO, project page; annotations CC BY 4.0, pictures under Flickr's terms",
)
