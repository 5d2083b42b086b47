"""What a tracker may have got wrong: counts for each track, from the track and its neighbours.

Nothing here changes a track. Gaps and detections are facts. Jumps, conflicts and switches are
suspicions: places where somebody should look.

Axes     t frames   k keypoints
Units    source pixels; distances are in box sizes (the root of the area)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float64

from extpose.detect.people import Track

SURE = 0.2
"""Keypoints below this confidence do not place a person."""
JUMP = 0.3
"""Change of velocity from one frame to the next, in box sizes a frame, that nobody makes."""
CONFLICT = 0.3
"""Intersection over union from which two people can be taken for each other."""
MEMORY = 6
"""Frames before and after a meeting that are compared."""
PATIENCE, EDGE = 3, 0.15
"""Frames from a unit's ends, and box widths from the picture's, where tracks may begin and end."""
EXCHANGED = 0.7
"""A switch is suspected where exchanging two people makes their paths this much straighter."""


@dataclass(frozen=True, kw_only=True)
class TrackQuality:
    """Counts of one track."""

    detected: float
    """Share of its frames with a detection; the others are bridged."""
    num_gaps: int
    longest_gap: int
    """Frames."""
    num_jumps: int
    """Frames at which it moves as nobody does."""
    num_conflicts: int
    """Frames in which it overlaps somebody else's box by more than `CONFLICT`."""
    num_switches: int
    """Meetings after which it continues the other one's path better than its own."""
    num_breaks: int
    """Of its two ends, those inside the picture and between the first and last frame: nobody comes
    from nowhere, so the person has another track before, or after."""


def measure_tracks(
    tracks: Sequence[Track], *, image_size: tuple[int, int], frames: tuple[int, int]
) -> tuple[TrackQuality, ...]:
    """The quality of each track among all of one unit of a video.

    `image_size` is height, width; `frames` are the unit's, [start, stop).
    """
    conflicts = [np.zeros(track.num_frames, bool) for track in tracks]
    switches = [0] * len(tracks)
    for i, j in combinations(range(len(tracks)), 2):
        start, overlap = _find_overlap(tracks[i], tracks[j])
        if not overlap.any():
            continue
        for n in (i, j):
            first = start - tracks[n].first_frame
            conflicts[n][first : first + len(overlap)] |= overlap
        meetings = _count_exchanges(tracks[i], tracks[j], start, overlap)
        switches[i], switches[j] = switches[i] + meetings, switches[j] + meetings
    return tuple(
        _measure(
            track,
            num_conflicts=int(conflicts[n].sum()),
            num_switches=switches[n],
            num_breaks=_count_breaks(track, image_size, frames),
        )
        for n, track in enumerate(tracks)
    )


def _measure(
    track: Track, *, num_conflicts: int, num_switches: int, num_breaks: int
) -> TrackQuality:
    gaps = [stop - start for start, stop in _find_runs(~track.is_detected)]
    return TrackQuality(
        detected=float(track.is_detected.mean()),
        num_gaps=len(gaps),
        longest_gap=max(gaps, default=0),
        num_jumps=_count_jumps(track),
        num_conflicts=num_conflicts,
        num_switches=num_switches,
        num_breaks=num_breaks,
    )


def _count_breaks(track: Track, image_size: tuple[int, int], frames: tuple[int, int]) -> int:
    """A detector needs a few frames and a good part of a person."""
    height, width = image_size
    last = track.first_frame + track.num_frames
    is_inside = (track.first_frame > frames[0] + PATIENCE, last < frames[1] - PATIENCE)
    count = 0
    for box, is_between in zip(track.bbox_xyxy[[0, -1]], is_inside, strict=True):
        x0, y0, x1, y1 = (float(value) for value in box)
        margin = EDGE * (x1 - x0)
        is_at_edge = min(x0, y0) < margin or x1 > width - margin or y1 > height - margin
        count += is_between and not is_at_edge
    return count


def _find_runs(wanted: Bool[np.ndarray, " t"]) -> list[tuple[int, int]]:
    """The stretches [start, stop) that are wanted."""
    steps = np.diff(np.concatenate([[0], wanted.astype(np.int8), [0]]))
    starts, stops = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def _places(track: Track) -> tuple[Float64[np.ndarray, "t 2"], Float64[np.ndarray, " t"]]:
    """Where the person is, and the size. The centre of the sure keypoints where there are any:
    boxes are smoothed, which would hide a jump."""
    box = track.bbox_xyxy.astype(np.float64)
    sizes = np.sqrt(np.maximum((box[:, 2:] - box[:, :2]).prod(1), 1.0))
    places = (box[:, :2] + box[:, 2:]) / 2
    for t, points in enumerate(track.keypoints_2d):
        sure = points[:, 2] >= SURE
        if sure.sum() >= 4:
            places[t] = np.median(points[sure, :2], axis=0)
    return places, sizes


def _count_jumps(track: Track) -> int:
    """Between three detections in a row."""
    if track.num_frames < 3:
        return 0
    places, sizes = _places(track)
    change = np.linalg.norm(places[2:] - 2 * places[1:-1] + places[:-2], axis=-1) / sizes[1:-1]
    seen = track.is_detected
    is_jump = (change > JUMP) & seen[2:] & seen[1:-1] & seen[:-2]
    # A leap is a change of velocity twice, when it begins and when it ends.
    return len(_find_runs(is_jump))


def _find_overlap(a: Track, b: Track) -> tuple[int, Bool[np.ndarray, " t"]]:
    """First common frame, and in which frames from there the boxes overlap much."""
    start = max(a.first_frame, b.first_frame)
    stop = min(a.first_frame + a.num_frames, b.first_frame + b.num_frames)
    if stop <= start:
        return start, np.zeros(0, bool)
    one, other = (
        t.bbox_xyxy[start - t.first_frame : stop - t.first_frame].astype(np.float64) for t in (a, b)
    )
    sides = np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2])
    common = np.maximum(sides, 0).prod(1)
    areas = [(box[:, 2:] - box[:, :2]).prod(1) for box in (one, other)]
    overlap: Bool[np.ndarray, " t"] = common > CONFLICT * (areas[0] + areas[1] - common)
    return start, overlap


def _count_exchanges(a: Track, b: Track, start: int, overlap: Bool[np.ndarray, " t"]) -> int:
    """Meetings after which the two continue each other's paths better than their own."""
    count = 0
    for first, last in _find_runs(overlap):
        before, after = start + first, start + last
        paths = [
            (_path(t, before - MEMORY, before), _path(t, after, after + MEMORY)) for t in (a, b)
        ]
        if any(len(path) < 3 for pair in paths for path in pair):
            continue
        (a_in, a_out), (b_in, b_out) = paths
        kept = _break(a_in, a_out) + _break(b_in, b_out)
        exchanged = _break(a_in, b_out) + _break(b_in, a_out)
        count += exchanged < EXCHANGED * kept
    return count


def _path(track: Track, start: int, stop: int) -> Float64[np.ndarray, "n 4"]:
    """Frame, place in sizes, and logarithm of the size, of the detections in [start, stop)."""
    places, sizes = _places(track)
    frames = np.arange(track.num_frames) + track.first_frame
    wanted = (frames >= start) & (frames < stop) & track.is_detected
    rows = np.concatenate([frames[:, None], places, np.log(sizes)[:, None]], axis=1)
    return rows[wanted]


def _break(before: Float64[np.ndarray, "n 4"], after: Float64[np.ndarray, "m 4"]) -> float:
    """How badly one path continues another: by place at constant velocity, heading, and size."""
    size = float(np.exp(np.concatenate([before, after])[:, 3].mean()))
    speeds = [
        np.polynomial.polynomial.polyfit(path[:, 0] - path[:, 0].mean(), path[:, 1:3], 1)[1]
        for path in (before, after)
    ]
    elapsed = after[:, 0].mean() - before[:, 0].mean()
    expected = before[:, 1:3].mean(0) + (speeds[0] + speeds[1]) / 2 * elapsed
    place = float(np.linalg.norm(after[:, 1:3].mean(0) - expected)) / size
    turn = float(np.linalg.norm(speeds[1] - speeds[0])) / size * MEMORY
    growth = abs(float(after[:, 3].mean() - before[:, 3].mean()))
    return place + turn + growth
