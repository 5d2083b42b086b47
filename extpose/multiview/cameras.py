"""Calibrated cameras: reading them, projecting, and taking the lens's distortion out.

Axes    n points   c cameras
Units   metres, pixels (the centre of the top left pixel is 0, 0)
Frames  `_world`; `_cam` OpenCV's: `point_cam = R @ point_world + t`
"""

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Float64

from extpose.errors import ExtPoseError


class CalibrationError(ExtPoseError):
    """A calibration that is missing, incomplete, or cannot be that of a camera."""


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole with OpenCV's distortion k1 k2 p1 p2 k3."""

    name: str
    size: tuple[int, int]
    """Height, width of its pictures."""
    K: Float64[np.ndarray, "3 3"]
    R: Float64[np.ndarray, "3 3"]
    t: Float64[np.ndarray, " 3"]
    dist: Float64[np.ndarray, " 5"]

    @property
    def focal(self) -> float:
        """Mean focal length, pixels."""
        return float(self.K[0, 0] + self.K[1, 1]) / 2

    def to_camera(self, points_world: Float[np.ndarray, "*n 3"]) -> Float64[np.ndarray, "*n 3"]:
        """World points in the camera's axes."""
        return np.asarray(points_world @ self.R.T + self.t, np.float64)

    def project(self, points_world: Float[np.ndarray, "*n 3"]) -> Float64[np.ndarray, "*n 2"]:
        """Pixels, with the lens's distortion; not a number behind the camera."""
        points = self.to_camera(points_world)
        depth = np.where(points[..., 2:] > 1e-6, points[..., 2:], np.nan)
        x, y = np.moveaxis(points[..., :2] / depth, -1, 0)
        k1, k2, p1, p2, k3 = self.dist
        r2 = x * x + y * y
        radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
        bent = np.stack(
            [
                x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
                y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
            ],
            -1,
        )
        return np.asarray(bent @ self.K[:2, :2].T + self.K[:2, 2])

    def normalise(self, pixels: Float[np.ndarray, "*n 2"]) -> Float64[np.ndarray, "*n 2"]:
        """Pixels to x/z, y/z of a pinhole without distortion."""
        flat = np.ascontiguousarray(pixels.reshape(-1, 1, 2), np.float64)
        if not len(flat):
            return np.zeros(pixels.shape)
        return cv2.undistortPoints(flat, self.K, self.dist).reshape(pixels.shape)


def read_cameras(path: Path) -> list[Camera]:
    """Cameras of a calibration, in the file's order.

    `.toml`: Pose2Sim's (a table a camera: `name`, `size` [width, height], `matrix`, `distortions`,
    `rotation` as axis times angle, `translation` in metres). `.json`: {"cameras": [{"name", "size",
    "K", "dist", "R", "t"}]} with R a matrix, `size` width, height. Raises CalibrationError naming
    file, camera, field and value.
    """
    try:
        text = path.read_text()
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        raise CalibrationError(f"{path}: not a calibration ({error})") from error
    if path.suffix == ".toml":
        tables = [(k, v) for k, v in values.items() if isinstance(v, dict) and "matrix" in v]
        entries = [_from_toml(path, key, table) for key, table in tables]
    else:
        entries = values.get("cameras", []) if isinstance(values, dict) else []
    cameras = [_make_camera(path, entry) for entry in entries]
    names = [camera.name for camera in cameras]
    if len(cameras) < 2 or len(set(names)) < len(names):
        raise CalibrationError(f"{path}: cameras {names}; two or more with names of their own")
    return cameras


def write_cameras(path: Path, cameras: list[Camera]) -> None:
    """As the JSON that `read_cameras` reads."""
    entries = [
        {
            "name": camera.name,
            "size": [camera.size[1], camera.size[0]],
            "K": camera.K.tolist(),
            "dist": camera.dist.tolist(),
            "R": camera.R.tolist(),
            "t": camera.t.tolist(),
        }
        for camera in cameras
    ]
    path.write_text(json.dumps({"cameras": entries}, indent=1) + "\n")


def _from_toml(path: Path, key: str, table: dict[str, Any]) -> dict[str, Any]:
    if table.get("fisheye"):
        raise CalibrationError(f"{path}: {key}: fisheye is true; only pinholes can be used")
    rotation = _numbers(path, key, "rotation", table.get("rotation"), (3,))
    return {
        "name": table.get("name", key),
        "size": table.get("size"),
        "K": table.get("matrix"),
        "dist": table.get("distortions", []),
        "R": cv2.Rodrigues(rotation)[0].tolist(),
        "t": table.get("translation"),
    }


def _make_camera(path: Path, entry: Any) -> Camera:
    if not isinstance(entry, dict) or "name" not in entry:
        raise CalibrationError(f"{path}: a camera without a name: {entry!r:.80}")
    name = str(entry["name"])
    size = _numbers(path, name, "size", entry.get("size"), (2,))
    K = _numbers(path, name, "K", entry.get("K"), (3, 3))
    R = _numbers(path, name, "R", entry.get("R"), (3, 3))
    dist = np.asarray(entry.get("dist", []), np.float64).ravel()
    if len(dist) > 5:
        raise CalibrationError(f"{path}: {name}: dist has {len(dist)} numbers, at most 5 are known")
    if K[0, 0] <= 0 or K[1, 1] <= 0 or abs(K[2, 2] - 1) > 1e-6:
        raise CalibrationError(f"{path}: {name}: K is {K.tolist()}, not a camera matrix")
    if np.abs(R @ R.T - np.eye(3)).max() > 1e-3 or np.linalg.det(R) < 0:
        raise CalibrationError(f"{path}: {name}: R is {R.tolist()}, not a rotation")
    return Camera(
        name=name,
        size=(int(size[1]), int(size[0])),
        K=K,
        R=R,
        t=_numbers(path, name, "t", entry.get("t"), (3,)),
        dist=np.pad(dist, (0, 5 - len(dist))),
    )


def _numbers(
    path: Path, name: str, field: str, value: object, shape: tuple[int, ...]
) -> np.ndarray:
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise CalibrationError(f"{path}: {name}: {field} is {value!r:.80}") from error
    if array.shape != shape or not np.isfinite(array).all():
        raise CalibrationError(
            f"{path}: {name}: {field} is {value!r:.80}, expected numbers of shape {shape}"
        )
    return array
