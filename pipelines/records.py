"""What a labelled data set says, before it is cropped, drawn and packed: the sources' contract.

A *source* (`pipelines/sources/`, one file a data set) knows files, units, axes, joint orders,
genders, splits and known bad frames of one data set as downloaded; it lists *units* (a sequence, or
a few hundred images: each becomes one shard) and reads the people or hands of a unit as `Record`s.
Nothing else of the project knows how a data set looks on disk.

Axes    t frames   k keypoints of the evidence   p keypoints of the labels   v vertices
Units   pixels (centre of the top left pixel is 0, 0), metres, radians, seconds
Camera  OpenCV's: x right, y down, z forward
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Float64

from extpose.detect.people import Track
from extpose.errors import ExtPoseError
from extpose.keypoints import NUM_KEYPOINTS, KeypointSet
from extpose.schema import NUM_ROTATIONS, TARGET_SET, BodyName, ClipTargets, Gender, Split


class SourceError(ExtPoseError):
    """Files of a data set that are missing or hold something else than its documentation says."""


@dataclass(frozen=True, kw_only=True)
class FrameRef:
    """One picture on disk."""

    path: Path
    """An image, or a video."""
    index: int | None = None
    """The frame of the video; None: `path` is an image, or holds one."""
    span: tuple[int, int] | None = None
    """Offset and size, in bytes, of an image inside a tar; it is taken as stored (no EXIF turn)."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One labelled person or hand over t consecutive frames. An image is t = 1."""

    name: str
    """Unique in the source and split, in the characters of a key: `downtown-walking-00-0`."""
    frames: tuple[FrameRef, ...]
    image_size: tuple[int, int]
    """Height, width of the pictures."""
    fps: float
    """Of the frames listed here (25 where every second frame of 50 is); 1 for images."""
    track: Track
    """Boxes of the person without margin, and the 2D evidence that the data set itself has
    (`coco17` or `hand21`; confidence 0 where it has none). Frame numbers are the data set's."""
    targets: ClipTargets
    intrinsics: Float32[np.ndarray, "t 3 3"] | None
    body: BodyName
    is_right: bool | None = None
    """Hands only."""
    gender: Gender = "neutral"
    evidence: str = "annotated"
    """What made the track's keypoints: `annotated`, `openpose`, ..., `none`."""
    is_labelled: bool = True
    """False: the targets are empty, and its clips have none."""
    notes: tuple[str, ...] = ()
    """Labels that the source set aside, each in a word or two: they are counted."""

    def __post_init__(self) -> None:
        """Check what shapes alone cannot."""
        counts = {len(self.frames), self.track.num_frames, len(self.targets.global_orient)}
        if len(counts) > 1:
            raise SourceError(
                f"{self.name}: {len(self.frames)} frames, {self.track.num_frames} boxes, "
                f"{len(self.targets.global_orient)} labels"
            )
        if (self.is_right is None) != (self.body == "smpl"):
            raise SourceError(f"{self.name}: is_right is {self.is_right}, body {self.body!r}")

    @property
    def keypoint_set(self) -> KeypointSet:
        """Of the evidence."""
        return "coco17" if self.body == "smpl" else "hand21"


@dataclass(frozen=True, kw_only=True)
class Filtered:
    """Frames that the source leaves out, and why: they are counted, not lost."""

    name: str
    num_frames: int
    reason: str
    """One word or two: `no_camera`, `corrupt_annotation`."""


@dataclass(frozen=True, kw_only=True)
class Damaged:
    """Frames that cannot be read, where the others of their unit can: they are quarantined."""

    name: str
    num_frames: int
    """0 where nobody can know."""
    message: str
    """Names the file, the key and the values."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture that nobody has labelled: its people are those that the detector finds."""

    name: str
    """Unique in the source and split, in the characters of a key."""
    path: Path


@dataclass(frozen=True, kw_only=True)
class Source:
    """One data set. A source's file ends with its `SOURCE = Source(...)`."""

    name: str
    splits: tuple[Split, ...]
    list_units: Callable[[Path, Split], list[str]]
    """(root, split) to the names of the units, sorted: cheap, reads lists and folders only.
    Raises SourceError naming the missing file or folder."""
    read_unit: Callable[[Path, Split, str], Iterator[Record | Filtered | Damaged | Picture]]
    """(root, split, unit) to its people, the same ones in the same order each time. Raises
    SourceError naming file, key and both values."""
    layout: str
    """The files it needs, one a line, for `extpose ingest NAME --help` and the documentation."""
    licence: str
    """Where the data come from and on what terms."""
    needs_detector: bool = False
    """It yields `Picture`s."""


def empty_targets(body: BodyName, num_frames: int) -> ClipTargets:
    """Targets with nothing labelled; `dataclasses.replace` what the data set knows."""
    num_points = NUM_KEYPOINTS[TARGET_SET[body]]
    return ClipTargets(
        global_orient=np.zeros((num_frames, 3), np.float32),
        pose=np.zeros((num_frames, NUM_ROTATIONS[body], 3), np.float32),
        betas=np.zeros(10, np.float32),
        transl=np.zeros((num_frames, 3), np.float32),
        keypoints_2d=np.zeros((num_frames, num_points, 3), np.float32),
        keypoints_3d=np.zeros((num_frames, num_points, 4), np.float32),
        has_pose=np.zeros(num_frames, bool),
        has_betas=np.array(False),
    )


def project(
    points_cam: Float64[np.ndarray, "*t p 3"], intrinsics: Float64[np.ndarray, "*t 3 3"]
) -> Float64[np.ndarray, "*t p 2"]:
    """Pinhole projection to pixels."""
    homogeneous = points_cam @ np.swapaxes(intrinsics, -1, -2)
    return homogeneous[..., :2] / homogeneous[..., 2:]


def box_around(
    points: Float32[np.ndarray, "t k 2"], labelled: Bool[np.ndarray, "t k"]
) -> Float32[np.ndarray, "t 4"]:
    """The smallest box around the labelled points of each frame (x0 y0 x1 y1).

    Raises SourceError for a frame without any.
    """
    if not labelled.any(1).all():
        raise SourceError(f"frame {int(np.argmin(labelled.any(1)))} has no labelled point")
    low = np.where(labelled[..., None], points, np.inf).min(1)
    high = np.where(labelled[..., None], points, -np.inf).max(1)
    return np.concatenate([low, high], 1).astype(np.float32)


def check_array(
    path: Path, key: str, value: object, *, shape: tuple[int | None, ...]
) -> Float64[np.ndarray, "..."]:
    """`value` as numbers of a known shape (None: any length).

    Raises SourceError naming the file, the key and both shapes, or what is not a finite number.
    """
    if value is None:
        raise SourceError(f"{path}: lacks {key}")
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise SourceError(f"{path}: {key} is not an array of numbers ({error})") from None
    if len(array.shape) != len(shape) or any(
        want not in (None, have) for have, want in zip(array.shape, shape, strict=True)
    ):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise SourceError(f"{path}: {key} has shape {array.shape}, expected ({wanted})")
    if not np.isfinite(array).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise SourceError(f"{path}: {key} holds {array[place]} at {place}, not a finite number")
    return array


SIZES: dict[str, tuple[float, float]] = {"smpl": (0.3, 3.0), "mano": (0.04, 0.4)}
"""Least and largest plausible extent of a person's or a hand's 3D keypoints, metres."""
MAX_ANGLE = np.pi
"""Of a joint relative to its parent, in the median: degrees are refused."""
MAX_REPROJECTION = 0.1
"""Median distance of projected 3D from labelled 2D keypoints, fraction of the box, above which axes
or cameras are not what they are said to be."""


def check_record(record: Record) -> None:
    """Refuse labels that contradict each other: the usual signs of wrong units, axes or order.

    Raises SourceError with the record's name, the field and both values: extents that no person or
    hand has (millimetres for metres), rotations that no body has (degrees for radians), people
    behind the camera, and 3D keypoints whose projection is not where the 2D keypoints are.
    """
    targets = record.targets
    _check_pose_and_mesh(record)
    labelled = targets.keypoints_3d[..., 3] > 0
    points = targets.keypoints_3d[..., :3].astype(np.float64)
    enough = labelled.sum(1) >= NUM_KEYPOINTS[record.keypoint_set] // 2
    if enough.any():
        low = np.where(labelled[..., None], points, np.inf).min(1)[enough]
        high = np.where(labelled[..., None], points, -np.inf).max(1)[enough]
        size, (least, most) = float(np.median((high - low).max(-1))), SIZES[record.body]
        if not least <= size <= most:
            raise SourceError(
                f"{record.name}: keypoints_3d are {size:.3g} m wide, a {record.body} is {least} to "
                f"{most} m: wrong unit?"
            )
    both = labelled & (targets.keypoints_2d[..., 2] > 0)
    if record.intrinsics is None or not both.any():
        return
    depth = points[..., 2][both]
    if np.median(depth) <= 0:
        raise SourceError(
            f"{record.name}: keypoints_3d have a median depth of {np.median(depth):.3g} m, must be "
            "positive: wrong axes?"
        )
    frame, _ = np.nonzero(both)
    found = project(points[both][:, None], record.intrinsics[frame].astype(np.float64))[:, 0]
    sizes = (record.track.bbox_xyxy[:, 2:] - record.track.bbox_xyxy[:, :2]).max(1)
    errors = np.linalg.norm(found - targets.keypoints_2d[both][:, :2], axis=-1) / sizes[frame]
    median = float(np.median(errors))
    if median > MAX_REPROJECTION:
        raise SourceError(
            f"{record.name}: projected keypoints_3d are off keypoints_2d by {median:.2f} of the "
            f"box (median), at most {MAX_REPROJECTION}: wrong axes, camera or joint order?"
        )


def _check_pose_and_mesh(record: Record) -> None:
    targets, (least, most) = record.targets, SIZES[record.body]
    if targets.vertices is not None and len(targets.vertices):
        size = float(np.median(np.ptp(targets.vertices.astype(np.float64), axis=1).max(-1)))
        if not least <= size <= most:
            raise SourceError(
                f"{record.name}: vertices are {size:.3g} m wide, a {record.body} is {least} to "
                f"{most} m: wrong unit?"
            )
    angles = np.linalg.norm(targets.pose[targets.has_pose].astype(np.float64), axis=-1)
    if angles.size and np.median(angles) > MAX_ANGLE:
        raise SourceError(
            f"{record.name}: pose turns joints by {np.median(angles):.3g} rad (median), at most "
            f"{MAX_ANGLE:.3g} can be: are these degrees?"
        )


def slice_record(record: Record, start: int, stop: int) -> Record:
    """The frames [start, stop) of a record, counted from its own first."""
    part = slice(start, stop)
    track, targets = record.track, record.targets
    cut = {
        name: getattr(targets, name)[part]
        for name in targets.__dataclass_fields__
        if name not in ("betas", "has_betas") and getattr(targets, name) is not None
    }
    return replace(
        record,
        frames=record.frames[part],
        track=replace(
            track,
            first_frame=track.first_frame + start,
            bbox_xyxy=track.bbox_xyxy[part],
            keypoints_2d=track.keypoints_2d[part],
            timestamps=track.timestamps[part],
            is_detected=track.is_detected[part],
        ),
        targets=replace(targets, **cut),
        intrinsics=None if record.intrinsics is None else record.intrinsics[part],
    )


SMPL24_NAMES: tuple[str | None, ...] = (
    "mid_hip", "left_hip", "right_hip", None, "left_knee", "right_knee", None, "left_ankle",
    "right_ankle", None, None, None, "neck", None, None, None, "left_shoulder", "right_shoulder",
    "left_elbow", "right_elbow", "left_wrist", "right_wrist", None, None,
)  # fmt: skip
"""SMPL's 24 joints among `body44` (HMR2.0 takes these for OpenPose's)."""
