"""Composed motion: from one random key pose to the next, inside the limits of the joints.

Recordings are few and mostly walk, jump and fight. These poses are what they lack: standing on one
leg, reaching, arms overhead, squatting, kneeling, sitting, lying; legs, trunk and arms are drawn
independently, so the combinations are many.

Axes    t frames   24 joint rotations relative to the parent, root first (SMPL's order)
Units   radians, seconds; the body faces +z at rest, its left is +x, its arms point sideways
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

from extpose.synth.motion import JOINTS, MIRRORED, interpolate_turns

Range = tuple[float | int, float | int]


@dataclass(frozen=True, kw_only=True)
class Legs:
    """Ranges of the angles of a stance, degrees; of two legs the first is either side's."""

    weight: float | int
    flexion: tuple[Range, Range]
    """Of the thighs forwards."""
    knee: tuple[Range, Range]
    spread: tuple[Range, Range] = ((0, 10), (0, 10))
    """Of the thighs outwards."""
    pitch: Range = (-5, 15)
    """Of the pelvis forwards; 90 lies on the face."""
    roll: Range = (-5, 5)


STAND, BENT = (-8.0, 8.0), (0.0, 12.0)
STANCES: dict[str, Legs] = {
    "stand": Legs(weight=5, flexion=(STAND, STAND), knee=(BENT, BENT)),
    "step": Legs(weight=3, flexion=((10, 45), (-30, 5)), knee=((0, 45), (0, 50))),
    "one-leg": Legs(weight=4, flexion=((20, 115), STAND), knee=((10, 125), (0, 15)), roll=(-8, 8)),
    "balance": Legs(
        weight=2, flexion=((-35, 25), (0, 60)), knee=((0, 90), (0, 15)), pitch=(0, 50)
    ),
    "kick": Legs(
        weight=1.5, flexion=((40, 110), STAND), knee=((0, 30), (0, 20)), pitch=(-25, 5)
    ),
    "side-leg": Legs(
        weight=1.5, flexion=(STAND, STAND), knee=((0, 30), BENT), spread=((20, 70), (0, 10))
    ),
    "wide": Legs(weight=1.5, flexion=((0, 30), (0, 30)), knee=((0, 30), (0, 30)),
                 spread=((15, 40), (15, 40))),
    "lunge": Legs(weight=2, flexion=((60, 105), (-30, 0)), knee=((60, 110), (10, 70))),
    "squat": Legs(weight=3, flexion=((60, 120), (60, 120)), knee=((70, 140), (70, 140)),
                  spread=((5, 35), (5, 35)), pitch=(5, 40)),
    "kneel": Legs(weight=1.5, flexion=((80, 105), (-10, 15)), knee=((80, 110), (85, 110))),
    "sit": Legs(weight=3, flexion=((75, 100), (75, 100)), knee=((60, 105), (60, 105)),
                spread=((0, 25), (0, 25)), pitch=(-20, 10)),
    "floor-sit": Legs(weight=1.2, flexion=((70, 110), (70, 110)), knee=((0, 100), (0, 100)),
                      spread=((5, 45), (5, 45)), pitch=(-25, 5)),
    "bow": Legs(weight=1.5, flexion=((30, 80), (30, 80)), knee=((0, 30), (0, 30)),
                pitch=(30, 75)),
    "lie-back": Legs(weight=0.6, flexion=((-10, 80), (-10, 80)), knee=((0, 100), (0, 100)),
                     pitch=(-95, -75), roll=(-20, 20)),
    "lie-front": Legs(weight=0.5, flexion=((-15, 20), (-15, 20)), knee=((0, 60), (0, 60)),
                      pitch=(75, 95), roll=(-20, 20)),
    "all-fours": Legs(weight=0.6, flexion=((70, 100), (70, 100)), knee=((70, 105), (70, 105)),
                      pitch=(60, 85)),
}  # fmt: skip

ARMS: dict[str, tuple[float, tuple[float, float, float], float, Range]] = {
    # weight; mean direction of the left upper arm (x outwards, y up, z forwards); its scatter;
    # flexion of the elbow in degrees
    "hang": (5, (0.25, -1.0, 0.05), 0.15, (0, 35)),
    "forward": (3, (0.15, 0.0, 1.0), 0.35, (0, 60)),
    "overhead": (3, (0.25, 1.0, 0.1), 0.3, (0, 80)),
    "side": (3, (1.0, 0.0, 0.0), 0.3, (0, 90)),
    "bent": (3, (0.35, -1.0, 0.25), 0.25, (50, 140)),
    "hand-to-head": (1.5, (0.6, 0.1, 0.7), 0.3, (110, 150)),
    "hand-on-hip": (1.5, (0.75, -0.8, -0.25), 0.15, (75, 115)),
    "reach-down": (1.5, (0.1, -0.75, 0.65), 0.25, (0, 30)),
    "across": (1, (-0.45, -0.2, 0.9), 0.2, (30, 120)),
    "back": (1, (0.35, -0.8, -0.6), 0.2, (0, 60)),
    "any": (3, (0.6, 0.0, 0.4), 1.0, (0, 140)),
}
UPRIGHT = ("stand", "step", "one-leg", "wide", "side-leg")


def compose_motion(
    num_frames: int, fps: float, *, rng: np.random.Generator
) -> tuple[str, Float64[np.ndarray, "t 24 3"]]:
    """The name of the first stance, and the rotations (axis-angle; the root's heading is +z)."""
    duration = num_frames / fps
    times, stances, poses = [-rng.uniform(0, 1.5)], [_choose_stance(rng)], []
    poses.append(_draw_pose(stances[0], rng))
    while times[-1] < duration:
        times.append(times[-1] + float(np.exp(rng.uniform(np.log(0.35), np.log(2.5)))))
        # Most changes are of arms and trunk alone; who lies does not stand a second later.
        change = rng.random() < 0.35
        free = stances[-1] in UPRIGHT and change
        stances.append(_choose_stance(rng, UPRIGHT if free else (stances[-1],)))
        pose = _draw_pose(stances[-1], rng)
        kept = rng.random(len(JOINTS)) < 0.3
        kept[[JOINTS.index(name) for name in LEGS]] = not change
        pose[kept] = poses[-1][kept]
        poses.append(pose)
    return stances[0], interpolate_poses(np.array(times), np.stack(poses), num_frames, fps)


LEGS = ("pelvis", *(f"{side}_{part}" for side in ("left", "right")
                    for part in ("hip", "knee", "ankle", "foot")))  # fmt: skip


def _choose_stance(rng: np.random.Generator, among: tuple[str, ...] = tuple(STANCES)) -> str:
    weights = np.array([STANCES[name].weight for name in among])
    return among[int(rng.choice(len(among), p=weights / weights.sum()))]


def _draw_pose(stance: str, rng: np.random.Generator) -> np.ndarray:
    """Axis-angle of all joints."""
    legs, pose = STANCES[stance], np.zeros((len(JOINTS), 3))

    def degrees(limits: Range) -> float:
        return float(np.deg2rad(rng.uniform(*limits)))

    pitch, roll = degrees(legs.pitch), degrees(legs.roll)
    pose[0] = Rotation.from_euler("xz", [pitch, roll]).as_rotvec()
    for side, sign, which in (("left", 1.0, 0), ("right", -1.0, 1)):
        flexion, knee = degrees(legs.flexion[which]), degrees(legs.knee[which])
        spread, twist = degrees(legs.spread[which]), rng.normal(0.1, 0.2)
        # The pelvis leans, the standing leg does not.
        thigh = Rotation.from_euler("zxy", [sign * spread, -flexion - 0.8 * pitch * (stance in
                                    (*UPRIGHT, "balance", "kick")), sign * twist])  # fmt: skip
        pose[JOINTS.index(f"{side}_hip")] = thigh.as_rotvec()
        pose[JOINTS.index(f"{side}_knee")] = [knee, 0, 0]
        ankle = flexion - knee if legs.knee[which][1] > 60 else -rng.uniform(0, 0.3)
        pose[JOINTS.index(f"{side}_ankle")] = [np.clip(ankle, -0.5, 0.5) * 0.8, 0, 0]
        pose[JOINTS.index(f"{side}_foot")] = [rng.normal(0, 0.1), 0, 0]
    _add_trunk(pose, pitch, rng)
    for side in ("left", "right"):
        _add_arm(pose, side, rng)
    return pose[list(MIRRORED)] * [1, -1, -1] if rng.random() < 0.5 else pose


def _add_trunk(pose: np.ndarray, pitch: float, rng: np.random.Generator) -> None:
    bend = np.array([rng.normal(0.1, 0.25), rng.normal(0, 0.3), rng.normal(0, 0.18)])
    for name, share in (("spine1", 0.3), ("spine2", 0.35), ("spine3", 0.35)):
        pose[JOINTS.index(name)] = share * np.clip(bend, -0.6, 0.9)
    # Who bends down mostly looks up again.
    look = np.array([rng.normal(-0.3 * pitch, 0.3), rng.normal(0, 0.45), rng.normal(0, 0.15)])
    for name, share in (("neck", 0.5), ("head", 0.5)):
        pose[JOINTS.index(name)] = share * np.clip(look, -0.8, 0.8)


def _add_arm(pose: np.ndarray, side: str, rng: np.random.Generator) -> None:
    weights = np.array([value[0] for value in ARMS.values()])
    _, mean, scatter, elbow = list(ARMS.values())[rng.choice(len(ARMS), p=weights / weights.sum())]
    direction = np.array(mean) / np.linalg.norm(mean) + rng.normal(0, scatter, 3)
    direction[0], direction[2] = max(direction[0], -0.5), max(direction[2], -0.6)
    direction /= np.linalg.norm(direction)
    lift = float(np.arcsin(np.clip(direction[1], -1, 1)))
    collar = Rotation.from_rotvec([0, 0.1 * rng.normal(), 0.25 * max(lift, -0.3)])
    turn = _shortest_turn(collar.inv().apply(direction)) * Rotation.from_rotvec(
        [rng.normal(0, 0.45), 0, 0]
    )
    flexion = float(np.deg2rad(rng.uniform(*elbow)))
    values = {
        "collar": collar.as_rotvec(),
        "shoulder": turn.as_rotvec(),
        "elbow": np.array([rng.normal(0, 0.3), -flexion, 0.0]),
        "wrist": rng.normal(0, [0.3, 0.2, 0.35]),
        "hand": np.array([0.0, 0.0, -rng.uniform(0, 0.7)]),
    }
    for part, value in values.items():
        mirror = [1, 1, 1] if side == "left" else [1, -1, -1]
        pose[JOINTS.index(f"{side}_{part}")] = value * mirror


def _shortest_turn(direction: np.ndarray) -> Rotation:
    """From +x to a direction."""
    axis = np.cross([1.0, 0.0, 0.0], direction)
    sine = np.linalg.norm(axis)
    if sine < 1e-9:
        return Rotation.identity() if direction[0] > 0 else Rotation.from_rotvec([0, 0, np.pi])
    return Rotation.from_rotvec(axis / sine * np.arctan2(sine, direction[0]))


def interpolate_poses(
    keys: np.ndarray, poses: np.ndarray, num_frames: int, fps: float
) -> Float64[np.ndarray, "t j 3"]:
    """Along the shortest turns, slow at both ends of each (as people reach), with a pause."""
    times = np.arange(num_frames) / fps
    at = np.clip(np.searchsorted(keys, times, side="right") - 1, 0, len(keys) - 2)
    part = (times - keys[at]) / (keys[at + 1] - keys[at])
    part = np.clip(part * 1.15, 0, 1)
    eased = part**3 * (10 - 15 * part + 6 * part**2)
    where = at + eased
    return interpolate_turns(np.arange(len(keys), dtype=np.float64), poses, where)
