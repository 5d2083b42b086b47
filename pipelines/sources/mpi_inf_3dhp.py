"""MPI-INF-3DHP (Mehta et al., 3DV 2017): one person, markerless capture in a studio and outdoors.

Files   train: `S[1-8]/Seq[1-2]/annot.mat`, `camera.calibration`, and the pictures, either
        `imageSequence/video_K.avi` as downloaded or `imageFrames/video_K/frame_%06d.jpg` as SPIN
        extracts them (from 1). Test: `mpi_inf_3dhp_test_set/TS[1-6]/annot_data.mat` (v7.3) and
        `imageSequence/img_%06d.jpg` (from 1). A unit is a camera of a sequence.
Keys    train: `annot2` (14, 1) of (t, 56) pixels and `annot3` (14, 1) of (t, 84) millimetres in
        each camera, 28 joints; test: `annot2` (t, 1, 17, 2), `annot3` (t, 1, 17, 3), `valid_frame`
Splits  train: cameras 0, 1, 2, 4 to 8 (the data set's `vnect` set) at 12.5 fps, every 2nd or 4th
        frame; test: all frames
Units   metres here; OpenCV's axes

17 joints count, as in SPIN: limbs and neck are LSP's, the pelvis MPII's, spine, jaw and head
Human3.6M's. Frames with fewer than 6 of them in the picture are filtered as `outside`, test frames
that the data set calls invalid as `invalid_frame`, and what S6/Seq2/video_2.avi, which is known to
be too short, does not show as `no_picture`. Test sequences come without a camera matrix: it is
fitted to the joints. `annot3` is metric; many papers evaluate on `univ_annot3`, where everybody has
one height. The evidence is the 2D joints, so it is `projected` truth.

The layout was learned from SPIN's preparation script and the data set's readme and utilities (frame
rates). Not verified without the data: the rate of the test sequences (25 is assumed).
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import numpy as np
import scipy.io
from jaxtyping import Float64
from scipy.io.matlab import MatReadError

from extpose.keypoints import reorder_keypoints
from extpose.schema import Split
from extpose.video import probe
from pipelines.labels.annotations import (
    find_runs,
    need_file,
    need_folder,
    read_h5,
    read_image_size,
    to_floats,
    to_key,
)
from pipelines.labels.kinematics import fit_intrinsics
from pipelines.labels.tracks import find_boxes, make_track, to_evidence, with_ones
from pipelines.records import (
    Filtered,
    FrameRef,
    Record,
    Source,
    SourceError,
    empty_targets,
    slice_record,
)
from pipelines.source_files import note_file

CAMERAS = (0, 1, 2, 4, 5, 6, 7, 8)
FAST = {"S1/Seq2", "S3/Seq1", "S3/Seq2", "S5/Seq1", "S5/Seq2"}
"""Sequences at 50 fps; the others have 25."""
SHORT = {"S6/Seq2/video_2"}
"""Videos that end before their annotations."""
TRAIN_FPS = 12.5
TEST_FPS = 25.0
MIN_INSIDE = 6
_TEST = "mpi_inf_3dhp_test_set"

NAMES28: tuple[str | None, ...] = (
    None, None, None, "h36m_spine", "mpii_pelvis", "lsp_neck", "h36m_jaw", "h36m_head", None,
    "lsp_left_shoulder", "lsp_left_elbow", "lsp_left_wrist", None, None,
    "lsp_right_shoulder", "lsp_right_elbow", "lsp_right_wrist", None,
    "lsp_left_hip", "lsp_left_knee", "lsp_left_ankle", None, None,
    "lsp_right_hip", "lsp_right_knee", "lsp_right_ankle", None, None,
)  # fmt: skip
NAMES17: tuple[str | None, ...] = (
    "h36m_head", "lsp_neck", "lsp_right_shoulder", "lsp_right_elbow", "lsp_right_wrist",
    "lsp_left_shoulder", "lsp_left_elbow", "lsp_left_wrist", "lsp_right_hip", "lsp_right_knee",
    "lsp_right_ankle", "lsp_left_hip", "lsp_left_knee", "lsp_left_ankle", "mpii_pelvis",
    "h36m_spine", "h36m_jaw",
)  # fmt: skip


def list_units(root: Path, split: Split) -> list[str]:
    """`S1/Seq1/video_0` or `TS1`."""
    if split == "test":
        pattern, cameras = f"{_TEST}/TS[1-6]/annot_data.mat", [""]
    else:
        pattern, cameras = "S[1-8]/Seq[1-2]/annot.mat", [f"/video_{k}" for k in CAMERAS]
    folders = [path.parent for path in need_folder(root).glob(pattern)]
    if not folders:
        raise SourceError(f"{root}: no {pattern}")
    start = root / _TEST if split == "test" else root
    return sorted(
        f"{f.relative_to(start).as_posix()}{camera}" for f in folders for camera in cameras
    )


def read_unit(root: Path, split: Split, unit: str) -> Iterator[Record | Filtered]:
    """The person before one camera."""
    yield from _read_test(root, unit) if split == "test" else _read_train(root, unit)


def _read_train(root: Path, unit: str) -> Iterator[Record | Filtered]:
    sequence, video = unit.rsplit("/", 1)
    folder, camera = root / sequence, int(video.removeprefix("video_"))
    path = need_file(folder / "annot.mat")
    joints_2d, joints_3d = (
        _read_camera(path, key, camera, axes) for key, axes in (("annot2", 2), ("annot3", 3))
    )
    if len(joints_2d) != len(joints_3d):
        raise SourceError(f"{path}: annot2[{camera}] has {len(joints_2d)} frames, annot3[{camera}] "
                          f"{len(joints_3d)}")  # fmt: skip
    rate = 50.0 if sequence in FAST else 25.0
    step = round(rate / TRAIN_FPS)
    numbers = range(0, len(joints_3d), step)
    frames, image_size = _find_frames(folder, video, numbers, may_end=unit in SHORT)
    name = to_key(unit.replace("/", "-"))
    yield from _make_records(
        name,
        frames,
        image_size,
        labels_2d=_label(joints_2d[::step], NAMES28)[: len(frames)],
        labels_3d=_label(joints_3d[::step] / 1000, NAMES28)[: len(frames)],
        intrinsics=_read_calibration(folder / "camera.calibration", camera),
        is_valid=np.ones(len(frames), bool),
        fps=rate / step,
    )
    if len(frames) < len(numbers):
        yield Filtered(name=name, num_frames=len(numbers) - len(frames), reason="no_picture")


def _read_test(root: Path, unit: str) -> Iterator[Record | Filtered]:
    folder = root / _TEST / unit
    path = need_file(folder / "annot_data.mat")
    content = read_h5(path, ("annot2", "annot3", "valid_frame"))
    joints_3d = to_floats(path, "annot3", content["annot3"], (None, 1, 17, 3))[:, 0] / 1000
    num = len(joints_3d)
    joints_2d = to_floats(path, "annot2", content["annot2"], (num, 1, 17, 2))[:, 0]
    is_valid = to_floats(path, "valid_frame", np.ravel(content["valid_frame"]), (num,)) > 0
    if not is_valid.any():
        raise SourceError(f"{path}: valid_frame is 0 in all {num} frames")
    images = folder / "imageSequence"
    frames = tuple(FrameRef(path=images / f"img_{i + 1:06d}.jpg") for i in range(num))
    need_file(frames[-1].path)
    yield from _make_records(
        unit,
        frames,
        read_image_size(frames[0].path),
        labels_2d=_label(joints_2d, NAMES17),
        labels_3d=_label(joints_3d, NAMES17),
        intrinsics=fit_intrinsics(f"{path}: annot3", joints_3d[is_valid], joints_2d[is_valid]),
        is_valid=is_valid,
        fps=TEST_FPS,
    )


def _make_records(
    name: str,
    frames: tuple[FrameRef, ...],
    image_size: tuple[int, int],
    *,
    labels_2d: np.ndarray,
    labels_3d: np.ndarray,
    intrinsics: Float64[np.ndarray, "3 3"],
    is_valid: np.ndarray,
    fps: float,
) -> Iterator[Record | Filtered]:
    num, (height, width) = len(frames), image_size
    inside = ((labels_2d[..., :2] >= 0) & (labels_2d[..., :2] < (width, height))).all(-1)
    is_seen = (inside & (labels_2d[..., 2] > 0)).sum(1) >= MIN_INSIDE
    record = Record(
        name=name,
        frames=frames,
        image_size=image_size,
        fps=fps,
        track=make_track(find_boxes(labels_2d), to_evidence(labels_2d), fps=fps),
        targets=replace(empty_targets("smpl", num), keypoints_2d=labels_2d, keypoints_3d=labels_3d),
        intrinsics=np.tile(intrinsics.astype(np.float32), (num, 1, 1)),
        body="smpl",
        evidence="projected",
    )
    for start, stop in find_runs(is_valid & is_seen):
        yield replace(slice_record(record, start, stop), name=f"{name}-{start:05d}")
    for reason, left_out in (("invalid_frame", ~is_valid), ("outside", is_valid & ~is_seen)):
        if left_out.any():
            yield Filtered(name=name, num_frames=int(left_out.sum()), reason=reason)


def _label(points: np.ndarray, names: tuple[str | None, ...]) -> np.ndarray:
    return reorder_keypoints(with_ones(points), names, "body44")


def _read_camera(path: Path, key: str, camera: int, axes: int) -> Float64[np.ndarray, "t 28 c"]:
    """One cell of `annot2` or `annot3`."""
    try:
        cells = scipy.io.loadmat(note_file(path), variable_names=[key])[key]
        cell = cells[camera, 0]
    except (
        KeyError, IndexError, ValueError, TypeError, RuntimeError, MatReadError,
    ) as error:  # fmt: skip
        raise SourceError(f"{path}: {key}[{camera}] is not readable ({error!r})") from error
    return to_floats(path, f"{key}[{camera}]", cell, (None, 28 * axes)).reshape(-1, 28, axes)


def _read_calibration(path: Path, camera: int) -> Float64[np.ndarray, "3 3"]:
    """The `intrinsic` line, 4 x 4 by rows, of a camera in the order of the file."""
    lines = need_file(path).read_text(errors="replace").splitlines()
    found = [line.split()[1:] for line in lines if line.split()[:1] == ["intrinsic"]]
    if len(found) <= camera:
        raise SourceError(f"{path}: {len(found)} intrinsic lines, camera {camera} is asked for")
    try:
        values = np.array(found[camera], np.float64)
    except ValueError:
        raise SourceError(f"{path}: intrinsic of camera {camera} is {found[camera]}") from None
    return to_floats(path, f"intrinsic of camera {camera}", values, (16,)).reshape(4, 4)[:3, :3]


def _find_frames(
    folder: Path, video: str, numbers: range, *, may_end: bool
) -> tuple[tuple[FrameRef, ...], tuple[int, int]]:
    """Extracted pictures if there are any, else the frames of the video."""
    images = folder / "imageFrames" / video
    if images.is_dir():
        refs = tuple(FrameRef(path=images / f"frame_{number + 1:06d}.jpg") for number in numbers)
        shown = tuple(takewhile(lambda ref: ref.path.is_file(), refs)) if may_end else refs
        need_file((shown or refs)[-1].path)
        return shown, read_image_size(shown[0].path)
    path = folder / "imageSequence" / f"{video}.avi"
    if not path.is_file():
        raise SourceError(f"{path}: no such file, nor the folder {images}")
    info = probe(path)
    if info.num_frames <= numbers[-1] and not may_end:
        raise SourceError(f"{path}: {info.num_frames} frames, annotations of frame {numbers[-1]}")
    kept = [number for number in numbers if number < info.num_frames]
    return tuple(FrameRef(path=path, index=number) for number in kept), info.image_size


SOURCE = Source(
    name="mpi_inf_3dhp",
    splits=("train", "test"),
    list_units=list_units,
    read_unit=read_unit,
    layout="""S1/Seq1/annot.mat
S1/Seq1/camera.calibration
S1/Seq1/imageSequence/video_0.avi ... (or imageFrames/video_0/frame_000001.jpg ...)
S1/Seq2, S2 ... S8 alike
mpi_inf_3dhp_test_set/TS1/annot_data.mat
mpi_inf_3dhp_test_set/TS1/imageSequence/img_000001.jpg ...
TS2 ... TS6 alike""",
    licence="MPI-INF-3DHP, project page of the authors (MPI Informatics); research only",
)
