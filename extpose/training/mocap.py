"""Real poses and shapes, which the discriminator learns from: an npz as `extpose mocap` writes it.

Arrays  `body_pose` (n, 69) or `hand_pose` (n, 45), axis-angles of the joints without the root, and
        `betas` (n, 10). HMR2.0's and HaMeR's own files, whose poses begin with the root's three
        numbers (72, 48), are read too.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from extpose.errors import TrainingError
from extpose.npz import read_npz
from extpose.schema import NUM_ROTATIONS, BodyName

POSE_KEY: dict[BodyName, str] = {"smpl": "body_pose", "mano": "hand_pose"}
NUM_BETAS = 10
MAX_ANGLE = 4 * np.pi
"""Radians; more is taken for degrees."""


@dataclass(frozen=True, kw_only=True)
class Mocap:
    """Poses of one body."""

    pose: Float32[np.ndarray, "n j 3"]
    """Axis-angles."""
    betas: Float32[np.ndarray, "n 10"]

    def fingerprint(self) -> str:
        """Of all numbers."""
        digest = hashlib.blake2b(np.ascontiguousarray(self.pose).tobytes(), digest_size=16)
        digest.update(np.ascontiguousarray(self.betas).tobytes())
        return digest.hexdigest()


def read_mocap(path: Path, body: BodyName) -> Mocap:
    """Read the poses of a body without unpickling. Raises TrainingError naming file and array."""
    pose = _read_array(path, POSE_KEY[body])
    betas = _read_array(path, "betas")
    width = 3 * NUM_ROTATIONS[body]
    if pose.ndim != 2 or pose.shape[1] not in (width, width + 3) or not len(pose):
        raise TrainingError(
            f"{path}: {POSE_KEY[body]} has shape {pose.shape}, expected (n, {width}) with n > 0"
        )
    if betas.shape != (len(pose), NUM_BETAS):
        raise TrainingError(
            f"{path}: betas has shape {betas.shape}, expected {(len(pose), NUM_BETAS)}"
        )
    if (most := float(np.abs(pose).max())) > MAX_ANGLE:
        raise TrainingError(
            f"{path}: {POSE_KEY[body]} reaches {most:.4g}, at most {MAX_ANGLE:.3g}: degrees?"
        )
    return Mocap(pose=pose[:, -width:].reshape(len(pose), -1, 3), betas=betas)


def _read_array(path: Path, key: str) -> Float32[np.ndarray, "..."]:
    try:
        array = read_npz(path, [key])[key]
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path}: not a readable npz of plain arrays ({error})") from error
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise TrainingError(f"{path}: {key} is {array.dtype}, expected finite floats")
    return array.astype(np.float32)
