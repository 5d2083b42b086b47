"""Build `free_body.npz` and `free_hand.npz`: SMPL's and MANO's layout from Anny's free data.

Run by hand (needs the extra `build-body`; about a minute; Anny fills a cache of 0.8 GB at
`$ANNY_CACHE_DIR`):

    python -m extpose.free.build

Axes    v vertices   f triangles   n joints (24 body, 16 hand)   k shape components (10)
"""

from pathlib import Path

import anny
import numpy as np

from extpose.free.fit import fit_regressor, fit_shapes, order_vertices, reorder_faces
from extpose.free.layout import (
    FINGERS,
    HAND_CUT,
    MANO_BONES,
    MANO_PARENTS,
    MANO_VERTICES,
    MANO_WRIST,
    SMPL_JOINTS,
    SMPL_PARENTS,
    SMPL_VERTICES,
)
from extpose.free.sample import Rig, SampledBodies, read_rig, sample_bodies
from extpose.keypoints import EXTRA19, KEYPOINT_NAMES

NUM_BODIES = 400
SEED = 0


def main(out: Path = Path(__file__).parent) -> None:
    """Write both files into `out`."""
    model = anny.Anny(rig="anny", topology="anny").float()
    rig = read_rig(model)
    bodies = sample_bodies(model, rig, count=NUM_BODIES, seed=SEED)
    points = find_points(rig, bodies)
    body, hand = build_body(rig, bodies, points), build_hand(rig, bodies, points)
    np.savez_compressed(out / "free_body.npz", allow_pickle=False, **body)
    np.savez_compressed(out / "free_hand.npz", allow_pickle=False, **hand)


def build_body(rig: Rig, bodies: SampledBodies, points: dict[str, int]) -> dict[str, np.ndarray]:
    """The fields of an SMPL file, less `posedirs`, and regressors of the other keypoints."""
    mean, directions, betas = fit_shapes(bodies.vertices)
    weights = merge_weights(rig.weights, rig.joint_of_bone, len(SMPL_JOINTS))
    # The pelvis lies between the bones around it; any other joint between its own and its parent.
    around = [{0, 1, 2, 3}, *({j, p} for j, p in enumerate(SMPL_PARENTS) if j)]
    regressor = fit_regressor(
        mean,
        directions,
        joints=bodies.joints,
        betas=betas,
        candidates=find_candidates(weights, around),
    )
    order = order_vertices(len(mean), vertex_of=points, wanted=SMPL_VERTICES)
    fields = pack(mean[order], directions[order], regressor[:, order], weights[order], SMPL_PARENTS)
    coco = trim_rows(np.stack([rig.coco[name] for name in KEYPOINT_NAMES["coco17"]]))
    return {
        **fields,
        "f": reorder_faces(rig.faces, order).astype(np.uint16),
        "J_regressor_coco": coco[:, order],
        "J_regressor_extra": find_extra(mean, coco, regressor)[:, order],
    }


def build_hand(rig: Rig, bodies: SampledBodies, points: dict[str, int]) -> dict[str, np.ndarray]:
    """The fields of a MANO file: the right hand of the same bodies, flat, with no pose space."""
    wrist = rig.bones.index(MANO_BONES[0])
    template = bodies.vertices.mean(0)
    is_hand = template[:, 0] < bodies.bone_heads[:, wrist, 0].mean() + HAND_CUT
    faces = rig.faces[is_hand[rig.faces].all(1)]
    kept = np.unique(faces)
    offset = np.array(MANO_WRIST, np.float32) - bodies.bone_heads[:, [wrist]]
    mean, directions, betas = fit_shapes(bodies.vertices[:, kept] + offset)
    bones = [rig.bones.index(name) for name in MANO_BONES]
    joint_of_bone = np.array([bones.index(b) if b in bones else 0 for b in range(len(rig.bones))])
    weights = merge_weights(rig.weights[kept], joint_of_bone, len(bones))
    regressor = fit_regressor(
        mean,
        directions,
        joints=bodies.bone_heads[:, bones] + offset,
        betas=betas,
        candidates=find_candidates(weights, [{j, max(p, 0)} for j, p in enumerate(MANO_PARENTS)]),
    )
    tips = {name: int(np.searchsorted(kept, points[name])) for name in MANO_VERTICES}
    order = order_vertices(len(mean), vertex_of=tips, wanted=MANO_VERTICES)
    fields = pack(mean[order], directions[order], regressor[:, order], weights[order], MANO_PARENTS)
    triangles = reorder_faces(np.searchsorted(kept, faces), order).astype(np.uint16)
    num_angles = 3 * (len(bones) - 1)
    return {
        **fields,
        "f": triangles,
        "hands_components": np.eye(num_angles, dtype=np.float32),
        "hands_mean": np.zeros(num_angles, np.float32),
    }


def find_extra(template: np.ndarray, coco: np.ndarray, regressor: np.ndarray) -> np.ndarray:
    """Rows for the older data sets' joints, near what their annotators mark.

    LSP's limbs are COCO's; the rest are means of points whose places the names tell.
    """
    rows = {f"lsp_{name}": row for name, row in zip(KEYPOINT_NAMES["coco17"], coco, strict=True)}
    joint = dict(zip(SMPL_JOINTS, regressor, strict=True))
    top = np.zeros(len(template), np.float32)
    top[template[:, 1].argmax()] = 1
    ears = (rows["lsp_left_ear"] + rows["lsp_right_ear"]) / 2
    rows |= {
        "lsp_neck": joint["neck"],
        "lsp_head_top": top,
        "mpii_pelvis": (rows["lsp_left_hip"] + rows["lsp_right_hip"]) / 2,
        "mpii_thorax": (rows["lsp_left_shoulder"] + rows["lsp_right_shoulder"]) / 2,
        "h36m_spine": joint["spine2"],
        "h36m_jaw": joint["head"],
        "h36m_head": (top + ears) / 2,
    }
    return np.stack([rows[name] for name in EXTRA19])


def find_points(rig: Rig, bodies: SampledBodies) -> dict[str, int]:
    """The vertex of each named point of face, feet and finger tips."""
    template = bodies.vertices.mean(0)
    points = {
        name: int(np.linalg.norm(template - row @ template, axis=1).argmin())
        for name, row in rig.coco.items()
    }
    for side, suffix in (("left", "L"), ("right", "R")):
        for number, finger in enumerate(FINGERS, start=1):
            bone = rig.bones.index(f"finger{number}-3.{suffix}")
            last = np.flatnonzero(rig.weights[:, bone] > 0.5)
            base = bodies.bone_heads[:, bone].mean(0)
            points[f"{side}_{finger}"] = int(
                last[np.linalg.norm(template[last] - base, axis=1).argmax()]
            )
    return points


def merge_weights(weights: np.ndarray, joint_of_bone: np.ndarray, num_joints: int) -> np.ndarray:
    """Skinning weights per joint: the sum of those of its bones."""
    merged = np.zeros((len(weights), num_joints), np.float32)
    for bone, joint in enumerate(joint_of_bone):
        merged[:, joint] += weights[:, bone]
    return merged


def trim_rows(regressor: np.ndarray) -> np.ndarray:
    """Drop the thousands of shares below 1e-5: in single precision a long sum loses them anyhow."""
    rows = np.where(regressor < 1e-5, 0, regressor.astype(np.float64))
    return (rows / rows.sum(1, keepdims=True)).astype(np.float32)


def find_candidates(weights: np.ndarray, around: list[set[int]]) -> list[np.ndarray]:
    """For each joint the vertices that mostly follow one of the joints around it."""
    strongest = weights.argmax(1)
    return [np.flatnonzero(np.isin(strongest, list(joints))) for joints in around]


def pack(
    mean: np.ndarray,
    directions: np.ndarray,
    regressor: np.ndarray,
    weights: np.ndarray,
    parents: tuple[int, ...],
) -> dict[str, np.ndarray]:
    """The fields that both files share.

    Shape directions are stored in half precision (to 0.03 mm a beta): it halves the file.
    """
    # Adding zero removes the sign of zeros, which differs from machine to machine.
    return {
        "v_template": mean.astype(np.float32) + np.float32(0),
        "shapedirs": directions.astype(np.float16) + np.float16(0),
        "J_regressor": regressor,
        "weights": weights,
        "kintree_table": np.array([parents, range(len(parents))], np.int64),
    }


if __name__ == "__main__":
    main()
