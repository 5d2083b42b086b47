"""Four cameras around a person made of points: truth for tests of the multi-camera tool."""

import cv2
import numpy as np

from extpose.detect.people import Track
from extpose.multiview.cameras import Camera
from tests.synth.people import STANDING

SIZE = (720, 1280)


def make_cameras(count: int = 4) -> list[Camera]:
    """On a circle of four metres, 1.5 m high (z up), looking at the middle; a slight distortion."""
    cameras = []
    for i in range(count):
        angle = 2 * np.pi * i / count + 0.3
        place = np.array([4 * np.cos(angle), 4 * np.sin(angle), 1.5])
        forward = np.array([0, 0, 1.0]) - place
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0, 0, 1.0])
        right /= np.linalg.norm(right)
        R = np.stack([right, np.cross(forward, right), forward])
        cameras.append(
            Camera(
                name=f"cam{i}",
                size=SIZE,
                K=np.array([[900.0, 0, 639.5], [0, 900, 359.5], [0, 0, 1]]),
                R=R,
                t=-R @ place,
                dist=np.array([-0.05, 0.1, 0.001, -0.001, 0.0]),
            )
        )
    return cameras


def make_points(num_frames: int = 20, place: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Somebody who sways: t 17 3, metres, z up."""
    times = np.arange(num_frames) / 30
    depth = 0.1 * np.sin(np.arange(17))
    points = np.stack([STANDING[:, 0], depth, 0.95 - STANDING[:, 1]], -1)
    sway = 0.1 * np.sin(2 * times)[:, None, None] * np.linspace(0, 1, 17)[:, None]
    return points + sway + [*place, 0]


def see(cameras: list[Camera], points: np.ndarray, *, noise: float = 0.0) -> np.ndarray:
    """x y confidence in every view: c t 17 3. By OpenCV's own projection, not the project's."""
    rng = np.random.default_rng(1)
    views = []
    for camera in cameras:
        flat = points.reshape(-1, 1, 3)
        rotation = cv2.Rodrigues(camera.R)[0]
        pixels = cv2.projectPoints(flat, rotation, camera.t, camera.K, camera.dist)[0]
        views.append(pixels.reshape(*points.shape[:2], 2))
    pixels = np.stack(views)
    pixels = pixels + rng.normal(0, noise, pixels.shape) if noise else pixels
    return np.concatenate([pixels, np.full((*pixels.shape[:-1], 1), 0.9)], -1)


def make_track(keypoints: np.ndarray, track_id: int = 0) -> Track:
    """A track of `t 17 3` keypoints."""
    low, high = keypoints[..., :2].min(1), keypoints[..., :2].max(1)
    num_frames = len(keypoints)
    return Track(
        track_id=track_id,
        first_frame=0,
        bbox_xyxy=np.concatenate([low, high], -1).astype(np.float32),
        keypoints_2d=keypoints.astype(np.float32),
        timestamps=np.arange(num_frames) / 30,
        is_detected=np.ones(num_frames, bool),
    )
