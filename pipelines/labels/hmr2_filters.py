"""What HMR2.0 and HaMeR leave out of their training data, and what they take labels from.

The rules of their setting `low1`, in their order: keypoints below a confidence of 0.3 are not
labelled; shapes beyond 3 are not; poses that AMASS does not hold are not (HMR2.0, and only with its
histogram at hand); pose and shape are labelled both or neither; people with at most 4 keypoints are
left out; so are fits whose reprojection loss is 31000 or more.

Their last rule is not one about data: a person without shape is trained towards the mean shape.
Here such a person has no shape label.

Axes    k keypoints (44 or 21)   21 body joints of SMPL without root and hands
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from pipelines.records import SourceError

MIN_CONFIDENCE = 0.3
MAX_BETA = 3.0
MIN_KEYPOINTS = 5
MAX_REPROJECTION_LOSS = 31_000.0
HISTOGRAM = "amass_poses_hist100_SMPL+H_G.npy"
SIGMA = 2
DENSITIES = (
    5e-5, 5e-5, 2e-3, 5e-6, 5e-6, 1e-2, 5e-6, 5e-6, 2.5e-2, 0.0, 0.0, 2e-4, 4.5e-4, 4.5e-4, 5e-4,
    2e-4, 2e-4, 4e-5, 4e-5, 1e-3, 1e-3,
)  # fmt: skip
"""Of SMPL's joints 1 to 21: a pose is probable where each joint's density is above."""


@dataclass(frozen=True, kw_only=True)
class TarPerson:
    """One person or hand of a picture, as the tar says."""

    keypoints_2d: Float64[np.ndarray, "k 3"]
    """Pixels, confidence."""
    keypoints_3d: Float64[np.ndarray, "k 4"]
    """Metres along the camera's axes, confidence."""
    bbox_xyxy: Float64[np.ndarray, " 4"]
    rotations: Float64[np.ndarray, "j 3"]
    """Axis-angle, root first: 24 or 16."""
    betas: Float64[np.ndarray, " 10"]
    has_pose: bool
    has_betas: bool
    is_right: bool | None
    """None: a body."""
    reprojection_loss: float | None


def apply_filters(
    person: TarPerson, density: Float32[np.ndarray, "21 n n n"] | None
) -> tuple[TarPerson, tuple[str, ...], str]:
    """The person with the labels that are left, what was set aside, and why they are left out.

    The last is empty for a person who is kept. `density`: of poses (`load_density`); None: unknown.
    """
    notes: list[str] = []
    points = person.keypoints_2d.copy()
    low = points[:, 2] < MIN_CONFIDENCE
    if (low & (points[:, 2] > 0)).any():
        notes.append("low_confidence_keypoints")
    points[low, 2] = 0
    has_pose, has_betas = person.has_pose, person.has_betas
    if has_betas and (np.abs(person.betas) > MAX_BETA).any():
        has_betas = False
        notes.append("large_betas")
    if has_pose and person.is_right is None:
        if density is None:
            notes.append("pose_not_checked")
        elif not is_probable(person.rotations[1:22], density):
            has_pose = False
            notes.append("improbable_pose")
    if has_pose != has_betas:
        notes.append("pose_without_betas" if has_pose else "betas_without_pose")
        has_pose = has_betas = False
    reason = ""
    if (points[:, 2] > 0).sum() < MIN_KEYPOINTS:
        reason = "few_keypoints"
    elif (loss := person.reprojection_loss) is not None and not loss < MAX_REPROJECTION_LOSS:
        reason = "reprojection_loss"
    kept = replace(person, keypoints_2d=points, has_pose=has_pose, has_betas=has_betas)
    return kept, tuple(notes), reason


def is_probable(
    rotations: Float64[np.ndarray, "21 3"], density: Float32[np.ndarray, "21 n n n"]
) -> bool:
    """Whether every joint's rotation is one that motion capture holds often enough."""
    # The rotation vector of at most half a turn.
    short = Rotation.from_rotvec(rotations).as_rotvec()
    cells = np.floor((short + np.pi) / (2 * np.pi) * (density.shape[1] - 1e-6)).astype(int)
    x, y, z = np.clip(cells, 0, density.shape[1] - 1).T
    return bool((density[np.arange(len(cells)), x, y, z] > np.array(DENSITIES)).all())


def find_histogram(root: Path) -> Path | None:
    """HMR2.0's histogram of poses, if it lies beside the tars."""
    places = (root / HISTOGRAM, root / "hmr2_training_data" / HISTOGRAM)
    return next((path for path in places if path.is_file()), None)


@lru_cache(maxsize=1)
def load_density(path: Path) -> Float32[np.ndarray, "21 n n n"]:
    """Density of poses: counts over all joints, blurred as HMR2.0 does (across joints, too)."""
    try:
        counts = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: not a readable array ({error})") from error
    if counts.ndim != 4 or len(counts) != 21 or len(set(counts.shape[1:])) != 1:
        raise SourceError(f"{path}: has shape {counts.shape}, expected (21, n, n, n)")
    volume = (2 * np.pi / counts.shape[1]) ** 3
    density = counts / counts.sum() / volume
    return gaussian_filter(density, sigma=SIGMA, mode="constant").astype(np.float32)
