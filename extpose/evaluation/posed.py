"""What a protocol sees of a posed body: joints, root, vertices, 2D points.

    reader = load_reader(protocol, body, files={"J_regressor_h36m.npy": path})
    found = reader.read(body(orient, pose, betas))

Axes    t frames   k joints of the protocol   v vertices
        n chain joints   f points of the feet
Units   metres and source pixels
Frames  both sides share axes and handedness; their origins may differ: all 3D metrics are relative
        to the root or aligned. Only foot sliding needs real translations and a camera that stands
        still.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor

from extpose.body_file import MANO_TIP_VERTICES, MANO_TO_OPENPOSE, read_regressor
from extpose.body_model import BodyModel, BodyOutput, find_evidence, follow_chain
from extpose.errors import AssetError, ExtPoseError
from extpose.evaluation.protocol import MPJAE_JOINTS, Protocol
from extpose.keypoints import EXTRA19, KEYPOINT_NAMES

OFFICIAL_VERTICES = {"smpl": 6890, "mano": 778}
"""Of the licensed meshes, for which nothing may stand in."""
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
    """The protocol's `feet`, with real translations in a camera that stands still."""
    has_feet: Bool[Tensor, "t f"] | None = None
    """Labelled ones; None: all."""
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
    """Rows of the joints, the root and the feet, where they are regressed from a file's rows."""
    stand_in: tuple[str, ...]

    def read(
        self,
        output: BodyOutput,
        *,
        valid: Bool[Tensor, " t"] | None = None,
        rotations: Float[Tensor, "t n 3 3"] | None = None,
        project: Callable[[Tensor], Tensor] | None = None,
        is_still: bool = False,
    ) -> Posed:
        """A posed body as the protocol sees it.

        `rotations` are relative to parents, root first; MPJAE needs them. `project` takes points
        (t k 3) in the frame of `output` to source pixels (t k 2); PCK needs it. `is_still`: the
        output has real translations in a camera that stands still (foot sliding).
        """
        points = self._read_points(output)
        count, num_root = len(self.protocol.joints), len(self.protocol.root)
        joints, feet = points[:, :count], points[:, count + num_root :]
        root = points[:, count : count + num_root].mean(1) if num_root else None
        return Posed(
            valid=torch.ones(len(joints), dtype=torch.bool) if valid is None else valid,
            stand_in=self.stand_in,
            joints=joints,
            root=root,
            vertices=output.vertices,
            rotations=self._turn(rotations),
            feet=feet if is_still and self.protocol.feet else None,
            keypoints_2d=None if project is None else project(joints),
        )

    def _read_points(self, output: BodyOutput) -> Tensor:
        """Joints, then the root's points, then the feet."""
        if self.regressor is not None:
            return einsum(self.regressor, output.vertices, "r v, t v c -> t r c")
        if self.protocol.joints_from == "chain":
            points = output.joints
        elif self.protocol.joints_from == "coco17":
            points = find_evidence(output, self.body)
        elif self._has_own_tips:
            tips = output.vertices[:, list(self.protocol.tips or ())]
            points = torch.cat([output.joints, tips], 1)[:, list(MANO_TO_OPENPOSE)]
        else:
            points = output.keypoints
        return points[:, _all_rows(self.protocol)]

    @property
    def _has_own_tips(self) -> bool:
        return self.protocol.joints_from == "hand21" and is_official(self.body)

    def _turn(self, rotations: Tensor | None) -> Tensor | None:
        if rotations is None or "mpjae" not in self.protocol.metrics:
            return None
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
    regressor, stand_in = None, []
    num_vertices = len(body.v_template)
    if protocol.needs is not None:
        path = (files or {}).get(protocol.needs)
        if path is not None:
            source = protocol.joints_from
            matrix = read_regressor(path, num_vertices, rows=_REGRESSOR_ROWS[source])
            first = 0 if source == "regressor" else len(_BODY44) - len(EXTRA19)
            rows = [row - first for row in _all_rows(protocol)]
            regressor = torch.from_numpy(matrix[rows])
        elif protocol.joints_from == "regressor" or not bool(body.has_keypoint.all()):
            regressor = _stand_in_rows(protocol, body)
        if path is None and not is_official(body):
            stand_in.append(f"the mesh's own regressor rows for {protocol.needs}")
    elif protocol.tips not in (None, MANO_TIP_VERTICES) and not is_official(body):
        stand_in.append(f"the mesh's own finger tips for vertices {protocol.tips}")
    if protocol.gendered and not is_official(body):
        stand_in.append("one free body for SMPL's male and female bodies")
    return JointReader(protocol=protocol, body=body, regressor=regressor, stand_in=tuple(stand_in))


def _all_rows(protocol: Protocol) -> list[int]:
    return [*protocol.joints, *protocol.root, *protocol.feet]


def _stand_in_rows(protocol: Protocol, body: BodyModel) -> Tensor:
    """The same joints by name among the mesh's own extra joints."""
    if is_official(body) or body.extra_regressor is None:
        raise AssetError(
            f"protocol {protocol.name} needs {protocol.needs}, which comes with the published "
            f"evaluation code; give its path (this mesh has {len(body.v_template)} vertices)"
        )
    names = dict(zip(protocol.joints, protocol.joint_names, strict=True))
    return body.extra_regressor[[EXTRA19.index(names[row]) for row in _all_rows(protocol)]]


def is_official(body: BodyModel) -> bool:
    """Whether the mesh has as many vertices as SMPL's or MANO's."""
    return len(body.v_template) == OFFICIAL_VERTICES[body.body]
