"""The shards of several views: whoever a camera did not see is not in its shard."""

from pathlib import Path

import numpy as np

from extpose.body_model import load_body_model
from extpose.data.loader import find_shards
from extpose.data.shards import read_shard
from extpose.multiview.triangulate import triangulate
from extpose.video import VideoWriter
from pipelines.multiview import gather
from pipelines.multiview_output import write_shards
from pipelines.multiview_people import Person, Recording
from pipelines.validate import validate
from tests.multiview.scene import SIZE, make_cameras, make_points, make_track, see

FRAMES = 3


def test_who_is_seen_by_some_cameras_is_in_their_shards_only(tmp_path: Path) -> None:
    cameras = make_cameras(3)
    video = tmp_path / "video.mp4"
    with VideoWriter(video, 30.0, SIZE) as writer:
        for _ in range(FRAMES):
            writer.write(np.full((*SIZE, 3), 90, np.uint8))
    recording = Recording(
        cameras=cameras, paths=[video] * 3, first=[0] * 3, num_frames=FRAMES, fps=30.0
    )
    points = make_points(FRAMES)
    tracks = [[make_track(seen)] for seen in see(cameras, points)[:2]] + [[]]
    keypoints, boxes, is_detected = gather(tracks, {0: [0], 1: [0]}, FRAMES)
    person = Person(
        keypoints=keypoints,
        boxes=boxes,
        is_detected=is_detected,
        found=triangulate(cameras, keypoints, scale=6.0),
        points_world=points,
        body=None,
    )
    out = tmp_path / "out"
    out.mkdir()
    write_shards(out, recording, cameras, [person], load_body_model())
    shards = find_shards(out)
    assert [shard.name for shard in shards] == ["multiview-cam0.tar", "multiview-cam1.tar"]
    for shard, camera in zip(shards, cameras, strict=False):
        (clip,) = read_shard(shard)
        assert clip.targets is not None
        labels = clip.targets.keypoints_2d
        labelled = labels[..., 2] > 0
        assert labelled.any()
        assert clip.num_frames == FRAMES
        np.testing.assert_allclose(clip.intrinsics[0], camera.K, rtol=1e-6)
    assert validate(out) == 0
