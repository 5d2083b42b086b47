"""The body model: shape and pose in, mesh and joints out, by linear blend skinning.

Read `BodyModel.forward` top to bottom: shape -> joints -> correctives -> chain -> skin. One code
path serves SMPL, MANO and the free body and hand of `extpose/free/`.

Axes    *b any leading axes   v vertices   j rotations without the root (23 SMPL, 15 MANO)
        n joints = j + 1   k keypoints (COCO-17, or 21 of the hand in OpenPose's order)
Units   metres; rotations are matrices relative to the parent joint, absolute for MANO (no mean
        pose is added); the model's own frame has y up, faces +z, the person's left is +x
Source  Loper et al., SMPL (2015), Eq. 2-10; Romero et al., MANO (2017)
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from extpose.body_file import (
    BODY_OF_JOINTS,
    MANO_TIP_VERTICES,
    MANO_TO_OPENPOSE,
    SMPL_COCO_JOINTS,
    SMPL_FACE_VERTICES,
    BodyArrays,
    read_body_file,
)
from extpose.errors import AssetError
from extpose.schema import BodyName, KeypointSet

_FREE = Path(__file__).parent / "free"
FREE_FILES: dict[str, Path] = {"smpl": _FREE / "free_body.npz", "mano": _FREE / "free_hand.npz"}


@dataclass(frozen=True, kw_only=True)
class BodyOutput:
    """One posed mesh per leading index, in the frame of `transl`."""

    vertices: Float[Tensor, "*b v 3"]
    joints: Float[Tensor, "*b n 3"]
    """The posed joints of the kinematic chain, root first."""
    keypoints: Float[Tensor, "*b k 3"]


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
    keypoint_regressor: Tensor | None

    def __init__(self, arrays: BodyArrays) -> None:
        super().__init__()
        self.body: BodyName = "smpl" if BODY_OF_JOINTS[len(arrays.parents)] == "smpl" else "mano"
        self.keypoint_set: KeypointSet = "coco17" if self.body == "smpl" else "hand21"
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
            "keypoint_regressor": _to_tensor(arrays.keypoint_regressor),
        }
        for name, value in buffers.items():
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
        keypoints = self._find_keypoints(vertices, joints)
        return BodyOutput(vertices=vertices, joints=joints, keypoints=keypoints)

    def _find_keypoints(
        self, vertices: Float[Tensor, "*b v 3"], joints: Float[Tensor, "*b n 3"]
    ) -> Float[Tensor, "*b k 3"]:
        if self.keypoint_regressor is not None:
            return einsum(self.keypoint_regressor, vertices, "k v, ... v c -> ... k c")
        if self.body == "mano":
            both = torch.cat([joints, vertices[..., MANO_TIP_VERTICES, :]], -2)
            return both[..., MANO_TO_OPENPOSE, :]
        face = vertices[..., tuple(SMPL_FACE_VERTICES.values()), :]
        return torch.cat([face, joints[..., SMPL_COCO_JOINTS, :]], -2)


def load_body_model(path: Path | None = None, body: BodyName = "smpl") -> BodyModel:
    """A body model from an SMPL or MANO file (`.pkl` or `.npz`); the free one without `path`.

    Raises `AssetError` where the file is missing, broken, or of the other body.
    """
    file = FREE_FILES[body] if path is None else path
    model = BodyModel(read_body_file(file))
    if model.body != body:
        raise AssetError(
            f"{file}: holds a {model.body} model ({model.num_rotations} rotations), "
            f"asked for {body}"
        )
    needed = max(SMPL_FACE_VERTICES.values() if body == "smpl" else MANO_TIP_VERTICES)
    if model.keypoint_regressor is None and len(model.v_template) <= needed:
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


def _to_tensor(array: object) -> Tensor | None:
    return None if array is None else torch.as_tensor(array)
