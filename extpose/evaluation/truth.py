"""What a protocol takes for the truth of a clip: the labelled mesh, or stored points.

    truth = read_truth(reader_of_the_labels_gender, targets, bbox_xyxy=..., is_detected=...)

Axes    t frames   k joints of the protocol   p keypoints of the labels
Units   metres and source pixels
"""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from extpose.errors import ExtPoseError
from extpose.evaluation.posed import JointReader, Posed, is_official
from extpose.evaluation.protocol import Protocol
from extpose.keypoints import COCO17_OF_BODY44
from extpose.rotations import axis_angle_to_matrix
from extpose.schema import ClipTargets

MIN_CONFIDENCE = 0.5
"""Labelled points count above it (HMR2.0, HaMeR)."""


def read_truth(
    reader: JointReader,
    targets: ClipTargets,
    *,
    bbox_xyxy: Float32[np.ndarray, "t 4"],
    is_detected: Bool[np.ndarray, " t"],
    is_still: bool = False,
) -> Posed:
    """The truth of a clip; `reader` is that of the body of the labels' gender.

    `targets` of a left hand must be mirrored as the prediction's picture was. Raises ExtPoseError
    where the targets lack what the protocol takes for truth.
    """
    protocol = reader.protocol
    if protocol.truth == "mesh" or _may_pose(reader, targets):
        posed = _read_mesh(reader, targets, is_still=is_still)
    else:
        posed = _read_labels(protocol, targets, is_still=is_still)
    if protocol.pck_normaliser is not None:
        posed = _add_2d(posed, protocol, targets, bbox_xyxy)
    if protocol.only_detected:
        posed = _leave_out(posed, torch.from_numpy(is_detected), "not detected")
    return posed


def _may_pose(reader: JointReader, targets: ClipTargets) -> bool:
    """Whether the posed mesh stands in for a stored one: never on the licensed meshes."""
    is_missing = reader.protocol.truth == "stored" and targets.vertices is None
    return is_missing and bool(targets.has_pose.any()) and not is_official(reader.body)


def _read_mesh(reader: JointReader, targets: ClipTargets, *, is_still: bool) -> Posed:
    orient, pose, betas, transl = (
        torch.from_numpy(a)
        for a in (targets.global_orient, targets.pose, targets.betas, targets.transl)
    )
    matrices = axis_angle_to_matrix(torch.cat([orient[:, None], pose], 1))
    with torch.inference_mode():
        output = reader.body(matrices[:, 0], matrices[:, 1:], betas.expand(len(pose), -1), transl)
    posed = reader.read(output, rotations=matrices, is_still=is_still)
    if reader.protocol.truth == "stored":
        posed = replace(posed, stand_in=(*posed.stand_in, "the posed mesh for stored vertices"))
    labelled = torch.from_numpy(targets.has_pose & targets.has_betas)
    return _leave_out(posed, labelled, "no labelled pose")


def _read_labels(protocol: Protocol, targets: ClipTargets, *, is_still: bool) -> Posed:
    """Stored keypoints, and the stored mesh where the protocol scores it."""
    if protocol.truth == "stored" and targets.vertices is None:
        raise ExtPoseError(f"protocol {protocol.name} needs target.vertices, the clip has none")
    num_frames = len(targets.keypoints_3d)
    posed = Posed(valid=torch.ones(num_frames, dtype=torch.bool))
    if "pa_mpjpe" not in protocol.metrics:
        return posed
    rows, root, feet = (
        _label_rows(protocol, part) for part in (protocol.joints, protocol.root, protocol.feet)
    )
    points = torch.from_numpy(targets.keypoints_3d)
    labelled = points[..., 3] > MIN_CONFIDENCE
    posed = replace(
        posed,
        joints=points[:, rows, :3],
        has_joint=labelled[:, rows],
        root=points[:, root, :3].mean(1),
        has_root=labelled[:, root].all(1),
        feet=points[:, feet, :3] if is_still and feet else None,
        has_feet=labelled[:, feet],
        vertices=None if targets.vertices is None else torch.from_numpy(targets.vertices),
    )
    wanted = len(rows) if protocol.min_joints is None else protocol.min_joints
    is_enough = labelled[:, rows].sum(1) >= wanted
    return _leave_out(posed, is_enough, f"fewer than {wanted} labelled joints")


def _add_2d(posed: Posed, protocol: Protocol, targets: ClipTargets, bbox_xyxy: np.ndarray) -> Posed:
    rows = _label_rows(protocol, protocol.joints)
    points = torch.from_numpy(targets.keypoints_2d)
    labelled = points[..., 2] > MIN_CONFIDENCE
    if protocol.pck_normaliser == "box":
        box = torch.from_numpy(bbox_xyxy).double()
        scale = (box[:, 2:] - box[:, :2]).amax(1)
    else:
        low = torch.where(labelled[..., None], points[..., :2], torch.inf).amin(1)
        high = torch.where(labelled[..., None], points[..., :2], -torch.inf).amax(1)
        scale = torch.where(labelled.any(1), (high - low).amax(1), 0).double()
    wanted = labelled
    if protocol.subset != "all":
        if targets.is_visible is None:
            raise ExtPoseError(f"protocol {protocol.name} needs target.is_visible, there is none")
        visible = torch.from_numpy(targets.is_visible)
        wanted = labelled & (visible if protocol.subset == "visible" else ~visible)
    posed = replace(posed, keypoints_2d=points[:, rows, :2], has_2d=wanted[:, rows], scale_2d=scale)
    if posed.joints is not None:
        return posed
    return _leave_out(posed, wanted[:, rows].any(1), f"no labelled point ({protocol.subset})")


def _leave_out(posed: Posed, keep: Tensor, reason: str) -> Posed:
    """A frame that does not count for several reasons is counted under the first."""
    dropped = int((posed.valid & ~keep).sum())
    left_out = {**posed.left_out, reason: dropped} if dropped else posed.left_out
    return replace(posed, valid=posed.valid & keep, left_out=left_out)


def _label_rows(protocol: Protocol, rows: tuple[int, ...]) -> list[int]:
    """Rows of the protocol's source as rows of the labels' keypoints."""
    if protocol.joints_from == "coco17":
        return [COCO17_OF_BODY44[row] for row in rows]
    return list(rows)
