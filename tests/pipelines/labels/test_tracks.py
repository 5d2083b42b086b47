"""Boxes and evidence from labelled points."""

import numpy as np
import pytest

from extpose.keypoints import KEYPOINT_NAMES
from pipelines.labels.tracks import find_boxes, make_track, to_evidence, with_ones
from pipelines.records import SourceError


def test_boxes_fall_back_frame_by_frame() -> None:
    points = np.array([[[1, 2, 1], [3, 5, 0.5], [9, 9, 0]], [[0, 0, 0]] * 3], np.float32)
    fallback = np.array([[[7, 7, 1], [8, 9, 1]]] * 2, np.float32)
    np.testing.assert_array_equal(find_boxes(points, fallback), [[1, 2, 3, 5], [7, 7, 8, 9]])
    with pytest.raises(SourceError, match="frame 1 has no labelled point"):
        find_boxes(points)


def test_lsp_joints_stand_in_for_missing_ones() -> None:
    names, coco = KEYPOINT_NAMES["body44"], KEYPOINT_NAMES["coco17"]
    points = np.zeros((44, 3), np.float32)
    points[names.index("left_wrist")] = (1, 1, 1)
    points[names.index("lsp_left_wrist")] = (2, 2, 1)
    points[names.index("lsp_right_knee")] = (3, 3, 1)
    evidence = to_evidence(points)
    assert evidence[coco.index("left_wrist")].tolist() == [1, 1, 1]
    assert evidence[coco.index("right_knee")].tolist() == [3, 3, 1]
    assert evidence[:, 2].sum() == 2


def test_tracks_count_frames_at_their_rate() -> None:
    boxes, evidence = np.zeros((3, 4), np.float32), np.zeros((3, 17, 3), np.float32)
    track = make_track(boxes, evidence, first_frame=5, fps=10.0)
    np.testing.assert_allclose(track.timestamps, [0.5, 0.6, 0.7])
    assert track.is_detected.all()
    assert (track.first_frame, track.num_frames) == (5, 3)


def test_labelled_points_have_a_last_channel_of_one() -> None:
    assert with_ones(np.full((2, 3, 2), 7.0))[1, 2].tolist() == [7, 7, 1]
