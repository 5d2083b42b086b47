"""A folder of anybody's pictures with keypoints in COCO's format.

Files   `{train,val,test}.json` and the pictures, at `file_name` below `images/`. A unit is 500
        pictures with people, a record one person.
Keys    `pipelines/labels/coco_files.py`: what most annotation tools export
Units   pixels; COCO's order of keypoints; left and right are the person's own
"""

from collections.abc import Iterator
from pathlib import Path

from extpose.schema import Split
from pipelines.labels.annotations import need_folder
from pipelines.labels.coco_files import list_blocks, read_block, read_person
from pipelines.records import Filtered, Record, Source


def list_units(root: Path, split: Split) -> list[str]:
    """Blocks of pictures."""
    return list_blocks(root / f"{split}.json", need_folder(root / "images"))


def read_unit(root: Path, split: Split, unit: str) -> Iterator[Record | Filtered]:
    """The people of a block."""
    yield from read_block(root / f"{split}.json", need_folder(root / "images"), unit, read_person)


SOURCE = Source(
    name="images",
    splits=("train", "val", "test"),
    list_units=list_units,
    read_unit=read_unit,
    layout="""{train,val,test}.json
images/...""",
    licence="yours",
)
