"""A folder of anybody's pictures, without labels: the people are those that the detector finds.

Files   pictures anywhere below the root. A unit is up to 500 of them, a record one person
Units   pixels; keypoints are the detector's (COCO), nothing else is labelled

A unit is named after the places of its pictures in the list and a hash of their names: with more
pictures the units are others, and the shards of the old ones need `--prune`.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from extpose.schema import Split
from pipelines.labels.annotations import cut_block, name_blocks, need_folder, to_key
from pipelines.records import Picture, Source, SourceError

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"))


def list_pictures(root: Path) -> list[Path]:
    """All below the root, in order; hidden ones are left out. Raises SourceError without any."""
    found = sorted(
        path
        for path in need_folder(root).rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
    if not found:
        raise SourceError(f"{root}: no pictures ({', '.join(sorted(SUFFIXES))})")
    return found


def list_units(root: Path, split: Split) -> list[str]:
    """Blocks of pictures."""
    pictures = list_pictures(root)
    return [_name(root, block, pictures) for block in name_blocks(len(pictures))]


def read_unit(root: Path, split: Split, unit: str) -> Iterator[Picture]:
    """The pictures of a block, which the detector is to look at."""
    for path in cut_block(list_pictures(root), unit.rpartition("-")[0]):
        place = path.relative_to(root).as_posix()
        digest = hashlib.sha256(place.encode()).hexdigest()[:8]
        yield Picture(name=f"{to_key(path.stem)[:40]}-{digest}", path=path)


def _name(root: Path, block: str, pictures: list[Path]) -> str:
    names = "\n".join(path.relative_to(root).as_posix() for path in cut_block(pictures, block))
    return f"{block}-{hashlib.sha256(names.encode()).hexdigest()[:8]}"


SOURCE = Source(
    name="pictures",
    splits=("train", "val", "test"),
    list_units=list_units,
    read_unit=read_unit,
    layout="pictures (.jpg, .png, ...), in folders or not",
    licence="yours",
    needs_detector=True,
)
