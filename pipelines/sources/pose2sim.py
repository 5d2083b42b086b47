"""One man before four calibrated cameras, 1.67 s: the free benchmark on real footage.

The videos are the single-person demo of the package `pose2sim` 0.10.49 (BSD-3-Clause), fetched when
they are first read and never kept in the project. `data/pose2sim.npz` holds a *pseudo* ground
truth of them: two 2D detectors in four views, cameras refined by bundle adjustment, robust
triangulation, smoothed at 7 Hz. Its own error is about 15 mm at a limb joint and 30 to 40 mm at the
hips; PA-MPJPE below 10 to 15 mm means nothing, nor do differences below 5 mm. Face points are
unreliable (the face is blurred). Nothing may be trained on it or chosen by it.

A unit is a camera. Axes: OpenCV's camera; COCO-17; metres. The lens's small distortion (a few
pixels) is in the 2D labels and not in the camera matrix.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from extpose.assets import fetch
from extpose.detect.people import Track
from extpose.keypoints import COCO17_OF_BODY44
from extpose.npz import read_npz
from extpose.schema import Split
from pipelines.records import Filtered, FrameRef, Record, Source, empty_targets

CAMERAS = ("cam01", "cam02", "cam03", "cam04")
REFERENCE = Path(__file__).parent / "data" / "pose2sim.npz"
MAX_UNCERTAINTY = 60.0
"""Millimetres (one standard deviation) above which a joint is not labelled; all limb joints are
below."""


def list_units(_root: Path, _split: Split) -> list[str]:
    """The cameras."""
    return list(CAMERAS)


def read_unit(_root: Path, _split: Split, unit: str) -> Iterator[Record | Filtered]:
    """The man as one camera sees him."""
    camera = CAMERAS.index(unit)
    arrays = read_npz(REFERENCE)
    points_cam = arrays["joints_world"] @ arrays["R"][camera].T + arrays["t"][camera]
    labelled = np.isfinite(points_cam).all(-1) & (arrays["unc_mm"] <= MAX_UNCERTAINTY)
    points_img = arrays["keypoints_2d"][camera]
    num_frames = len(points_cam)
    targets = empty_targets("smpl", num_frames)
    columns = list(COCO17_OF_BODY44)
    for stored, points in ((targets.keypoints_3d, points_cam), (targets.keypoints_2d, points_img)):
        stored[:, columns, :-1] = np.where(labelled[..., None], points, 0)
        stored[:, columns, -1] = labelled
    video, fps = fetch(f"video-{unit}"), float(arrays["fps"])
    width, height = arrays["image_size"][camera].tolist()
    yield Record(
        name=unit,
        frames=tuple(FrameRef(path=video, index=i) for i in range(num_frames)),
        image_size=(height, width),
        fps=fps,
        track=Track(
            track_id=0,
            first_frame=0,
            bbox_xyxy=arrays["boxes"][camera],
            keypoints_2d=arrays["detected"][camera],
            timestamps=np.arange(num_frames) / fps,
            is_detected=np.ones(num_frames, bool),
        ),
        targets=targets,
        intrinsics=np.tile(arrays["K"][camera].astype(np.float32), (num_frames, 1, 1)),
        body="smpl",
        evidence="movenet+blazepose",
    )


SOURCE = Source(
    name="pose2sim",
    splits=("test",),
    list_units=list_units,
    read_unit=read_unit,
    layout="nothing: the four videos are fetched (51 MB)",
    licence="pose2sim's demo videos, BSD-3-Clause; the reference is this project's",
)
