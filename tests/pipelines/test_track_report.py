"""Tracks of units to sums, and to who goes on in the next unit; odd tracks to named reasons."""

import json
from pathlib import Path

import numpy as np
import pytest

from extpose.data.shards import read_shard
from extpose.detect.people import Detections
from pipelines.ledger import open_output, read_outcome
from pipelines.plan import make_manifest, plan_videos, settings_of
from pipelines.rows import pack_arrays, unpack_arrays
from pipelines.stages.pack import pack
from pipelines.stages.track import track
from pipelines.track_report import link_units, say_tracks, sum_tracks
from tests.pipelines.fakes import BoxDetector, box_detector, config_of, write_people
from tests.pipelines.stages_alone import detect_alone


def entry(track_id: int, first_frame: int, num_frames: int, start: float, end: float) -> dict:
    box = [0, 20, 30, 100]
    return {
        "track_id": track_id,
        "first_frame": first_frame,
        "num_frames": num_frames,
        "first_box": [start, *box[1:2], start + 30, 100],
        "last_box": [end, *box[1:2], end + 30, 100],
    }


def test_who_is_where_the_other_was_goes_on() -> None:
    first = [entry(0, 0, 20, 10, 50), entry(1, 2, 18, 100, 60), entry(2, 0, 9, 200, 200)]
    second = [entry(0, 20, 20, 62, 0), entry(1, 21, 10, 52, 99), entry(2, 30, 9, 200, 0)]
    assert link_units([("a", 0, first), ("b", 20, second), ("c", 40, [])]) == [
        {"from": ["a", 0], "to": ["b", 1]},
        {"from": ["a", 1], "to": ["b", 0]},
    ]


def rows_of(folder: Path, video: Path) -> list[dict]:
    config = config_of(video, folder)
    settings = settings_of(config, "boxes 1")
    with open_output(folder):
        [planned] = plan_videos([video], config, settings)
    detect = detect_alone(box_detector().build(config.detect))
    return [track(detect(vars(unit)), config=config.detect) for unit in planned.units]


def test_the_manifest_tells_tracks_and_their_continuation(tmp_path: Path) -> None:
    video = write_people(tmp_path / "two.mp4", 50, people=2)
    config = config_of(video, tmp_path / "out")
    for row in rows_of(config.out, video):
        assert pack(row, config=config, detector="boxes")["write_error"] == ""
    settings = settings_of(config, "boxes 1")
    videos = plan_videos([video], config, settings)
    manifest = make_manifest(
        videos, lambda unit: read_outcome(config.out, unit), settings, config.split
    )
    counts = manifest["track_counts"]
    assert (counts["tracks"], counts["detected"], counts["num_switches"]) == (6, 1.0, 0)
    links = manifest["videos"][0]["continued_tracks"]
    assert len(links) == 4
    boxes = {}
    for path in sorted(config.out.glob("*.tar")):
        for clip in read_shard(path):
            boxes.setdefault((path.stem, clip.meta.track_id), []).append(clip.bbox_xyxy)
    for link in links:
        before, after = (boxes[tuple(link[end])] for end in ("from", "to"))
        assert np.abs(before[-1][-1] - after[0][0]).max() < 3
    assert "6 tracks, 4 of which go on" in say_tracks(counts, len(links))
    assert say_tracks(sum_tracks([]), 0) == "no tracks"


class DetectorOfNothing(BoxDetector):
    """Finds each person a second time, in a box without an area."""

    def find(self, rgb: np.ndarray) -> Detections:
        found = super().find(rgb)
        flat = found.bbox_xyxy[:, [2, 1, 2, 3]]
        return Detections(
            bbox_xyxy=np.concatenate([found.bbox_xyxy, flat]),
            scores=np.tile(found.scores, 2),
            keypoints_2d=np.tile(found.keypoints_2d, (2, 1, 1)),
        )


def test_detections_without_an_area_are_in_the_accounts(tmp_path: Path) -> None:
    config = config_of(write_people(tmp_path / "a.mp4", 20), tmp_path / "out")
    with open_output(config.out):
        videos = plan_videos(config.source.path, config, {})
        [unit] = videos[0].units
        row = detect_alone(DetectorOfNothing(0))(vars(unit))
        pack(track(row, config=config.detect), config=config, detector="boxes")
    outcome = read_outcome(config.out, unit)
    assert outcome is not None
    assert (outcome.num_tracks, outcome.empty_detections) == (1, 20)
    counts = make_manifest(videos, lambda _: outcome, {}, config.split)["frame_counts"]
    assert counts["empty_detections"] == 20


@pytest.mark.parametrize(("reason", "message"), [
    ("truncated", "the frames ended before"), ("size_changed", "expected (60, 80)"),
    ("bad_track", "every box needs x1 < x2"),
])  # fmt: skip
def test_what_cannot_be_cut_out_has_its_true_reason(
    tmp_path: Path, reason: str, message: str
) -> None:
    video = write_people(tmp_path / "one.mp4", 16)
    config = config_of(video, tmp_path / "out")
    [row] = rows_of(config.out, video)
    arrays = unpack_arrays(row["tracks"])
    if reason == "truncated":  # a track that is longer than the video
        for name in ("bbox_xyxy.0", "keypoints_2d.0", "timestamps.0", "is_detected.0"):
            arrays[name] = np.concatenate([arrays[name], arrays[name][-1:]])
        arrays["num_frames"] = np.array(17)
    elif reason == "size_changed":
        row = row | {"height": 60, "width": 80}
    else:
        arrays["bbox_xyxy.0"] = arrays["bbox_xyxy.0"][:, [2, 1, 0, 3]]
    pack(row | {"tracks": pack_arrays(**arrays)}, config=config, detector="boxes")
    [marker] = (config.out / "done").glob("*.json")
    content = json.loads(marker.read_text())
    assert (content["status"], content["reason"]) == ("quarantined", reason)
    assert message in content["message"]
    assert content["quarantined"] == content["frames"] == 16
