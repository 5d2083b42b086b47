"""The noise model beside the detector on real footage: a check, nothing is fitted to it.

On `pose2sim` the reference's projected limb joints stand for the truth; their own error (15 mm a
limb joint, 30 to 40 mm at the hips) is as large as the detector's, and the same detector helped to
make them, so sizes of errors there say little and their course over time says more. On the walkers
there is no truth: a smoothed track takes its place, and only the second difference is compared.

Axes    t frames   k keypoints
"""

from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter1d

from extpose.assets import fetch
from extpose.config import DetectConfig
from extpose.detect.track import link_tracks
from extpose.keypoints import COCO17_OF_BODY44
from extpose.synth.evidence import Observer, match_people
from extpose.synth.noise import KINDS, DetectorNoise
from extpose.synth.noise_errors import measure, second_difference, simulate
from extpose.synth.noise_table import compare_noise, format_rows
from extpose.synth.observed import Observed, join_observed
from extpose.video import probe, read_frames
from pipelines.cutting import read_pictures
from pipelines.records import Record
from pipelines.sources.pose2sim import CAMERAS, SOURCE

LIMBS = KINDS[3:]
SMOOTHING = 0.1
"""Deviation in seconds of the Gaussian that makes a track the truth."""
NUM_WALK_FRAMES = 90
SURE = 0.3


def check_footage(noise: DetectorNoise, observer: Observer) -> list[str]:
    """Lines of text. Raises AssetError where the videos cannot be had."""
    observed, fps = observe_pose2sim(observer)
    lines = [
        "real footage, pose2sim (check only): limb joints against the projected reference",
        format_rows(compare_noise(observed, noise, fps=fps, kinds=LIMBS)),
        "real footage, walkers (check only): median second difference % of the person's size",
    ]
    tracks, fps = observe_walkers(observer)
    for track in tracks:
        drawn = simulate(track, noise, fps=fps)
        real, model = (100 * second_difference(measure(seen)) for seen in (track, drawn))
        lines.append(f"  {track.is_found.size} frames: detector {real:.2f}, model {model:.2f}")
    return lines


def observe_pose2sim(observer: Observer) -> tuple[Observed, float]:
    """The man in all four views; keypoints without a label count as outside the picture."""
    parts, fps = [], 0.0
    for camera in CAMERAS:
        for record in SOURCE.read_unit(Path(), "test", camera):
            if not isinstance(record, Record):
                continue
            labels = record.targets.keypoints_2d[:, list(COCO17_OF_BODY44)]
            depth = record.targets.keypoints_3d[:, list(COCO17_OF_BODY44), 2]
            boxes = record.track.bbox_xyxy
            found = match_people(list(read_pictures(record.frames)), boxes, observer, 17)
            labelled = labels[..., 2] > 0
            parts.append(
                Observed(
                    truth=np.where(labelled[..., None], labels[..., :2], -1.0)[None],
                    depth=depth[None],
                    is_visible=labelled[None],
                    boxes=boxes[None],
                    found=found[1][None],
                    found_boxes=found[0][None].astype(np.float32),
                    is_found=found[2][None],
                    image_size=np.array([record.image_size]),
                )
            )
            fps = record.fps
    return join_observed(parts), fps


def observe_walkers(observer: Observer) -> tuple[list[Observed], float]:
    """Every track of the packaged video of walkers, its smoothed self for the truth."""
    path = fetch("video-walkers")
    info = probe(path)
    size = (info.height, info.width)
    frames = read_frames(path, 0, NUM_WALK_FRAMES)
    seen = ((f.index, f.timestamp, observer(f.rgb)) for f in frames)
    out = []
    for track in link_tracks(seen, DetectConfig(), size).tracks:
        points = track.keypoints_2d
        smooth = gaussian_filter1d(points[..., :2].astype(np.float64), SMOOTHING * info.fps, 0)
        out.append(
            Observed(
                truth=smooth[None].astype(np.float32),
                depth=np.zeros((1, *points.shape[:2]), np.float32),
                is_visible=points[None, ..., 2] > SURE,
                boxes=track.bbox_xyxy[None],
                found=points[None],
                found_boxes=track.bbox_xyxy[None],
                is_found=track.is_detected[None],
                image_size=np.array([size]),
            )
        )
    return out, info.fps
