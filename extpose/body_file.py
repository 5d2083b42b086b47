"""Body and hand model files: the arrays of SMPL and MANO, read and checked.

Two containers are read: the original pickles, and npz archives with the same names (the free
models in `extpose/free/` are such archives). Arrays in, arrays out; `body_model.py` computes.

Axes    v vertices   f triangles   n joints (24 SMPL, 16 MANO)   k keypoints   p pose features
Units   metres; the model's own frame: y up, facing +z, the person's left is +x
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from extpose.errors import AssetError
from extpose.npz import read_npz
from extpose.pickles import read_pickle

NUM_BETAS = 10
BODY_OF_JOINTS = {24: "smpl", 16: "mano"}

SMPL_POINT_VERTICES = {
    "nose": 332, "right_eye": 6260, "left_eye": 2800, "right_ear": 4071, "left_ear": 583,
    "left_big_toe": 3216, "left_small_toe": 3226, "left_heel": 3387,
    "right_big_toe": 6617, "right_small_toe": 6624, "right_heel": 6787,
}  # fmt: skip
"""Vertices of face and feet in SMPL's mesh, in the order of smplx."""
SMPL_TO_OPENPOSE = (
    24, 12, 17, 19, 21, 16, 18, 20, 0, 2, 5, 8, 1, 4, 7, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34
)  # fmt: skip
"""SMPL's 24 joints and 11 points of the surface in OpenPose's order of 25 (HMR2.0)."""
MANO_TIP_VERTICES = (744, 320, 443, 554, 671)
"""Finger tips in MANO's mesh: thumb, index, middle, ring, little."""
MANO_TO_OPENPOSE = (0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20)
"""MANO's 16 joints and 5 tips in OpenPose's order: wrist, then thumb to little, base to tip."""


@dataclass(frozen=True, kw_only=True)
class BodyArrays:
    """What a body model file holds."""

    v_template: Float32[np.ndarray, "v 3"]
    shapedirs: Float32[np.ndarray, "v 3 10"]
    posedirs: Float32[np.ndarray, "v 3 p"] | None
    """Pose correctives; None where the file has none."""
    J_regressor: Float32[np.ndarray, "n v"]
    weights: Float32[np.ndarray, "v n"]
    parents: tuple[int, ...]
    """Parent of each joint, before its child; -1 at the root."""
    faces: Int64[np.ndarray, "f 3"]
    coco_regressor: Float32[np.ndarray, "17 v"] | None
    """COCO's keypoints from the surface (`J_regressor_coco`); None where the file has none."""
    extra_regressor: Float32[np.ndarray, "19 v"] | None
    """HMR2.0's extra joints (`J_regressor_extra`, or `SMPL_to_J19.pkl`); None: not known."""


def read_body_file(path: Path) -> BodyArrays:
    """Read a `.pkl` or `.npz` in the layout of SMPL or MANO.

    Only the first 10 shape components are kept. Raises `AssetError` that names the file, the
    field and both shapes.
    """
    fields = _read_npz(path) if path.suffix == ".npz" else read_pickle(path)
    if not isinstance(fields, dict):
        raise AssetError(f"{path}: holds a {type(fields).__name__}, not the fields of a body model")
    required = ("v_template", "shapedirs", "J_regressor", "weights", "kintree_table", "f")
    missing = [name for name in required if name not in fields]
    if missing:
        raise AssetError(f"{path}: lacks {', '.join(missing)}; not an SMPL or MANO file")
    num_vertices, num_joints = len(np.atleast_1d(fields["v_template"])), _count_joints(path, fields)
    shapes: dict[str, tuple[int | str, ...]] = {
        "v_template": (num_vertices, 3),
        "shapedirs": (num_vertices, 3, f">={NUM_BETAS}"),
        "posedirs": (num_vertices, 3, 9 * (num_joints - 1)),
        "J_regressor": (num_joints, num_vertices),
        "weights": (num_vertices, num_joints),
        "J_regressor_coco": (17, num_vertices),
        "J_regressor_extra": (19, num_vertices),
    }
    arrays = {
        name: _read_floats(path, name, fields[name], shape)
        for name, shape in shapes.items()
        if name in fields
    }
    return BodyArrays(
        v_template=arrays["v_template"],
        shapedirs=np.ascontiguousarray(arrays["shapedirs"][:, :, :NUM_BETAS]),
        posedirs=arrays.get("posedirs"),
        J_regressor=arrays["J_regressor"],
        weights=arrays["weights"],
        parents=_read_parents(path, np.asarray(fields["kintree_table"])),
        faces=_read_faces(path, np.asarray(fields["f"]), num_vertices),
        coco_regressor=arrays.get("J_regressor_coco"),
        extra_regressor=arrays.get("J_regressor_extra"),
    )


def read_regressor(path: Path, num_vertices: int, *, rows: int) -> Float32[np.ndarray, "k v"]:
    """A joint regressor by itself: `.npy`, or a pickle of an array (HMR2.0's `SMPL_to_J19.pkl`).

    Raises `AssetError` that names the file and both shapes.
    """
    try:
        value = np.load(path, allow_pickle=False) if path.suffix == ".npy" else read_pickle(path)
    except (ValueError, OSError, EOFError) as error:
        raise AssetError(f"{path}: not a readable array ({error})") from error
    return _read_floats(path, "regressor", value, (rows, num_vertices))


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_npz(path)
    except FileNotFoundError:
        raise AssetError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise AssetError(f"{path}: not a readable npz of plain arrays ({error})") from error


def _count_joints(path: Path, fields: dict) -> int:
    shape = np.shape(fields["kintree_table"])
    if len(shape) != 2 or shape[0] != 2 or shape[1] not in BODY_OF_JOINTS:
        allowed = " or ".join(f"(2, {n}) for {body}" for n, body in BODY_OF_JOINTS.items())
        raise AssetError(f"{path}: kintree_table has shape {shape}, expected {allowed}")
    return shape[1]


def _read_floats(
    path: Path, name: str, value: object, expected: tuple[int | str, ...]
) -> np.ndarray:
    array = np.asarray(value)
    fits = len(array.shape) == len(expected) and all(
        have >= int(want[2:]) if isinstance(want, str) else have == want
        for have, want in zip(array.shape, expected, strict=True)
    )
    if not fits:
        wanted = ", ".join(str(size) for size in expected)
        raise AssetError(f"{path}: {name} has shape {array.shape}, expected ({wanted})")
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise AssetError(f"{path}: {name} ({array.dtype}) holds values that are not finite numbers")
    return np.ascontiguousarray(array, np.float32)


def _read_parents(path: Path, table: np.ndarray) -> tuple[int, ...]:
    """Row 0 of `kintree_table`. The root is -1, or 2^32 - 1 where it was stored unsigned."""
    row, names = table.astype(np.int64)
    parents = tuple(-1 if parent in (-1, 2**32 - 1) else int(parent) for parent in row)
    is_chain = parents[0] == -1 and all(0 <= p < i for i, p in enumerate(parents) if i > 0)
    if not is_chain or not np.array_equal(names, np.arange(len(parents))):
        raise AssetError(f"{path}: kintree_table {table.tolist()} lists a child before its parent")
    return parents


def _read_faces(path: Path, faces: np.ndarray, num_vertices: int) -> np.ndarray:
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype.kind not in "iu":
        raise AssetError(f"{path}: f has shape {faces.shape} ({faces.dtype}), expected (f, 3)")
    faces = faces.astype(np.int64)
    if faces.size and (faces.min() < 0 or faces.max() >= num_vertices):
        raise AssetError(f"{path}: f names vertex {faces.max()}, v_template has {num_vertices}")
    return faces
