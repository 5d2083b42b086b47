"""The videos of `extpose multiview`, each with its camera, and where all of them start."""

from collections.abc import Sequence
from pathlib import Path

from extpose.errors import ExtPoseError
from extpose.multiview.cameras import CalibrationError, Camera, read_cameras
from extpose.video import VideoInfo, probe
from pipelines.arguments import MultiviewArgs
from pipelines.multiview_people import Recording

MAX_DRIFT = 0.5
"""Frames by which the videos may be apart at the end, where their rates differ."""


def open_recording(options: MultiviewArgs) -> Recording:
    """Videos in the order of the cameras, with their first frames and what they have in common.

    Raises CalibrationError for other numbers, names or sizes, ExtPoseError for offsets or rates
    that do not fit, naming both.
    """
    cameras = read_cameras(options.calibration)
    order = match_videos(options.calibration, cameras, options.video)
    offsets = list(options.offset) or [0] * len(order)
    if len(offsets) != len(order):
        raise ExtPoseError(f"offset has {len(offsets)} numbers, there are {len(order)} videos")
    if min(offsets) < 0:
        raise ExtPoseError(f"offset is {offsets}: frames are counted from 0")
    paths, first = [options.video[i] for i in order], [offsets[i] for i in order]
    infos = [probe(path) for path in paths]
    for camera, info in zip(cameras, infos, strict=True):
        if camera.size != (info.height, info.width):
            raise CalibrationError(
                f"{info.path}: {info.height} x {info.width} pixels, camera {camera.name} of "
                f"{options.calibration} has {camera.size[0]} x {camera.size[1]}"
            )
    common = min(info.num_frames - start for info, start in zip(infos, first, strict=True))
    num_frames = min(common, options.num_frames or common)
    if num_frames < 2:
        raise ExtPoseError(f"{num_frames} frames are common to all videos (offset {offsets})")
    _check_rates(infos, num_frames)
    return Recording(
        cameras=cameras, paths=paths, first=first, num_frames=num_frames, fps=infos[0].fps
    )


def match_videos(calibration: Path, cameras: Sequence[Camera], videos: Sequence[Path]) -> list[int]:
    """For each camera the place of its video in `videos`: by name, or by order if no name is one.

    Raises CalibrationError for another number of videos, and where only some have cameras' names.
    """
    names = [camera.name for camera in cameras]
    stems = [video.stem for video in videos]
    if len(stems) != len(names):
        raise CalibrationError(
            f"{calibration}: {len(names)} cameras ({', '.join(names)}), {len(stems)} videos "
            f"({', '.join(stems)})"
        )
    if not set(stems) & set(names):
        return list(range(len(names)))
    if missing := [name for name in names if stems.count(name) != 1]:
        raise CalibrationError(
            f"{calibration}: some videos are named like cameras, but {', '.join(missing)} has not "
            f"one video of its name among {', '.join(stems)}"
        )
    return [stems.index(name) for name in names]


def _check_rates(infos: Sequence[VideoInfo], num_frames: int) -> None:
    rates = [info.fps for info in infos]
    drift = num_frames * (1 - min(rates) / max(rates))
    if drift > MAX_DRIFT:
        raise ExtPoseError(
            f"the videos have {rates} frames a second: after {num_frames} frames they are "
            f"{drift:.1f} apart, at most {MAX_DRIFT}"
        )
