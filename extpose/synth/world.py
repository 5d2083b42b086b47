"""What one synthetic clip shows: a person in motion and the camera that films them.

Everything is drawn from (seed, split, clip index) and nothing else, so any worker gives the same.

Axes    t frames   24 joint rotations, root first
World   y up, metres, the floor is y = 0
Camera  OpenCV's: x right, y down, z forward; `point_cam = R (point_world - position)`
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

from extpose.config import SynthConfig
from extpose.schema import Split
from extpose.synth.motion import JOINTS, SOURCE_LEG, Motion, sample_motion
from extpose.synth.poses import compose_motion

WORLD_VERSION = 6
"""Raised with every change after which the same seed gives other clips."""

PERSON_HEIGHT = 1.72
"""Metres; of the average body, for framing."""
ARMS = tuple(
    i
    for i, name in enumerate(JOINTS)
    if name.split("_")[-1] in ("collar", "shoulder", "elbow", "wrist", "hand")
)
POSE_NOISE = {
    **{"hip": 0.06, "knee": 0.05, "ankle": 0.08, "spine1": 0.05, "spine2": 0.05, "spine3": 0.05},
    **{"neck": 0.1, "head": 0.12, "collar": 0.05, "shoulder": 0.12, "elbow": 0.12},
    **{"wrist": 0.2, "hand": 0.1},
}
"""Deviation in radians of the turn that a joint has all through a clip."""
COMPOSED = 0.45
"""Share of motions that are composed of key poses; the others are recorded."""
ARM_SPREAD = 0.14
"""Radians by which arms are held away from the body: the recorded figure is thinner than ours."""


MOST_BENT = 2.6
"""Radians of a knee or an elbow."""
HINGES = (
    *(("left_knee", 0, 0.0, MOST_BENT), ("right_knee", 0, 0.0, MOST_BENT)),
    *(("left_elbow", 1, -MOST_BENT, 0.0), ("right_elbow", 1, 0.0, MOST_BENT)),
)
"""Joint, the part of its axis-angle that bends it, least and most."""


class Purpose(IntEnum):
    """Each has random numbers of its own, so that one can change without the others."""

    PERSON = 0
    CAMERA = 1
    LOOK = 2
    PIXELS = 3
    KEYPOINTS = 4
    OTHERS = 5
    PROPS = 6


@dataclass(frozen=True, kw_only=True)
class Person:
    """Shape and motion in the world."""

    motion: str
    betas: Float64[np.ndarray, " 10"]
    rotations: Float64[np.ndarray, "t 24 3"]
    """Axis-angle."""
    pelvis_world: Float64[np.ndarray, "t 3"]
    is_composed: bool = False
    """Composed motion has no path: the pelvis is where the floor and the feet put it."""

    @property
    def is_seated(self) -> bool:
        """Whether a seat belongs below."""
        return self.motion == "sit"


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole in slight motion."""

    K: Float64[np.ndarray, "3 3"]
    R: Float64[np.ndarray, "t 3 3"]
    position: Float64[np.ndarray, "t 3"]

    def to_camera(self, points_world: Float64[np.ndarray, "t n 3"]) -> np.ndarray:
        """World points of each frame in camera axes, `t n 3`."""
        return (points_world - self.position[:, None]) @ self.R.transpose(0, 2, 1)


def make_rng(seed: int, split: Split, index: int, purpose: Purpose) -> np.random.Generator:
    """The random numbers of one clip for one purpose."""
    return np.random.default_rng([seed, ("train", "val", "test").index(split), index, purpose])


def sample_person(
    motions: dict[str, Motion],
    weights: dict[str, float],
    config: SynthConfig,
    *,
    leg_length: float,
    rng: np.random.Generator,
) -> Person:
    """Draw a shape, a motion (recorded or composed), a heading, and a constant turn of each joint.

    `leg_length` (hip to ankle, metres) scales the paths of the recordings.
    """
    is_composed = bool(rng.random() < COMPOSED)
    if is_composed:
        name, rotations = compose_motion(config.num_frames, config.fps, rng=rng)
        root, extent = np.zeros((config.num_frames, 3)), 0.4
    else:
        name = _choose(weights, rng)
        rotations, root = _sample_window(motions[name], config, rng)
        _borrow_arms(rotations, motions, weights, config, rng)
        extent = 1.0
    _add_variation(rotations, config.fps, extent, rng)
    _limit_hinges(rotations)
    heading = Rotation.from_euler("y", rng.uniform(0, 2 * np.pi))
    rotations[:, 0] = (heading * Rotation.from_rotvec(rotations[:, 0])).as_rotvec()
    middle = root[len(root) // 2] * [1, 0, 1]
    spread = 0.9 if rng.random() < 0.7 else 1.5
    return Person(
        motion=name,
        betas=np.clip(rng.normal(0, spread, 10), -3.0, 3.0),
        rotations=rotations,
        pelvis_world=heading.apply(root - middle) * leg_length / SOURCE_LEG,
        is_composed=is_composed,
    )


def _borrow_arms(
    rotations: np.ndarray,
    motions: dict[str, Motion],
    weights: dict[str, float],
    config: SynthConfig,
    rng: np.random.Generator,
) -> None:
    """Blend: a walker's legs with a dancer's arms, or with composed ones."""
    draw = rng.random()
    if draw < 0.2:
        rotations[:, ARMS] = _sample_window(motions[_choose(weights, rng)], config, rng)[0][:, ARMS]
    elif draw < 0.45:
        rotations[:, ARMS] = compose_motion(config.num_frames, config.fps, rng=rng)[1][:, ARMS]


def _add_variation(
    rotations: np.ndarray, fps: float, extent: float, rng: np.random.Generator
) -> None:
    """A constant turn of each joint and a slow one, in proportion to `POSE_NOISE`."""
    noise = np.array([POSE_NOISE.get(joint.split("_")[-1], 0.0) for joint in JOINTS])
    offsets = extent * rng.normal(0, 1, (len(JOINTS), 3)) * noise[:, None]
    offsets[JOINTS.index("left_shoulder"), 2] += ARM_SPREAD
    offsets[JOINTS.index("right_shoulder"), 2] -= ARM_SPREAD
    times = np.arange(len(rotations)) / fps
    slow = np.stack([0.25 * size * waver(times, rng) for size in noise], 1)
    turned = Rotation.from_rotvec(rotations[:, 1:].reshape(-1, 3)) * Rotation.from_rotvec(
        (offsets + slow)[:, 1:].reshape(-1, 3)
    )
    rotations[:, 1:] = turned.as_rotvec().reshape(len(rotations), -1, 3)


def _limit_hinges(rotations: np.ndarray) -> None:
    """Knees and elbows bend one way and not without end; recordings and variation do not know."""
    for joint, axis, low, high in HINGES:
        angle = rotations[:, JOINTS.index(joint), axis]
        rotations[:, JOINTS.index(joint), axis] = np.clip(angle, low, high)


def sample_camera(
    pelvis_world: Float64[np.ndarray, "t 3"], config: SynthConfig, *, rng: np.random.Generator
) -> Camera:
    """Draw a camera that keeps the person mostly in view: whole, small, or cut by the border."""
    height, width = config.image_size
    focal = height / 2 / np.tan(np.deg2rad(np.exp(rng.uniform(np.log(22), np.log(78)))) / 2)
    K = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    view = rng.choice(["close", "whole", "far"], p=[0.25, 0.6, 0.15])
    fraction = rng.uniform(*{"close": (0.95, 2.0), "whole": (0.5, 0.92), "far": (0.25, 0.5)}[view])
    distance = max(focal * PERSON_HEIGHT / (fraction * height), 1.2)
    eye_level = rng.choice(
        [rng.uniform(0.2, 0.9), rng.uniform(0.9, 1.8), rng.uniform(1.8, 2.8), rng.uniform(2.8, 5)],
        p=[0.2, 0.5, 0.2, 0.1],
    )
    eye_level = min(eye_level, 0.4 + 0.8 * distance)
    middle = pelvis_world[len(pelvis_world) // 2]
    # Beyond a metre the camera is carried along; within, it only turns, and not all the way.
    path = pelvis_world - middle
    away = np.linalg.norm(path * [1, 0, 1], axis=-1, keepdims=True)
    carried = path * [1, 0, 1] * np.maximum(0, 1 - 1 / np.maximum(away, 1e-9))
    rest = path - carried
    metres = distance / focal
    is_close = view == "close"
    shift_x = rng.uniform(-0.12, 0.12) * width * (2.0 if is_close else 1.0)
    shift_y = rng.uniform(-0.06, 0.06) * height
    # Of who squats or lies there is less above and below the pelvis.
    part = rng.uniform(-0.5, 0.5) * min(middle[1] / 0.95, 1.0) if is_close else 0.0
    aim = middle + np.array([shift_x * metres, shift_y * metres + part, 0.0])
    aim = aim + carried + rng.uniform(0.5, 1.0) * rest * [1, 0.7, 1]
    below = middle[1] - eye_level
    start = middle * [1, 0, 1] + [0, eye_level, np.sqrt(max(distance**2 - below**2, 1.0))]
    shake, sway = (0.0, 0.0) if rng.random() < 0.3 else rng.uniform(0, [0.012, 0.03])
    times = np.arange(len(path)) / config.fps
    position = start + carried + sway * waver(times, rng)
    return Camera(K=K, R=_look_at(position, aim, shake * waver(times, rng), rng), position=position)


def _choose(weights: dict[str, float], rng: np.random.Generator) -> str:
    values = np.array(list(weights.values()))
    return list(weights)[rng.choice(len(values), p=values / values.sum())]


def _sample_window(
    motion: Motion, config: SynthConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    speed = np.exp(rng.uniform(np.log(0.75), np.log(1.25)))
    times = rng.uniform(0, motion.duration) + np.arange(config.num_frames) / config.fps * speed
    return sample_motion(motion, times, mirror=bool(rng.random() < 0.5))


def waver(times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise of three numbers a frame, of about unit size: three slow sines each."""
    frequency, phase = rng.uniform(0.3, 2.5, (3, 3)), rng.uniform(0, 2 * np.pi, (3, 3))
    waves = np.sin(2 * np.pi * frequency * times[:, None, None] + phase)
    return waves.sum(-1) * np.sqrt(2 / 3)


def _look_at(
    position: np.ndarray, aim: np.ndarray, wobble: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Rotations from the world to a camera at `position` that looks at `aim`, rolled a little."""
    forward = aim - position
    forward /= np.linalg.norm(forward, axis=-1, keepdims=True)
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    upright = np.stack([right, np.cross(forward, right), forward], axis=1)
    roll = Rotation.from_euler("z", rng.normal(0, 2.5), degrees=True)
    return (Rotation.from_rotvec(wobble) * roll * Rotation.from_matrix(upright)).as_matrix()
