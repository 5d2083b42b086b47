"""Meshes in motion, fast: linear blend skinning with the few weights that are not zero.

The same numbers as `BodyModel.forward` (a test compares them), without its dense products, for
models without pose correctives; and any mesh on the same skeleton: a dressed body, say.

Axes    t frames   v vertices   n joints, root first   m weights of a vertex
Units   metres; everything relative to the posed root joint
"""

from dataclasses import dataclass, replace
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from scipy.spatial.transform import Rotation

from extpose.body_model import BodyModel
from extpose.compiled import compiled


@dataclass(frozen=True, kw_only=True)
class Skin:
    """Which joints a vertex follows; unused places have weight zero."""

    joints: Int64[np.ndarray, "v m"]
    weights: Float64[np.ndarray, "v m"]


@dataclass(frozen=True, kw_only=True)
class Bones:
    """Where a skeleton takes what is attached to it."""

    turned: Float64[np.ndarray, "t n 3 3"]
    shift: Float64[np.ndarray, "t n 3"]
    """A point p that follows joint j goes to `turned[j] @ p + shift[j]`."""
    joints: Float64[np.ndarray, "t n 3"]

    def move(self, R: Float64[np.ndarray, "t 3 3"], offset: Float64[np.ndarray, "t 3"]) -> "Bones":
        """The same skeleton in other axes: a point p is taken to `R @ p + offset`."""
        return Bones(
            turned=R[:, None] @ self.turned,
            shift=np.einsum("tij,tnj->tni", R, self.shift) + offset[:, None],
            joints=np.einsum("tij,tnj->tni", R, self.joints) + offset[:, None],
        )


def gather_skin(weights: Float[torch.Tensor, "v n"]) -> Skin:
    """The weights that are not zero."""
    dense = weights.double().numpy()
    most = int((dense > 0).sum(1).max())
    joints = np.argsort(-dense, axis=1, kind="stable")[:, :most].astype(np.int64)
    return Skin(joints=joints, weights=np.take_along_axis(dense, joints, 1))


def shape_body(
    body: BodyModel, betas: Float64[np.ndarray, " 10"]
) -> tuple[Float64[np.ndarray, "v 3"], Float64[np.ndarray, "n 3"]]:
    """Vertices and joints at rest. Raises ValueError for a body with pose correctives."""
    if body.posedirs is not None:
        raise ValueError("this body has pose correctives, which fast skinning leaves out")
    shape = torch.from_numpy(betas).float()
    vertices = body.v_template + body.shapedirs @ shape
    joints = body.joints_template + body.joint_shapedirs @ shape
    return vertices.double().numpy(), joints.double().numpy()


def find_bones(
    rotations: Float64[np.ndarray, "t n 3"],
    rest_joints: Float64[np.ndarray, "n 3"],
    parents: tuple[int, ...],
) -> Bones:
    """Follow the chain; `rotations` are axis-angle, relative to the parent."""
    num_frames, num_joints = rotations.shape[:2]
    local = Rotation.from_rotvec(rotations.reshape(-1, 3)).as_matrix()
    local = local.reshape(num_frames, num_joints, 3, 3)
    turned = np.empty_like(local)
    joints = np.zeros((num_frames, num_joints, 3))
    turned[:, 0] = local[:, 0]
    for child, parent in enumerate(parents[1:], start=1):
        bone = rest_joints[child] - rest_joints[parent]
        joints[:, child] = joints[:, parent] + turned[:, parent] @ bone
        turned[:, child] = turned[:, parent] @ local[:, child]
    shift = joints - np.einsum("tnij,nj->tni", turned, rest_joints)
    return Bones(turned=turned, shift=shift, joints=joints)


def skin_mesh(
    vertices: Float64[np.ndarray, "v 3"], skin: Skin, bones: Bones
) -> Float64[np.ndarray, "t v 3"]:
    """A mesh that was made for the rest pose, in each frame."""
    out = np.empty((len(bones.turned), *vertices.shape))
    _skin_mesh(vertices, skin.joints, skin.weights, bones.turned, bones.shift, out)
    return out


def skin_normals(
    normals: Float64[np.ndarray, "v 3"], skin: Skin, bones: Bones
) -> Float64[np.ndarray, "t v 3"]:
    """Normals of the rest pose in each frame, not of unit length.

    They turn with the bones: in a fold between two of them they are only nearly those of the faces.
    """
    return skin_mesh(normals, skin, replace(bones, shift=np.zeros_like(bones.shift)))


@compiled
@no_type_check
def _skin_mesh(vertices, joints, weights, turned, shift, out):
    for t in range(turned.shape[0]):
        for v in range(vertices.shape[0]):
            px, py, pz = vertices[v, 0], vertices[v, 1], vertices[v, 2]
            x = y = z = 0.0
            for m in range(joints.shape[1]):
                w = weights[v, m]
                if w == 0.0:
                    break
                r, s = turned[t, joints[v, m]], shift[t, joints[v, m]]
                x += w * (r[0, 0] * px + r[0, 1] * py + r[0, 2] * pz + s[0])
                y += w * (r[1, 0] * px + r[1, 1] * py + r[1, 2] * pz + s[1])
                z += w * (r[2, 0] * px + r[2, 1] * py + r[2, 2] * pz + s[2])
            out[t, v, 0], out[t, v, 1], out[t, v, 2] = x, y, z
