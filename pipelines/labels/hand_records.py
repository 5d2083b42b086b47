"""What the sources of hand data sets share: joint orders, consecutive frames, checked records.

Axes    t frames   k = 21 keypoints (`hand21`)   m = 21 joints in a data set's order
Units   metres, pixels; OpenCV camera axes
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float64, Shaped

from extpose.body_file import MANO_TO_OPENPOSE
from extpose.detect.people import Track
from extpose.keypoints import KEYPOINT_NAMES
from extpose.schema import ClipTargets
from pipelines.labels.hand_model import MovedHand
from pipelines.records import (
    FrameRef,
    Record,
    SourceError,
    box_around,
    check_record,
    empty_targets,
    project,
)
from pipelines.source_files import note_file

UNIT_IMAGES = 500
"""Images of one unit, where a data set is a list of images."""
MAX_NAME = 56
MAX_BETA_STEP = 1e-6
OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0])
HAND21 = KEYPOINT_NAMES["hand21"]
MANO_NAMES: tuple[str, ...] = tuple(HAND21[i] for i in np.argsort(MANO_TO_OPENPOSE))
"""MANO's 16 joints and 5 tips: wrist, index, middle, little, ring, thumb; tips from the thumb."""
_TIPS_FIRST: tuple[str, ...] = tuple(
    f"{finger}_{part}"
    for finger in ("thumb", "index", "middle", "ring", "little")
    for part in ("tip", "3", "2", "1")
)
WRIST_THEN_TIPS = ("wrist", *_TIPS_FIRST)
"""Each finger from its tip to the palm, the wrist before them (RHD)."""
TIPS_THEN_WRIST = (*_TIPS_FIRST, "wrist")
"""The same, the wrist behind them (InterHand2.6M)."""


@dataclass(frozen=True, kw_only=True)
class HandLabels:
    """What a data set says about one hand over t consecutive frames."""

    keypoints_3d: Float64[np.ndarray, "t 21 4"]
    """Camera frame, metres; 1 where labelled."""
    keypoints_2d: Float64[np.ndarray, "t 21 3"]
    """Pixels; 1 where labelled."""
    intrinsics: Float64[np.ndarray, "t 3 3"] | None
    pose: MovedHand | None = None
    has_pose: Bool[np.ndarray, " t"] | None = None
    """None: of all frames, where there is a pose."""
    betas: Float64[np.ndarray, " 10"] | None = None
    vertices: Float64[np.ndarray, "t v 3"] | None = None
    is_visible: Bool[np.ndarray, "t 21"] | None = None
    bbox_xyxy: Float64[np.ndarray, "t 4"] | None = None
    """None: the box around the 2D keypoints."""


def make_record(
    labels: HandLabels,
    *,
    name: str,
    frames: Sequence[Path],
    image_size: tuple[int, int],
    is_right: bool,
    path: Path,
    first_frame: int = 0,
    fps: float = 1.0,
) -> Record:
    """A checked record. `path` is the file that complaints name.

    The 2D evidence is the labelled keypoints, except those outside the picture (confidence 0: no
    detector can see them) and those that the data set calls hidden.

    Raises SourceError as `check_record` does, the file's name before it.
    """
    note_file(path)
    try:
        track = _make_track(labels, image_size, first_frame=first_frame, fps=fps)
        record = Record(
            name=make_name(name),
            frames=tuple(FrameRef(path=frame) for frame in frames),
            image_size=image_size,
            fps=fps,
            track=track,
            targets=_make_targets(labels),
            intrinsics=None if labels.intrinsics is None else labels.intrinsics.astype(np.float32),
            body="mano",
            is_right=is_right,
            evidence="annotated" if track.keypoints_2d[..., 2].any() else "none",
        )
        check_record(record)
    except SourceError as error:
        raise SourceError(f"{path}: {error}") from None
    return record


def _make_track(
    labels: HandLabels, image_size: tuple[int, int], *, first_frame: int, fps: float
) -> Track:
    points = labels.keypoints_2d.astype(np.float32)
    height, width = image_size
    low, high = (-0.5, -0.5), (width - 0.5, height - 0.5)
    seen = np.all((points[..., :2] > low) & (points[..., :2] < high), axis=-1)
    if labels.is_visible is not None:
        seen &= labels.is_visible
    box = labels.bbox_xyxy
    if box is None:
        box = box_around(points[..., :2], points[..., 2] > 0).astype(np.float64)
    return Track(
        track_id=0,
        first_frame=first_frame,
        bbox_xyxy=box.astype(np.float32),
        keypoints_2d=np.concatenate([points[..., :2], points[..., 2:] * seen[..., None]], -1),
        timestamps=(first_frame + np.arange(len(points))) / fps,
        is_detected=np.ones(len(points), bool),
    )


def _make_targets(labels: HandLabels) -> ClipTargets:
    targets = replace(
        empty_targets("mano", len(labels.keypoints_2d)),
        keypoints_2d=labels.keypoints_2d.astype(np.float32),
        keypoints_3d=labels.keypoints_3d.astype(np.float32),
        is_visible=labels.is_visible,
    )
    if labels.vertices is not None:
        targets = replace(targets, vertices=labels.vertices.astype(np.float32))
    if labels.betas is not None:
        targets = replace(targets, betas=labels.betas.astype(np.float32), has_betas=np.array(True))
    if labels.pose is None:
        return targets
    known = labels.has_pose
    if known is None:
        known = np.ones(len(labels.keypoints_2d), bool)
    return replace(
        targets,
        global_orient=(labels.pose.global_orient * known[:, None]).astype(np.float32),
        pose=(labels.pose.pose * known[:, None, None]).astype(np.float32),
        transl=(labels.pose.transl * known[:, None]).astype(np.float32),
        has_pose=known,
    )


def order_hand(
    values: Shaped[np.ndarray, "t 21 *c"], names: tuple[str, ...]
) -> Shaped[np.ndarray, "t 21 *c"]:
    """Points or flags of 21 joints with these names, in the order of `hand21`."""
    return values[:, [names.index(name) for name in HAND21]]


def add_ones(
    points: Float64[np.ndarray, "*t k c"], labelled: Bool[np.ndarray, "*t k"] | None = None
) -> Float64[np.ndarray, "*t k d"]:
    """Points with a last column that says whether they are labelled; zero where they are not."""
    ones = np.ones(points.shape[:-1]) if labelled is None else labelled.astype(np.float64)
    return np.concatenate([points * ones[..., None], ones[..., None]], -1)


def project_points(
    points: Float64[np.ndarray, "t k 4"], intrinsics: Float64[np.ndarray, "t 3 3"]
) -> Float64[np.ndarray, "t k 3"]:
    """Labelled camera points to labelled pixels; points behind the camera are not labelled."""
    labelled = (points[..., 3] > 0) & (points[..., 2] > 0)
    placed = np.where(labelled[..., None], points[..., :3], [0.0, 0.0, 1.0])
    return add_ones(project(placed, intrinsics), labelled)


def make_name(name: str) -> str:
    """`name` in the characters of a key; a long one keeps its start and gets a hash."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    if len(plain) <= MAX_NAME and plain == name:
        return plain
    return f"{plain[: MAX_NAME - 11]}-{hashlib.blake2b(name.encode(), digest_size=5).hexdigest()}"


def read_image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image. Raises SourceError for one that is missing or broken."""
    if not path.is_file():
        raise SourceError(f"{path}: no such image")
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise SourceError(f"{path}: not a readable image")
    return int(image.shape[0]), int(image.shape[1])


def find_runs(
    numbers: Sequence[int], betas: Float64[np.ndarray, "t 10"] | None = None, *, step: int = 1
) -> list[slice]:
    """Where sorted frame numbers go on without a gap, and with one shape: a record has one."""
    count = len(numbers)
    new = {i for i in range(1, count) if numbers[i] - numbers[i - 1] != step}
    if betas is not None:
        new |= {i for i in range(1, count) if np.abs(betas[i] - betas[i - 1]).max() > MAX_BETA_STEP}
    cuts = [0, *sorted(new)]
    return [slice(a, b) for a, b in zip(cuts, [*cuts[1:], count], strict=True) if b > a]


def list_blocks(count: int, prefix: str = "") -> list[str]:
    """Names of the units of a list of images: the number of each unit's first image."""
    return [f"{prefix}{start:08d}" for start in range(0, count, UNIT_IMAGES)]


def require(path: Path, hint: str = "") -> Path:
    """`path`, if it is there. Raises SourceError that names it, and the hint."""
    if not path.exists():
        raise SourceError(f"{path}: no such file or folder" + (f" ({hint})" if hint else ""))
    return note_file(path)
