"""Human3.6M (Ionescu et al., TPAMI 2014): one person in a studio, four cameras, 50 fps.

Files   `S?/MyPoseFeatures/D3_Positions_mono/ACTION.CAMERA.cdf`, `D2_Positions` beside it with the
        same names, and either `S?/Videos/ACTION.CAMERA.mp4` as downloaded or
        `images/S?_ACTION.CAMERA_%06d.jpg` as SPIN extracts them (spaces become `_`, numbers start
        at 1). A unit is an action by a camera, a record the same.
Keys    `Pose` (1, t, 96) 32 joints in the camera, millimetres; (1, t, 64) in pixels
Splits  train: S1, S5, S6, S7, S8, all cameras; test: S9, S11, camera 60457274 (protocol 2). Every
        5th frame from the first, so 10 fps.
Units   metres here; OpenCV's axes

17 of the 32 joints count, as in SPIN and HMR2.0: limbs and neck are LSP's, the pelvis MPII's, the
spine, jaw and head Human3.6M's own; none is called an OpenPose joint. The files hold no camera
matrix: it is the pinhole camera that takes the 3D joints to the 2D ones, which absorbs the lens's
distortion (a few pixels). Boxes are those of the 2D joints, not of the masks (`MySegmentsMat`) that
SPIN's crops come from. The evidence is the 2D joints without a face, so it is `projected` truth.

The layout was learned from SPIN's preparation scripts. Not verified without the data: that video
and poses start at the same frame (SPIN drops the first frame of test videos, not of training
ones). Known: parts of S9's Greeting, SittingDown and Waiting are displaced from the picture.
"""

import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from extpose.keypoints import reorder_keypoints
from extpose.schema import Split
from extpose.video import probe
from pipelines.labels.annotations import need_file, need_folder, read_image_size, to_floats, to_key
from pipelines.labels.kinematics import fit_intrinsics
from pipelines.labels.tracks import find_boxes, make_track, to_evidence, with_ones
from pipelines.records import Filtered, FrameRef, Record, Source, SourceError, empty_targets

FPS = 50.0
STEP = 5
SUBJECTS: dict[Split, tuple[str, ...]] = {
    "train": ("S1", "S5", "S6", "S7", "S8"),
    "test": ("S9", "S11"),
}
TEST_CAMERA = "60457274"
JOINTS = {
    1: "lsp_right_hip", 2: "lsp_right_knee", 3: "lsp_right_ankle",
    6: "lsp_left_hip", 7: "lsp_left_knee", 8: "lsp_left_ankle",
    11: "mpii_pelvis", 12: "h36m_spine", 14: "h36m_jaw", 15: "h36m_head",
    17: "lsp_left_shoulder", 18: "lsp_left_elbow", 19: "lsp_left_wrist", 24: "lsp_neck",
    25: "lsp_right_shoulder", 26: "lsp_right_elbow", 27: "lsp_right_wrist",
}  # fmt: skip
"""Of the 32."""
_NAMES = tuple(JOINTS.get(i) for i in range(32))
_FEATURES = "MyPoseFeatures"


def list_units(root: Path, split: Split) -> list[str]:
    """`SUBJECT/ACTION.CAMERA` of a split."""
    units = []
    for subject in SUBJECTS[split]:
        folder = need_folder(root / subject / _FEATURES / "D3_Positions_mono")
        names = [path.stem for path in folder.glob("*.cdf") if not path.name.startswith("_ALL")]
        if split == "test":
            names = [name for name in names if name.endswith(f".{TEST_CAMERA}")]
        if not names:
            camera = TEST_CAMERA if split == "test" else "*"
            raise SourceError(f"{folder}: no *.{camera}.cdf")
        units += [f"{subject}/{name}" for name in names]
    return sorted(units)


def read_unit(root: Path, split: Split, unit: str) -> Iterator[Record | Filtered]:
    """The person of an action, every 5th frame."""
    subject, sequence = unit.split("/")
    path_3d = root / subject / _FEATURES / "D3_Positions_mono" / f"{sequence}.cdf"
    path_2d = root / subject / _FEATURES / "D2_Positions" / f"{sequence}.cdf"
    joints_3d = _read_poses(path_3d, 3) / 1000
    joints_2d = _read_poses(path_2d, 2)
    if len(joints_2d) != len(joints_3d):
        raise SourceError(f"{path_2d}: {len(joints_2d)} poses, {path_3d} has {len(joints_3d)}")
    used = sorted(JOINTS)
    intrinsics = fit_intrinsics(f"{path_3d}: Pose", joints_3d[:, used], joints_2d[:, used])
    numbers = range(0, len(joints_3d), STEP)
    frames, image_size = _find_frames(root, subject, sequence, numbers)
    labels_2d = reorder_keypoints(with_ones(joints_2d[::STEP]), _NAMES, "body44")
    evidence = to_evidence(labels_2d)
    yield Record(
        name=to_key(f"{subject}-{sequence}"),
        frames=frames,
        image_size=image_size,
        fps=FPS / STEP,
        track=make_track(find_boxes(labels_2d), evidence, fps=FPS / STEP),
        targets=replace(
            empty_targets("smpl", len(frames)),
            keypoints_2d=labels_2d,
            keypoints_3d=reorder_keypoints(with_ones(joints_3d[::STEP]), _NAMES, "body44"),
        ),
        intrinsics=np.tile(intrinsics.astype(np.float32), (len(frames), 1, 1)),
        body="smpl",
        evidence="projected",
    )


def _read_poses(path: Path, axes: int) -> Float64[np.ndarray, "t 32 c"]:
    """`Pose` of a CDF file."""
    try:
        cdflib = importlib.import_module("cdflib")
    except ModuleNotFoundError:
        raise SourceError(
            f"{path}: reading CDF files needs the package cdflib: pip install 'extpose[datasets]'"
        ) from None
    try:
        flat = np.asarray(cdflib.CDF(need_file(path)).varget("Pose"))
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise SourceError(f"{path}: Pose is not readable ({error})") from error
    poses = to_floats(path, "Pose", flat, (1, None, 32 * axes))
    return poses.reshape(-1, 32, axes)


def _find_frames(
    root: Path, subject: str, sequence: str, numbers: range
) -> tuple[tuple[FrameRef, ...], tuple[int, int]]:
    """Extracted pictures if there are any, else the frames of the video."""
    stem = f"{subject}_{sequence.replace(' ', '_')}"
    images = tuple(
        FrameRef(path=root / "images" / f"{stem}_{number + 1:06d}.jpg") for number in numbers
    )
    if images[0].path.is_file():
        need_file(images[-1].path)
        return images, read_image_size(images[0].path)
    video = root / subject / "Videos" / f"{sequence}.mp4"
    if not video.is_file():
        raise SourceError(f"{video}: no such file, nor {images[0].path}")
    info = probe(video)
    if info.num_frames <= numbers[-1]:
        raise SourceError(f"{video}: {info.num_frames} frames, a pose of frame {numbers[-1]}")
    return tuple(FrameRef(path=video, index=number) for number in numbers), info.image_size


SOURCE = Source(
    name="h36m",
    splits=("train", "test"),
    list_units=list_units,
    read_unit=read_unit,
    layout="""S1/MyPoseFeatures/D3_Positions_mono/Directions 1.54138969.cdf ...
S1/MyPoseFeatures/D2_Positions/Directions 1.54138969.cdf ...
S1/Videos/Directions 1.54138969.mp4 ... (or images/S1_Directions_1.54138969_000001.jpg ...)
S5, S6, S7, S8, S9, S11 alike""",
    licence="Human3.6M, project page (registration); academic use only",
)
