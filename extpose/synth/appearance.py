"""Clothes, hair and skin: one colour for each vertex of the body, and how far cloth stands off it.

Axes    v vertices   colours are RGB, 0 to 255   offsets in metres along the normal, at rest
"""

import colorsys
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from extpose.body_file import SMPL_POINT_VERTICES
from extpose.body_model import BodyModel
from extpose.synth.motion import JOINTS

SKIN = np.array(
    [[244, 208, 184], [232, 184, 152], [214, 160, 126], [182, 126, 92], [140, 92, 64], [92, 60, 44]]
)
HAIR = np.array([[28, 22, 20], [60, 42, 30], [104, 70, 44], [168, 128, 78], [120, 116, 112]])
CLOTH = np.array(
    [[30, 30, 34], [235, 233, 228], [128, 130, 134], [38, 46, 72], [70, 92, 128], [176, 160, 130],
     [92, 84, 66], [120, 36, 40], [60, 84, 60]]
)  # fmt: skip
"""What most clothes are: black, white, grey, navy, denim, beige, olive, wine, green."""
TORSO = ("pelvis", "spine1", "spine2", "spine3", "left_collar", "right_collar")
ARM = tuple(f"{s}_{p}" for s in ("left", "right") for p in ("shoulder", "elbow"))
LEG = tuple(f"{s}_{p}" for s in ("left", "right") for p in ("hip", "knee"))
FEET = tuple(f"{s}_{p}" for s in ("left", "right") for p in ("ankle", "foot"))
EYE_RADIUS = 0.013
"""Metres around an eye that are drawn dark."""


@dataclass(frozen=True, kw_only=True)
class Outfit:
    """What is worn."""

    colors: Float64[np.ndarray, "v 3"]
    offset: Float64[np.ndarray, " v"]


class _Tailor:
    """The body at rest, and what is drawn on it so far."""

    def __init__(self, body: BodyModel, rng: np.random.Generator) -> None:
        self.points = body.v_template.double().numpy()
        self.joints = body.joints_template.double().numpy()
        self.part = body.lbs_weights.numpy().argmax(1)
        self.rng = rng
        skin = SKIN[rng.integers(len(SKIN))] * rng.uniform(0.85, 1.1)
        self.colors = np.tile(skin.astype(np.float64), (len(self.points), 1))
        self.offset = np.zeros(len(self.points))

    def at(self, *names: str) -> np.ndarray:
        """Vertices that mostly follow these joints."""
        return np.isin(self.part, [JOINTS.index(name) for name in names])

    def place(self, name: str) -> np.ndarray:
        """A joint at rest."""
        return self.joints[JOINTS.index(name)]

    def wear(self, region: np.ndarray, *, colors: np.ndarray, thickness: float) -> None:
        """Cloth of a thickness, with folds of about a third of it."""
        waves = self.rng.normal(0, 1, (5, 3)) * self.rng.uniform(15, 60, (5, 1)) * [1, 0.5, 1]
        phase = self.rng.uniform(0, 2 * np.pi, 5)
        folds = 1 + 0.3 * np.sin(self.points[region] @ waves.T + phase).sum(-1) / 1.6
        self.colors[region] = colors
        self.offset[region] = 0.003 + thickness * np.clip(folds, 0.1, 2)


def dress(body: BodyModel, rng: np.random.Generator) -> Outfit:
    """Draw skin, hair, a shirt with sleeves, trousers or shorts, and shoes."""
    tailor = _Tailor(body, rng)
    _add_trousers(tailor)
    if rng.random() < 0.95:
        _add_shirt(tailor)
    if rng.random() < 0.88:
        _add_shoes(tailor)
    _add_face(tailor)
    _add_hair(tailor)
    colors = np.clip(tailor.colors * _mottle(tailor.points, rng)[:, None], 0, 255)
    return Outfit(colors=colors, offset=tailor.offset)


def random_color(rng: np.random.Generator, *, strength: float = 1.0) -> np.ndarray:
    """Any colour, the strong ones being rare; `strength` scales the saturation."""
    hue, saturation, value = rng.random(), rng.beta(1.3, 2.5) * strength, rng.uniform(0.12, 0.95)
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value)) * 255


def cloth_color(rng: np.random.Generator) -> np.ndarray:
    """Mostly what shops sell, else any."""
    if rng.random() < 0.4:
        return random_color(rng, strength=1.1)
    return np.clip(CLOTH[rng.integers(len(CLOTH))] * rng.uniform(0.75, 1.1), 0, 255)


def paint_cloth(
    points: Float64[np.ndarray, "v 3"], rng: np.random.Generator
) -> Float64[np.ndarray, "v 3"]:
    """Plain, striped, checked or spotted."""
    colors = np.tile(cloth_color(rng), (len(points), 1))
    pattern = rng.choice(
        ["plain", "rows", "columns", "checks", "spots"], p=[0.55, 0.18, 0.09, 0.09, 0.09]
    )
    if pattern == "plain":
        return colors
    second, period = cloth_color(rng), rng.uniform(0.04, 0.14)
    rows = np.sin(2 * np.pi * points[:, 1] / period) > 0
    columns = np.sin(2 * np.pi * points[:, 0] / period) > 0
    spots = np.prod(np.sin(2 * np.pi * points / period), axis=-1) > 0.15
    chosen = {"rows": rows, "columns": columns, "checks": rows ^ columns, "spots": spots}
    colors[chosen[str(pattern)]] = second
    return colors


def _add_trousers(tailor: _Tailor) -> None:
    """From the waist down to anywhere between the thigh and the ankle."""
    rng, y = tailor.rng, tailor.points[:, 1]
    waist = tailor.place("pelvis")[1] + rng.uniform(0.04, 0.12)
    hip, ankle = tailor.place("left_hip")[1], tailor.place("left_ankle")[1]
    length = rng.uniform(0.3, 0.6) if rng.random() < 0.3 else rng.uniform(0.9, 1.0)
    hem = hip + length * (ankle - hip)
    region = tailor.at("pelvis", "spine1", *LEG, *FEET) & (y < waist) & (y > hem)
    colors = paint_cloth(tailor.points[region], rng)
    if rng.random() < 0.6:  # few trousers have a pattern
        colors[:] = cloth_color(rng)
    tailor.wear(region, colors=colors, thickness=rng.uniform(0.002, 0.022))


def _add_shirt(tailor: _Tailor) -> None:
    """With sleeves of any length; two colours, a print or an open collar now and then."""
    rng, points = tailor.rng, tailor.points
    x, y, z = points.T
    bottom = tailor.place("pelvis")[1] + rng.uniform(-0.14, 0.06)
    shoulder, wrist = tailor.place("left_shoulder")[0], tailor.place("left_wrist")[0]
    sleeve = rng.choice([rng.uniform(-0.05, 0.05), rng.uniform(0.2, 0.5), rng.uniform(0.85, 1.0)],
                        p=[0.15, 0.5, 0.35])  # fmt: skip
    region = tailor.at(*TORSO, "neck", "left_hip", "right_hip", *ARM) & (y > bottom)
    region &= np.abs(x) < shoulder + sleeve * (wrist - shoulder)
    neck = tailor.place("neck")
    depth = rng.uniform(0.0, 0.1)
    region &= y < neck[1] + rng.choice([0.0, 0.05], p=[0.8, 0.2])
    region &= ~((z > neck[2]) & (y > neck[1] - depth + 1.2 * np.abs(x)))
    colors = paint_cloth(points[region], rng)
    if rng.random() < 0.25:  # sleeves of another colour
        colors[np.abs(x[region]) > shoulder - 0.02] = cloth_color(rng)
    if rng.random() < 0.3:  # a print on the chest
        chest, size = tailor.place("spine3"), rng.uniform(0.05, 0.12)
        front = (z[region] > chest[2]) & (np.abs(x[region]) < size)
        colors[front & (np.abs(y[region] - chest[1]) < size * rng.uniform(0.3, 1))] = random_color(
            rng, strength=2.0
        )
    tailor.wear(region, colors=colors, thickness=rng.uniform(0.002, 0.025))


def _add_shoes(tailor: _Tailor) -> None:
    """Low or high, with a sole."""
    rng, y = tailor.rng, tailor.points[:, 1]
    ankle, ground = tailor.place("left_ankle")[1], float(y.min())
    top = ankle + rng.choice([rng.uniform(-0.03, 0.01), rng.uniform(0.03, 0.14)], p=[0.75, 0.25])
    region = tailor.at(*FEET, "left_knee", "right_knee") & (y < top)
    colors = np.tile(cloth_color(rng), (int(region.sum()), 1))
    if rng.random() < 0.6:
        colors[y[region] < ground + rng.uniform(0.012, 0.03)] = cloth_color(rng)
    tailor.colors[region], tailor.offset[region] = colors, 0.006


def _add_face(tailor: _Tailor) -> None:
    """Dark eyes, brows and lips; a beard now and then."""
    rng, points = tailor.rng, tailor.points
    nose, left, right = (points[SMPL_POINT_VERTICES[n]] for n in ("nose", "left_eye", "right_eye"))
    mouth = nose + np.array([0, -0.042, -0.015])
    if rng.random() < 0.15:
        y = points[:, 1]
        beard = tailor.at("head", "neck") & (points[:, 2] > mouth[2] - 0.075)
        beard &= (y < mouth[1] + 0.012) & (y > mouth[1] - 0.065)
        tailor.colors[beard] = HAIR[rng.integers(len(HAIR))]
    face = np.flatnonzero(tailor.at("head", "neck"))
    points = points[face]
    near = face[np.linalg.norm((points - mouth) * [0.75, 2.2, 1], axis=-1) < 0.02]
    tailor.colors[near] = tailor.colors[near] * 0.55 + np.array([150, 60, 62]) * 0.45
    for eye in (left, right):
        tailor.colors[face[np.linalg.norm(points - eye, axis=-1) < EYE_RADIUS]] = (38, 30, 28)
        brow = np.linalg.norm((points - eye - [0, 0.022, 0.004]) * [0.6, 2.4, 1], axis=-1) < 0.016
        tailor.colors[face[brow]] = tailor.colors[face[brow]] * 0.5


def _add_hair(tailor: _Tailor) -> None:
    """Short or down to the shoulders, a cap, or none."""
    rng, points = tailor.rng, tailor.points
    kind = rng.choice(["hair", "long", "cap", "none"], p=[0.6, 0.22, 0.1, 0.08])
    if kind == "none":
        return
    head = tailor.at("head")
    y, z = points[:, 1], points[:, 2]
    low, high = np.percentile(y[head], [0, 100])
    back, front = np.percentile(z[head], [0, 100])
    height, behind = (y - low) / (high - low), (front - z) / (front - back)
    region = head & ((height > 0.84) | ((behind > 0.45) & (height > rng.uniform(0.2, 0.55))))
    color = HAIR[rng.integers(len(HAIR))] * rng.uniform(0.7, 1.2)
    thickness = rng.uniform(0.004, 0.02)
    if kind == "cap":
        region, color, thickness = head & (height > 0.78), cloth_color(rng), 0.012
    if kind == "long":
        neck = tailor.place("neck")
        fall = neck[1] - rng.uniform(-0.05, 0.18)
        region |= tailor.at("head", "neck", "spine3") & (behind > 0.5) & (y > fall) & (
            np.abs(points[:, 0]) < 0.085 + 0.03 * (y < neck[1])
        )  # fmt: skip
        thickness = rng.uniform(0.015, 0.03)
    streaks = 1 + 0.12 * np.sin(points[region, 0] * rng.uniform(150, 400))[:, None]
    tailor.colors[region] = color * streaks
    tailor.offset[region] = thickness * (1 + 0.3 * np.sin(points[region] @ [90.0, 70, 80]))


def _mottle(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Slow variation of brightness, as folds and dirt make it."""
    waves = rng.normal(0, 1, (6, 3)) * rng.uniform(8, 40, (6, 1))
    return 1 + 0.03 * np.sin(points @ waves.T + rng.uniform(0, 2 * np.pi, 6)).sum(-1)
