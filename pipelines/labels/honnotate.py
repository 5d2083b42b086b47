"""The annotation files of HO-3D and H2O-3D: one pickle a frame, read by the restricted reader.

A hand's joints are in MANO's order and OpenGL's camera axes (x right, y up, z backward), its pose
is 48 absolute axis-angles (`flat_hand_mean=True` in the published viewer) of MANO_RIGHT or
MANO_LEFT, with `trans` in smplx's sense. The wrist at rest, which changes of axes need, follows
from a labelled wrist: `rest = wrist - trans`; so no MANO file is needed.

Axes    t frames   m = 21 joints in MANO's order
Units   metres, pixels, radians
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from extpose.pickles import read_pickle
from pipelines.labels.hand_model import MovedHand, turn_hand
from pipelines.labels.hand_records import OPENGL_TO_OPENCV, require
from pipelines.records import SourceError, check_array


@dataclass(frozen=True, kw_only=True)
class SideKeys:
    """What one hand is called in the files."""

    is_right: bool
    joints: str
    pose: str
    trans: str
    joint_valid: str | None = None
    pose_valid: str | None = None


@dataclass(frozen=True, kw_only=True)
class SideLabels:
    """One hand in the frames where it is annotated; OpenCV axes, MANO's order."""

    kept: tuple[int, ...]
    """Which of the asked frames these are."""
    joints: Float64[np.ndarray, "t 21 3"]
    is_labelled: Bool[np.ndarray, "t 21"]
    hand: MovedHand
    has_pose: Bool[np.ndarray, " t"]
    intrinsics: Float64[np.ndarray, "t 3 3"]


def read_frame_list(path: Path) -> tuple[tuple[str, str], ...]:
    """The lines `SEQUENCE/FRAME` of a list, in its order.

    Raises SourceError naming file and line.
    """
    lines = [line.strip() for line in require(path).read_text().splitlines() if line.strip()]
    frames = []
    for number, line in enumerate(lines, start=1):
        sequence, _, frame = line.partition("/")
        if not sequence or not frame.isdigit():
            raise SourceError(f"{path}: line {number} is {line!r}, expected SEQUENCE/FRAME")
        frames.append((sequence, frame))
    if len(set(frames)) < len(frames):
        raise SourceError(f"{path}: {len(frames)} lines, {len(set(frames))} different ones")
    return tuple(frames)


def find_image(folder: Path, frame: str, suffix: str, hint: str) -> Path:
    """`folder/rgb/FRAME.suffix`. Raises SourceError with the hint where it is missing."""
    return require(folder / "rgb" / f"{frame}{suffix}", hint)


def read_meta(folder: Path, frame: str) -> tuple[Path, dict[str, Any]]:
    """One frame's pickle. Raises SourceError for what is not a dictionary with a camera."""
    path = require(folder / "meta" / f"{frame}.pkl")
    content = read_pickle(path)
    if not isinstance(content, dict) or "camMat" not in content:
        found = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise SourceError(f"{path}: holds {found}, expected the key camMat")
    return path, content


def read_side(metas: Sequence[tuple[Path, dict[str, Any]]], keys: SideKeys) -> SideLabels | None:
    """One hand of several frames; None where no frame has it annotated.

    Raises SourceError naming file, key and both shapes.
    """
    kept = [i for i, (path, meta) in enumerate(metas) if _is_annotated(path, meta, keys)]
    if not kept:
        return None

    def stack(key: str, *shape: int) -> Float64[np.ndarray, "t ..."]:
        rows = [check_array(metas[i][0], key, metas[i][1].get(key), shape=shape) for i in kept]
        return np.stack(rows)

    joints, pose, trans = stack(keys.joints, 21, 3), stack(keys.pose, 48), stack(keys.trans, 3)
    valid = np.ones(joints.shape[:2], bool)
    has_pose = np.ones(len(joints), bool)
    if keys.joint_valid and keys.pose_valid:
        valid = stack(keys.joint_valid, 21) > 0
        has_pose = (stack(keys.pose_valid, 48) > 0).all(1) & valid[:, 0]
    return SideLabels(
        kept=tuple(kept),
        joints=joints @ OPENGL_TO_OPENCV,
        is_labelled=valid,
        hand=_turn_pose(pose, trans, joints[:, 0], stack("handBeta", 10)),
        has_pose=has_pose,
        intrinsics=stack("camMat", 3, 3),
    )


def _is_annotated(path: Path, meta: dict[str, Any], keys: SideKeys) -> bool:
    """Frames without annotation hold None; those whose joints are all called invalid count too."""
    if keys.joints not in meta:
        raise SourceError(f"{path}: lacks the key {keys.joints}; it has {sorted(meta)}")
    if meta[keys.joints] is None or meta.get(keys.pose) is None:
        return False
    if keys.joint_valid is None:
        return True
    return bool(
        (check_array(path, keys.joint_valid, meta.get(keys.joint_valid), shape=(21,))).any()
    )


def _turn_pose(
    pose: Float64[np.ndarray, "t 48"],
    trans: Float64[np.ndarray, "t 3"],
    wrist: Float64[np.ndarray, "t 3"],
    betas: Float64[np.ndarray, "t 10"],
) -> MovedHand:
    rest = wrist - trans
    return MovedHand(
        global_orient=turn_hand(OPENGL_TO_OPENCV, pose[:, :3]),
        pose=pose[:, 3:].reshape(-1, 15, 3),
        transl=wrist @ OPENGL_TO_OPENCV - rest,
        betas=betas,
    )
