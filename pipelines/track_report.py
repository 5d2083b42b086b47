"""What a folder's tracks are like: sums of their quality, and who goes on in the next unit.

A unit's tracks are numbered on their own, so that its shard does not depend on its neighbours.
Which track continues which is found afterwards, from the markers alone: the last box of a track
that reaches the end of its unit against the first boxes of those that begin with the next.
"""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from extpose.detect.boxes import box_iou
from extpose.detect.people import Track
from extpose.detect.quality import TrackQuality

BORDER = 3
"""Frames from a unit's border within which a track must end, or begin, to go on."""
MIN_OVERLAP = 0.3
COUNTS = ("num_gaps", "num_jumps", "num_conflicts", "num_switches", "num_breaks")


def describe_track(track: Track, quality: TrackQuality) -> dict[str, Any]:
    """A track's entry in its unit's marker."""
    boxes = {"first_box": track.bbox_xyxy[0], "last_box": track.bbox_xyxy[-1]}
    numbers = asdict(quality) | {"detected": round(quality.detected, 4)}
    return {
        "track_id": track.track_id,
        "first_frame": track.first_frame,
        "num_frames": track.num_frames,
        **{name: [round(float(v), 1) for v in box] for name, box in boxes.items()},
        **numbers,
    }


def sum_tracks(tracks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The manifest's line about all tracks."""
    frames = sum(track["num_frames"] for track in tracks)
    detected = sum(track["detected"] * track["num_frames"] for track in tracks)
    return {
        "tracks": len(tracks),
        "detected": round(detected / frames, 4) if frames else None,
        "longest_gap": max((track["longest_gap"] for track in tracks), default=0),
        **{name: sum(track[name] for track in tracks) for name in COUNTS},
    }


def say_tracks(sums: dict[str, Any], num_links: int) -> str:
    """The same for people."""
    if not sums["tracks"]:
        return "no tracks"
    return (
        f"{sums['tracks']} tracks, {num_links} of which go on from one unit to the next; "
        f"{sums['detected']:.1%} of their frames detected, {sums['num_gaps']} gaps bridged "
        f"(longest {sums['longest_gap']}); {sums['num_conflicts']} frames in conflict. To look at: "
        f"{sums['num_jumps']} jumps, {sums['num_switches']} suspected switches, "
        f"{sums['num_breaks']} ends in the middle of the picture"
    )


def link_units(units: Sequence[tuple[str, int, Sequence[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """Who goes on: `units` are name, first frame and tracks, in the order of one video."""
    links = []
    for (name, _, tracks), (following, border, others) in pairwise(units):
        ends = [t for t in tracks if t["first_frame"] + t["num_frames"] > border - BORDER]
        starts = [t for t in others if t["first_frame"] < border + BORDER]
        for end, start in _match(ends, starts):
            link = {"from": [name, end["track_id"]], "to": [following, start["track_id"]]}
            links.append(link)
    return links


def _match(
    ends: list[dict[str, Any]], starts: list[dict[str, Any]]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Pairs of most overlap, each track once."""
    if not ends or not starts:
        return []
    boxes = [
        np.array([track[name] for track in group], np.float32)
        for group, name in ((ends, "last_box"), (starts, "first_box"))
    ]
    overlap = box_iou(*boxes)
    rows, columns = linear_sum_assignment(-overlap)
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    return [(ends[i], starts[j]) for i, j in pairs if overlap[i, j] >= MIN_OVERLAP]
