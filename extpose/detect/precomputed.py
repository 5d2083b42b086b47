"""Keypoints that were computed before, in the place of a detector: one file (or folder) a video."""

from collections.abc import Callable
from pathlib import Path, PurePath

import numpy as np
from jaxtyping import Bool, UInt8

from extpose.config import DetectConfig
from extpose.detect.keypoint_files import KeypointFileError, KeypointTable, read_keypoints
from extpose.detect.people import Detections, IdentifiedDetections
from extpose.detect.top_down import refine_boxes
from extpose.errors import AssetError, VideoError

SUFFIXES = (".json", ".npz", "")
"""Of the file that belongs to a video, in a folder of such; "" is a folder of OpenPose."""


class PrecomputedKeypoints:
    """Reads what belongs to a video and hands it out frame by frame."""

    name = "keypoints"

    def __init__(self, config: DetectConfig) -> None:
        """Raises AssetError without `detect.keypoints`."""
        if config.keypoints is None or not config.keypoints.exists():
            raise AssetError(
                f"detector 'keypoints' needs --detect.keypoints FILE or FOLDER, got "
                f"{config.keypoints}"
            )
        self._config = config

    def start(
        self, video: PurePath, *, first_frame: int, num_frames: int
    ) -> Callable[[UInt8[np.ndarray, "h w 3"]], Detections]:
        """What is called with the frames from `first_frame` on, one after the other.

        Raises VideoError for a video without keypoints (`no_keypoints`), or with those of another
        number of frames (`keypoint_mismatch`).
        """
        table = read_table(video, self._config)
        last = int(table.frame.max()) if len(table.frame) else -1
        said = table.num_frames if table.num_frames is not None else max(num_frames, last + 1)
        if said != num_frames or last >= num_frames or (table.frame < 0).any():
            raise VideoError(
                video,
                "keypoint_mismatch",
                f"{num_frames} frames, the keypoints are of {said} (last frame {last})",
            )
        remaining = iter(range(first_frame, num_frames))

        def find(rgb: UInt8[np.ndarray, "h w 3"]) -> Detections:
            return _detections(table, table.frame == next(remaining), rgb.shape[:2])

        return find


def keypoints_path(video: PurePath, config: DetectConfig) -> Path:
    """`detect.keypoints` itself, or the file in it that has the video's name.

    Raises VideoError (`no_keypoints`) where there is none.
    """
    root = config.keypoints or Path()
    if root.is_file() or any(root.glob("*_keypoints.json")):
        return root
    for suffix in SUFFIXES:
        path = root / f"{video.stem}{suffix}"
        if path.is_dir() if not suffix else path.is_file():
            return path
    tried = ", ".join(f"{video.stem}{suffix or '/'}" for suffix in SUFFIXES)
    where = "" if config.keypoints else "; --detect.keypoints says where they are"
    raise VideoError(video, "no_keypoints", f"{root} has none of {tried}{where}")


def read_table(video: PurePath, config: DetectConfig) -> KeypointTable:
    """The keypoints of a video. Raises VideoError (`no_keypoints`, `bad_keypoints`)."""
    try:
        return read_keypoints(keypoints_path(video, config))
    except KeypointFileError as error:
        raise VideoError(video, "bad_keypoints", str(error)) from error


def _detections(
    table: KeypointTable, chosen: Bool[np.ndarray, " n"], image_size: tuple[int, int]
) -> Detections:
    """The people of one frame, surest first; boxes that are missing are drawn around keypoints."""
    points, boxes = table.keypoints_2d[chosen], table.bbox_xyxy[chosen]
    scores = points[..., 2].mean(-1)
    around = refine_boxes(np.zeros_like(boxes), points, image_size=image_size)
    boxes = np.where(np.isfinite(boxes), boxes, around)
    order = np.argsort(-scores, kind="stable")
    found = {"bbox_xyxy": boxes[order], "scores": scores[order], "keypoints_2d": points[order]}
    if table.track_id is None:
        return Detections(**found)
    return IdentifiedDetections(**found, track_ids=table.track_id[chosen][order])
