from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extpose.config import DetectConfig
from extpose.detect.people import Detections
from extpose.detect.track import link_tracks, smooth_boxes

CONFIG = DetectConfig()
SIZE = (480, 640)
SHAPE = np.random.default_rng(0).uniform(0, 1, (17, 2))


def person(x: float, y: float, *, height: float = 160, confidence: float = 0.9, swing: float = 0.0):
    """Box and keypoints of somebody whose centre is at x, y."""
    size = np.array([height * 0.4, height])
    corner = np.array([x, y]) - size / 2
    points = corner + SHAPE * size
    points[9:11, 0] += swing * height * 0.2
    box = np.concatenate([corner, corner + size]).astype(np.float32)
    keypoints = np.concatenate([points, np.full((17, 1), confidence)], axis=1)
    return box, keypoints.astype(np.float32)


def frame_of(people) -> Detections:
    boxes = np.array([box for box, _ in people], np.float32).reshape(-1, 4)
    points = np.array([points for _, points in people], np.float32).reshape(-1, 17, 3)
    return Detections(
        bbox_xyxy=boxes, scores=np.full(len(people), 0.9, np.float32), keypoints_2d=points
    )


def video(*frames, start: int = 0):
    return [(start + i, (start + i) / 25, frame_of(people)) for i, people in enumerate(frames)]


def test_one_person_is_one_track():
    result = link_tracks(
        video(*([person(100 + 3 * i, 200)] for i in range(30)), start=7), CONFIG, SIZE
    )
    [track] = result.tracks
    assert (track.first_frame, track.num_frames, result.filtered) == (7, 30, ())
    assert track.is_detected.all()
    np.testing.assert_allclose(track.timestamps, np.arange(7, 37) / 25)
    centres = (track.bbox_xyxy[:, 0] + track.bbox_xyxy[:, 2]) / 2
    np.testing.assert_allclose(centres, 100 + 3 * np.arange(30), atol=0.01)


def test_gaps_are_bridged_and_marked():
    frames = [[person(100 + 4 * i, 200)] if not 10 <= i < 10 + 8 else [] for i in range(40)]
    [track] = link_tracks(video(*frames), CONFIG, SIZE).tracks
    assert track.num_frames == 40
    np.testing.assert_array_equal(np.flatnonzero(~track.is_detected), np.arange(10, 18))
    assert (track.keypoints_2d[10:18, :, 2] == 0).all()
    assert (track.keypoints_2d[18:, :, 2] > 0).all()
    expected = person(100 + 4 * 13, 200)[1][:, :2]
    np.testing.assert_allclose(track.keypoints_2d[13, :, :2], expected, atol=0.01)
    np.testing.assert_allclose(track.timestamps, np.arange(40) / 25)


def test_a_longer_gap_ends_the_track():
    for gap, number in ((CONFIG.max_gap, 1), (CONFIG.max_gap + 1, 2)):
        frames = [[person(200, 200)] if not 10 <= i < 10 + gap else [] for i in range(40)]
        assert len(link_tracks(video(*frames), CONFIG, SIZE).tracks) == number


@settings(max_examples=8)
@given(st.integers(0, 10_000), st.integers(0, 2), st.floats(2, 6))
def test_two_who_cross_keep_their_identities(seed, num_hidden, speed):
    """They walk through each other; while they overlap most, one or both are not detected."""
    rng = np.random.default_rng(seed)
    num_frames = int(440 / speed)
    truth = {0: [], 1: []}
    frames = []
    for i in range(num_frames):
        places = (100 + speed * i, 540 - speed * i)
        noise = rng.normal(0, 1.0, (2, 2))
        people = [
            person(places[0] + noise[0, 0], 200 + noise[0, 1], swing=np.sin(i / 3)),
            person(places[1] + noise[1, 0], 215 + noise[1, 1], swing=np.cos(i / 4), height=170),
        ]
        for who in (0, 1):
            truth[who].append(people[who][0])
        if abs(places[0] - places[1]) < 9 * speed:
            people = people[: 2 - num_hidden]
        frames.append([people[j] for j in rng.permutation(len(people))])
    result = link_tracks(video(*frames), CONFIG, SIZE)
    assert len(result.tracks) == 2
    for track in result.tracks:
        who = 0 if track.bbox_xyxy[0, 0] < 300 else 1
        wanted = np.array(truth[who])
        assert track.num_frames == num_frames
        assert np.abs(track.bbox_xyxy - wanted).max() < 25


def test_filters_name_their_reason():
    frames = [
        [person(100, 100, height=20), person(300, 200, confidence=0.1)]
        + ([person(500, 200)] if i < 5 else [])
        for i in range(20)
    ]
    result = link_tracks(video(*frames), CONFIG, SIZE)
    assert result.tracks == ()
    assert result.filtered_reasons == {"too_small": 1, "low_confidence": 1, "too_short": 1}
    short = next(track for track in result.filtered if track.reason == "too_short")
    assert (short.first_frame, short.num_frames) == (0, 5)
    kept = link_tracks(video(*frames), replace(CONFIG, min_track_frames=5), SIZE)
    assert [track.num_frames for track in kept.tracks] == [5]


def test_nobody_and_no_frames():
    assert link_tracks(video(*([] for _ in range(5))), CONFIG, SIZE).tracks == ()
    assert link_tracks([], CONFIG, SIZE).filtered == ()


def test_bad_input_is_refused():
    frames = video(*([person(100, 100)] for _ in range(4)))
    with pytest.raises(ValueError, match="frame 2 follows 0"):
        link_tracks([frames[0], *frames[2:]], CONFIG, SIZE)


def test_boxes_without_area_are_left_out_and_counted():
    box, points = person(100, 100)
    frames = [[(box, points), (box[[2, 1, 2, 3]], points)] for _ in range(10)]
    result = link_tracks(video(*frames), CONFIG, SIZE)
    assert (len(result.tracks), len(result.filtered), result.num_empty) == (1, 0, 10)


@given(st.integers(3, 60), st.floats(0.3, 5), st.floats(-9, 9), st.floats(-9, 9))
def test_smoothing_leaves_steady_motion_alone(num_frames, sigma, vx, vy):
    box = person(300, 300)[0]
    steady = box + np.arange(num_frames, dtype=np.float32)[:, None] * np.float32([vx, vy, vx, vy])
    np.testing.assert_allclose(smooth_boxes(steady, sigma), steady, atol=0.01)


def test_smoothing_quiets_a_shaking_box():
    rng = np.random.default_rng(0)
    noisy = (person(300, 300)[0] + rng.normal(0, 3, (80, 4))).astype(np.float32)
    smooth = smooth_boxes(noisy, 2.0)
    assert smooth.std(0).max() < 0.6 * noisy.std(0).min()
    np.testing.assert_array_equal(smooth_boxes(noisy, 0.0), noisy)
