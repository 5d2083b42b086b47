"""Hands in motion: from one random grip to the next, inside the limits of the joints.

Axes    t frames   16 joint rotations relative to the parent, wrist first (MANO's order)
Units   radians, seconds
Hand    the right one at rest: fingers towards -x, palm down (-y), thumb towards +z; so a finger
        bends about +z and spreads about y
"""

import numpy as np
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

from extpose.keypoints import MANO_JOINTS
from extpose.synth.poses import interpolate_poses

FINGERS = ("index", "middle", "ring", "little")
GRIPS: dict[str, tuple[float, tuple[float, float, float, float, float]]] = {
    # weight; how bent are thumb, index, middle, ring and little finger (0 straight, 1 a fist)
    "relaxed": (4, (0.3, 0.25, 0.3, 0.35, 0.4)),
    "open": (3, (0.0, 0.0, 0.0, 0.0, 0.0)),
    "fist": (2, (0.8, 0.95, 0.95, 0.95, 0.95)),
    "point": (1.5, (0.6, 0.05, 0.9, 0.9, 0.9)),
    "victory": (1, (0.8, 0.05, 0.05, 0.9, 0.9)),
    "pinch": (2, (0.6, 0.6, 0.4, 0.3, 0.2)),
    "thumb-up": (1, (0.0, 0.95, 0.95, 0.95, 0.95)),
    "hold": (2, (0.5, 0.55, 0.55, 0.55, 0.55)),
}
"""Half of all hands are none of these: each finger is bent by itself."""
BEND = {"1": (-0.25, 1.45), "2": (0.0, 1.75), "3": (0.0, 1.1)}
"""Radians of the three joints of a finger, straight and in a fist."""
SPREAD = 0.22
THUMB_BEND = {"1": (-0.15, 0.7), "2": (-0.1, 0.75), "3": (-0.2, 0.8)}
THUMB_TOWARDS = np.array([-0.3, -0.55, -0.8])
"""Where a bending thumb's tip goes."""


def compose_hand(
    num_frames: int,
    fps: float,
    *,
    rest_joints: Float64[np.ndarray, "16 3"],
    rng: np.random.Generator,
) -> tuple[str, Float64[np.ndarray, "t 16 3"]]:
    """The name of the first grip, and axis-angle rotations, the wrist's turning any way."""
    names, poses, times = [], [], [-rng.uniform(0, 1.0)]
    wrist = Rotation.random(random_state=rng)
    while True:
        name, pose = _draw_grip(rest_joints, rng)
        wrist = wrist * Rotation.from_rotvec(rng.normal(0, 0.35, 3))
        pose[0] = wrist.as_rotvec()
        names.append(name)
        poses.append(pose)
        if times[-1] >= num_frames / fps:
            return names[0], interpolate_poses(np.array(times), np.stack(poses), num_frames, fps)
        times.append(times[-1] + float(np.exp(rng.uniform(np.log(0.3), np.log(1.8)))))


def _draw_grip(rest_joints: np.ndarray, rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """Axis-angle of all joints but the wrist."""
    if rng.random() < 0.5:
        name, bends = "free", rng.beta(0.8, 1.0, 5)
    else:
        weights = np.array([grip[0] for grip in GRIPS.values()])
        name = list(GRIPS)[rng.choice(len(GRIPS), p=weights / weights.sum())]
        bends = np.clip(np.array(GRIPS[name][1]) + rng.normal(0, 0.1, 5), 0, 1)
    pose, spread = np.zeros((16, 3)), rng.normal(0.2, 0.5)
    for finger, bend in zip(FINGERS, bends[1:], strict=True):
        aside = {"index": 1.0, "middle": 0.1, "ring": -0.5, "little": -1.0}[finger]
        spread_angle = SPREAD * np.clip(spread, -0.3, 1) * aside * (1 - bend)
        for part, (straight, fist) in BEND.items():
            own = np.clip(bend + rng.normal(0, 0.08), 0, 1)
            turn = Rotation.from_rotvec([0, 0, straight + own * (fist - straight)])
            if part == "1":
                turn = Rotation.from_rotvec([0, spread_angle, 0]) * turn
            pose[MANO_JOINTS.index(f"{finger}_{part}")] = turn.as_rotvec()
    first, last = (MANO_JOINTS.index(f"thumb_{part}") for part in "13")
    along = rest_joints[last] - rest_joints[first]
    axis = np.cross(along, THUMB_TOWARDS)
    axis /= np.linalg.norm(axis)
    for part, (straight, bent) in THUMB_BEND.items():
        own = np.clip(bends[0] + rng.normal(0, 0.12), 0, 1)
        turn = Rotation.from_rotvec(axis * (straight + own * (bent - straight)))
        if part == "1":
            turn = Rotation.from_rotvec(rng.normal(0, [0.15, 0.2, 0.1])) * turn
        pose[MANO_JOINTS.index(f"thumb_{part}")] = turn.as_rotvec()
    return name, pose
