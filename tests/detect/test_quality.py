"""Mistakes of tracks that are made on purpose are counted; right tracks have none."""

from dataclasses import replace

import numpy as np
import pytest

from extpose.config import DetectConfig
from extpose.detect.people import Track
from extpose.detect.quality import measure_tracks
from extpose.detect.track import link_tracks
from tests.crowds import SIZE, make_crowd, score_tracks

UNIT = {"image_size": SIZE, "frames": (0, 60)}


def walker(track_id: int, x: np.ndarray, *, height: float = 160.0, first_frame: int = 0) -> Track:
    """A person whose centre is at x; the limbs are in the box."""
    rng = np.random.default_rng(track_id)
    half = np.array([height * 0.2, height / 2])
    centre = np.stack([x, np.full(len(x), 240.0)], 1)
    boxes = np.concatenate([centre - half, centre + half], 1).astype(np.float32)
    points = boxes[:, None, :2] + rng.uniform(0, 1, (17, 2)) * (2 * half)
    sure = np.full((len(x), 17, 1), 0.9)
    return Track(
        track_id=track_id,
        first_frame=first_frame,
        bbox_xyxy=boxes,
        keypoints_2d=np.concatenate([points, sure], -1).astype(np.float32),
        timestamps=(first_frame + np.arange(len(x))) / 25,
        is_detected=np.ones(len(x), bool),
    )


RIGHT, LEFT = 100 + 7.0 * np.arange(60), 520 - 7.0 * np.arange(60)


def test_a_steady_track_has_no_faults() -> None:
    [quality] = measure_tracks([walker(0, RIGHT)], **UNIT)
    assert quality.detected == 1
    assert not any(value for name, value in vars(quality).items() if name != "detected")


def test_gaps_are_counted() -> None:
    track = walker(0, RIGHT)
    seen = track.is_detected.copy()
    seen[10:13] = seen[30:37] = False
    points = track.keypoints_2d.copy()
    points[~seen, :, 2] = 0
    [quality] = measure_tracks([replace(track, is_detected=seen, keypoints_2d=points)], **UNIT)
    assert (quality.num_gaps, quality.longest_gap, quality.num_jumps) == (2, 7, 0)
    assert quality.detected == pytest.approx(50 / 60)


def test_a_leap_is_a_jump() -> None:
    x = RIGHT.copy()
    x[30:] += 120
    [quality] = measure_tracks([walker(0, x)], **UNIT)
    assert quality.num_jumps == 1


def test_people_who_pass_are_in_conflict_and_not_switched() -> None:
    for quality in measure_tracks([walker(0, RIGHT), walker(1, LEFT, height=175)], **UNIT):
        assert 3 <= quality.num_conflicts <= 8
        assert quality.num_switches == 0


def test_people_who_are_taken_for_each_other_are_suspected() -> None:
    """After the meeting each track goes on with the other one."""
    a, b = walker(0, RIGHT), walker(1, LEFT, height=175)

    def join(first: Track, second: Track) -> Track:
        names = ("bbox_xyxy", "keypoints_2d", "is_detected")
        parts = {
            n: np.concatenate([getattr(first, n)[:30], getattr(second, n)[30:]]) for n in names
        }
        return replace(first, **parts)

    for quality in measure_tracks([join(a, b), join(b, a)], **UNIT):
        assert quality.num_switches == 1


@pytest.mark.parametrize(("start", "stop", "breaks"), [(0, 60, 0), (0, 40, 1), (20, 40, 2)])
def test_ends_in_the_middle_are_breaks(start: int, stop: int, breaks: int) -> None:
    track = walker(0, RIGHT[start:stop], first_frame=start)
    assert measure_tracks([track], **UNIT)[0].num_breaks == breaks


def test_who_leaves_at_the_border_is_no_break() -> None:
    track = walker(0, 600 - 14.0 * np.arange(42))
    assert measure_tracks([track], **UNIT)[0].num_breaks == 0


def test_the_tracker_against_truth() -> None:
    """Two people who cross, with missed and hidden detections; the whole table is a benchmark."""
    scores = []
    for seed in range(2):
        crowd = make_crowd(seed, people=2, num_frames=60)
        tracks = link_tracks(crowd.frames, DetectConfig(), SIZE).tracks
        scores.append(score_tracks(crowd.boxes, tracks))
    assert np.mean([score.mota for score in scores]) > 0.95
    assert np.mean([score.idf1 for score in scores]) > 0.95


def test_the_scorer_counts_what_was_done_to_truth() -> None:
    crowd = make_crowd(0, people=2, num_frames=40)
    truth = tuple(
        replace(walker(p, np.zeros(40)), bbox_xyxy=crowd.boxes[:, p].astype(np.float32))
        for p in (0, 1)
    )
    perfect = score_tracks(crowd.boxes, truth)
    assert (perfect.mota, perfect.idf1, perfect.switches) == (1, 1, ())
    half = score_tracks(crowd.boxes, truth[:1])
    assert (half.mota, half.num_missed) == (0.5, 40)
    exchanged = tuple(
        replace(
            truth[p],
            bbox_xyxy=np.concatenate([truth[p].bbox_xyxy[:20], truth[1 - p].bbox_xyxy[20:]]),
        )
        for p in (0, 1)
    )
    score = score_tracks(crowd.boxes, exchanged)
    assert len(score.switches) == 2
    assert score.idf1 == 0.5
