"""InterHand2.6M's annotation files, read once a process into arrays.

`InterHand2.6M_SPLIT_joint_3d.json` (captures, frames: 42 joints in the world, millimetres),
`_camera.json` (captures, cameras) and `_MANO_NeuralAnnot.json` (fits, metres) hold no images, so
they are far smaller than `_data.json`, which lists every picture and is not needed: the pictures
are in the folders, and whether a joint is inside one follows from its projection. While a file is
parsed it takes about ten times its size in memory; what stays is about a third of it (estimated).

Axes    n frames of a capture   42 joints: the right hand's 21, then the left's
Units   metres; world axes
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from pipelines.labels.hand_checks import check_hands
from pipelines.labels.hand_records import TIPS_THEN_WRIST, order_hand, require
from pipelines.records import SourceError, check_array
from pipelines.source_files import note_file

SIDES: dict[str, slice] = {"right": slice(0, 21), "left": slice(21, 42)}
CHECKED_FRAMES = 2000


@dataclass(frozen=True)
class Camera:
    """Of one capture: `x_cam = R (x_world - position)`."""

    R: Float64[np.ndarray, "3 3"]
    position: Float64[np.ndarray, " 3"]
    K: Float64[np.ndarray, "3 3"]


@dataclass(frozen=True)
class Joints:
    """One frame of a capture."""

    points: Float64[np.ndarray, "42 3"]
    is_valid: Bool[np.ndarray, " 42"]


def read_cameras(path: Path, capture: str) -> dict[str, Camera]:
    """The cameras of a capture by name. Raises SourceError naming file and key."""
    content = _load(path).get(capture)
    if not isinstance(content, dict):
        raise SourceError(f"{path}: lacks the capture {capture}")
    cameras = {}
    for name in content.get("campos", {}):
        place = f"of capture {capture}, camera {name}"
        shapes = {"camrot": (3, 3), "campos": (3,), "focal": (2,), "princpt": (2,)}
        R, position, (fx, fy), (cx, cy) = (
            check_array(path, f"{key} {place}", content.get(key, {}).get(name), shape=shape)
            for key, shape in shapes.items()
        )
        K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        cameras[name] = Camera(R, position / 1000, K)
    return cameras


def read_joints(path: Path) -> dict[str, dict[int, Joints]]:
    """Captures, then frames. The hands of the whole file are checked for order and side."""
    return _read_joints(require(path), path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _read_joints(path: Path, _time: int) -> dict[str, dict[int, Joints]]:
    found: dict[str, dict[int, Joints]] = {}
    for capture, frames in _load(path).items():
        found[capture] = {
            int(frame): _read_frame(path, f"of {capture}/{frame}", content)
            for frame, content in frames.items()
        }
    for side, part in SIDES.items():
        whole = [
            joints.points[part]
            for frames in found.values()
            for joints in frames.values()
            if joints.is_valid[part].all()
        ]
        if whole:
            points = np.stack(whole[:: max(1, len(whole) // CHECKED_FRAMES)])
            check_hands(
                order_hand(points, TIPS_THEN_WRIST),
                is_right=side == "right",
                path=path,
                key=f"world_coord ({side})",
            )
    return found


def _read_frame(path: Path, place: str, content: dict[str, Any]) -> Joints:
    points = check_array(path, f"world_coord {place}", content.get("world_coord"), shape=(42, 3))
    # (42, 1) in the files, (42) in some readers' copies.
    valid = check_array(
        path, f"joint_valid {place}", np.ravel(content.get("joint_valid", [])), shape=(42,)
    )
    return Joints(points / 1000, valid > 0)


def read_fits(path: Path) -> dict[str, dict[int, dict[str, Float64[np.ndarray, " 61"]]]]:
    """Captures, frames, sides: 48 pose, 10 shape, 3 translation; sides without a fit are left out.

    Empty where the file is missing.
    """
    return _read_fits(note_file(path), path.stat().st_mtime_ns) if path.exists() else {}


@lru_cache(maxsize=1)
def _read_fits(
    path: Path, _time: int
) -> dict[str, dict[int, dict[str, Float64[np.ndarray, " 61"]]]]:
    return {
        capture: {
            int(frame): {
                side: np.concatenate(
                    [
                        check_array(
                            path, f"{key} of {capture}/{frame}/{side}", fit.get(key), shape=(size,)
                        )
                        for key, size in (("pose", 48), ("shape", 10), ("trans", 3))
                    ]
                )
                for side, fit in sides.items()
                if fit is not None
            }
            for frame, sides in frames.items()
        }
        for capture, frames in _load(path).items()
    }


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(require(path).read_bytes())
    except ValueError as error:
        raise SourceError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise SourceError(f"{path}: holds a {type(content).__name__}, expected captures")
    return content
