"""MPII Human Pose (Andriluka et al., CVPR 2014): people in pictures with 16 keypoints.

Files   `annot/train.json`, `annot/valid.json`, the split of Tompson et al. that SimpleBaseline and
        HRNet distribute, and `images/*.jpg`. (The project's own Matlab file holds the same points
        without that split.) A unit is 500 people, a record one person.
Keys    a list of people: `image`, `joints` (16, 2), `joints_vis` (16,), `center`, `scale`
Units   pixels counted from 1 as in Matlab: 1 is subtracted; left and right are the person's own

As in SPIN, limbs and neck (`upper neck`) and head top are LSP's, pelvis and thorax MPII's own. A
point is labelled where `joints_vis` is not 0 and neither coordinate is negative; nothing tells
hidden points from visible ones. The box is that of the labelled points, not of `center` and
`scale`, which are a rough square. People with fewer than 5 points are filtered as `few_keypoints`.

The layout was learned from programs that read these files. Not verified without the data: that
points without a label are always at -1 or 0.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from extpose.keypoints import reorder_keypoints
from extpose.schema import Split
from pipelines.labels.annotations import (
    cut_block,
    get_floats,
    get_value,
    name_blocks,
    need_folder,
    read_image_size,
    read_json,
    to_key,
)
from pipelines.labels.tracks import find_boxes, make_track, to_evidence
from pipelines.records import Filtered, FrameRef, Record, Source, SourceError, empty_targets

MIN_KEYPOINTS = 5
_FILES: dict[Split, str] = {"train": "train.json", "val": "valid.json"}
NAMES = (
    "lsp_right_ankle", "lsp_right_knee", "lsp_right_hip", "lsp_left_hip", "lsp_left_knee",
    "lsp_left_ankle", "mpii_pelvis", "mpii_thorax", "lsp_neck", "lsp_head_top", "lsp_right_wrist",
    "lsp_right_elbow", "lsp_right_shoulder", "lsp_left_shoulder", "lsp_left_elbow",
    "lsp_left_wrist",
)  # fmt: skip


def list_units(root: Path, split: Split) -> list[str]:
    """Blocks of people."""
    need_folder(root / "images")
    return name_blocks(len(_load(root, split)))


def read_unit(root: Path, split: Split, unit: str) -> Iterator[Record | Filtered]:
    """The people of a block."""
    path = root / "annot" / _FILES[split]
    people = list(enumerate(_load(root, split)))
    for index, person in cut_block(people, unit):
        yield _read_person(path, root / "images", index, person)


def _load(root: Path, split: Split) -> list[dict[str, Any]]:
    path = root / "annot" / _FILES[split]
    people = read_json(path)
    if not isinstance(people, list) or not people:
        raise SourceError(f"{path}: holds a {type(people).__name__}, expected a list of people")
    return people


def _read_person(path: Path, folder: Path, index: int, person: dict[str, Any]) -> Record | Filtered:
    image = get_value(path, person, "image", str)
    if "/" in image:
        raise SourceError(f"{path}: image is {image!r}, expected a name without folders")
    name = to_key(f"{Path(image).stem}-{index:05d}")
    joints = get_floats(path, person, "joints", (16, 2)) - 1
    visible = get_floats(path, person, "joints_vis", (16,))
    is_labelled = (visible > 0) & (joints >= 0).all(1)
    if is_labelled.sum() < MIN_KEYPOINTS:
        return Filtered(name=name, num_frames=1, reason="few_keypoints")
    picture = folder / image
    height, width = read_image_size(picture)
    if joints[is_labelled].max() <= 1 or (joints[is_labelled] > (2 * width, 2 * height)).any():
        most = joints[is_labelled].max(0) + 1
        raise SourceError(
            f"{path}: person {index}: joints reach {most.tolist()}, {picture} is {width} x "
            f"{height} pixels"
        )
    points = np.where(is_labelled[:, None], joints, 0)
    triples = np.concatenate([points, is_labelled[:, None]], 1).astype(np.float32)
    labels = reorder_keypoints(triples, NAMES, "body44")[None]
    return Record(
        name=name,
        frames=(FrameRef(path=picture),),
        image_size=(height, width),
        fps=1.0,
        track=make_track(find_boxes(labels), to_evidence(labels)),
        targets=replace(empty_targets("smpl", 1), keypoints_2d=labels),
        intrinsics=None,
        body="smpl",
    )


SOURCE = Source(
    name="mpii",
    splits=("train", "val"),
    list_units=list_units,
    read_unit=read_unit,
    layout="""annot/train.json
annot/valid.json
images/000001163.jpg ...""",
    licence="MPII Human Pose, project page (MPI Informatics); Simplified BSD for the annotations, "
    "pictures for research",
)
