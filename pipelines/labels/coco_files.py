"""Annotation files in COCO's format, and what people they label.

Shared by the sources that use it. `images` (id, file_name, height, width) and `annotations`
(image_id, id, iscrowd, bbox = x y w h, keypoints = 17 times x y v, num_keypoints). v is 0: not
labelled, 1: labelled but hidden, 2: visible. Pixels count from 0 at the top left pixel.

The format was learned from COCO's own description and that of COCO-WholeBody.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from extpose.keypoints import KEYPOINT_NAMES, reorder_keypoints
from pipelines.labels.annotations import (
    cut_block,
    get_value,
    name_blocks,
    need_file,
    read_json,
    to_floats,
    to_key,
)
from pipelines.labels.tracks import make_track
from pipelines.records import Filtered, FrameRef, Record, SourceError, empty_targets

MIN_KEYPOINTS = 5
"""Of a person, labelled; fewer are filtered, as HMR2.0's training does."""
_KEPT = ("id", "image_id", "iscrowd", "bbox", "keypoints", "num_keypoints", "foot_kpts")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture and its annotations."""

    image_id: str
    path: Path
    size: tuple[int, int]
    people: tuple[dict[str, Any], ...]


def list_blocks(file: Path, folder: Path) -> list[str]:
    """Units of the pictures that show somebody."""
    units = name_blocks(len(_load(file, folder)))
    if not units:
        raise SourceError(f"{file}: no annotations")
    return units


def read_block(
    file: Path,
    folder: Path,
    unit: str,
    read: Callable[[Path, Picture, dict[str, Any]], Iterator[Record | Filtered]],
) -> Iterator[Record | Filtered]:
    """What `read(file, picture, annotation)` makes of all annotations of a unit."""
    for picture in cut_block(_load(file, folder), unit):
        need_file(picture.path)
        for person in picture.people:
            yield from read(file, picture, person)


def _load(file: Path, folder: Path) -> tuple[Picture, ...]:
    stat = need_file(file).stat()
    return _load_version(file, folder, stat.st_mtime_ns, stat.st_size)


# A file of COCO's size takes seconds and holds a hundred units: the last one read is kept.
@lru_cache(maxsize=1)
def _load_version(file: Path, folder: Path, _time: int, _size: int) -> tuple[Picture, ...]:
    content = read_json(file, keep=_keep)
    if not isinstance(content, dict):
        raise SourceError(f"{file}: holds a {type(content).__name__}, expected a dict")
    people: dict[str, list[dict[str, Any]]] = {}
    for person in get_value(file, content, "annotations", list):
        key = str(get_value(file, person, "image_id", (int, str)))
        people.setdefault(key, []).append(person)
    pictures = [
        _make_picture(file, folder, entry, people.pop(str(entry.get("id")), []))
        for entry in get_value(file, content, "images", list)
    ]
    if people:
        raise SourceError(f"{file}: annotations of image_id {min(people)}, not among its images")
    shown = [picture for picture in pictures if picture.people]
    return tuple(sorted(shown, key=lambda picture: (len(picture.image_id), picture.image_id)))


def _keep(entry: dict[str, Any]) -> dict[str, Any]:
    """An annotation without what fills the memory: outlines, faces and hands."""
    return {k: entry[k] for k in _KEPT if k in entry} if "keypoints" in entry else entry


def _make_picture(
    file: Path, folder: Path, entry: dict[str, Any], people: list[dict[str, Any]]
) -> Picture:
    name = get_value(file, entry, "file_name", str)
    if name.startswith("/") or ".." in name.split("/"):
        raise SourceError(f"{file}: file_name {name!r} leads out of {folder}")
    height, width = (int(get_value(file, entry, key, int)) for key in ("height", "width"))
    return Picture(
        image_id=str(get_value(file, entry, "id", (int, str))),
        path=folder / name,
        size=(height, width),
        people=tuple(sorted(people, key=lambda person: str(person.get("id")).zfill(20))),
    )


def read_person(
    file: Path, picture: Picture, person: dict[str, Any], *, has_feet: bool = False
) -> Iterator[Record | Filtered]:
    """The person of an annotation; crowds, people with few keypoints or no box are filtered."""
    name = name_person(file, picture, person)
    if get_value(file, person, "iscrowd", int):
        yield Filtered(name=name, num_frames=1, reason="crowd")
        return
    points = read_triples(file, person, "keypoints", 17, name)
    num = int((points[:, 2] > 0).sum())
    if num != (said := get_value(file, person, "num_keypoints", int)):
        raise SourceError(f"{file}: {name}: num_keypoints is {said}, {num} have v > 0")
    labels = reorder_keypoints(points, KEYPOINT_NAMES["coco17"], "body44")
    if has_feet:
        feet = read_triples(file, person, "foot_kpts", 6, name)
        labels += reorder_keypoints(feet, FEET6, "body44")
    box = read_box(file, person, "bbox", name)
    if reason := _find_fault(file, name, num, box, picture.size):
        yield Filtered(name=name, num_frames=1, reason=reason)
    else:
        yield make_record(name, picture, box, labels, evidence=with_confidence(points))


FEET6 = (
    "left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel"
)  # fmt: skip
"""COCO-WholeBody's `foot_kpts`."""


def name_person(file: Path, picture: Picture, person: dict[str, Any]) -> str:
    """`IMAGE-ANNOTATION`, as a key."""
    number = get_value(file, person, "id", (int, str))
    return to_key(f"{picture.image_id.zfill(12)}-{number}")


def make_record(
    name: str,
    picture: Picture,
    box: Float32[np.ndarray, " 4"],
    labels: Float32[np.ndarray, "44 3"],
    *,
    evidence: Float32[np.ndarray, "17 3"],
) -> Record:
    """A picture of somebody: 2D keypoints with v > 0 are labelled, with v = 2 visible."""
    targets = replace(
        empty_targets("smpl", 1),
        keypoints_2d=with_confidence(labels)[None],
        is_visible=labels[None, :, 2] > 1,
    )
    return Record(
        name=name,
        frames=(FrameRef(path=picture.path),),
        image_size=picture.size,
        fps=1.0,
        track=make_track(box[None], evidence[None]),
        targets=targets,
        intrinsics=None,
        body="smpl",
    )


def read_triples(
    file: Path, person: dict[str, Any], key: str, num: int, name: str
) -> Float32[np.ndarray, "k 3"]:
    """x y v of each keypoint; v is 0 to 2, or any positive number in COCO-WholeBody's parts."""
    flat = get_value(file, person, key, list)
    points = to_floats(file, f"{name}: {key}", flat, (3 * num,)).reshape(num, 3)
    most = 2 if key == "keypoints" else np.inf
    if (bad := points[(points[:, 2] < 0) | (points[:, 2] > most), 2]).size:
        raise SourceError(f"{file}: {name}: {key} has v = {bad[0]:g}, must be 0 to {most}")
    return points.astype(np.float32)


def read_box(file: Path, person: dict[str, Any], key: str, name: str) -> Float32[np.ndarray, " 4"]:
    """x y w h of an annotation as x0 y0 x1 y1."""
    flat = get_value(file, person, key, list)
    x, y, width, height = to_floats(file, f"{name}: {key}", flat, (4,))
    return np.array([x, y, x + width, y + height], np.float32)


def with_confidence(points: Float32[np.ndarray, "k 3"]) -> Float32[np.ndarray, "k 3"]:
    """x y v to x y and 1 where v > 0; what is not labelled is zero."""
    is_labelled: Bool[np.ndarray, "k 1"] = points[:, 2:] > 0
    xy = np.where(is_labelled, points[:, :2], 0)
    return np.concatenate([xy, is_labelled], 1).astype(np.float32)


def _find_fault(
    file: Path, name: str, num: int, box: Float32[np.ndarray, " 4"], size: tuple[int, int]
) -> str | None:
    """Why a person is filtered, or None."""
    if num < MIN_KEYPOINTS:
        return "few_keypoints"
    x0, y0, x1, y1 = (float(value) for value in box)
    if x1 > x0 and y1 > y0 and max(x1, y1) <= 1:
        raise SourceError(
            f"{file}: {name}: bbox {box.tolist()} of a picture of {size[1]} x {size[0]}: must be "
            "in pixels, not in parts of the picture"
        )
    if min(x1 - x0, y1 - y0) < 1:
        return "empty_box"
    return "outside" if x1 <= 0 or y1 <= 0 or x0 >= size[1] or y0 >= size[0] else None
