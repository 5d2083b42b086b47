"""Random adults from Anny, each brought to SMPL's T-pose.

Axes    s sampled bodies   v vertices   b bones (104)   j joints (24)   f triangles   k keypoints
Units   metres; y up, facing +z, the person's left is +x (Anny itself: z up, facing -y)
"""

from dataclasses import dataclass

import anny
import numpy as np
import torch
from jaxtyping import Float, Float32, Int

from extpose.free.layout import PELVIS, bones_of_joint, joint_of_bone
from extpose.keypoints import SMPL_JOINTS

ANNY_TO_SMPL = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
LEG_SPREAD = np.deg2rad(4.0)
"""Each leg's angle from the vertical."""
TOE_OUT = 0.15
"""Sideways part of the feet's direction."""


@dataclass(frozen=True, kw_only=True)
class Rig:
    """What all bodies share."""

    bones: tuple[str, ...]
    parents: tuple[int, ...]
    weights: Float32[np.ndarray, "v b"]
    faces: Int[np.ndarray, "f 3"]
    joint_of_bone: Int[np.ndarray, " b"]
    coco: dict[str, Float32[np.ndarray, " v"]]
    """Regressor rows of COCO's 17 keypoints and of the feet, by name."""


@dataclass(frozen=True, kw_only=True)
class SampledBodies:
    """Bodies in T-pose, pelvis at `PELVIS`."""

    vertices: Float32[np.ndarray, "s v 3"]
    bone_heads: Float32[np.ndarray, "s b 3"]
    joints: Float32[np.ndarray, "s j 3"]


def read_rig(model: anny.Anny) -> Rig:
    """Anny's bones, dense skinning weights, triangles and keypoint regressor."""
    num_vertices, num_bones = len(model.template_vertices), len(model.bone_labels)
    weights = np.zeros((num_vertices, num_bones), np.float32)
    rows = np.arange(num_vertices)[:, None]
    np.add.at(weights, (rows, model.vertex_bone_indices.numpy()), model.vertex_bone_weights.numpy())
    regressor = anny.KeypointsRegressor.coco(model)
    rows_coco = regressor.regression_weights.numpy().astype(np.float32)
    return Rig(
        bones=tuple(model.bone_labels),
        parents=tuple(int(p) for p in model.bone_parents),
        weights=weights / weights.sum(1, keepdims=True),
        faces=np.asarray(model.faces).astype(np.int64),
        joint_of_bone=np.array([SMPL_JOINTS.index(joint_of_bone(b)) for b in model.bone_labels]),
        coco=dict(zip(regressor.labels, rows_coco, strict=True)),
    )


def sample_bodies(model: anny.Anny, rig: Rig, *, count: int, seed: int) -> SampledBodies:
    """`count` random adults; `seed` decides them all."""
    phenotypes = draw_phenotypes(np.random.default_rng(seed), model.phenotype_labels, count)
    vertices, heads = [], []
    for i in range(count):
        with torch.no_grad():
            rest = model(
                pose_parameters=torch.eye(4).expand(1, len(rig.bones), 4, 4),
                phenotype_kwargs={k: v[i : i + 1] for k, v in phenotypes.items()},
            )
        body = rest["rest_vertices"][0].double().numpy() @ ANNY_TO_SMPL.T
        bones = rest["rest_bone_heads"][0].double().numpy() @ ANNY_TO_SMPL.T
        body, bones = to_t_pose(rig, body, bones)
        offset = find_joints(rig, bones)[0] - np.array(PELVIS)
        vertices.append((body - offset).astype(np.float32))
        heads.append((bones - offset).astype(np.float32))
    joints = np.stack([find_joints(rig, bones) for bones in heads]).astype(np.float32)
    return SampledBodies(vertices=np.stack(vertices), bone_heads=np.stack(heads), joints=joints)


def draw_phenotypes(
    rng: np.random.Generator, labels: list[str], count: int
) -> dict[str, torch.Tensor]:
    """Adults of all builds, in Anny's [0, 1] ranges; traits that are not named stay at 0.5."""
    drawn = {
        "gender": rng.uniform(0, 1, count),
        "age": rng.uniform(0.6, 0.95, count),
        "muscle": rng.normal(0.5, 0.18, count),
        "weight": rng.normal(0.5, 0.2, count),
        "height": rng.normal(0.45, 0.09, count),
        "proportions": rng.uniform(0.2, 0.9, count),
    }
    return {
        label: torch.tensor(np.clip(drawn.get(label, np.full(count, 0.5)), 0, 1)).float()
        for label in labels
    }


def find_joints(rig: Rig, heads: Float[np.ndarray, "b 3"]) -> Float[np.ndarray, "j 3"]:
    """SMPL's 24 joints from the heads of Anny's bones."""
    joints = np.zeros((len(SMPL_JOINTS), 3))
    for j, joint in enumerate(SMPL_JOINTS):
        for bone, share in bones_of_joint(joint):
            joints[j] += share * heads[rig.bones.index(bone)]
    return joints


def to_t_pose(
    rig: Rig, vertices: Float[np.ndarray, "v 3"], heads: Float[np.ndarray, "b 3"]
) -> tuple[Float[np.ndarray, "v 3"], Float[np.ndarray, "b 3"]]:
    """Skin the A-posed rest body to arms along x and legs almost straight down."""
    turns = find_turns(rig, heads)[rig.joint_of_bone]
    moved = heads.copy()
    for bone, parent in enumerate(rig.parents):
        if parent >= 0:
            moved[bone] = moved[parent] + turns[parent] @ (heads[bone] - heads[parent])
    shift = moved - np.einsum("bij,bj->bi", turns, heads)
    blended = (rig.weights @ turns.reshape(-1, 9)).reshape(-1, 3, 3)
    return np.einsum("vij,vj->vi", blended, vertices) + rig.weights @ shift, moved


def find_turns(rig: Rig, heads: Float[np.ndarray, "b 3"]) -> Float[np.ndarray, "j 3 3"]:
    """The rotation, in the model's frame, that each SMPL joint's bones need for the T-pose."""
    turns = np.tile(np.eye(3), (len(SMPL_JOINTS), 1, 1))
    for side, suffix, sign in (("left", "L", 1.0), ("right", "R", -1.0)):

        def bone(name: str, suffix: str = suffix) -> np.ndarray:
            return heads[rig.bones.index(f"{name}.{suffix}")]

        outward = np.array([sign, 0, 0])
        # Palms down, thumbs forward: the line from little to index finger becomes +z.
        across = bone("finger2-1") - bone("finger5-1")
        hand = (
            _frame(outward, np.array([0, 0, 1.0]))
            @ _frame(bone("finger3-1") - bone("wrist"), across).T
        )
        forearm = _shortest_turn(bone("wrist") - bone("lowerarm01"), outward)
        down = np.array([sign * np.sin(LEG_SPREAD), -np.cos(LEG_SPREAD), 0])
        leg = _shortest_turn(bone("foot") - bone("upperleg01"), down)
        toes = (bone("toe2-1") - bone("foot")) * [1, 0, 1]
        foot = _shortest_turn(toes, np.array([sign * TOE_OUT, 0, 1.0]))
        for joint, turn in {
            "shoulder": _shortest_turn(bone("lowerarm01") - bone("upperarm01"), outward),
            "elbow": _half_twist(hand @ forearm.T) @ forearm,
            "wrist": hand, "hand": hand, "hip": leg, "knee": leg, "ankle": foot, "foot": foot,
        }.items():  # fmt: skip
            turns[SMPL_JOINTS.index(f"{side}_{joint}")] = turn
    return turns


def _half_twist(turn: np.ndarray) -> np.ndarray:
    """Half of a rotation's turn about x: the forearm shares the hand's twist."""
    angle = 0.5 * np.arctan2(turn[2, 1] - turn[1, 2], turn[1, 1] + turn[2, 2])
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def _shortest_turn(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The smallest rotation that takes one direction to another (not opposite) one."""
    a, b = source / np.linalg.norm(source), target / np.linalg.norm(target)
    x, y, z = np.cross(a, b)
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + skew + skew @ skew / (1 + a @ b)


def _frame(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Orthonormal columns: along `x`, towards `y`, and their cross product."""
    x = x / np.linalg.norm(x)
    z = np.cross(x, y)
    z /= np.linalg.norm(z)
    return np.stack([x, np.cross(z, x), z], 1)
