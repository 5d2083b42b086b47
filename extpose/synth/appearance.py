"""Clothes, hair and skin as one colour for each vertex of the body.

Axes    v vertices   colours are RGB, 0 to 255
"""

import colorsys

import numpy as np
from jaxtyping import Float32, Float64

from extpose.body_model import BodyModel, find_evidence
from extpose.synth.motion import JOINTS

SKIN = np.array(
    [[244, 208, 184], [232, 184, 152], [214, 160, 126], [182, 126, 92], [140, 92, 64], [92, 60, 44]]
)
HAIR = np.array([[28, 22, 20], [60, 42, 30], [104, 70, 44], [168, 128, 78], [120, 116, 112]])
TORSO = ("spine1", "spine2", "spine3", "left_collar", "right_collar")
UPPER_ARMS = ("left_shoulder", "right_shoulder")
FOREARMS = ("left_elbow", "right_elbow")
THIGHS = ("pelvis", "left_hip", "right_hip")
SHANKS = ("left_knee", "right_knee")
FEET = ("left_ankle", "right_ankle", "left_foot", "right_foot")
EYE_RADIUS = 0.013
"""Metres around the keypoint of an eye that are drawn dark."""


def dress(body: BodyModel, rng: np.random.Generator) -> Float64[np.ndarray, "v 3"]:
    """Draw skin, hair, a shirt, trousers or a skirt's length of them, and shoes."""
    template = body.v_template.numpy()
    part = body.lbs_weights.numpy().argmax(1)

    def wears(*names: str) -> np.ndarray:
        return np.isin(part, [JOINTS.index(name) for name in names])

    skin = SKIN[rng.integers(len(SKIN))] * rng.uniform(0.9, 1.08)
    colors = np.tile(skin.astype(np.float64), (len(template), 1))
    shirt = wears(*TORSO)
    sleeves = rng.choice(["none", "short", "long"], p=[0.15, 0.5, 0.35])
    if sleeves != "none":
        shirt |= wears(*UPPER_ARMS)
    if sleeves == "long":
        shirt |= wears(*FOREARMS)
    trousers = wears(*THIGHS)
    if rng.random() < 0.7:
        trousers |= wears(*SHANKS)
    for region in (trousers, shirt):
        colors[region] = _cloth(template[region], rng)
    colors[wears(*FEET)] = random_color(rng) * (1.0 if rng.random() < 0.4 else 0.35)
    _add_head(colors, body, part == JOINTS.index("head"), rng)
    return np.clip(colors * _mottle(template, rng)[:, None], 0, 255)


def random_color(rng: np.random.Generator, *, strength: float = 1.0) -> np.ndarray:
    """Any colour, the strong ones being rare; `strength` scales the saturation."""
    hue, saturation, value = rng.random(), rng.beta(1.3, 2.5) * strength, rng.uniform(0.12, 0.95)
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value)) * 255


def _add_head(
    colors: np.ndarray, body: BodyModel, head: np.ndarray, rng: np.random.Generator
) -> None:
    """Hair on top and behind, dark eyes."""
    template = body.v_template.numpy()
    y, z = template[:, 1], template[:, 2]
    bottom, top = np.percentile(y[head], [0, 100])
    front = np.percentile(z[head], 100)
    depth = front - np.percentile(z[head], 0)
    height = (y - bottom) / (top - bottom)
    behind = (front - z) / depth
    if rng.random() < 0.92:
        length = rng.uniform(0.15, 0.5)
        hair = head & ((height > 0.86) | ((behind > 0.45) & (height > length)))
        colors[hair] = HAIR[rng.integers(len(HAIR))] * rng.uniform(0.7, 1.2)
    keypoints = _rest_keypoints(body)
    for eye in keypoints[1:3]:
        colors[np.linalg.norm(template - eye, axis=-1) < EYE_RADIUS] = (38, 30, 28)


def _rest_keypoints(body: BodyModel) -> Float32[np.ndarray, "k 3"]:
    eye = body.v_template.new_tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    rest = body(eye, eye.expand(body.num_rotations, 3, 3), body.v_template.new_zeros(10))
    return find_evidence(rest, body).numpy()


def _cloth(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Plain, striped, checked or spotted."""
    colors = np.tile(random_color(rng), (len(points), 1))
    pattern = rng.choice(
        ["plain", "rows", "columns", "checks", "spots"], p=[0.5, 0.2, 0.1, 0.1, 0.1]
    )
    if pattern == "plain":
        return colors
    second, period = random_color(rng), rng.uniform(0.04, 0.14)
    rows = np.sin(2 * np.pi * points[:, 1] / period) > 0
    columns = np.sin(2 * np.pi * points[:, 0] / period) > 0
    spots = np.prod(np.sin(2 * np.pi * points / period), axis=-1) > 0.15
    chosen = {"rows": rows, "columns": columns, "checks": rows ^ columns, "spots": spots}
    colors[chosen[str(pattern)]] = second
    return colors


def _mottle(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Slow variation of brightness, as folds and dirt make it."""
    waves = rng.normal(0, 1, (6, 3)) * rng.uniform(8, 40, (6, 1))
    return 1 + 0.03 * np.sin(points @ waves.T + rng.uniform(0, 2 * np.pi, 6)).sum(-1)
