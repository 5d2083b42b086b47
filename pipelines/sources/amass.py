"""AMASS (Mahmood et al., ICCV 2019): poses and shapes of people in motion, for the discriminator.

Not a source of records: there are no pictures. HMR2.0 takes its CMU part.

Files   `SUBSET/SUBJECT/*_poses.npz`, the release for SMPL+H (120 fps or so)
Keys    `poses` (t, 156) = 52 joints, axis-angles; `betas` (16,); `mocap_framerate`
Writes  an npz: `body_pose` (n, 69) and `betas` (n, 10), float32. SMPL's two hand joints have no
        counterpart in SMPL+H and are 0; betas are those of the person's gender.

The layout was learned from the data set's own tutorials and from programs that read it. Not
verified without the data: subsets whose names end otherwise.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from pipelines.labels.annotations import need_arrays, need_folder, to_floats
from pipelines.records import SourceError

LAYOUT = "CMU/01/01_01_poses.npz ..."
LICENCE = "AMASS, project page (registration), Max Planck Institute; non-commercial research"
_NUM_BODY = 63
"""Numbers of SMPL+H's body joints, which follow the 3 of the root."""


@dataclass(frozen=True, kw_only=True)
class Mocap:
    """What was written."""

    num_files: int
    num_poses: int


def write_mocap(root: Path, out: Path, *, fps: float = 10.0) -> Mocap:
    """All poses below `root`, thinned to about `fps`, as one npz for the discriminator.

    Raises SourceError for a folder without motions, for those of SMPL-X, and for angles in degrees.
    """
    paths = sorted(need_folder(root).rglob("*_poses.npz"))
    if not paths:
        other = next(root.rglob("*_stageii.npz"), None)
        hint = f", but {other} (SMPL-X): the release for SMPL+H is needed" if other else ""
        raise SourceError(f"{root}: no *_poses.npz{hint}")
    motions = [_read_motion(path, fps) for path in paths]
    poses = np.concatenate([pose for pose, _ in motions])
    shapes = np.concatenate([np.tile(betas, (len(pose), 1)) for pose, betas in motions])
    with out.open("wb") as file:
        np.savez(file, body_pose=poses, betas=shapes)
    return Mocap(num_files=len(paths), num_poses=len(poses))


def _read_motion(
    path: Path, fps: float
) -> tuple[Float32[np.ndarray, "t 69"], Float32[np.ndarray, " 10"]]:
    content = need_arrays(path, ["poses", "betas", "mocap_framerate"])
    poses = to_floats(path, "poses", content["poses"], (None, 156))
    betas = to_floats(path, "betas", content["betas"], (None,))
    rate = float(to_floats(path, "mocap_framerate", content["mocap_framerate"], ()))
    if len(betas) < 10 or rate < fps:
        raise SourceError(
            f"{path}: {len(betas)} betas at mocap_framerate {rate:g}, expected 10 and {fps:g} or "
            "more"
        )
    body = poses[:: round(rate / fps), 3 : 3 + _NUM_BODY]
    if body.size and (most := float(np.abs(body).max())) > 4 * np.pi:
        raise SourceError(f"{path}: poses reach {most:.4g}, at most {4 * np.pi:.3g}: degrees?")
    hands = np.zeros((len(body), 69 - _NUM_BODY))
    return np.concatenate([body, hands], 1).astype(np.float32), betas[:10].astype(np.float32)
