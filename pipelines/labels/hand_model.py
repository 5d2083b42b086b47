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
negated in the published file (vchoutas/smplx#48). So the shape directions here are always the
mirrored right ones; only mean pose and PCA are taken from MANO_LEFT.

Axes    t frames   j = 15 finger joints   n = 16 joints, wrist first (MANO's order)
Units   metres, radians
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64
from scipy.spatial.transform import Rotation

from extpose.body_file import MANO_TO_OPENPOSE, BodyArrays, read_body_file
from extpose.npz import read_npz
from extpose.pickles import read_pickle
from pipelines.records import SourceError, check_array
from pipelines.source_files import note_file

MIRROR_POINT = np.array([-1.0, 1.0, 1.0])
MIRROR_ROTATION = np.array([1.0, -1.0, -1.0])
CHAIN_OF_HAND21 = tuple(int(i) for i in np.argsort(MANO_TO_OPENPOSE)[:16])
"""Where MANO's 16 joints are among `hand21`."""


@dataclass(frozen=True)
class HandModel:
    """One side's MANO: what turns stored parameters into absolute rotations, joints and meshes."""

    path: Path
    is_right: bool
    mean: Float64[np.ndarray, "15 3"]
    components: Float64[np.ndarray, "45 45"]
    """Rows are the directions of the PCA, without the mean."""
    right: BodyArrays
    """MANO_RIGHT; a left hand is its mirror image."""

    def add_mean(self, relative: Float64[np.ndarray, "t 45"]) -> Float64[np.ndarray, "t 15 3"]:
        """Absolute rotations from those relative to the mean pose."""
        return relative.reshape(-1, 15, 3) + self.mean

    def expand_pca(
        self, coefficients: Float64[np.ndarray, "t 45"]
    ) -> Float64[np.ndarray, "t 15 3"]:
        """Absolute rotations from all 45 coefficients about the mean pose."""
        return self.add_mean(coefficients @ self.components)

    def rest_wrist(self, betas: Float64[np.ndarray, "t 10"]) -> Float64[np.ndarray, "t 3"]:
        """What the root rotation turns about."""
        return self._rest_joints(betas)[:, 0] * (1.0 if self.is_right else MIRROR_POINT)

    def joints(self, hand: "MovedHand") -> Float64[np.ndarray, "t 16 3"]:
        """The posed joints in the camera's frame."""
        return self._finish(self._follow_chain(hand)[1], hand)

    def vertices(self, hand: "MovedHand") -> Float64[np.ndarray, "t v 3"]:
        """The posed mesh in the camera's frame (SMPL's linear blend skinning)."""
        turned, joints = self._follow_chain(hand)
        shaped = self.right.v_template + np.einsum("vcs,ts->tvc", self.right.shapedirs, hand.betas)
        if self.right.posedirs is not None:
            features = self._turns(hand)[:, 1:] - np.eye(3)
            features = features.reshape(len(features), -1)
            shaped = shaped + np.einsum("vcp,tp->tvc", self.right.posedirs, features)
        shift = joints - np.einsum("tnrc,tnc->tnr", turned, self._rest_joints(hand.betas))
        blended = np.einsum("vn,tnrc->tvrc", self.right.weights, turned)
        skinned = np.einsum("tvrc,tvc->tvr", blended, shaped)
        return self._finish(skinned + np.einsum("vn,tnr->tvr", self.right.weights, shift), hand)

    def _rest_joints(self, betas: Float64[np.ndarray, "t 10"]) -> Float64[np.ndarray, "t 16 3"]:
        regressor = self.right.J_regressor.astype(np.float64)
        dirs = np.einsum("nv,vcs->ncs", regressor, self.right.shapedirs)
        return regressor @ self.right.v_template + np.einsum("ncs,ts->tnc", dirs, betas)

    def _turns(self, hand: "MovedHand") -> Float64[np.ndarray, "t 16 3 3"]:
        rotations = np.concatenate([hand.global_orient[:, None], hand.pose], 1)
        if not self.is_right:
            rotations = rotations * MIRROR_ROTATION
        return Rotation.from_rotvec(rotations.reshape(-1, 3)).as_matrix().reshape(-1, 16, 3, 3)

    def _follow_chain(
        self, hand: "MovedHand"
    ) -> tuple[Float64[np.ndarray, "t 16 3 3"], Float64[np.ndarray, "t 16 3"]]:
        """Rotations in the right model's frame, and its posed joints."""
        rest, local = self._rest_joints(hand.betas), self._turns(hand)
        turned, joints = [local[:, 0]], [rest[:, 0]]
        for child, parent in enumerate(self.right.parents[1:], start=1):
            bone = rest[:, child] - rest[:, parent]
            joints.append(joints[parent] + (turned[parent] @ bone[..., None])[..., 0])
            turned.append(turned[parent] @ local[:, child])
        return np.stack(turned, 1), np.stack(joints, 1)

    def _finish(
        self, points: Float64[np.ndarray, "t n 3"], hand: "MovedHand"
    ) -> Float64[np.ndarray, "t n 3"]:
        return points * (1.0 if self.is_right else MIRROR_POINT) + hand.transl[:, None]


@dataclass(frozen=True, kw_only=True)
class MovedHand:
    """Parameters of t hands as `ClipTargets` has them: absolute rotations, camera frame."""

    global_orient: Float64[np.ndarray, "t 3"]
    pose: Float64[np.ndarray, "t 15 3"]
    transl: Float64[np.ndarray, "t 3"]
    betas: Float64[np.ndarray, "t 10"]

    def cut(self, part: slice | Bool[np.ndarray, " t"]) -> "MovedHand":
        """Some of the frames."""
        return MovedHand(
            global_orient=self.global_orient[part],
            pose=self.pose[part],
            transl=self.transl[part],
            betas=self.betas[part],
        )


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
    return _read_files(note_file(found[0]), note_file(found[-1]), is_right=is_right)


def check_joints(
    model: HandModel,
    hand: MovedHand,
    joints_cam: Float64[np.ndarray, "t 21 3"],
    *,
    path: Path,
    tolerance: float = 0.01,
) -> None:
    """Refuse a pose that does not put the joints where they are labelled (`hand21`).

    Raises SourceError naming the files and both values where they miss each other by more than
    `tolerance` metres (mean over joints, median over frames): then the pose is not what it is
    taken for.
    """
    errors = np.linalg.norm(model.joints(hand) - joints_cam[:, CHAIN_OF_HAND21], axis=-1).mean(1)
    error = float(np.median(errors))
    if error > tolerance:
        raise SourceError(
            f"{path}: the pose with {model.path} misses the labelled joints by "
            f"{1000 * error:.1f} mm, at most {1000 * tolerance:.0f}: another MANO file or unit?"
        )


def fit_mesh(
    model: HandModel,
    hand: MovedHand,
    vertices_cam: Float64[np.ndarray, "t v 3"],
    *,
    path: Path,
    tolerance: float = 0.003,
) -> MovedHand:
    """The hand turned and moved as a whole so that its mesh lies on the labelled one.

    Raises SourceError naming the files and both values where the best place still misses it by more
    than `tolerance` metres (mean over vertices, median over frames).
    """
    mesh = model.vertices(hand)[:, : vertices_cam.shape[1]]
    centers = mesh.mean(1, keepdims=True), vertices_cam.mean(1, keepdims=True)
    source, target = mesh - centers[0], vertices_cam - centers[1]
    u, _, vt = np.linalg.svd(np.swapaxes(target, 1, 2) @ source)
    u[:, :, 2] *= np.linalg.det(u @ vt)[:, None]
    turn = u @ vt
    errors = np.linalg.norm(source @ np.swapaxes(turn, 1, 2) - target, axis=-1).mean(1)
    error = float(np.median(errors))
    if error > tolerance:
        raise SourceError(
            f"{path}: the pose with {model.path} misses the labelled mesh by "
            f"{1000 * error:.1f} mm, at most {1000 * tolerance:.0f}: another MANO file or unit?"
        )
    wrist = model.rest_wrist(hand.betas)
    from_center = wrist + hand.transl - centers[0][:, 0]
    moved = centers[1][:, 0] + (turn @ from_center[..., None])[..., 0] - wrist
    orient = (Rotation.from_matrix(turn) * Rotation.from_rotvec(hand.global_orient)).as_rotvec()
    return MovedHand(global_orient=orient, pose=hand.pose, transl=moved, betas=hand.betas)


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
    return HandModel(
        path=own,
        is_right=is_right,
        mean=check_array(own, "hands_mean", fields.get("hands_mean"), shape=(45,)).reshape(15, 3),
        components=check_array(
            own, "hands_components", fields.get("hands_components"), shape=(45, 45)
        ),
        right=arrays,
    )


def _read_fields(path: Path) -> dict:
    if path.suffix == ".npz":
        try:
            return read_npz(path)
        except (OSError, ValueError) as error:
            raise SourceError(f"{path}: not a readable npz of plain arrays ({error})") from error
    content = read_pickle(path)
    if not isinstance(content, dict):
        raise SourceError(f"{path}: holds a {type(content).__name__}, not a MANO file's fields")
    return content
