"""Which tracks of different cameras are the same person: those whose rays meet.

Axes    t frames   k keypoints
Units   pixels; costs are fractions of the person's size
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from extpose.detect.people import Track
from extpose.multiview.cameras import Camera
from extpose.multiview.triangulate import MIN_CONFIDENCE, intersect

MAX_COST = 0.06
"""Median distance of the rays of one person."""
MIN_SHARED = 3
MAX_SAMPLES = 40
ROBUST = 0.02


@dataclass(frozen=True)
class View:
    """A track in one camera."""

    camera: int
    track: int


def group_tracks(
    cameras: Sequence[Camera], tracks: Sequence[Sequence[Track]]
) -> list[dict[int, list[int]]]:
    """People as camera to its tracks; each is seen by two cameras or more, longest first.

    Pairs are joined from the best on; two tracks of one camera that overlap in time are never the
    same person.
    """
    views = [View(c, i) for c, listed in enumerate(tracks) for i in range(len(listed))]
    costs = []
    for a, b in combinations(views, 2):
        if a.camera != b.camera:
            cost = pair_cost(
                [cameras[a.camera], cameras[b.camera]],
                (tracks[a.camera][a.track], tracks[b.camera][b.track]),
            )
            if cost < MAX_COST:
                costs.append((cost, a, b))
    groups = {view: {view} for view in views}
    for _, a, b in sorted(costs, key=lambda item: item[0]):
        joined = groups[a] | groups[b]
        if groups[a] is not groups[b] and not _clash(joined, tracks):
            for view in joined:
                groups[view] = joined
    people = []
    for group in {id(group): group for group in groups.values()}.values():
        person: dict[int, list[int]] = {}
        for view in sorted(group, key=lambda v: (v.camera, v.track)):
            person.setdefault(view.camera, []).append(view.track)
        if len(person) >= 2:
            people.append(person)
    return sorted(people, key=lambda p: -_count_frames(p, tracks))


def pair_cost(cameras: Sequence[Camera], pair: tuple[Track, Track]) -> float:
    """Median reprojection error of two tracks' common frames, in box sizes; infinite without."""
    first = max(track.first_frame for track in pair)
    last = min(track.first_frame + track.num_frames for track in pair)
    if last - first < MIN_SHARED:
        return float("inf")
    frames = np.unique(np.linspace(first, last - 1, min(MAX_SAMPLES, last - first)).astype(int))
    seen = np.stack([t.keypoints_2d[frames - t.first_frame] for t in pair]).astype(np.float64)
    boxes = np.stack([t.bbox_xyxy[frames - t.first_frame] for t in pair])
    size = (boxes[..., 2:] - boxes[..., :2]).max(-1)
    flat = seen.reshape(2, -1, 3)
    use = (flat[..., 2] >= MIN_CONFIDENCE).all(0)
    if use.sum() < MIN_SHARED * 4:
        return float("inf")
    points = intersect(cameras, flat, np.stack([use, use]), scale=ROBUST * float(np.median(size)))
    errors = []
    for camera, points_2d, sizes in zip(cameras, flat, size, strict=True):
        distance = np.linalg.norm(camera.project(points) - points_2d[:, :2], axis=-1)
        errors.append(distance / np.repeat(sizes, seen.shape[2]))
    worst = np.max(errors, 0)[use]
    # A point behind a camera is no point.
    return float(np.median(np.where(np.isfinite(worst), worst, np.inf)))


def _clash(group: set[View], tracks: Sequence[Sequence[Track]]) -> bool:
    for a, b in combinations(group, 2):
        if a.camera == b.camera:
            one, other = tracks[a.camera][a.track], tracks[b.camera][b.track]
            starts = max(one.first_frame, other.first_frame)
            ends = min(one.first_frame + one.num_frames, other.first_frame + other.num_frames)
            if ends > starts:
                return True
    return False


def _count_frames(person: dict[int, list[int]], tracks: Sequence[Sequence[Track]]) -> int:
    return sum(tracks[c][i].num_frames for c, listed in person.items() for i in listed)
