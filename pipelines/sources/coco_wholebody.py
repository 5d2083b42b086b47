"""COCO-WholeBody (Jin et al., ECCV 2020): COCO's people with 6 keypoints of the feet besides.

Files   `annotations/coco_wholebody_{train,val}_v1.0.json`, `train2017/*.jpg`, `val2017/*.jpg`
Keys    COCO's, and `foot_kpts` 6 times x y v: big toe, small toe, heel, left then right
Units   pixels; left and right are the person's own

The people and what is filtered are those of COCO: use one of the two. The hands are a source of
their own. The layout was learned from the data format page of the data set's repository. Not
verified without the data: that `v` of feet is never above 2.
"""

from collections.abc import Iterator
from functools import partial
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
    yield from read_block(*_find(root, split), unit, partial(read_person, has_feet=True))


def _find(root: Path, split: Split) -> tuple[Path, Path]:
    file = root / "annotations" / f"coco_wholebody_{split}_v1.0.json"
    return file, need_folder(root / f"{split}2017")


SOURCE = Source(
    name="coco_wholebody",
    splits=("train", "val"),
    list_units=list_units,
    read_unit=read_unit,
    layout="""annotations/coco_wholebody_{train,val}_v1.0.json
train2017/000000000009.jpg ...
val2017/000000000139.jpg ...""",
    licence="COCO-WholeBody, repository of the authors; non-commercial research, pictures of COCO",
)
