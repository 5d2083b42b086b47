"""The hands of Monocular Total Capture's data set: the Panoptic Studio, 31 HD cameras (`mtc`).

Xiang et al., "Monocular Total Capture" (2019); HaMeR trains on its hands under the name `mtc`. The
layout follows public readers of the set and was not compared with the files themselves:

- `annotation/annotation.pkl`: `training_data` and `testing_data`, lists of moments with `seqName`,
  `frame_str` and, where a hand was found, `left_hand` and `right_hand`: `landmarks` (63 numbers:
  21 x 3 centimetres in the studio's axes, OpenPose's order) and `2D`, a dictionary by camera of
  `insideImg` and `occluded` (21 each) and `overlap`.
- `annotation/camera_data.pkl`: by sequence and camera `K` (3 x 3), `R` (3 x 3), `t` (3 x 1, cm),
  `distCoef` (5, OpenCV's); `x_cam = R x + t`.
- `hdImgs/SEQ/FRAME/00_CC_FRAME.jpg`. Not every camera's picture is there: such views are filtered
  as `no_image`; hands that overlap the other one in the picture as `overlap` (the authors drop them
  too), those with fewer than 11 points to be seen as `hidden`.
- 2D keypoints are projected with distortion; `intrinsics` is the pinhole part alone, so projected
  3D points are off by the distortion (a few pixels at the border).

A unit is 16 moments, about 500 pictures. The annotations are read once a process; some 1e7 Python
numbers, about 1 GB (estimated).
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float64

from extpose.pickles import read_pickle
from extpose.schema import Split
from pipelines.labels.hand_checks import check_hands
from pipelines.labels.hand_records import (
    HandLabels,
    add_ones,
    make_record,
    read_image_size,
    require,
)
from pipelines.records import Filtered, Record, Source, SourceError, check_array

UNIT_MOMENTS = 16
MIN_VISIBLE = 11
CENTIMETRE = 0.01
CHECKED_MOMENTS = 2000
_LISTS: dict[str, str] = {"train": "training_data", "test": "testing_data"}
SIDES = ("left", "right")


def list_units(root: Path, split: Split) -> list[str]:
    """Blocks of 16 moments, by their place in the list. Reads the annotations."""
    count = len(_read_moments(root, split))
    return [f"{start:08d}" for start in range(0, count, UNIT_MOMENTS)]


def read_unit(root: Path, split: Split, unit: str) -> Iterator[Record | Filtered]:
    """The hands of 16 moments in every camera."""
    first, path = int(unit), _annotation_path(root)
    moments = _read_moments(root, split)[first : first + UNIT_MOMENTS]
    cameras = _load(root / "annotation" / "camera_data.pkl")
    for side in SIDES:
        _check_side(path, path.stat().st_mtime_ns, split, side)
        for moment in moments:
            world = _read_landmarks(path, moment, side)
            if world is not None:
                yield from _read_moment(root, moment, world, cameras, side=side)


@lru_cache(maxsize=4)
def _check_side(path: Path, _time: int, split: Split, side: str) -> None:
    """Order and side, over the whole list: some moments stretch their fingers backwards."""
    moments = _read_moments(path.parent.parent, split)
    sampled = moments[:: max(1, len(moments) // CHECKED_MOMENTS)]
    found = [_read_landmarks(path, moment, side) for moment in sampled]
    points = [p for p in found if p is not None]
    if points:
        check_hands(
            np.stack(points), is_right=side == "right", path=path, key=f"{side}_hand landmarks"
        )


def _read_moment(
    root: Path,
    moment: dict[str, Any],
    world: Float64[np.ndarray, "21 3"],
    cameras: dict[str, Any],
    *,
    side: str,
) -> Iterator[Record | Filtered]:
    sequence, frame = str(moment["seqName"]), str(moment["frame_str"])
    path, cameras_path = _annotation_path(root), root / "annotation" / "camera_data.pkl"
    views = moment[f"{side}_hand"].get("2D")
    if not isinstance(views, dict):
        raise SourceError(f"{path}: {side}_hand of {sequence}/{frame} lacks 2D")
    for number, view in sorted(views.items()):
        name = f"{sequence}-{frame}-{number:02d}-{side}"
        image = root / "hdImgs" / sequence / frame / f"00_{number:02d}_{frame}.jpg"
        visible = _read_visible(path, view, f"of {name}")
        reason = _reject(image, visible, overlap=bool(view.get("overlap", False)))
        if reason:
            yield Filtered(name=name, num_frames=1, reason=reason)
            continue
        camera = cameras.get(sequence, {}).get(number)
        if camera is None:
            raise SourceError(f"{cameras_path}: lacks camera {number} of {sequence}")
        points, pixels, K = _project(cameras_path, world, camera, f"of {sequence}/{number}")
        yield make_record(
            HandLabels(
                keypoints_3d=add_ones(points[None]),
                keypoints_2d=add_ones(pixels[None]),
                intrinsics=K[None],
                is_visible=visible[None],
            ),
            name=name,
            frames=[image],
            image_size=read_image_size(image),
            is_right=side == "right",
            path=path,
        )


def _read_visible(path: Path, view: dict[str, Any], place: str) -> Bool[np.ndarray, " 21"]:
    inside, occluded = (
        check_array(path, f"{key} {place}", view.get(key), shape=(21,)) > 0
        for key in ("insideImg", "occluded")
    )
    return inside & ~occluded


def _reject(image: Path, visible: np.ndarray, *, overlap: bool) -> str | None:
    if not image.is_file():
        return "no_image"
    if overlap:
        return "overlap"
    return "hidden" if visible.sum() < MIN_VISIBLE else None


def _project(
    path: Path, world: Float64[np.ndarray, "21 3"], camera: dict[str, Any], place: str
) -> tuple[Float64[np.ndarray, "21 3"], Float64[np.ndarray, "21 2"], Float64[np.ndarray, "3 3"]]:
    """Metres in the camera's frame, pixels with distortion, and the camera matrix."""
    K, R = (
        check_array(path, f"{key} {place}", camera.get(key), shape=(3, 3)) for key in ("K", "R")
    )
    t = check_array(path, f"t {place}", camera.get("t"), shape=(3, 1))[:, 0]
    distortion = check_array(
        path, f"distCoef {place}", np.ravel(camera.get("distCoef", [])), shape=(5,)
    )
    points = world @ R.T + t * CENTIMETRE
    pixels, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), K, distortion)
    return points, pixels[:, 0].astype(np.float64), K


def _read_landmarks(
    path: Path, moment: dict[str, Any], side: str
) -> Float64[np.ndarray, "21 3"] | None:
    hand = moment.get(f"{side}_hand")
    if hand is None:
        return None
    place = f"{side}_hand landmarks of {moment.get('seqName')}/{moment.get('frame_str')}"
    values = check_array(path, place, hand.get("landmarks"), shape=(63,))
    return values.reshape(21, 3) * CENTIMETRE


def _annotation_path(root: Path) -> Path:
    return root / "annotation" / "annotation.pkl"


def _read_moments(root: Path, split: Split) -> list[dict[str, Any]]:
    path, name = _annotation_path(root), _LISTS[split]
    moments = _load(path).get(name)
    if not isinstance(moments, list) or not moments:
        raise SourceError(f"{path}: lacks the list {name}")
    missing = [key for key in ("seqName", "frame_str") if key not in moments[0]]
    if missing:
        raise SourceError(f"{path}: {name} lacks {missing}; it has {sorted(moments[0])}")
    return moments


def _load(path: Path) -> dict[str, Any]:
    return _read(require(path), path.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _read(path: Path, _time: int) -> dict[str, Any]:
    content = read_pickle(path)
    if not isinstance(content, dict):
        raise SourceError(f"{path}: holds a {type(content).__name__}, expected a dictionary")
    return content


SOURCE = Source(
    name="mtc",
    splits=("train", "test"),
    list_units=list_units,
    read_unit=read_unit,
    layout="""annotation/annotation.pkl
annotation/camera_data.pkl
hdImgs/SEQ/FRAME/00_CC_FRAME.jpg""",
    licence="domedb.perception.cs.cmu.edu/mtc: non-commercial research only",
)
