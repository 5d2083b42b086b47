"""The user's MANO files, as far as labels need them: the mean pose, the PCA, the joints at rest.

Several data sets store finger rotations relative to MANO's mean pose (`hands_mean`) or as
coefficients of its PCA. This project stores absolute rotations, so such labels need the licensed
files. They are looked for in the data set's own folder:

    ROOT/mano/MANO_RIGHT.pkl   ROOT/mano/MANO_LEFT.pkl   (or .npz with the same names)

Without them the rotations are not labelled (`has_pose` False); keypoints and vertices are. With
them each unit is also checked: the joints of the converted pose must lie on the labelled ones,
which finds a wrong convention or another MANO version in the first unit.

Left hands. The parameters of a left hand are those of the mirror image of MANO_RIGHT in x:

    vertices_cam = mirror(right(mirror(global_orient), mirror(pose), betas)) + transl

where `mirror` negates x of points, and y and z of axis-angles. MANO_LEFT is that mirror image
(template, correctives and mean pose), but for x of its shape directions, which were forgotten to be
negated in the published file (smplx issue 48). So the shape directions here are always the
mirrored right ones; only mean pose and PCA are taken from MANO_LEFT.

Axes    t frames   j = 15 finger joints   n = 16 joints, wrist first (MANO's order)
Units   metres, radians
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

from extpose.body_file import MANO_TO_OPENPOSE, read_body_file
from extpose.pickles import read_pickle
from pipelines.records import SourceError, check_array

MIRROR_POINT = np.array([-1.0, 1.0, 1.0])
MIRROR_ROTATION = np.array([1.0, -1.0, -1.0])
CHAIN_OF_HAND21 = tuple(int(i) for i in np.argsort(MANO_TO_OPENPOSE)[:16])
"""Where MANO's 16 joints are among `hand21`."""


@dataclass(frozen=True)
class HandModel:
    """One side's MANO: what turns stored parameters into absolute rotations and joints."""

    path: Path
    mean: Float64[np.ndarray, "15 3"]
    components: Float64[np.ndarray, "45 45"]
    """Rows are the directions of the PCA, without the mean."""
    template: Float64[np.ndarray, "16 3"]
    """The joints at rest, of the mean shape."""
    shape_dirs: Float64[np.ndarray, "16 3 10"]
    parents: tuple[int, ...]

    def add_mean(self, relative: Float64[np.ndarray, "t 45"]) -> Float64[np.ndarray, "t 15 3"]:
        """Absolute rotations from those relative to the mean pose."""
        return relative.reshape(-1, 15, 3) + self.mean

    def expand_pca(
        self, coefficients: Float64[np.ndarray, "t 45"]
    ) -> Float64[np.ndarray, "t 15 3"]:
        """Absolute rotations from all 45 coefficients about the mean pose."""
        return self.add_mean(coefficients @ self.components)

    def rest_joints(self, betas: Float64[np.ndarray, "t 10"]) -> Float64[np.ndarray, "t 16 3"]:
        """The unposed joints of a shape."""
        return self.template + np.einsum("ncs,ts->tnc", self.shape_dirs, betas)

    def joints(
        self,
        global_orient: Float64[np.ndarray, "t 3"],
        pose: Float64[np.ndarray, "t 15 3"],
        betas: Float64[np.ndarray, "t 10"],
    ) -> Float64[np.ndarray, "t 16 3"]:
        """The posed joints, before `transl`."""
        rest = self.rest_joints(betas)
        local = Rotation.from_rotvec(
            np.concatenate([global_orient[:, None], pose], 1).reshape(-1, 3)
        ).as_matrix()
        local = local.reshape(-1, 16, 3, 3)
        turned, joints = [local[:, 0]], [rest[:, 0]]
        for child, parent in enumerate(self.parents[1:], start=1):
            bone = rest[:, child] - rest[:, parent]
            joints.append(joints[parent] + (turned[parent] @ bone[..., None])[..., 0])
            turned.append(turned[parent] @ local[:, child])
        return np.stack(joints, 1)


def read_hand_model(root: Path, *, is_right: bool) -> HandModel | None:
    """The files in `root/mano`, if they are there; a left hand needs both.

    Raises SourceError where only one of two needed files is there, or a file lacks what is needed.
    """
    sides = ("RIGHT",) if is_right else ("RIGHT", "LEFT")
    found = [_find_file(root / "mano", side) for side in sides]
    if found[-1] is None:
        return None
    if found[0] is None:
        raise SourceError(f"{root / 'mano'}: {found[-1].name} without MANO_RIGHT.pkl")
    return _read_files(found[0], found[-1], is_right=is_right)


def fit_transl(
    model: HandModel,
    joints_cam: Float64[np.ndarray, "t 21 3"],
    *,
    global_orient: Float64[np.ndarray, "t 3"],
    pose: Float64[np.ndarray, "t 15 3"],
    betas: Float64[np.ndarray, "t 10"],
    path: Path,
    tolerance: float = 0.01,
) -> Float64[np.ndarray, "t 3"]:
    """The `transl` that puts the posed joints on the labelled ones (`hand21`; means coincide).

    Raises SourceError naming the files and both values where they miss each other by more than
    `tolerance` metres (mean over joints, median over frames): then the pose is not what it is
    taken for.
    """
    offset = joints_cam[:, CHAIN_OF_HAND21] - model.joints(global_orient, pose, betas)
    transl = offset.mean(1)
    error = float(np.median(np.linalg.norm(offset - transl[:, None], axis=-1).mean(1)))
    if error > tolerance:
        raise SourceError(
            f"{path}: the pose with {model.path} misses the labelled joints by "
            f"{1000 * error:.1f} mm, at most {1000 * tolerance:.0f}: another MANO file?"
        )
    return transl


def turn_hand(
    turn: Float64[np.ndarray, "3 3"],
    global_orient: Float64[np.ndarray, "t 3"],
) -> Float64[np.ndarray, "t 3"]:
    """The root rotation in axes that are turned: `turn @ R(global_orient)`."""
    return (Rotation.from_matrix(turn) * Rotation.from_rotvec(global_orient)).as_rotvec()


def _find_file(folder: Path, side: str) -> Path | None:
    paths = [folder / f"MANO_{side}{suffix}" for suffix in (".pkl", ".npz")]
    return next((path for path in paths if path.is_file()), None)


@lru_cache(maxsize=4)
def _read_files(right: Path, own: Path, *, is_right: bool) -> HandModel:
    arrays, fields = read_body_file(right), _read_fields(own)
    flip = np.ones(3) if is_right else MIRROR_POINT
    regressor = arrays.J_regressor.astype(np.float64)
    return HandModel(
        path=own,
        mean=check_array(own, "hands_mean", fields.get("hands_mean"), shape=(45,)).reshape(15, 3),
        components=check_array(
            own, "hands_components", fields.get("hands_components"), shape=(45, 45)
        ),
        template=regressor @ arrays.v_template * flip,
        shape_dirs=np.einsum("nv,vcs->ncs", regressor, arrays.shapedirs) * flip[:, None],
        parents=arrays.parents,
    )


def _read_fields(path: Path) -> dict:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    content = read_pickle(path)
    if not isinstance(content, dict):
        raise SourceError(f"{path}: holds a {type(content).__name__}, not a MANO file's fields")
    return content
