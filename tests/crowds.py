"""Synthetic footage of several people whose identities are known, and a scorer of trackers.

Axes   f frames   p people
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from extpose.detect.boxes import box_iou
from extpose.detect.people import Detections, Track

SIZE = (480, 640)
SHAPE = np.random.default_rng(0).uniform(0, 1, (17, 2))
SAME = 0.5
"""Overlap from which a track's box is a true person's."""


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """True boxes (f, p, 4), and what a detector with errors says."""

    boxes: np.ndarray
    frames: list[tuple[int, float, Detections]]


@dataclass(frozen=True, kw_only=True)
class Score:
    """Counts over frames, as in the CLEAR MOT and the identity metrics."""

    num_true: int
    num_missed: int
    num_false: int
    switches: tuple[tuple[int, int, int], ...]
    """Frame, track before, track after: a person goes on under another number."""
    matched: int
    """Frames of the best assignment of tracks to people."""
    num_tracked: int

    @property
    def mota(self) -> float:
        errors = self.num_missed + self.num_false + len(self.switches)
        return 1 - errors / self.num_true

    @property
    def idf1(self) -> float:
        return 2 * self.matched / (self.num_true + self.num_tracked)


def make_crowd(
    seed: int, *, people: int = 3, num_frames: int = 120, miss: float = 0.05, hidden: float = 0.9
) -> Crowd:
    """People who walk to and fro past each other.

    `miss` is how often a person is not found; `hidden` how often one who is mostly behind another.
    """
    rng = np.random.default_rng(seed)
    times = np.arange(num_frames)[:, None] / 25
    speed = rng.uniform(60, 150, people) * np.where(np.arange(people) % 2, -1, 1)
    x = 320 + speed * (times - times[-1] * rng.uniform(0.35, 0.65, people))
    height = rng.uniform(150, 230, people) * (
        1 + 0.05 * np.sin(times * rng.uniform(0.5, 2, people))
    )
    y = rng.uniform(225, 255, people) + 4 * np.abs(np.sin(7 * times))
    half = np.stack([height * 0.2, height * 0.5], -1)
    centre = np.stack([np.broadcast_to(x, height.shape), np.broadcast_to(y, height.shape)], -1)
    boxes = np.concatenate([centre - half, centre + half], -1)
    swing = np.sin(times * rng.uniform(6, 10, people) + rng.uniform(0, 6, people))
    frames = []
    for f in range(num_frames):
        found = [p for p in range(people) if rng.random() > _miss(boxes[f], p, miss, hidden)]
        frames.append((f, f / 25, _detect(boxes[f], swing[f], found, rng)))
    return Crowd(boxes=boxes, frames=frames)


def _miss(boxes: np.ndarray, person: int, miss: float, hidden: float) -> float:
    """Larger people are nearer, and hide others."""
    heights = boxes[:, 3] - boxes[:, 1]
    nearer = boxes[heights > heights[person]]
    overlap = box_iou(boxes[person, None], nearer)[0] if len(nearer) else np.zeros(1)
    return hidden if overlap.max() > 0.45 else miss


def _detect(boxes, swing, found: list[int], rng) -> Detections:
    out, points = [], []
    for p in rng.permutation(found):
        box = boxes[p] + rng.normal(0, 2.0, 4)
        limbs = box[:2] + SHAPE * (box[2:] - box[:2])
        limbs[9:11, 0] += swing[p] * (box[3] - box[1]) * 0.15
        limbs += rng.normal(0, 1.5, (17, 2))
        out.append(box)
        points.append(np.concatenate([limbs, np.full((17, 1), 0.8)], 1))
    return Detections(
        bbox_xyxy=np.array(out, np.float32).reshape(-1, 4),
        scores=np.full(len(out), 0.9, np.float32),
        keypoints_2d=np.array(points, np.float32).reshape(-1, 17, 3),
    )


def score_tracks(boxes: np.ndarray, tracks: tuple[Track, ...]) -> Score:
    """Tracks against true boxes (f, p, 4); a person keeps the last track while it still fits."""
    last: dict[int, int] = {}
    together: Counter[tuple[int, int]] = Counter()
    missed, false, switches = 0, 0, []
    for f in range(len(boxes)):
        here = [t for t in tracks if t.first_frame <= f < t.first_frame + t.num_frames]
        given = np.array([t.bbox_xyxy[f - t.first_frame] for t in here]).reshape(-1, 4)
        overlap = box_iou(boxes[f], given.astype(np.float64))
        bonus = np.array([[last.get(p) == t.track_id for t in here] for p in range(len(boxes[f]))])
        gain = np.where(overlap >= SAME, overlap + bonus.reshape(overlap.shape), 0)
        pairs = [(p, t) for p, t in zip(*linear_sum_assignment(-gain), strict=True) if gain[p, t]]
        missed, false = missed + len(boxes[f]) - len(pairs), false + len(here) - len(pairs)
        for p, t in pairs:
            number = here[t].track_id
            together[p, number] += 1
            if last.setdefault(p, number) != number:
                switches.append((f, last[p], number))
                last[p] = number
    numbers = sorted({number for _, number in together})
    table = np.array([[together[p, n] for n in numbers] for p in range(boxes.shape[1])])
    rows, columns = linear_sum_assignment(-table) if table.size else ([], [])
    return Score(
        num_true=boxes.shape[0] * boxes.shape[1],
        num_missed=missed,
        num_false=false,
        switches=tuple(switches),
        matched=int(table[rows, columns].sum()) if table.size else 0,
        num_tracked=sum(track.num_frames for track in tracks),
    )
