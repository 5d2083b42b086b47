"""Motion capture clips on the body's 24 joints, at any time, mirrored or not.

Axes    t frames   24 joint rotations relative to the parent, root first (SMPL's order)
Units   metres, radians, seconds
World   y up, the floor is y = 0; at rest the body faces +z and its left is +x
Source  the humanoid clips of DeepMimic (Peng et al., 2018) as packaged with pybullet
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation, Slerp

from extpose.errors import AssetError
from extpose.schema import Split

JOINTS = (
    *("pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2"),
    *("left_ankle", "right_ankle", "spine3", "left_foot", "right_foot", "neck"),
    *("left_collar", "right_collar", "head", "left_shoulder", "right_shoulder", "left_elbow"),
    *("right_elbow", "left_wrist", "right_wrist", "left_hand", "right_hand"),
)
MIRRORED = tuple(
    JOINTS.index(name.replace("left", "right") if "left" in name else name.replace("right", "left"))
    for name in JOINTS
)
"""For each joint the one on the other side."""

MOTIONS: dict[Split, dict[str, float]] = {
    "train": {
        **{"walk": 6.0, "run": 4.0, "dance_a": 4.0, "jump": 2.0, "spinkick": 1.5, "crawl": 0.7},
        **{"getup_faceup": 0.7, "cartwheel": 0.7, "roll": 0.3, "backflip": 0.3},
    },
    "val": {"dance_b": 3.0, "kick": 2.0},
    "test": {"punch": 2.0, "spin": 2.0, "getup_facedown": 1.0},
}
"""Clips of each split, none in two of them, and how often each is drawn."""

LOOPS = ("walk", "run")
"""Clips whose end goes on at their beginning; the others are played to and fro."""

RATE = 60.0
"""Frames a second on which clips are kept."""

SMOOTHING = 0.03
"""Deviation, in seconds, of the Gaussian that hides the jerks at which recordings were joined."""

SOURCE_LEG = 0.4219 + 0.4099
"""Hip to ankle of the DeepMimic humanoid, metres."""


@dataclass(frozen=True, kw_only=True)
class Motion:
    """One recorded clip."""

    name: str
    times: Float64[np.ndarray, " t"]
    """From zero; evenly spaced at about `RATE`."""
    rotations: Float64[np.ndarray, "t 24 3"]
    """Axis-angle; the first is the root's in the world."""
    root: Float64[np.ndarray, "t 3"]
    """Place of the pelvis in the world, of a body with legs of `SOURCE_LEG`."""
    is_loop: bool

    @property
    def duration(self) -> float:
        """Seconds from the first to the last frame."""
        return float(self.times[-1])


def load_motions(folder: Path, split: Split) -> dict[str, Motion]:
    """The clips of a split from a folder with DeepMimic's `humanoid3d_*.txt`.

    Raises:
        AssetError: a file is missing or is not a DeepMimic humanoid clip.
    """
    return {name: read_motion(folder / f"humanoid3d_{name}.txt") for name in MOTIONS[split]}


def read_motion(path: Path) -> Motion:
    """Read one DeepMimic file and put it on the body's joints. Raises AssetError."""
    try:
        frames = np.array(json.loads(path.read_text())["Frames"], np.float64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AssetError(f"{path}: not a motion file ({error})") from error
    if frames.ndim != 2 or frames.shape[1] != 44 or len(frames) < 2:
        raise AssetError(f"{path}: Frames has shape {frames.shape}, expected (t, 44)")
    name = path.stem.removeprefix("humanoid3d_")
    source_times = np.concatenate([[0.0], np.cumsum(frames[:-1, 0])])
    if not (np.diff(source_times) > 0).all():
        raise AssetError(f"{path}: frame durations are not positive")
    times = np.linspace(0, source_times[-1], round(source_times[-1] * RATE) + 1)
    rotations, root = _retarget(frames)
    is_loop = name in LOOPS
    joints = [
        Slerp(source_times, Rotation.from_rotvec(r))(times) for r in np.moveaxis(rotations, 1, 0)
    ]
    return Motion(
        name=name,
        times=times,
        rotations=np.stack([_smooth(joint, is_loop=is_loop).as_rotvec() for joint in joints], 1),
        root=np.stack([np.interp(times, source_times, column) for column in root.T], -1),
        is_loop=is_loop,
    )


def sample_motion(
    motion: Motion, times: Float64[np.ndarray, " n"], *, mirror: bool = False
) -> tuple[Float64[np.ndarray, "n 24 3"], Float64[np.ndarray, "n 3"]]:
    """Rotations (axis-angle) and pelvis at any times; past the ends a clip goes on.

    `mirror` exchanges left and right.
    """
    cycle, inner = np.divmod(times, motion.duration)
    if not motion.is_loop:
        inner = np.where(cycle % 2 == 1, motion.duration - inner, inner)
    rotations = interpolate_turns(motion.times, motion.rotations, inner)
    root = np.stack([np.interp(inner, motion.times, motion.root[:, c]) for c in range(3)], -1)
    if motion.is_loop:
        stride = motion.root[-1] - motion.root[0]
        root += cycle[:, None] * stride * [1, 0, 1]
    if mirror:
        rotations = rotations[:, MIRRORED] * [1, -1, -1]
        root = root * [-1, 1, 1]
    return rotations, root


def interpolate_turns(
    times: Float64[np.ndarray, " t"],
    rotations: Float64[np.ndarray, "t j 3"],
    wanted: Float64[np.ndarray, " n"],
) -> Float64[np.ndarray, "n j 3"]:
    """All joints at other times, along the shortest turns (`Slerp` takes one joint a call)."""
    at = np.clip(np.searchsorted(times, wanted, side="right") - 1, 0, len(times) - 2)
    part = ((wanted - times[at]) / (times[at + 1] - times[at])).repeat(rotations.shape[1])
    before, after = (Rotation.from_rotvec(rotations[i].reshape(-1, 3)) for i in (at, at + 1))
    step = Rotation.from_rotvec((before.inv() * after).as_rotvec() * part[:, None])
    return (before * step).as_rotvec().reshape(len(wanted), -1, 3)


def _smooth(rotations: Rotation, *, is_loop: bool) -> Rotation:
    """Close the gap between the end and the beginning of a loop, and hide jerks."""
    num_frames = len(rotations)
    if is_loop:
        gap = (rotations[num_frames - 1].inv() * rotations[0]).as_rotvec()
        ramp = np.linspace(0, 1, num_frames)[:, None]
        rotations = rotations * Rotation.from_rotvec(ramp * gap)
    quaternions = rotations.as_quat()
    # A quaternion and its negative are one rotation: choose signs that follow each other.
    steps = (quaternions[1:] * quaternions[:-1]).sum(-1)
    quaternions[1:] *= np.cumprod(np.where(steps < 0, -1.0, 1.0))[:, None]
    if not is_loop:
        return Rotation.from_quat(gaussian_filter1d(quaternions, SMOOTHING * RATE, 0))
    ends = np.sign(quaternions[0] @ quaternions[-1])
    padded = np.concatenate([quaternions[:-1] * ends, quaternions, quaternions[1:] * ends])
    smooth = gaussian_filter1d(padded, SMOOTHING * RATE, 0)
    return Rotation.from_quat(smooth[num_frames - 1 : 2 * num_frames - 1])


def _retarget(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DeepMimic's 13 joints to the body's 24.

    Its world has y up and the body faces +x with its right at +z; its arms hang down at rest,
    ours point sideways. Knees and elbows are hinges about its z axis, our -x.
    """
    to_world = Rotation.from_euler("y", -90, degrees=True)

    def ball(start: int) -> Rotation:
        quaternion = np.roll(frames[:, start : start + 4], -1, axis=-1)
        return to_world * Rotation.from_quat(quaternion) * to_world.inv()

    def hinge(column: int) -> Rotation:
        return Rotation.from_rotvec(frames[:, column, None] * [-1.0, 0.0, 0.0])

    def half(rotation: Rotation) -> Rotation:
        return Rotation.from_rotvec(rotation.as_rotvec() / 2)

    hang_left = Rotation.from_euler("z", -90, degrees=True)
    hang_right = hang_left.inv()
    spine, neck = half(ball(8)), half(ball(12))
    joints = {
        **{"pelvis": ball(4), "spine2": spine, "spine3": spine, "neck": neck, "head": neck},
        **{"right_hip": ball(16), "right_knee": hinge(20), "right_ankle": ball(21)},
        **{"left_hip": ball(30), "left_knee": hinge(34), "left_ankle": ball(35)},
        "right_shoulder": ball(25) * hang_right,
        "right_elbow": hang_right.inv() * hinge(29) * hang_right,
        "left_shoulder": ball(39) * hang_left,
        "left_elbow": hang_left.inv() * hinge(43) * hang_left,
    }
    rotations = np.zeros((len(frames), len(JOINTS), 3))
    for name, rotation in joints.items():
        rotations[:, JOINTS.index(name)] = rotation.as_rotvec()
    return rotations, to_world.apply(frames[:, 1:4])
