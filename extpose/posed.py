"""What a protocol sees of a prediction and of the truth: joints, root, vertices, 2D points.

    reader = load_reader(protocol, body, files={"J_regressor_h36m.npy": path})
    found = reader.read(body(orient, pose, betas))
    truth = read_truth(reader_of_the_labels_gender, targets, bbox_xyxy=..., is_detected=...)

Axes    t frames   k joints of the protocol   p keypoints of the labels   v vertices
        n chain joints   f points of the feet
Units   metres and source pixels
Frames  both sides share axes and handedness; their origins may differ: all 3D metrics are relative
        to the root or aligned. Only foot sliding needs real translations and a camera that stands
        still.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from einops import einsum
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from extpose.body_file import MANO_TIP_VERTICES, MANO_TO_OPENPOSE, read_regressor
from extpose.body_model import BodyModel, BodyOutput, find_evidence, follow_chain
from extpose.errors import AssetError, ExtPoseError
from extpose.keypoints import COCO17_OF_BODY44, EXTRA19, KEYPOINT_NAMES
from extpose.protocol import FEET, MPJAE_JOINTS, Protocol
from extpose.rotations import axis_angle_to_matrix
from extpose.schema import ClipTargets

OFFICIAL_VERTICES = {"smpl": 6890, "mano": 778}
"""Of the licensed meshes, for which nothing may stand in."""
MIN_CONFIDENCE = 0.5
"""Labelled points count above it (HMR2.0, HaMeR)."""
_BODY44 = KEYPOINT_NAMES["body44"]
_REGRESSOR_ROWS = {"regressor": 17, "body44": len(EXTRA19)}


@dataclass(frozen=True, kw_only=True)
class Posed:
    """One side, prediction or truth: t consecutive frames of one person or hand."""

    valid: Bool[Tensor, " t"]
    """Frames that count; of a prediction: that were predicted."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Why frames do not count: reason and number."""
    stand_in: tuple[str, ...] = ()
    """What stands in for files or labels that the protocol wants."""
    joints: Float[Tensor, "t k 3"] | None = None
    """None: the side is 2D only."""
    has_joint: Bool[Tensor, "t k"] | None = None
    """Labelled joints; None: all."""
    root: Float[Tensor, "t 3"] | None = None
    has_root: Bool[Tensor, " t"] | None = None
    """Where the root is labelled; None: everywhere."""
    vertices: Float[Tensor, "t v 3"] | None = None
    rotations: Float[Tensor, "t n 3 3"] | None = None
    """Of the joints of MPJAE, in the frame of `joints` (not the parents')."""
    feet: Float[Tensor, "t f 3"] | None = None
    """`FEET`, with real translations in a camera that stands still."""
    keypoints_2d: Float[Tensor, "t k 2"] | None = None
    has_2d: Bool[Tensor, "t k"] | None = None
    """Of the truth: the 2D points that count."""
    scale_2d: Float[Tensor, " t"] | None = None
    """Of the truth: PCK's normaliser, pixels."""


@dataclass(frozen=True, kw_only=True)
class JointReader:
    """Reads a protocol's joints off one posed body."""

    protocol: Protocol
    body: BodyModel
    regressor: Float[Tensor, "r v"] | None
    """Rows of the joints, then of the root, where they are regressed from a file's rows."""
    stand_in: tuple[str, ...]

    def read(
        self,
        output: BodyOutput,
        *,
        valid: Bool[Tensor, " t"] | None = None,
        rotations: Float[Tensor, "t n 3 3"] | None = None,
        project: Callable[[Tensor], Tensor] | None = None,
        has_feet: bool = False,
    ) -> Posed:
        """A posed body as the protocol sees it.

        `rotations` are relative to parents, root first; MPJAE needs them. `project` takes points
        (t k 3) in the frame of `output` to source pixels (t k 2); PCK needs it. `has_feet`: the
        output has real translations in a camera that stands still.
        """
        joints, root = self._read_joints(output)
        is_scored = "mpjae" in self.protocol.metrics
        feet = [_BODY44.index(name) for name in FEET]
        return Posed(
            valid=torch.ones(len(joints), dtype=torch.bool) if valid is None else valid,
            stand_in=self.stand_in,
            joints=joints,
            root=root,
            vertices=output.vertices,
            rotations=self._turn(rotations) if rotations is not None and is_scored else None,
            feet=output.keypoints[:, feet] if has_feet and self.body.body == "smpl" else None,
            keypoints_2d=None if project is None else project(joints),
        )

    def _read_joints(self, output: BodyOutput) -> tuple[Tensor, Tensor | None]:
        rows, root = list(self.protocol.joints), list(self.protocol.root)
        if self.regressor is not None:
            points = einsum(self.regressor, output.vertices, "r v, t v c -> t r c")
            rows, root = list(range(len(rows))), list(range(len(rows), points.shape[1]))
        elif self.protocol.joints_from == "chain":
            points = output.joints
        elif self.protocol.joints_from == "coco17":
            points = find_evidence(output, self.body)
        elif self._has_own_tips:
            tips = output.vertices[:, list(self.protocol.tips or ())]
            points = torch.cat([output.joints, tips], 1)[:, list(MANO_TO_OPENPOSE)]
        else:
            points = output.keypoints
        return points[:, rows], points[:, root].mean(1) if root else None

    @property
    def _has_own_tips(self) -> bool:
        return self.protocol.joints_from == "hand21" and _is_official(self.body)

    def _turn(self, rotations: Tensor) -> Tensor:
        joints = self.body.joints_template.expand(len(rotations), -1, -1)
        return follow_chain(rotations, joints, self.body.parents)[0][:, list(MPJAE_JOINTS)]


def load_reader(
    protocol: Protocol, body: BodyModel, *, files: Mapping[str, Path] | None = None
) -> JointReader:
    """How to read the protocol's joints off `body`; `files` has what it `needs`, by file name.

    A mesh that is not SMPL's or MANO's cannot use such a file: its own rows of the same joints
    stand in, and results say so. Raises AssetError where nothing may stand in, or where the file
    does not fit the mesh; ExtPoseError for the wrong kind of body.
    """
    if body.body != protocol.body:
        raise ExtPoseError(f"protocol {protocol.name} is for {protocol.body}, not for {body.body}")
    regressor, stand_in = None, ""
    num_vertices = len(body.v_template)
    if protocol.needs is not None:
        path = (files or {}).get(protocol.needs)
        if path is not None:
            source = protocol.joints_from
            matrix = read_regressor(path, num_vertices, rows=_REGRESSOR_ROWS[source])
            first = 0 if source == "regressor" else len(_BODY44) - len(EXTRA19)
            rows = [row - first for row in (*protocol.joints, *protocol.root)]
            regressor = torch.from_numpy(matrix[rows])
        elif protocol.joints_from == "regressor" or not bool(body.has_keypoint.all()):
            regressor = _stand_in_rows(protocol, body)
        if path is None and not _is_official(body):
            stand_in = f"the mesh's own regressor rows for {protocol.needs}"
    elif protocol.tips not in (None, MANO_TIP_VERTICES) and not _is_official(body):
        stand_in = f"the mesh's own finger tips for vertices {protocol.tips}"
    return JointReader(
        protocol=protocol,
        body=body,
        regressor=regressor,
        stand_in=(stand_in,) if stand_in else (),
    )


def read_truth(
    reader: JointReader,
    targets: ClipTargets,
    *,
    bbox_xyxy: Float32[np.ndarray, "t 4"],
    is_detected: Bool[np.ndarray, " t"],
    has_feet: bool = False,
) -> Posed:
    """The truth of a clip; `reader` is that of the body of the labels' gender.

    `targets` of a left hand must be mirrored as the prediction's picture was. Raises ExtPoseError
    where the targets lack what the protocol takes for truth.
    """
    protocol = reader.protocol
    if protocol.truth == "mesh" or _may_pose(reader, targets):
        posed = _read_mesh(reader, targets, has_feet=has_feet)
    else:
        posed = _read_labels(protocol, targets)
    if protocol.pck_normaliser is not None:
        posed = _add_2d(posed, protocol, targets, bbox_xyxy)
    if protocol.only_detected:
        posed = _leave_out(posed, torch.from_numpy(is_detected), "not detected")
    return posed


def _may_pose(reader: JointReader, targets: ClipTargets) -> bool:
    """Whether the posed mesh stands in for a stored one: never on the licensed meshes."""
    is_missing = reader.protocol.truth == "stored" and targets.vertices is None
    return is_missing and bool(targets.has_pose.any()) and not _is_official(reader.body)


def _read_mesh(reader: JointReader, targets: ClipTargets, *, has_feet: bool) -> Posed:
    orient, pose, betas, transl = (
        torch.from_numpy(a)
        for a in (targets.global_orient, targets.pose, targets.betas, targets.transl)
    )
    matrices = axis_angle_to_matrix(torch.cat([orient[:, None], pose], 1))
    with torch.inference_mode():
        output = reader.body(matrices[:, 0], matrices[:, 1:], betas.expand(len(pose), -1), transl)
    posed = reader.read(output, rotations=matrices, has_feet=has_feet)
    if reader.protocol.truth == "stored":
        posed = replace(posed, stand_in=(*posed.stand_in, "the posed mesh for stored vertices"))
    labelled = torch.from_numpy(targets.has_pose & targets.has_betas)
    return _leave_out(posed, labelled, "no labelled pose")


def _read_labels(protocol: Protocol, targets: ClipTargets) -> Posed:
    """Stored keypoints, and the stored mesh where the protocol scores it."""
    if protocol.truth == "stored" and targets.vertices is None:
        raise ExtPoseError(f"protocol {protocol.name} needs target.vertices, the clip has none")
    num_frames = len(targets.keypoints_3d)
    posed = Posed(valid=torch.ones(num_frames, dtype=torch.bool))
    if "pa_mpjpe" not in protocol.metrics:
        return posed
    rows, root = _label_rows(protocol, protocol.joints), _label_rows(protocol, protocol.root)
    points = torch.from_numpy(targets.keypoints_3d)
    labelled = points[..., 3] > MIN_CONFIDENCE
    posed = replace(
        posed,
        joints=points[:, rows, :3],
        has_joint=labelled[:, rows],
        root=points[:, root, :3].mean(1),
        has_root=labelled[:, root].all(1),
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


def _stand_in_rows(protocol: Protocol, body: BodyModel) -> Tensor:
    """The same joints by name among the mesh's own extra joints."""
    if _is_official(body) or body.extra_regressor is None:
        raise AssetError(
            f"protocol {protocol.name} needs {protocol.needs}, which comes with the published "
            f"evaluation code; give its path (this mesh has {len(body.v_template)} vertices)"
        )
    place = [protocol.joints.index(row) for row in protocol.root]
    names = [*protocol.joint_names, *(protocol.joint_names[i] for i in place)]
    return body.extra_regressor[[EXTRA19.index(name) for name in names]]


def _is_official(body: BodyModel) -> bool:
    return len(body.v_template) == OFFICIAL_VERTICES[body.body]
