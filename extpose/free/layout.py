"""Which of Anny's 104 bones becomes which joint of SMPL and MANO, and where tips must lie.

Units as in the files: metres, y up, facing +z, the person's left is +x.
"""

from extpose.keypoints import SMPL_JOINTS

SMPL_PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)

PELVIS = (0.0, -0.23, 0.03)
"""Where SMPL's template has its pelvis."""

SMPL_BONES: dict[str, tuple[tuple[str, float], ...]] = {
    "pelvis": (("root", 0.5), ("upperleg01.L", 0.25), ("upperleg01.R", 0.25)),
    "hip": (("upperleg01", 0.5), ("upperleg02", 0.5)),
    "knee": (("lowerleg01", 1.0),),
    "ankle": (("foot", 1.0),),
    "foot": tuple((f"toe{k}-1", 0.2) for k in range(1, 6)),
    "spine1": (("spine04", 1.0),),
    "spine2": (("spine02", 1.0),),
    "spine3": (("spine01", 1.0),),
    "neck": (("neck01", 1.0),),
    "head": (("neck03", 1.0),),
    "collar": (("clavicle", 1.0),),
    "shoulder": (("upperarm01", 1.0),),
    "elbow": (("lowerarm01", 1.0),),
    "wrist": (("wrist", 1.0),),
    "hand": tuple((f"finger{k}-1", 0.25) for k in range(2, 6)),
}
"""A joint is this mean of bone heads; `.L` or `.R` is added to the bones of a limb."""

BONE_PREFIXES = (
    ("upperleg", "hip"), ("lowerleg", "knee"), ("foot", "ankle"), ("toe", "foot"),
    ("upperarm", "shoulder"), ("lowerarm", "elbow"), ("clavicle", "collar"),
    ("shoulder01", "collar"), ("wrist", "wrist"), ("metacarpal", "wrist"), ("finger", "hand"),
    ("root", "pelvis"), ("pelvis", "pelvis"), ("spine05", "pelvis"), ("spine04", "spine1"),
    ("spine03", "spine1"), ("spine02", "spine2"), ("spine01", "spine3"), ("neck01", "neck"),
    ("neck02", "neck"), ("neck03", "head"), ("head", "head"), ("eye", "head"),
)  # fmt: skip
"""Whose motion a bone follows; the first prefix that fits."""

MANO_PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
MANO_BONES = (
    "wrist.R", *(f"finger{finger}-{k}.R" for finger in (2, 3, 5, 4, 1) for k in (1, 2, 3)),
)  # fmt: skip
"""MANO's order: wrist, then index, middle, little, ring, thumb, base to tip."""
MANO_WRIST = (0.095, 0.0, 0.0)
"""Where MANO's template has its wrist, rounded."""
HAND_CUT = 0.035
"""The open mesh of the hand ends this far above the wrist, metres."""

FINGERS = ("thumb", "index", "middle", "ring", "pinky")
SMPL_VERTICES: dict[str, int] = {
    "nose": 332, "right_eye": 6260, "left_eye": 2800, "right_ear": 4071, "left_ear": 583,
    "left_big_toe": 3216, "left_small_toe": 3226, "left_heel": 3387,
    "right_big_toe": 6617, "right_small_toe": 6624, "right_heel": 6787,
    "left_thumb": 2746, "left_index": 2319, "left_middle": 2445, "left_ring": 2556,
    "left_pinky": 2673, "right_thumb": 6191, "right_index": 5782, "right_middle": 5905,
    "right_ring": 6016, "right_pinky": 6133,
}  # fmt: skip
"""Vertex numbers by which programs find these points in SMPL's mesh."""
MANO_VERTICES: dict[str, int] = {
    "right_thumb": 744, "right_index": 320, "right_middle": 443, "right_ring": 554,
    "right_pinky": 671,
}  # fmt: skip


def joint_of_bone(bone: str) -> str:
    """The SMPL joint whose rotation `bone` follows."""
    for prefix, part in BONE_PREFIXES:
        if bone.startswith(prefix):
            side = {".L": "left_", ".R": "right_"}.get(bone[-2:], "")
            return part if part in SMPL_JOINTS else side + part
    raise KeyError(f"no SMPL joint for bone {bone!r}")


def bones_of_joint(joint: str) -> list[tuple[str, float]]:
    """The bones, with their shares, whose heads average to the SMPL joint."""
    side, _, part = joint.rpartition("_")
    suffix = {"left": ".L", "right": ".R", "": ""}[side]
    return [(bone + suffix, share) for bone, share in SMPL_BONES[part]]
