"""The body model: shape and pose in, mesh and joints out, by linear blend skinning.

Read `BodyModel.forward` top to bottom: shape -> joints -> correctives -> chain -> skin. One code
path serves SMPL, MANO and the free body and hand of `extpose/free/`.

Axes    *b any leading axes   v vertices   j rotations without the root (23 SMPL, 15 MANO)
        n joints = j + 1   k keypoints (`body44`, or `hand21` in OpenPose's order)
Units   metres; rotations are matrices relative to the parent joint, absolute for MANO (no mean
        pose is added); the model's own frame has y up, faces +z, the person's left is +x
Source  Loper et al., SMPL (2015), Eq. 2-10; Romero et al., MANO (2017)
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from extpose.body_file import (
    BODY_OF_JOINTS,
    MANO_TIP_VERTICES,
    MANO_TO_OPENPOSE,
    SMPL_POINT_VERTICES,
    SMPL_TO_OPENPOSE,
    BodyArrays,
    read_body_file,
    read_regressor,
)
from extpose.errors import AssetError
from extpose.keypoints import COCO17_OF_BODY44, EXTRA19, NUM_KEYPOINTS, KeypointSet
from extpose.schema import TARGET_SET, BodyName

_FREE = Path(__file__).parent / "free"
FREE_FILES: dict[str, Path] = {"smpl": _FREE / "free_body.npz", "mano": _FREE / "free_hand.npz"}


_KEYPOINT_VERTICES: dict[str, tuple[int, ...]] = {
    "smpl": tuple(SMPL_POINT_VERTICES.values()),
    "mano": tuple(MANO_TIP_VERTICES),
}
"""Keypoints that are vertices."""


@dataclass(frozen=True, kw_only=True)
class BodyOutput:
    """One posed mesh per leading index, in the frame of `transl`."""

    vertices: Float[Tensor, "*b v 3"]
    joints: Float[Tensor, "*b n 3"]
    """The posed joints of the kinematic chain, root first."""
    keypoints: Float[Tensor, "*b k 3"]
    """Of the set `BodyModel.keypoint_set`; zero where `BodyModel.has_keypoint` is False."""


class BodyModel(nn.Module):
    """A mesh that is shaped by 10 betas and posed by one rotation per joint.

    Its arrays are buffers that stay out of state dicts: a checkpoint never carries them.
    """

    faces: Tensor
    v_template: Tensor
    shapedirs: Tensor
    lbs_weights: Tensor
    joints_template: Tensor
    joint_shapedirs: Tensor
    posedirs: Tensor | None
    coco_regressor: Tensor | None
    extra_regressor: Tensor | None
    has_keypoint: Tensor
    folded_weights: Tensor
    folded_template: Tensor
    folded_shapedirs: Tensor
    folded_posedirs: Tensor | None

    def __init__(self, arrays: BodyArrays) -> None:
        super().__init__()
        self.body: BodyName = "smpl" if BODY_OF_JOINTS[len(arrays.parents)] == "smpl" else "mano"
        self.keypoint_set: KeypointSet = TARGET_SET[self.body]
        self.parents = arrays.parents
        self.num_rotations = len(arrays.parents) - 1
        regressor = torch.from_numpy(arrays.J_regressor).double()
        template, shapedirs = (torch.from_numpy(a) for a in (arrays.v_template, arrays.shapedirs))
        # Joints are linear in the shape, so the regressor is applied once, here, in double.
        joints = einsum(regressor, template.double(), "n v, v c -> n c").float()
        joint_dirs = einsum(regressor, shapedirs.double(), "n v, v c s -> n c s").float()
        buffers = {
            "faces": torch.from_numpy(arrays.faces),
            "v_template": template,
            "shapedirs": shapedirs,
            "lbs_weights": torch.from_numpy(arrays.weights),
            "joints_template": joints,
            "joint_shapedirs": joint_dirs,
            "posedirs": _to_tensor(arrays.posedirs),
            "coco_regressor": _to_tensor(arrays.coco_regressor),
            "extra_regressor": _to_tensor(arrays.extra_regressor),
            "has_keypoint": _find_known(arrays, self.keypoint_set),
        }
        for name, value in (buffers | _fold_keypoints(arrays)).items():
            self.register_buffer(name, value, persistent=False)

    def forward(
        self,
        global_orient: Float[Tensor, "*b 3 3"],
        pose: Float[Tensor, "*b j 3 3"],
        betas: Float[Tensor, "*b 10"],
        transl: Float[Tensor, "*b 3"] | None = None,
    ) -> BodyOutput:
        """Shape, pose and move the mesh.

        `vertices = body(global_orient, pose, betas) + transl`: the root joint turns about its own
        place, not about the origin. Without `transl` the mesh stays in the model's frame.
        """
        if pose.shape[-3] != self.num_rotations:
            raise ValueError(
                f"{pose.shape[-3]} joint rotations, a {self.body} model has {self.num_rotations}"
            )
        rotations = torch.cat([global_orient[..., None, :, :], pose], -3)
        shaped = self.v_template + einsum(betas, self.shapedirs, "... s, v c s -> ... v c")
        rest_joints = self.joints_template + einsum(
            betas, self.joint_shapedirs, "... s, n c s -> ... n c"
        )
        if self.posedirs is not None:
            shaped = shaped + correct_pose(pose, self.posedirs)
        turned, joints = follow_chain(rotations, rest_joints, self.parents)
        vertices = skin(shaped, rest_joints, turned, joints, weights=self.lbs_weights)
        if transl is not None:
            vertices, joints = vertices + transl[..., None, :], joints + transl[..., None, :]
        points = vertices[..., list(_KEYPOINT_VERTICES[self.body]), :]
        if self.extra_regressor is not None:
            extra = einsum(self.extra_regressor, vertices, "k v, ... v c -> ... k c")
            points = torch.cat([points, extra], -2)
        keypoints = self._order_keypoints(points, joints)
        return BodyOutput(vertices=vertices, joints=joints, keypoints=keypoints)

    def find_keypoints(
        self,
        global_orient: Float[Tensor, "*b 3 3"],
        pose: Float[Tensor, "*b j 3 3"],
        betas: Float[Tensor, "*b 10"],
    ) -> Float[Tensor, "*b k 3"]:
        """The keypoints of `forward` without its mesh, in the model's frame: for losses.

        Skinning is linear in the vertices, so the keypoint regressor was folded into the skinning
        weights once: with regressor R and weights W, keypoint k is the sum over joints n of
        `turned[n] @ sum_v R[k, v] W[v, n] shaped[v] + sum_v R[k, v] W[v, n] shift[n]`.
        """
        rest_joints = self.joints_template + einsum(
            betas, self.joint_shapedirs, "... s, n c s -> ... n c"
        )
        turned, joints = follow_chain(
            torch.cat([global_orient[..., None, :, :], pose], -3), rest_joints, self.parents
        )
        folded = self.folded_template + einsum(
            betas, self.folded_shapedirs, "... s, k n c s -> ... k n c"
        )
        if self.folded_posedirs is not None:
            features = rearrange(pose - torch.eye(3).to(pose), "... j r c -> ... (j r c)")
            folded = folded + einsum(features, self.folded_posedirs, "... p, k n c p -> ... k n c")
        shift = joints - einsum(turned, rest_joints, "... n r c, ... n c -> ... n r")
        points = einsum(turned, folded, "... n r c, ... k n c -> ... k r")
        points = points + einsum(self.folded_weights, shift, "k n, ... n r -> ... k r")
        return self._order_keypoints(points, joints)

    def _order_keypoints(
        self, points: Float[Tensor, "*b m 3"], joints: Float[Tensor, "*b n 3"]
    ) -> Float[Tensor, "*b k 3"]:
        """`points` of the surface and the joints, in the order of `keypoint_set`."""
        if self.body == "mano":
            return torch.cat([joints, points], -2)[..., MANO_TO_OPENPOSE, :]
        num_vertices = len(SMPL_POINT_VERTICES)
        named, extra = points[..., :num_vertices, :], points[..., num_vertices:, :]
        if self.extra_regressor is None:
            extra = points.new_zeros(*points.shape[:-2], len(EXTRA19), 3)
        openpose = torch.cat([joints, named], -2)[..., SMPL_TO_OPENPOSE, :]
        return torch.cat([openpose, extra], -2)


def find_evidence(output: BodyOutput, model: BodyModel) -> Float[Tensor, "*b k 3"]:
    """What a 2D detector looks for: COCO's 17 keypoints of a body, the 21 of a hand.

    COCO's are read off the surface where the file says how (`J_regressor_coco`; the free body
    does), else they are those of the 44 that have the same names, which is HMR2.0's rule.
    """
    if model.body == "mano":
        return output.keypoints
    if model.coco_regressor is not None:
        return einsum(model.coco_regressor, output.vertices, "k v, ... v c -> ... k c")
    return output.keypoints[..., COCO17_OF_BODY44, :]


def load_body_model(
    path: Path | None = None, body: BodyName = "smpl", *, extra_regressor: Path | None = None
) -> BodyModel:
    """A body model from an SMPL or MANO file (`.pkl` or `.npz`); the free one without `path`.

    An SMPL file knows 25 of the 44 keypoints; `extra_regressor`, HMR2.0's `SMPL_to_J19.pkl` (or
    such an array as `.npy`), gives the rest.

    Raises `AssetError` where a file is missing, broken, or of the other body.
    """
    file = FREE_FILES[body] if path is None else path
    arrays = read_body_file(file)
    if extra_regressor is not None:
        rows = read_regressor(extra_regressor, len(arrays.v_template), rows=len(EXTRA19))
        arrays = replace(arrays, extra_regressor=rows)
    model = BodyModel(arrays)
    if model.body != body:
        raise AssetError(
            f"{file}: holds a {model.body} model ({model.num_rotations} rotations), "
            f"asked for {body}"
        )
    needed = max(_KEYPOINT_VERTICES[body])
    if len(model.v_template) <= needed:
        raise AssetError(
            f"{file}: v_template has {len(model.v_template)} vertices, the keypoints of {body} "
            f"need vertex {needed}"
        )
    return model


def correct_pose(
    pose: Float[Tensor, "*b j 3 3"], posedirs: Float[Tensor, "v 3 p"]
) -> Float[Tensor, "*b v 3"]:
    """Pose-dependent offsets, linear in the rotations' difference from rest (SMPL, Eq. 9)."""
    difference = pose - torch.eye(3, dtype=pose.dtype, device=pose.device)
    features = rearrange(difference, "... j r c -> ... (j r c)")
    return einsum(features, posedirs, "... p, v c p -> ... v c")


def follow_chain(
    rotations: Float[Tensor, "*b n 3 3"],
    rest_joints: Float[Tensor, "*b n 3"],
    parents: tuple[int, ...],
) -> tuple[Float[Tensor, "*b n 3 3"], Float[Tensor, "*b n 3"]]:
    """Rotations relative to the parent to rotations in the model's frame, and the posed joints."""
    turned, joints = [rotations[..., 0, :, :]], [rest_joints[..., 0, :]]
    for child, parent in enumerate(parents[1:], start=1):
        bone = rest_joints[..., child, :] - rest_joints[..., parent, :]
        joints.append(joints[parent] + (turned[parent] @ bone[..., None])[..., 0])
        turned.append(turned[parent] @ rotations[..., child, :, :])
    return torch.stack(turned, -3), torch.stack(joints, -2)


def skin(
    vertices: Float[Tensor, "*b v 3"],
    rest_joints: Float[Tensor, "*b n 3"],
    turned: Float[Tensor, "*b n 3 3"],
    joints: Float[Tensor, "*b n 3"],
    *,
    weights: Float[Tensor, "v n"],
) -> Float[Tensor, "*b v 3"]:
    """Each vertex follows the blend of its joints' rigid motions (SMPL, Eq. 7)."""
    shift = joints - einsum(turned, rest_joints, "... n r c, ... n c -> ... n r")
    blended_turn = einsum(weights, turned, "v n, ... n r c -> ... v r c")
    blended_shift = einsum(weights, shift, "v n, ... n r -> ... v r")
    return einsum(blended_turn, vertices, "... v r c, ... v c -> ... v r") + blended_shift


def _fold_keypoints(arrays: BodyArrays) -> dict[str, Tensor | None]:
    """Regressor times skinning weights, and their products with what skinning is applied to."""
    num_vertices = len(arrays.v_template)
    vertices = torch.tensor(_KEYPOINT_VERTICES[BODY_OF_JOINTS[len(arrays.parents)]])
    # A file that is too small for these is refused by `load_body_model`.
    regressor = F.one_hot(vertices.clamp_max(num_vertices - 1), num_vertices).double()
    if arrays.extra_regressor is not None:
        regressor = torch.cat([regressor, _double(arrays.extra_regressor)])
    weights = torch.from_numpy(arrays.weights).double()
    folded = einsum(regressor, weights, "k v, v n -> k n v")
    fold = {
        "folded_template": einsum(folded, _double(arrays.v_template), "k n v, v c -> k n c"),
        "folded_shapedirs": einsum(folded, _double(arrays.shapedirs), "k n v, v c s -> k n c s"),
        "folded_weights": folded.sum(-1),
    }
    tensors: dict[str, Tensor | None] = {name: value.float() for name, value in fold.items()}
    tensors["folded_posedirs"] = None
    if arrays.posedirs is not None:
        posedirs = einsum(folded, _double(arrays.posedirs), "k n v, v c p -> k n c p")
        tensors["folded_posedirs"] = posedirs.float()
    return tensors


def _find_known(arrays: BodyArrays, keypoint_set: KeypointSet) -> Tensor:
    """Which keypoints the arrays give; all but the extra joints of a body without regressor."""
    known = torch.ones(NUM_KEYPOINTS[keypoint_set], dtype=torch.bool)
    if keypoint_set == "body44" and arrays.extra_regressor is None:
        known[-len(EXTRA19) :] = False
    return known


def _double(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).double()


def _to_tensor(array: object) -> Tensor | None:
    return None if array is None else torch.as_tensor(array)
