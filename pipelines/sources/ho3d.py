"""HO-3D versions 2 and 3: right hands that hold objects, in video.

Hampali et al., "HOnnotate" (2020) and the report on version 3 (2021). The layout follows the data
set's public toolbox and was not compared with the files themselves:

- `train.txt` and `evaluation.txt` list `SEQUENCE/FRAME`; a unit is a sequence, its records are runs
  of consecutive frames. Pictures are png in version 2 and jpg in version 3: the other one's folder
  is refused. The frame rate is not in the files; 30 frames a second (RealSense) are assumed.
- `meta/FRAME.pkl` (`pipelines/labels/honnotate.py`) has joints and MANO parameters in the train
  split. Joints are MANO's, the tips are the vertices 744, 333, 444, 555, 672. With the user's
  MANO_RIGHT in `ROOT/mano`, pose and joints are compared.
- In the evaluation split the pickles have the wrist and a box (x0 y0 x1 y1, pixels: used as the
  hand's box). Joints and meshes are in `evaluation_xyz.json` and `evaluation_verts.json`, which
  were published in 2024 and lie beside `evaluation.txt`: one matrix a line of that list, OpenGL
  axes, MANO's order (said of the metric's script; the wrists are compared with the pickles'). Where
  they are missing only the wrist is labelled.

Records are named by sequence and first frame; frame numbers are the files'. An export for the
official script sorts them by `evaluation.txt`.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from extpose.schema import Split
from pipelines.labels.hand_checks import check_hands
from pipelines.labels.hand_model import check_joints, read_hand_model
from pipelines.labels.hand_records import (
    MANO_NAMES,
    OPENGL_TO_OPENCV,
    HandLabels,
    add_ones,
    find_runs,
    make_record,
    order_hand,
    project_points,
    read_image_size,
)
from pipelines.labels.honnotate import (
    SideKeys,
    find_image,
    read_frame_list,
    read_meta,
    read_side,
)
from pipelines.labels.long_json import count_matrices, read_rows
from pipelines.records import Filtered, Record, Source, SourceError, check_array

FPS = 30.0
NUM_VERTICES = 778
MAX_WRIST_ERROR = 0.005
_FOLDERS: dict[str, str] = {"train": "train", "test": "evaluation"}
_KEYS = SideKeys(is_right=True, joints="handJoints3D", pose="handPose", trans="handTrans")
Metas = Sequence[tuple[Path, dict[str, Any]]]


def list_units(root: Path, split: Split) -> list[str]:
    """The sequences of a split."""
    listed = read_frame_list(root / f"{_FOLDERS[split]}.txt")
    return sorted({sequence for sequence, _ in listed})


def read_unit(root: Path, split: Split, unit: str, *, suffix: str) -> Iterator[Record | Filtered]:
    """The hand of one sequence, a record for each run of consecutive frames."""
    folder = root / _FOLDERS[split] / unit
    listed = read_frame_list(root / f"{_FOLDERS[split]}.txt")
    rows = sorted((int(f), i, f) for i, (sequence, f) in enumerate(listed) if sequence == unit)
    if not rows:
        raise SourceError(f"{root / _FOLDERS[split]}.txt: has no sequence {unit}")
    hint = "version 2 has png, version 3 jpg pictures"
    images = [find_image(folder, frame, suffix, hint) for _, _, frame in rows]
    metas = [read_meta(folder, frame) for _, _, frame in rows]
    numbers = [number for number, _, _ in rows]
    size = read_image_size(images[0])
    if split == "train":
        parts = _read_train(root, unit, numbers, metas)
    else:
        places = np.array([place for _, place, _ in rows], np.int64)
        parts = _read_test(root, numbers, places, metas)
    for indices, labels in parts:
        if labels is None:
            yield Filtered(
                name=f"{unit}-{numbers[indices[0]]:04d}",
                num_frames=len(indices),
                reason="no_annotation",
            )
            continue
        yield make_record(
            labels,
            name=f"{unit}-{numbers[indices[0]]:04d}",
            frames=[images[i] for i in indices],
            image_size=size,
            is_right=True,
            path=metas[indices[0]][0],
            first_frame=numbers[indices[0]],
            fps=FPS,
        )


def _read_train(
    root: Path, unit: str, numbers: list[int], metas: Metas
) -> Iterator[tuple[list[int], HandLabels | None]]:
    side = read_side(metas, _KEYS)
    missing = [i for i in range(len(metas)) if side is None or i not in set(side.kept)]
    if missing:
        yield missing, None
    if side is None:
        return
    joints = order_hand(side.joints, MANO_NAMES)
    path = metas[side.kept[0]][0]
    check_hands(joints, is_right=True, path=path, key="handJoints3D")
    model = read_hand_model(root, is_right=True)
    if model is not None:
        check_joints(model, side.hand, joints, path=path)
    points = add_ones(joints)
    for part in find_runs([numbers[i] for i in side.kept], side.hand.betas):
        yield (
            list(side.kept[part]),
            HandLabels(
                keypoints_3d=points[part],
                keypoints_2d=project_points(points[part], side.intrinsics[part]),
                intrinsics=side.intrinsics[part],
                pose=side.hand.cut(part),
                betas=side.hand.betas[part][0],
            ),
        )


def _read_test(
    root: Path, numbers: list[int], places: Int64[np.ndarray, " t"], metas: Metas
) -> Iterator[tuple[list[int], HandLabels | None]]:
    def stack(key: str, *shape: int) -> Float64[np.ndarray, "t ..."]:
        return np.stack([check_array(path, key, m.get(key), shape=shape) for path, m in metas])

    wrists, boxes = stack("handJoints3D", 3), stack("handBoundingBox", 4)
    intrinsics = stack("camMat", 3, 3)
    joints = np.zeros((len(metas), 21, 3))
    joints[:, 0] = wrists
    labelled = np.zeros((len(metas), 21), bool)
    labelled[:, 0] = True
    vertices = None
    if (root / "evaluation_xyz.json").exists():
        joints = _read_published(root, "xyz", places, 21)
        labelled[:] = True
        _check_wrists(root / "evaluation_xyz.json", joints[:, 0], wrists)
        vertices = _read_published(root, "verts", places, NUM_VERTICES) @ OPENGL_TO_OPENCV
    joints = order_hand(joints @ OPENGL_TO_OPENCV, MANO_NAMES)
    if labelled.all():
        check_hands(joints, is_right=True, path=root / "evaluation_xyz.json", key="its matrices")
    points = add_ones(joints, labelled)
    for part in find_runs(numbers):
        yield (
            list(range(len(numbers))[part]),
            HandLabels(
                keypoints_3d=points[part],
                keypoints_2d=project_points(points[part], intrinsics[part]),
                intrinsics=intrinsics[part],
                vertices=None if vertices is None else vertices[part],
                bbox_xyxy=boxes[part],
            ),
        )


def _read_published(
    root: Path, kind: str, places: Int64[np.ndarray, " t"], num_points: int
) -> Float64[np.ndarray, "t n 3"]:
    """Rows of `evaluation_{xyz,verts}.json`. Places may be in any order; files are read forward."""
    path, listed = root / f"evaluation_{kind}.json", root / "evaluation.txt"
    count, expected = count_matrices(path), len(read_frame_list(listed))
    if count != expected:
        raise SourceError(f"{path}: lists {count} hands, {listed.name} {expected} frames")
    order = np.argsort(places)
    found = read_rows(path, places[order], shape=(num_points, 3))
    return found[np.argsort(order)]


def _check_wrists(
    path: Path, found: Float64[np.ndarray, "t 3"], told: Float64[np.ndarray, "t 3"]
) -> None:
    error = float(np.linalg.norm(found - told, axis=-1).max())
    if error > MAX_WRIST_ERROR:
        raise SourceError(
            f"{path}: wrists are up to {1000 * error:.0f} mm from handJoints3D of the pickles, at "
            f"most {1000 * MAX_WRIST_ERROR:.0f}: of another version, or another order?"
        )


def _make_source(version: int, suffix: str) -> Source:
    return Source(
        name=f"ho3d-v{version}",
        splits=("train", "test"),
        list_units=list_units,
        read_unit=partial(read_unit, suffix=suffix),
        layout=f"""train.txt evaluation.txt
train/SEQ/rgb/0000{suffix}  train/SEQ/meta/0000.pkl
evaluation/SEQ/rgb/0000{suffix}  evaluation/SEQ/meta/0000.pkl
[evaluation_xyz.json evaluation_verts.json]
[mano/MANO_RIGHT.pkl: to compare pose and joints]""",
        licence="github.com/shreyashampali/ho3d: academic research only, no redistribution",
    )


SOURCE_V2 = _make_source(2, ".png")
SOURCE_V3 = _make_source(3, ".jpg")
