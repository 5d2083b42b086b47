"""Tracked people to tracks of their hands: one a side and stretch of frames, gaps bridged.

A hand follows its person, so nothing is linked here. A hand that is not seen for more than
`max_gap` frames ends; when it comes back, a second track of the same id begins.

Axes     t frames, 21 keypoints
Units    source pixels
Reasons  of `wrist_hands` for frames without a hand; and for stretches that are not kept, as of
         people: `too_short`, `too_small`, `low_confidence`; and `other_side` (the hand network
         takes most of its frames for a hand of the other side)
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from extpose.config import DetectConfig
from extpose.detect.people import HandTrack, Track
from extpose.detect.track import FilteredTrack, smooth_boxes
from extpose.detect.wrist_hands import HandFinder

BOX_MARGIN = 0.1
"""Around the keypoints, in longer sides of their extent: the hand detector's."""
MAX_DISPUTED = 0.5
"""Share of frames, above which a hand would teach the wrong side."""


@dataclass(frozen=True, kw_only=True)
class HandCount:
    """The frames of one side of one person: frames = written + the reasons."""

    track_id: int
    """Of the person."""
    is_right: bool
    frames: int
    found: int
    """Frames with a hand, kept or not."""
    disputed: int
    """Of these, frames in which the hand network says the other side."""
    written: int
    """Frames in a track, bridged ones too."""
    reasons: dict[str, int]

    def as_row(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class HandTracking:
    """Hands that were kept, stretches of frames that were not, and the counts of each side."""

    tracks: tuple[HandTrack, ...]
    filtered: tuple[FilteredTrack, ...]
    counts: tuple[HandCount, ...]

    @property
    def reasons(self) -> dict[str, int]:
        """Frames of a side that are in no track, by reason."""
        total: Counter[str] = Counter()
        for count in self.counts:
            total.update(count.reasons)
        return dict(sorted(total.items()))


@dataclass
class _Side:
    """One side of one person, frame by frame."""

    person: Track
    is_right: bool
    points: list[np.ndarray] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    is_disputed: list[bool] = field(default_factory=list)

    @property
    def track_id(self) -> int:
        return 2 * self.person.track_id + self.is_right


def track_hands(
    frames: Iterable[tuple[int, UInt8[np.ndarray, "h w 3"]]],
    people: Sequence[Track],
    finder: HandFinder,
    config: DetectConfig,
) -> HandTracking:
    """The hands of all people, in one pass over (index, RGB) frames.

    Raises ValueError when the frames end before the last person's track.
    """
    sides = {
        (index, side): _Side(person=person, is_right=bool(side))
        for index, person in enumerate(people)
        for side in range(2)
    }
    for frame, rgb in frames:
        here = [i for i, p in enumerate(people) if 0 <= frame - p.first_frame < p.num_frames]
        if not here:
            continue
        at = [(people[i], frame - people[i].first_frame) for i in here]
        found = finder.find_hands(
            rgb,
            np.stack([person.bbox_xyxy[k] for person, k in at]),
            np.stack([person.keypoints_2d[k] for person, k in at]),
        )
        for row, index in enumerate(here):
            for side in range(2):
                one = sides[index, side]
                one.points.append(found.keypoints_2d[row, side])
                one.reasons.append(found.reasons[row][side])
                one.is_disputed.append(bool(found.is_disputed[row, side]))
    missing = sum(s.person.num_frames - len(s.points) for s in sides.values())
    if missing:
        raise ValueError(f"{missing} frames of hands are missing: the frames ended before")
    return _collect(list(sides.values()), config)


def _collect(sides: list[_Side], config: DetectConfig) -> HandTracking:
    tracks: list[HandTrack] = []
    filtered: list[FilteredTrack] = []
    counts: list[HandCount] = []
    for side in sides:
        fates = np.array(side.reasons, dtype=object)
        found = np.flatnonzero(fates == "")
        for seen in _stretches(found, config.max_gap):
            track, part = _finish(side, seen, config), slice(int(seen[0]), int(seen[-1]) + 1)
            disputed = np.mean([side.is_disputed[i] for i in seen])
            fates[part] = "other_side" if disputed > MAX_DISPUTED else _why_not(track, config)
            if fates[part][0] == "":
                tracks.append(track)
        filtered += _spans(side, list(fates))
        reasons = Counter(fate for fate in fates if fate)
        counts.append(
            HandCount(
                track_id=side.person.track_id,
                is_right=side.is_right,
                frames=len(fates),
                found=len(found),
                disputed=sum(side.is_disputed),
                written=len(fates) - reasons.total(),
                reasons=dict(sorted(reasons.items())),
            )
        )
    return HandTracking(tracks=tuple(tracks), filtered=tuple(filtered), counts=tuple(counts))


def _stretches(found: Int64[np.ndarray, " n"], max_gap: int) -> list[np.ndarray]:
    """Frames with a hand, cut where more than `max_gap` frames lie between two."""
    if not len(found):
        return []
    return np.split(found, np.flatnonzero(np.diff(found) > max_gap + 1) + 1)


def _finish(side: _Side, seen: Int64[np.ndarray, " n"], config: DetectConfig) -> HandTrack:
    """Bridge the gaps between the frames `seen`, and steady the boxes."""
    frames = np.arange(seen[0], seen[-1] + 1)
    points = np.stack([side.points[i] for i in seen]).astype(np.float64)
    flat = points.reshape(len(seen), -1)
    columns = [np.interp(frames, seen, column) for column in flat.T]
    keypoints = np.stack(columns, 1).reshape(-1, 21, 3).astype(np.float32)
    is_detected = np.isin(frames, seen)
    boxes = hand_boxes(keypoints)
    keypoints[~is_detected, :, 2] = 0
    person = side.person
    return HandTrack(
        track_id=side.track_id,
        first_frame=person.first_frame + int(seen[0]),
        bbox_xyxy=smooth_boxes(boxes, config.smooth_boxes),
        keypoints_2d=keypoints,
        timestamps=person.timestamps[frames],
        is_detected=is_detected,
        is_right=side.is_right,
    )


def hand_boxes(keypoints: Float32[np.ndarray, "t 21 3"]) -> Float32[np.ndarray, "t 4"]:
    """Around all 21 keypoints, with a margin; at least a pixel wide."""
    low, high = keypoints[..., :2].min(1), keypoints[..., :2].max(1)
    margin = np.maximum((high - low).max(-1, keepdims=True) * BOX_MARGIN, 0.5)
    return np.concatenate([low - margin, high + margin], -1).astype(np.float32)


def _why_not(track: HandTrack, config: DetectConfig) -> str:
    sides = (track.bbox_xyxy[:, 2:] - track.bbox_xyxy[:, :2]).max(-1)
    if track.num_frames < config.min_track_frames:
        return "too_short"
    if np.median(sides) < config.min_hand_pixels:
        return "too_small"
    confidence = track.keypoints_2d[track.is_detected, :, 2].mean()
    return "low_confidence" if confidence < config.min_mean_confidence else ""


def _spans(side: _Side, fates: list[str]) -> Iterator[FilteredTrack]:
    """Neighbouring frames that one reason keeps out."""
    first = side.person.first_frame
    for fate, group in groupby(fates):
        length = len(list(group))
        if fate:
            yield FilteredTrack(
                track_id=side.track_id, first_frame=first, num_frames=length, reason=fate
            )
        first += length
