"""H2O-3D: two hands that hold objects, in video; annotated as HO-3D is.

Hampali et al., "Keypoint Transformer" (2022). The layout follows the public toolbox of HO-3D and
H2O-3D and public readers of it, and was not compared with the files themselves:

- `train.txt` lists `SEQUENCE/FRAME`; a unit is a sequence, its records are runs of consecutive
  frames of one hand. Pictures are jpg; 30 frames a second (RealSense) are assumed.
- `meta/FRAME.pkl` (see `pipelines/labels/honnotate.py`): `rightHandJoints3D`, `rightHandPose`,
  `rightHandTrans`, `jointValidRight` (21), `poseValidRight` (48), the same for `left`, and one
  `handBeta` for both hands. A joint is labelled where its flag is set; rotations where all 48 are
  and the wrist is.
- Left poses belong to MANO_LEFT as published, with its faulty shape directions; the parameters are
  kept, and miss the left joints by a millimetre or so. With the user's MANO files in `ROOT/mano`
  that is checked.
- The evaluation split has no joints but the wrists and, as far as known, no boxes: it is not read.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from extpose.schema import Split
from pipelines.labels.hand_checks import check_hands
from pipelines.labels.hand_model import check_joints, read_hand_model
from pipelines.labels.hand_records import (
    MANO_NAMES,
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
    SideLabels,
    find_image,
    read_frame_list,
    read_meta,
    read_side,
)
from pipelines.records import Filtered, Record, Source, SourceError

FPS = 30.0
SIDES = {
    side: SideKeys(
        is_right=side == "right",
        joints=f"{side}HandJoints3D",
        pose=f"{side}HandPose",
        trans=f"{side}HandTrans",
        joint_valid=f"jointValid{side.title()}",
        pose_valid=f"poseValid{side.title()}",
    )
    for side in ("left", "right")
}


def list_units(root: Path, split: Split) -> list[str]:
    """The sequences of a split."""
    return sorted({sequence for sequence, _ in read_frame_list(root / f"{split}.txt")})


def read_unit(root: Path, split: Split, unit: str) -> Iterator[Record | Filtered]:
    """The left, then the right hand of one sequence."""
    folder, listed = root / split / unit, root / f"{split}.txt"
    frames = sorted((f for s, f in read_frame_list(listed) if s == unit), key=int)
    if not frames:
        raise SourceError(f"{listed}: has no sequence {unit}")
    images = [find_image(folder, frame, ".jpg", "H2O-3D has jpg pictures") for frame in frames]
    metas = [read_meta(folder, frame) for frame in frames]
    size = read_image_size(images[0])
    for side, keys in SIDES.items():
        found = read_side(metas, keys)
        lost = len(frames) - (len(found.kept) if found else 0)
        if lost:
            yield Filtered(name=f"{unit}-{side}", num_frames=lost, reason="no_annotation")
        if found is None:
            continue
        path = metas[found.kept[0]][0]
        numbers = [int(frames[i]) for i in found.kept]
        labels = _make_labels(root, found, keys, path)
        for part in find_runs(numbers, found.hand.betas):
            yield make_record(
                _cut(labels, part, found),
                name=f"{unit}-{numbers[part.start]:04d}-{side}",
                frames=[images[i] for i in found.kept[part]],
                image_size=size,
                is_right=keys.is_right,
                path=path,
                first_frame=numbers[part.start],
                fps=FPS,
            )


def _make_labels(root: Path, found: SideLabels, keys: SideKeys, path: Path) -> HandLabels:
    joints = order_hand(found.joints, MANO_NAMES)
    labelled = order_hand(found.is_labelled, MANO_NAMES)
    whole = labelled.all(1)
    check_hands(joints[whole], is_right=keys.is_right, path=path, key=keys.joints)
    model, known = read_hand_model(root, is_right=keys.is_right), whole & found.has_pose
    if model is not None and known.any():
        check_joints(model, found.hand.cut(known), joints[known], path=path)
    points = add_ones(joints, labelled)
    return HandLabels(
        keypoints_3d=points,
        keypoints_2d=project_points(points, found.intrinsics),
        intrinsics=found.intrinsics,
        pose=found.hand,
        has_pose=found.has_pose,
    )


def _cut(labels: HandLabels, part: slice, found: SideLabels) -> HandLabels:
    return HandLabels(
        keypoints_3d=labels.keypoints_3d[part],
        keypoints_2d=labels.keypoints_2d[part],
        intrinsics=found.intrinsics[part],
        pose=found.hand.cut(part),
        has_pose=found.has_pose[part],
        betas=np.asarray(found.hand.betas[part][0]),
    )


SOURCE = Source(
    name="h2o3d",
    splits=("train",),
    list_units=list_units,
    read_unit=read_unit,
    layout="""train.txt
train/SEQ/rgb/0000.jpg  train/SEQ/meta/0000.pkl
[mano/MANO_RIGHT.pkl mano/MANO_LEFT.pkl: to compare poses and joints]""",
    licence="github.com/shreyashampali/ho3d: academic research only, no redistribution",
)
