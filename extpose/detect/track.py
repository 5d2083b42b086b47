"""Detections of single frames to people over time, by motion and position alone.

Each person's next place is predicted at constant velocity; predictions and detections are matched
by the Hungarian method. Frames between two detections of a person are bridged, and marked so.

Axes     t frames   k keypoints   p people of one frame
Units    source pixels, seconds

Reasons why a track is not kept: `too_short`, `too_small`, `low_confidence`.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64
from scipy.optimize import linear_sum_assignment

from extpose.config import DetectConfig
from extpose.detect.people import Detections, IdentifiedDetections, Track

VELOCITY_FRAMES = 8
"""Detections that the velocity is fitted to."""
GATE, GATE_PER_FRAME = 0.6, 0.05
"""Largest distance of a match, in box sizes, and how it grows with the frames since the last."""
GATE_SIZE = 1.0
"""Largest difference of a match in the logarithm of the box size."""
SURE = 0.2
"""Keypoints below this confidence do not take part in matching."""


@dataclass(frozen=True, kw_only=True)
class FilteredTrack:
    """A track that was not kept."""

    track_id: int
    first_frame: int
    num_frames: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class TrackingResult:
    """Tracks by id, and those that were dropped, with the reason."""

    tracks: tuple[Track, ...]
    filtered: tuple[FilteredTrack, ...]
    num_empty: int = 0
    """Detections without an area (cut off by the image's edge), left out before linking."""

    @property
    def filtered_reasons(self) -> dict[str, int]:
        """How many tracks each reason cost."""
        return dict(Counter(track.reason for track in self.filtered))


@dataclass
class _Person:
    """A track while it grows: one entry for each frame with a detection."""

    track_id: int
    frames: list[int] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)
    keypoints: list[np.ndarray] = field(default_factory=list)

    def add(self, frame: int, box: np.ndarray, keypoints: np.ndarray) -> None:
        self.frames.append(frame)
        self.boxes.append(box.astype(np.float64))
        self.keypoints.append(keypoints.astype(np.float64))

    def shift(self, frame: int) -> Float64[np.ndarray, " 2"]:
        """How far the person has moved since the last detection, at constant velocity."""
        frames = np.array(self.frames[-VELOCITY_FRAMES:], np.float64)
        centres = np.array([_centre(box) for box in self.boxes[-VELOCITY_FRAMES:]])
        away = frames - frames.mean()
        spread = (away**2).sum()
        velocity = away @ (centres - centres.mean(0)) / spread if spread > 0 else np.zeros(2)
        return velocity * (frame - self.frames[-1])


def link_tracks(
    frames: Iterable[tuple[int, float, Detections]],
    config: DetectConfig,
    image_size: tuple[int, int],
) -> TrackingResult:
    """Link the detections of consecutive frames (index, time, detections).

    `IdentifiedDetections` are linked by their own ids, which the tracks keep; one who was away for
    more than `max_gap` frames comes back as a second track of the same id. `image_size` is height,
    width. Raises ValueError for a gap in the indices.
    """
    num_empty = 0
    times: dict[int, float] = {}
    people: list[_Person] = []
    active: list[_Person] = []
    for frame, time, detections in frames:
        if times and frame - 1 not in times:
            raise ValueError(f"frame {frame} follows {max(times)}: indices must be consecutive")
        times[frame] = time
        has_area = _has_area(detections.bbox_xyxy)
        num_empty += int((~has_area).sum())
        boxes, points = detections.bbox_xyxy[has_area], detections.keypoints_2d[has_area]
        ids = None
        if isinstance(detections, IdentifiedDetections):
            ids = detections.track_ids[has_area].tolist()
        active = [p for p in active if frame - p.frames[-1] <= config.max_gap + 1]
        pairs = _match(active, frame, boxes, points) if ids is None else _match_ids(active, ids)
        for row, column in pairs:
            active[row].add(frame, boxes[column], points[column])
        known = {column for _, column in pairs}
        for column in range(len(boxes)):
            if column not in known:
                person = _Person(track_id=len(people) if ids is None else ids[column])
                person.add(frame, boxes[column], points[column])
                people.append(person)
                active.append(person)
    return replace(_select(people, times, config, image_size), num_empty=num_empty)


def _has_area(boxes: Float32[np.ndarray, "p 4"]) -> Bool[np.ndarray, " p"]:
    return ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1)


def _match(
    people: list[_Person],
    frame: int,
    boxes: Float32[np.ndarray, "p 4"],
    points: Float32[np.ndarray, "p k 3"],
) -> list[tuple[int, int]]:
    """Pairs (person, detection) of least total distance, none farther than the gate."""
    if not people or not len(boxes):
        return []
    cost = np.full((len(people), len(boxes)), np.inf)
    for row, person in enumerate(people):
        gate = GATE + GATE_PER_FRAME * (frame - person.frames[-1])
        for column in range(len(boxes)):
            distance = _distance(person, frame, boxes[column], points[column])
            if distance <= gate:
                cost[row, column] = distance
    forbidden = 1e6
    rows, columns = linear_sum_assignment(np.where(np.isfinite(cost), cost, forbidden))
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    return [(row, column) for row, column in pairs if np.isfinite(cost[row, column])]


def _match_ids(people: list[_Person], ids: list[int]) -> list[tuple[int, int]]:
    """Pairs (person, detection) of one id."""
    place = {person.track_id: row for row, person in enumerate(people)}
    return [(place[i], column) for column, i in enumerate(ids) if i in place]


def _distance(person: _Person, frame: int, box: np.ndarray, keypoints: np.ndarray) -> float:
    """Distance of a detection from where the person should be, in box sizes.

    The mean of keypoint distance, centre distance and overlap, so that neither a box that jumps
    nor a lost limb decides alone.
    """
    shift = person.shift(frame)
    predicted = person.boxes[-1] + np.tile(shift, 2)
    size, other = _size(predicted), _size(box)
    growth = abs(np.log(other / size))
    if growth > GATE_SIZE:
        return np.inf
    centre = float(np.linalg.norm(_centre(box) - _centre(predicted))) / size
    last = person.keypoints[-1]
    sure = (last[:, 2] >= SURE) & (keypoints[:, 2] >= SURE)
    offsets = keypoints[sure, :2] - last[sure, :2] - shift
    limbs = float(np.linalg.norm(offsets, axis=1).mean()) / size if sure.any() else centre
    return (limbs + centre + (1 - _overlap(predicted, box)) * 0.5) / 2.5 + 0.1 * growth


def _centre(box: Float[np.ndarray, " 4"]) -> Float[np.ndarray, " 2"]:
    return (box[:2] + box[2:]) / 2


def _size(box: Float[np.ndarray, " 4"]) -> float:
    return float(np.sqrt((box[2] - box[0]) * (box[3] - box[1])))


def _overlap(a: Float[np.ndarray, " 4"], b: Float[np.ndarray, " 4"]) -> float:
    """Intersection over union."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    common = float(np.prod(np.maximum(sides, 0)))
    return common / (_size(a) ** 2 + _size(b) ** 2 - common)


def _select(
    people: list[_Person],
    times: dict[int, float],
    config: DetectConfig,
    image_size: tuple[int, int],
) -> TrackingResult:
    """Finish the tracks and sort them into kept and filtered."""
    kept: list[Track] = []
    filtered: list[FilteredTrack] = []
    for person in people:
        track = _finish(person, times, config)
        heights = track.bbox_xyxy[:, 3] - track.bbox_xyxy[:, 1]
        confidence = track.keypoints_2d[track.is_detected, :, 2].mean()
        if track.num_frames < config.min_track_frames:
            reason = "too_short"
        elif np.median(heights) < config.min_box_height * image_size[0]:
            reason = "too_small"
        elif confidence < config.min_mean_confidence:
            reason = "low_confidence"
        else:
            kept.append(track)
            continue
        filtered.append(
            FilteredTrack(
                track_id=track.track_id,
                first_frame=track.first_frame,
                num_frames=track.num_frames,
                reason=reason,
            )
        )
    return TrackingResult(tracks=tuple(kept), filtered=tuple(filtered))


def _finish(person: _Person, times: dict[int, float], config: DetectConfig) -> Track:
    """Bridge the gaps and steady the boxes."""
    seen = np.array(person.frames)
    frames = np.arange(seen[0], seen[-1] + 1)
    points = np.array(person.keypoints)
    bridged = _interpolate(frames, seen, points.reshape(len(seen), -1))
    keypoints = bridged.reshape(len(frames), *points.shape[1:])
    is_detected = np.isin(frames, seen)
    keypoints[~is_detected, :, 2] = 0
    boxes = _interpolate(frames, seen, np.array(person.boxes))
    return Track(
        track_id=person.track_id,
        first_frame=int(seen[0]),
        bbox_xyxy=smooth_boxes(boxes.astype(np.float32), config.smooth_boxes),
        keypoints_2d=keypoints.astype(np.float32),
        timestamps=np.array([times[int(frame)] for frame in frames], np.float64),
        is_detected=is_detected,
    )


def _interpolate(
    frames: np.ndarray, seen: np.ndarray, values: Float64[np.ndarray, "n m"]
) -> Float64[np.ndarray, "t m"]:
    columns = [np.interp(frames, seen, column) for column in values.T]
    return np.stack(columns, axis=1)


def smooth_boxes(boxes: Float32[np.ndarray, "t 4"], sigma: float) -> Float32[np.ndarray, "t 4"]:
    """Gaussian mean over time of centre and logarithmic size; `sigma` in frames, 0: no change.

    The ends are continued by point reflection, so steady motion is not slowed down there.
    """
    if sigma <= 0 or len(boxes) < 3:
        return boxes
    wide = boxes.astype(np.float64)
    size = np.log(wide[:, 2:] - wide[:, :2])
    values = np.concatenate([(wide[:, :2] + wide[:, 2:]) / 2, size], axis=1)
    radius = min(int(np.ceil(4 * sigma)), len(boxes) - 1)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    padded = np.pad(values, ((radius, radius), (0, 0)), mode="reflect", reflect_type="odd")
    smooth = np.stack([np.convolve(column, weights, mode="valid") for column in padded.T], axis=1)
    half = np.exp(smooth[:, 2:]) / 2
    centre = smooth[:, :2]
    return np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
