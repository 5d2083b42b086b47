"""The fitted model of a detector's errors: truth in, what the detector would have said out.

A found keypoint is the truth (or the opposite side's, when left and right are taken for each
other), plus a bias that depends on how the person stands, plus jitter. Jitter is a slow part and a
white part of uneven strength, and has two widths: a narrow core, and a wide tail that holds on for
some frames. The confidence follows from the error. `noise_fit.py` finds the parameters;
`noise.json` holds those of the packaged detector.

Axes    t frames   k COCO's 17 keypoints   g 9 kinds of them (`KINDS`)   v visible, hidden, outside
Units   pixels; errors are fractions of the person's size, the longer side of its box
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64

from extpose.errors import AssetError
from extpose.keypoints import FLIP_PAIRS, KEYPOINT_NAMES

NAMES = KEYPOINT_NAMES["coco17"]
KINDS = tuple(dict.fromkeys(name.split("_")[-1] for name in NAMES))
"""Left and right of a pair are of one kind: their errors are mirror images."""
KIND = np.array([KINDS.index(name.split("_")[-1]) for name in NAMES])
SIDE = np.array([-1.0 if "right" in name else 1.0 for name in NAMES])
OPPOSITE = np.arange(len(NAMES))
for _left, _right in FLIP_PAIRS["coco17"]:
    OPPOSITE[[_left, _right]] = _right, _left
VISIBLE, HIDDEN, OUTSIDE = range(3)
SHOULDERS, HIPS = (5, 6), (11, 12)
HEIGHT = 1.7
"""Metres that a person's size stands for: turns pixels beside depths into a heading."""
FLOOR = 0.004
"""Added to errors before their logarithm is taken."""
WHOLE = (0.5, 0.7)
"""Shares of the visible keypoints below which much, or some, of a person is hidden or cut off."""
SHAPES: dict[str, tuple[int, ...]] = {
    **{"bias": (9, 2, 2, 3), "core": (9, 3), "tail": (9, 3), "tail_share": (9, 3)},
    **{"memory": (9, 2), "collapse": (9, 2), "swap": (9,), "confidence": (9, 3, 3)},
    **{"confidence_memory": (2,), "miss": (3,), "box_bias": (4,), "box_clip": (4,)},
    "box_frame": (4,),
}
"""Of the parameters that are not single numbers."""
ORIGIN = ("detector", "detector_identity", "world_version")
"""What the parameters were fitted to."""
FITTED = Path(__file__).parent / "noise.json"


@dataclass(frozen=True, kw_only=True)
class DetectorNoise:
    """All parameters. `memory` is (share of the slow part, what is left of it a frame later);
    `hold` is the probability that an event is not drawn anew in the next frame.
    """

    detector: str
    detector_identity: str
    """Hash of its weights."""
    world_version: int
    """Of the renders it was fitted to (`WORLD_VERSION`)."""
    fps: float
    """Of the clips it was fitted to: a frame is as long."""
    bias: Float64[np.ndarray, "9 2 2 3"]
    """Kind; visible, hidden; sideways (away from the body's own side), up; 1, facing, turned."""
    core: Float64[np.ndarray, "9 3"]
    """Deviation on each axis, by kind and visibility."""
    tail: Float64[np.ndarray, "9 3"]
    tail_share: Float64[np.ndarray, "9 3"]
    tail_hold: float
    memory: Float64[np.ndarray, "9 2"]
    bursts: float
    """Deviation of the logarithm of the white part's strength."""
    clip_scale: float
    """Deviation of the logarithm of a factor on all jitter of a clip."""
    collapse: Float64[np.ndarray, "9 2"]
    """Probability that a visible, a hidden keypoint is found at the opposite side's place."""
    swap: Float64[np.ndarray, " 9"]
    """Probability that a pair is exchanged."""
    turn: float
    """Probability that all pairs are."""
    side_hold: float
    """Of all three."""
    confidence: Float64[np.ndarray, "9 3 3"]
    """Kind, visibility; offset, slope over the error's logarithm, deviation of the log-odds."""
    confidence_memory: Float64[np.ndarray, " 2"]
    miss: Float64[np.ndarray, " 3"]
    """Probability that the person is not found: much hidden, somewhat, hardly (`WHOLE`)."""
    miss_hold: float
    box_bias: Float64[np.ndarray, " 4"]
    """Of the sides x0 y0 x1 y1."""
    box_clip: Float64[np.ndarray, " 4"]
    """Deviation that stays all through a clip."""
    box_frame: Float64[np.ndarray, " 4"]
    box_decay: float

    def to_json(self) -> str:
        """A small text of rounded numbers."""
        plain = {
            name: np.round(value, 5).tolist() if isinstance(value, np.ndarray | float) else value
            for name, value in asdict(self).items()
        }
        rows = [f' "{name}": {json.dumps(value)}' for name, value in plain.items()]
        return "{\n" + ",\n".join(rows) + "\n}\n"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a detector says of one person."""

    keypoints: Float32[np.ndarray, "t 17 3"]
    """x y confidence; all zero where the person is missed."""
    boxes: Float64[np.ndarray, "t 4"]
    is_detected: Bool[np.ndarray, " t"]


def load_noise(path: Path = FITTED) -> DetectorNoise:
    """Read parameters. Raises AssetError naming the file and what is wrong with it."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise AssetError(f"{path}: not the parameters of a noise model ({error})") from error
    expected = {field.name for field in fields(DetectorNoise)}
    if not isinstance(values, dict) or set(values) != expected:
        odd = sorted(set(values) ^ expected)
        raise AssetError(f"{path}: fields {odd} are missing or unknown")
    arrays: dict[str, Any] = {}
    for name, value in values.items():
        arrays[name] = np.array(value, np.float64) if isinstance(value, list) else value
        shape = SHAPES.get(name, ())
        if name not in ORIGIN and np.shape(arrays[name]) != shape:
            found = np.shape(arrays[name])
            raise AssetError(f"{path}: {name} has shape {found}, expected {shape}")
    return DetectorNoise(**arrays)


def draw_evidence(
    truth: Float[np.ndarray, "t 17 2"],
    depth: Float[np.ndarray, "t 17"],
    is_visible: Bool[np.ndarray, "t 17"],
    *,
    boxes: Float[np.ndarray, "t 4"],
    image_size: tuple[int, int],
    fps: float,
    noise: DetectorNoise,
    rng: np.random.Generator,
) -> Evidence:
    """One clip. `depth` in metres along the camera's axis; `boxes` of the whole person, also
    outside the picture; `image_size` is height, width.
    """
    step = noise.fps / fps
    size = person_size(boxes)
    target, kind_of_view = aim(truth, is_visible, image_size)
    found = _take_sides(target, kind_of_view, noise, step, rng)
    error = _bias(truth, depth, size, kind_of_view, noise) + _jitter(kind_of_view, noise, step, rng)
    found = found + error * size[:, None, None]
    away = np.linalg.norm(found - target, axis=-1) / size[:, None]
    offset, slope, width = np.moveaxis(noise.confidence[KIND, kind_of_view], -1, 0)
    odds = offset + slope * np.log(away + FLOOR)
    odds += width * correlated(away.shape, noise.confidence_memory, step, rng)
    seen = (kind_of_view == VISIBLE).mean(1)
    chance = noise.miss[np.digitize(seen, WHOLE)]
    is_detected = held((len(truth),), noise.miss_hold, step, rng) >= chance
    keypoints = np.concatenate([found, 1 / (1 + np.exp(-odds))[..., None]], -1)
    return Evidence(
        keypoints=np.where(is_detected[:, None, None], keypoints, 0).astype(np.float32),
        boxes=boxes + _box_error(len(truth), noise, step, rng) * size[:, None],
        is_detected=is_detected,
    )


def person_size(boxes: Float[np.ndarray, "t 4"]) -> Float64[np.ndarray, " t"]:
    """The longer side of each box, at least one pixel."""
    return np.maximum((boxes[:, 2:] - boxes[:, :2]).max(-1), 1.0).astype(np.float64)


def is_inside(
    points: Float[np.ndarray, "t k 2"], image_size: tuple[int, int]
) -> Bool[np.ndarray, "t k"]:
    """Which points are in the picture (height, width)."""
    limit = np.array([image_size[1] - 0.5, image_size[0] - 0.5])
    return np.asarray(((points >= -0.5) & (points < limit)).all(-1))


def aim(
    truth: Float[np.ndarray, "t k 2"],
    is_visible: Bool[np.ndarray, "t k"],
    image_size: tuple[int, int],
) -> tuple[Float64[np.ndarray, "t k 2"], Int64[np.ndarray, "t k"]]:
    """The place in the picture nearest to each keypoint, and which of the three views it is."""
    inside = is_inside(truth, image_size)
    limit = np.array([image_size[1] - 1.0, image_size[0] - 1.0])
    view = np.where(inside, np.where(is_visible, VISIBLE, HIDDEN), OUTSIDE)
    return np.clip(truth, 0, limit).astype(np.float64), view


def stance(
    truth: Float[np.ndarray, "t 17 2"],
    depth: Float[np.ndarray, "t 17"],
    size: Float[np.ndarray, " t"],
) -> tuple[Float64[np.ndarray, "t 2 2"], Float64[np.ndarray, "t 2"]]:
    """How the person stands: the axes sideways and up of the trunk in the picture (rows), and
    the heading (cosine: facing the camera 1, away -1; sine: left side away from it 1).
    """
    up = truth[:, SHOULDERS].mean(1) - truth[:, HIPS].mean(1)
    length = np.linalg.norm(up, axis=-1, keepdims=True)
    # A trunk that is seen end on has no direction in the picture.
    up = np.where(length > 0.05 * size[:, None], up / np.maximum(length, 1e-9), [0.0, -1.0])
    side = np.stack([-up[:, 1], up[:, 0]], -1)
    left, right = [5, 11], [6, 12]
    wide = ((truth[:, left] - truth[:, right]).mean(1) * side).sum(-1) * HEIGHT / size
    deep = (depth[:, left] - depth[:, right]).mean(1)
    norm = np.maximum(np.hypot(wide, deep), 1e-9)
    return np.stack([side, up], 1), np.stack([wide, deep], -1) / norm[:, None]


def held(
    shape: tuple[int, ...], hold: float, step: float, rng: np.random.Generator
) -> Float64[np.ndarray, "*n"]:
    """Uniform numbers that stay from one frame to the next with probability `hold**step`."""
    values = rng.random(shape)
    stays = rng.random(shape) < hold**step
    for i in range(1, shape[0]):
        values[i] = np.where(stays[i], values[i - 1], values[i])
    return values


def correlated(
    shape: tuple[int, ...],
    memory: Float64[np.ndarray, "*k 2"],
    step: float,
    rng: np.random.Generator,
    *,
    bursts: float = 0.0,
) -> Float64[np.ndarray, "*n"]:
    """Noise of unit variance over the first axis: a slow (AR(1)) share, the rest white.

    `bursts` is the deviation of the logarithm of the white part's strength.
    """
    share, decay = memory[..., 0], memory[..., 1] ** step
    slow, white = rng.normal(size=shape), rng.normal(size=shape)
    for i in range(1, shape[0]):
        slow[i] = decay * slow[i - 1] + np.sqrt(1 - decay**2) * slow[i]
    if bursts > 0:
        white *= np.exp(bursts * rng.normal(size=shape) - bursts**2)
    return np.sqrt(share) * slow + np.sqrt(1 - share) * white


def _take_sides(
    target: np.ndarray, view: np.ndarray, noise: DetectorNoise, step: float,
    rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """The place that each keypoint is found at before jitter: its own, or the opposite one's."""
    num_frames, num_points = view.shape
    other = target[:, OPPOSITE]
    collapse = np.concatenate([noise.collapse, np.zeros((len(KINDS), 1))], 1)[KIND, view]
    is_other = held(view.shape, noise.side_hold, step, rng) < collapse
    swapped = held((num_frames, len(KINDS)), noise.side_hold, step, rng) < noise.swap
    turned = held((num_frames, 1), noise.side_hold, step, rng) < noise.turn
    is_other = np.where((swapped | turned)[:, KIND], True, is_other)
    is_other &= (np.arange(num_points) != OPPOSITE) & (view != OUTSIDE)
    return np.where(is_other[..., None], other, target)


def _bias(
    truth: np.ndarray, depth: np.ndarray, size: np.ndarray, view: np.ndarray, noise: DetectorNoise
) -> np.ndarray:
    axes, heading = stance(truth, depth, size)
    features = bias_features(heading)
    along = (noise.bias[KIND, np.minimum(view, HIDDEN)] * features[:, :, None]).sum(-1)
    along[..., 0] *= SIDE
    return np.where((view != OUTSIDE)[..., None], along @ axes, 0.0)


def bias_features(heading: Float64[np.ndarray, "t 2"]) -> Float64[np.ndarray, "t 17 3"]:
    """1, facing, turned away: of each keypoint as if it were on the left."""
    facing = np.broadcast_to(heading[:, :1], (len(heading), len(NAMES)))
    return np.stack([np.ones_like(facing), facing, heading[:, 1:] * SIDE], -1)


def _jitter(
    view: np.ndarray, noise: DetectorNoise, step: float, rng: np.random.Generator
) -> np.ndarray:
    memory = noise.memory[KIND][:, None]
    unit = correlated((*view.shape, 2), memory, step, rng, bursts=noise.bursts)
    in_tail = held(view.shape, noise.tail_hold, step, rng) < noise.tail_share[KIND, view]
    width = np.where(in_tail, noise.tail[KIND, view], noise.core[KIND, view])
    return np.exp(noise.clip_scale * rng.normal()) * width[..., None] * unit


def _box_error(
    num_frames: int, noise: DetectorNoise, step: float, rng: np.random.Generator
) -> np.ndarray:
    memory = np.array([1.0, noise.box_decay])
    moving = noise.box_frame * correlated((num_frames, 4), memory, step, rng)
    return noise.box_bias + noise.box_clip * rng.normal(size=4) + moving
