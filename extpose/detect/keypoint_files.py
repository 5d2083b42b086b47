"""2D keypoints of a video that another program wrote, as a table: one row a person and frame.

COCO JSON (annotations or results), a folder of OpenPose JSON, AlphaPose JSON, npz. What each must
look like: `docs/detectors.md`. Everything becomes COCO-17 by the names of the keypoints.

Axes    n detections   k keypoints of the file
Units   source pixels; boxes x0 y0 x1 y1; confidence 0 to 1 (higher values are cut)
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from extpose.errors import ExtPoseError
from extpose.keypoints import KEYPOINT_NAMES, OPENPOSE25, reorder_keypoints
from extpose.npz import read_npz

COCO17 = KEYPOINT_NAMES["coco17"]
COCO18 = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow",
    "left_wrist", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
    "right_eye", "left_eye", "right_ear", "left_ear",
)  # fmt: skip
"""OpenPose's COCO model."""
OPENPOSE_SETS = {18: COCO18, 25: OPENPOSE25}
STARTS_WITH_COCO17 = (17, 26, 133, 136)
"""COCO, Halpe-26, COCO-WholeBody, Halpe-136."""


class KeypointFileError(ExtPoseError):
    """A file of keypoints that cannot be used; the message names file, field and values."""


@dataclass(frozen=True, kw_only=True)
class KeypointTable:
    """All detections of one video, in the order of frames."""

    frame: Int64[np.ndarray, " n"]
    keypoints_2d: Float32[np.ndarray, "n 17 3"]
    bbox_xyxy: Float32[np.ndarray, "n 4"]
    """Not a number where the file has none."""
    track_id: Int64[np.ndarray, " n"] | None
    """None: the file does not say who is who."""
    num_frames: int | None
    """Of the video, as far as the file says."""


@dataclass(frozen=True)
class _Row:
    """One person of one frame, numbers as the file has them."""

    frame: int
    points: np.ndarray
    box_xywh: Sequence[Any] | None = None
    track_id: int | None = None


def read_keypoints(path: Path) -> KeypointTable:
    """A file, or a folder of OpenPose. Raises KeypointFileError for anything else."""
    if path.is_dir():
        return _read_openpose(path)
    if path.suffix == ".npz":
        return _read_npz(path)
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise KeypointFileError(f"{path}: not readable as JSON ({error})") from error
    try:
        if isinstance(value, dict):
            return _coco_annotations(value, path)
        if value and isinstance(value[0].get("image_id"), str):
            return _alphapose(value, path)
        return _coco_results(value, path)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise KeypointFileError(
            f"{path}: neither COCO's nor AlphaPose's JSON ({type(error).__name__}: {error})"
        ) from error


def _coco_annotations(value: dict[str, Any], path: Path) -> KeypointTable:
    """`images` in the order of `frame_index`, else of their file names; `annotations` of them."""
    images = value["images"]
    if all("frame_index" in image for image in images):
        frames = {image["id"]: int(image["frame_index"]) for image in images}
    else:
        ordered = sorted(images, key=lambda image: str(image["file_name"]))
        frames = {image["id"]: index for index, image in enumerate(ordered)}
    people = [a for a in value["annotations"] if a.get("keypoints")]
    rows = []
    for person in people:
        if person["image_id"] not in frames:
            raise KeypointFileError(f"{path}: image_id {person['image_id']!r} is not in images")
        points = _triples(person["keypoints"], path)
        if np.isin(points[:, 2], (0, 1, 2)).all():  # COCO's visibility flag: 0 is not labelled
            points[:, 2] = points[:, 2] > 0
        box, track_id = person.get("bbox"), person.get("track_id")
        rows.append(_Row(frames[person["image_id"]], _coco17(points, path), box, track_id))
    return _table(rows, path, num_frames=len(images))


def _coco_results(value: list[dict[str, Any]], path: Path) -> KeypointTable:
    """A list; `image_id` is the frame's index."""
    rows = [
        _Row(
            int(person["image_id"]),
            _coco17(_triples(person["keypoints"], path), path),
            person.get("bbox"),
            person.get("track_id"),
        )
        for person in value
    ]
    return _table(rows, path, num_frames=None)


def _alphapose(value: list[dict[str, Any]], path: Path) -> KeypointTable:
    """A list; `image_id` is a file name that ends in the frame's index, `idx` who it is."""
    rows = []
    for person in value:
        number = re.search(r"(\d+)(\.\w+)?$", person["image_id"])
        if number is None:
            raise KeypointFileError(f"{path}: image_id {person['image_id']!r} ends in no number")
        points = _coco17(_triples(person["keypoints"], path), path)
        track_id = person.get("idx")
        # Newer versions may wrap it in a list.
        track_id = track_id[0] if isinstance(track_id, list) and len(track_id) == 1 else track_id
        rows.append(_Row(int(number[1]), points, person.get("box"), track_id))
    return _table(rows, path, num_frames=None)


def _read_openpose(folder: Path) -> KeypointTable:
    """A file a frame, in the order of their names."""
    paths = sorted(folder.glob("*_keypoints.json"))
    if not paths:
        raise KeypointFileError(f"{folder}: no files *_keypoints.json in it")
    rows = []
    for frame, path in enumerate(paths):
        try:
            people = json.loads(path.read_bytes())["people"]
            for person in people:
                points = _triples(person["pose_keypoints_2d"], path)
                ids = person.get("person_id", [-1])
                known = ids[0] if ids and ids[0] >= 0 else None
                rows.append(_Row(frame, _from_openpose(points, path), track_id=known))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise KeypointFileError(f"{path}: not OpenPose's JSON ({error})") from error
    return _table(rows, folder, num_frames=len(paths))


def _read_npz(path: Path) -> KeypointTable:
    try:
        arrays = read_npz(path)
    except (OSError, ValueError) as error:
        raise KeypointFileError(f"{path}: not readable as npz ({error})") from error
    if missing := sorted({"frame", "keypoints_2d", "num_frames"} - arrays.keys()):
        raise KeypointFileError(f"{path}: missing {missing}, there are {sorted(arrays)}")
    points, count = arrays["keypoints_2d"], len(arrays["frame"])
    if points.ndim != 3 or len(points) != count or points.shape[2] != 3:
        raise KeypointFileError(
            f"{path}: keypoints_2d is {points.shape}, expected ({count}, k, 3) as frame has {count}"
        )
    boxes, ids = arrays.get("bbox_xyxy"), arrays.get("track_id")
    for name, array in (("bbox_xyxy", boxes), ("track_id", ids)):
        if array is not None and len(array) != count:
            raise KeypointFileError(f"{path}: {name} has {len(array)} rows, frame has {count}")
    rows = []
    for i, frame in enumerate(arrays["frame"].tolist()):
        box = None if boxes is None else [*boxes[i, :2], *(boxes[i, 2:] - boxes[i, :2])]
        own = points[i].astype(np.float64)
        rows.append(_Row(frame, _coco17(own, path), box, None if ids is None else int(ids[i])))
    return _table(rows, path, num_frames=int(arrays["num_frames"]))


def _triples(values: Sequence[Any], path: Path) -> np.ndarray:
    if len(values) % 3:
        raise KeypointFileError(f"{path}: {len(values)} numbers are no x y confidence triples")
    return np.array(values, np.float64).reshape(-1, 3)


def _coco17(points: np.ndarray, path: Path) -> np.ndarray:
    if len(points) not in STARTS_WITH_COCO17:
        raise KeypointFileError(
            f"{path}: {len(points)} keypoints, known are {', '.join(map(str, STARTS_WITH_COCO17))}"
        )
    return points[:17]


def _from_openpose(points: np.ndarray, path: Path) -> np.ndarray:
    names = OPENPOSE_SETS.get(len(points))
    if names is None:
        known = ", ".join(map(str, OPENPOSE_SETS))
        raise KeypointFileError(f"{path}: {len(points)} keypoints, OpenPose has {known}")
    kept = [name if name in COCO17 else None for name in names]
    return reorder_keypoints(points.astype(np.float32), kept, "coco17").astype(np.float64)


def _table(rows: list[_Row], path: Path, *, num_frames: int | None) -> KeypointTable:
    rows = sorted(rows, key=lambda row: row.frame)
    points = np.array([row.points for row in rows], np.float32).reshape(-1, 17, 3)
    if not np.isfinite(points).all() or (points[..., 2] < 0).any():
        raise KeypointFileError(f"{path}: keypoints that are not finite, or confidence below 0")
    points[..., 2] = np.minimum(points[..., 2], 1)
    nothing = (np.nan,) * 4
    boxes = np.array([row.box_xywh or nothing for row in rows], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    ids = [row.track_id for row in rows]
    table = KeypointTable(
        frame=np.array([row.frame for row in rows], np.int64),
        keypoints_2d=points,
        bbox_xyxy=boxes,
        track_id=np.array(ids, np.int64) if ids and None not in ids else None,
        num_frames=num_frames,
    )
    if table.track_id is not None:
        pairs = list(zip(table.frame.tolist(), table.track_id.tolist(), strict=True))
        if len(set(pairs)) < len(pairs):
            double = next(pair for pair in pairs if pairs.count(pair) > 1)
            raise KeypointFileError(f"{path}: frame {double[0]} has track id {double[1]} twice")
    return table
