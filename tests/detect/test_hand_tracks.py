"""Hands over time: every frame of every side ends as written or with a reason."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extpose.config import DetectConfig
from extpose.detect.hand_tracks import HandTracking, track_hands
from extpose.detect.people import Track
from extpose.detect.wrist_hands import FoundHands

CONFIG = DetectConfig(min_track_frames=4, max_gap=3, smooth_boxes=0.0)
SHAPE = np.random.default_rng(0).uniform(0, 40, (21, 2))
RGB = np.zeros((8, 8, 3), np.uint8)


def person(track_id: int, first: int, num_frames: int) -> Track:
    boxes = np.tile(np.array([0, 0, 50, 100], np.float32), (num_frames, 1))
    boxes[:, 0] = track_id  # the finder below knows people by it
    return Track(
        track_id=track_id,
        first_frame=first,
        bbox_xyxy=boxes,
        keypoints_2d=np.full((num_frames, 17, 3), 0.9, np.float32),
        timestamps=np.arange(first, first + num_frames) / 25,
        is_detected=np.ones(num_frames, bool),
    )


class Script:
    """Says of each (person, side) what the letters of a word say: h hand, d disputed, - unsure."""

    name = "script"

    def __init__(self, words: dict[tuple[int, int], str], size: float = 1.0) -> None:
        self.words, self.at, self.size = words, dict.fromkeys(words, 0), size

    def find_hands(self, rgb: np.ndarray, boxes: np.ndarray, bodies: np.ndarray) -> FoundHands:
        points = np.zeros((len(boxes), 2, 21, 3), np.float32)
        reasons, disputed = [["", ""] for _ in boxes], np.zeros((len(boxes), 2), bool)
        for row, box in enumerate(boxes):
            for side in range(2):
                key = (int(box[0]), side)
                letter = self.words[key][self.at[key]]
                points[row, side, :, :2] = SHAPE * self.size + self.at[key] + 100 * side
                points[row, side, :, 2] = 0.8
                self.at[key] += 1
                reasons[row][side] = "unsure" if letter == "-" else ""
                disputed[row, side] = letter == "d"
        return FoundHands(keypoints_2d=points, reasons=reasons, is_disputed=disputed)


def run(left: str, right: str, *, size: float = 1.0, config: DetectConfig = CONFIG) -> HandTracking:
    one = person(6, 10, len(left))
    frames = ((i, RGB) for i in range(10, 10 + len(left)))
    return track_hands(frames, [one], Script({(6, 0): left, (6, 1): right}, size), config)


def test_sides_ids_and_places() -> None:
    found = run("hhhhhh", "-hhhh-")
    left, right = found.tracks
    assert (left.track_id, left.is_right, left.first_frame, left.num_frames) == (12, False, 10, 6)
    assert (right.track_id, right.is_right, right.first_frame, right.num_frames) == (
        13, True, 11, 4,
    )  # fmt: skip
    np.testing.assert_allclose(right.timestamps, np.arange(11, 15) / 25)
    np.testing.assert_allclose(right.keypoints_2d[0, :, :2], SHAPE + 101, rtol=1e-5)
    low, high = right.bbox_xyxy[0, :2], right.bbox_xyxy[0, 2:]
    assert (low < right.keypoints_2d[0, :, :2].min(0)).all()
    assert (high > right.keypoints_2d[0, :, :2].max(0)).all()
    assert [(f.first_frame, f.num_frames, f.reason) for f in found.filtered] == [
        (10, 1, "unsure"), (15, 1, "unsure"),
    ]  # fmt: skip
    assert found.reasons == {"unsure": 2}


def test_short_gaps_are_bridged_and_marked_long_ones_cut() -> None:
    (track,) = run("hh---hhh", "--------").tracks
    assert track.is_detected.tolist() == [True] * 2 + [False] * 3 + [True] * 3
    assert (track.keypoints_2d[2:5, :, 2] == 0).all()
    np.testing.assert_allclose(track.keypoints_2d[3, :, :2], SHAPE + 3, atol=1e-4)
    found = run("hhhh----hhhh", "------------")
    assert [(t.track_id, t.first_frame) for t in found.tracks] == [(12, 10), (12, 18)]


@pytest.mark.parametrize(
    ("word", "size", "config", "reason"),
    [
        ("hhh-----", 1.0, CONFIG, "too_short"),
        ("hhhhhhhh", 0.2, CONFIG, "too_small"),
        ("hhhhhhhh", 1.0, replace(CONFIG, min_mean_confidence=0.85), "low_confidence"),
        ("dhdddhhd", 1.0, CONFIG, "other_side"),
    ],
)
def test_why_a_hand_is_not_kept(word: str, size: float, config: DetectConfig, reason: str) -> None:
    found = run(word, "-" * 8, size=size, config=config)
    assert not found.tracks
    assert found.counts[0].reasons[reason] == word.count("h") + word.count("d")


WORDS = st.lists(st.text("hd-", min_size=1, max_size=20), min_size=1, max_size=3)


@settings(max_examples=40)
@given(WORDS, st.integers(0, 1000))
def test_the_sums_hold(words: list[str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    people = [person(i, int(rng.integers(0, 5)), len(word)) for i, word in enumerate(words)]
    scripts = {(i, side): word for i, word in enumerate(words) for side in range(2)}
    found = track_hands(((i, RGB) for i in range(30)), people, Script(scripts), CONFIG)
    for count in found.counts:
        assert count.frames == len(words[count.track_id])
        assert count.frames == count.written + sum(count.reasons.values())
        assert count.disputed <= count.found <= count.frames
    assert sum(t.num_frames for t in found.tracks) == sum(c.written for c in found.counts)
    lost = sum(f.num_frames for f in found.filtered)
    assert lost == sum(sum(c.reasons.values()) for c in found.counts)
    for track in found.tracks:
        assert track.is_detected[[0, -1]].all()


def test_frames_that_are_missing_are_an_error() -> None:
    with pytest.raises(ValueError, match="6 frames of hands are missing"):
        track_hands(
            ((i, RGB) for i in range(2)),
            [person(0, 0, 5)],
            Script({(0, 0): "hhhhh", (0, 1): "hhhhh"}),
            CONFIG,
        )
