"""SMPL's joints and translations in a camera, where a data set tells them in a world.

Sources have no SMPL file, and need none: whatever of it matters here follows from the data sets'
own numbers.

Axes    t frames   n joints (24)   *b any
Units   metres; rotations are axis-angles (radians) or matrices
Frames  `rotation`, `offset`: x_cam = rotation @ x_world + offset
Source  Loper et al., SMPL (2015), Eq. 2-4: joint 0 of a posed body is J0(betas) + transl, since the
        body turns about its own root joint; other joints follow their parents rigidly.
"""

import numpy as np
from jaxtyping import Bool, Float64
from scipy.spatial.transform import Rotation

from pipelines.records import SourceError

SMPL_PARENTS = (
    -1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21
)  # fmt: skip
_PAIRS = ((1, 2), (4, 5), (7, 8), (16, 17), (18, 19), (20, 21))
"""Left and right: hips, knees, ankles, shoulders, elbows, wrists."""
USUAL_ROOT = np.array([0.0, -0.23, 0.02])
"""Where J0 is in SMPL's frame, roughly, whatever the shape."""


def to_matrices(axis_angles: Float64[np.ndarray, "*b 3"]) -> Float64[np.ndarray, "*b 3 3"]:
    """Rotation matrices."""
    flat = Rotation.from_rotvec(axis_angles.reshape(-1, 3)).as_matrix()
    return flat.reshape(*axis_angles.shape[:-1], 3, 3)


def to_axis_angles(matrices: Float64[np.ndarray, "*b 3 3"]) -> Float64[np.ndarray, "*b 3"]:
    """Axis-angles of rotation matrices."""
    return Rotation.from_matrix(matrices.reshape(-1, 3, 3)).as_rotvec().reshape(matrices.shape[:-1])


def check_cameras(
    name: str, extrinsics: Float64[np.ndarray, "t 4 4"], used: Bool[np.ndarray, " t"]
) -> tuple[Float64[np.ndarray, "t 3 3"], Float64[np.ndarray, "t 3"]]:
    """Rotation and offset of cameras; the identity where they are not used.

    Raises SourceError naming the frame and the determinant of what does not rotate.
    """
    cameras = np.where(used[:, None, None], extrinsics, np.eye(4))
    rotation = cameras[:, :3, :3]
    errors = np.abs(rotation @ np.swapaxes(rotation, -1, -2) - np.eye(3)).max((-1, -2))
    determinants = np.linalg.det(rotation)
    bad = (errors > 1e-2) | (determinants < 0)
    if bad.any():
        frame = int(np.argmax(bad))
        raise SourceError(
            f"{name}[{frame}]: not a rotation (determinant {determinants[frame]:.3g}, expected 1)"
        )
    return rotation, cameras[:, :3, 3]


def turn_points(
    points: Float64[np.ndarray, "t n 3"],
    rotation: Float64[np.ndarray, "t 3 3"],
    offset: Float64[np.ndarray, "t 3"],
) -> Float64[np.ndarray, "t n 3"]:
    """Points of the world in the camera."""
    return points @ np.swapaxes(rotation, -1, -2) + offset[:, None]


def turn_body(
    global_orient: Float64[np.ndarray, "t 3"],
    transl: Float64[np.ndarray, "t 3"],
    *,
    rest_root: Float64[np.ndarray, " 3"],
    rotation: Float64[np.ndarray, "t 3 3"],
    offset: Float64[np.ndarray, "t 3"],
) -> tuple[Float64[np.ndarray, "t 3"], Float64[np.ndarray, "t 3"]]:
    """`global_orient` and `transl` of a body of the world in the camera.

    The root joint is at J0 + transl in both, so transl_cam = R (J0 + transl) + offset - J0.
    """
    turned = to_axis_angles(rotation @ to_matrices(global_orient))
    root = turn_points((rest_root + transl)[:, None], rotation, offset)[:, 0]
    return turned, root - rest_root


def find_rest_root(
    name: str, root: Float64[np.ndarray, "t 3"], transl: Float64[np.ndarray, "t 3"]
) -> Float64[np.ndarray, " 3"]:
    """J0 from a posed body's root joint: root - transl, the same in every frame.

    Raises SourceError where it varies by over 5 cm, or is nowhere near a body's: `root` and
    `transl` are of different units, axes or bodies.
    """
    offsets = root - transl
    rest = np.median(offsets, 0)
    spread = float(np.median(np.abs(offsets - rest).max(-1)))
    if spread > 0.05:
        raise SourceError(
            f"{name}: root joint minus translation varies by {spread:.3g} m, must be constant"
        )
    return check_rest_root(name, rest)


def check_rest_joints(name: str, rest: Float64[np.ndarray, "24 3"]) -> Float64[np.ndarray, " 3"]:
    """J0 of the joints at rest; SourceError unless they are SMPL's: the left ones at larger x."""
    across = np.array([rest[left, 0] - rest[right, 0] for left, right in _PAIRS])
    if (across < 0).any():
        pair = _PAIRS[int(np.argmin(across))]
        raise SourceError(
            f"{name}: joint {pair[0]} is left of joint {pair[1]} in SMPL, here it is "
            f"{-across.min():.3g} m to the right of it: left and right are swapped?"
        )
    return check_rest_root(name, rest[0])


def check_rest_root(name: str, rest: Float64[np.ndarray, " 3"]) -> Float64[np.ndarray, " 3"]:
    """`rest`; SourceError where it is not where SMPL's root joint is."""
    if np.abs(rest - USUAL_ROOT).max() > 0.15:
        raise SourceError(
            f"{name}: SMPL's root joint at rest would be at {np.round(rest, 3).tolist()} m, "
            f"is near {USUAL_ROOT.tolist()}: wrong unit, axes or order?"
        )
    return rest


def rotate_chain(
    global_orient: Float64[np.ndarray, "t 3"], pose: Float64[np.ndarray, "t 23 3"]
) -> Float64[np.ndarray, "t 24 3 3"]:
    """Each joint's rotation in the frame of `global_orient`."""
    local = to_matrices(np.concatenate([global_orient[:, None], pose], 1))
    turned = np.empty_like(local)
    for joint, parent in enumerate(SMPL_PARENTS):
        turned[:, joint] = local[:, joint] if parent < 0 else turned[:, parent] @ local[:, joint]
    return turned


def fit_joints(
    seen: Float64[np.ndarray, "t 24 2"],
    turned: Float64[np.ndarray, "t 24 3 3"],
    shift: Float64[np.ndarray, "t 3"],
    intrinsics: Float64[np.ndarray, "t 3 3"],
    root_turn: Float64[np.ndarray, "t 3 3"],
) -> tuple[Float64[np.ndarray, "t 24 3"], Float64[np.ndarray, "24 3"], float]:
    """The 24 joints in the camera from their projections, without the body's file.

    Joint n is `root_turn @ J0 + shift + sum of turned[parent] @ bone` up the chain, with `turned`
    the rotations in the camera: linear in J0 and the 23 bones, which are the same in all frames,
    while each projection gives two equations. One least-squares problem gives all of them.

    Returns:
        joints of each frame, joints of the body at rest, and the largest standard error of a bone
        or of J0 in metres per pixel of noise: how far the frames determine the answer.
    """
    num_frames = len(seen)
    paths = np.zeros((num_frames, 24, 3, 72))
    paths[:, 0, :, :3] = root_turn
    for joint, parent in enumerate(SMPL_PARENTS):
        if parent >= 0:
            paths[:, joint] = paths[:, parent]
            paths[:, joint, :, 3 * joint : 3 * joint + 3] = turned[:, parent]
    rays = _normalise(seen, intrinsics)
    # x/z = u is x - u z = 0; a row's weight turns its error into pixels at an assumed depth.
    rows = paths[..., :2, :] - rays[..., None] * paths[..., 2:, :]
    right = -(shift[:, None, :2] - rays * shift[:, None, 2:])
    depth = np.maximum(np.abs(shift[:, 2]), 0.1)
    weight = (np.stack([intrinsics[:, 0, 0], intrinsics[:, 1, 1]], -1) / depth[:, None])[:, None]
    matrix = (rows * weight[..., None]).reshape(-1, 72)
    # What no frame determines stays near a usual body's, within 5 cm of J0 and 0.5 m of a bone,
    # against a noise of a hundredth of a pixel.
    usual = np.concatenate([USUAL_ROOT, np.zeros(69)])
    prior = np.concatenate([np.full(3, (0.01 / 0.05) ** 2), np.full(69, (0.01 / 0.5) ** 2)])
    covariance = np.linalg.inv(matrix.T @ matrix + np.diag(prior))
    solution = covariance @ (matrix.T @ (right * weight).reshape(-1) + prior * usual)
    joints = paths @ solution + shift[:, None]
    rest = solution.reshape(24, 3).copy()
    for joint, parent in enumerate(SMPL_PARENTS[1:], start=1):
        rest[joint] += rest[parent]
    return joints, rest, float(np.sqrt(np.diag(covariance).max()))


def _normalise(
    seen: Float64[np.ndarray, "t n 2"], intrinsics: Float64[np.ndarray, "t 3 3"]
) -> Float64[np.ndarray, "t n 2"]:
    homogeneous = np.concatenate([seen, np.ones((*seen.shape[:-1], 1))], -1)
    rays = homogeneous @ np.swapaxes(np.linalg.inv(intrinsics), -1, -2)
    return rays[..., :2] / rays[..., 2:]


def fit_intrinsics(
    name: str, points_cam: Float64[np.ndarray, "*b 3"], seen: Float64[np.ndarray, "*b 2"]
) -> Float64[np.ndarray, "3 3"]:
    """The pinhole camera that takes points to pixels: focal lengths and centre, no skew.

    Raises SourceError where the points are not in front of a camera, or the pixels are further
    than 10 (median) from any such camera's.
    """
    points, pixels = points_cam.reshape(-1, 3), seen.reshape(-1, 2)
    if np.median(points[:, 2]) <= 0:
        raise SourceError(f"{name}: median depth {np.median(points[:, 2]):.3g} m, must be positive")
    matrix = np.eye(3)
    found = np.empty_like(pixels)
    for axis in range(2):
        rows = np.stack([points[:, axis] / points[:, 2], np.ones(len(points))], -1)
        (focal, centre), *_ = np.linalg.lstsq(rows, pixels[:, axis], rcond=None)
        matrix[axis, axis], matrix[axis, 2] = focal, centre
        found[:, axis] = rows @ (focal, centre)
    error = float(np.median(np.linalg.norm(found - pixels, axis=-1)))
    if error > 10 or min(matrix[0, 0], matrix[1, 1]) <= 0:
        raise SourceError(
            f"{name}: no pinhole camera takes the 3D points to the 2D ones: the best is off by "
            f"{error:.3g} px (median), at most 10; focal lengths {matrix[0, 0]:.4g}, "
            f"{matrix[1, 1]:.4g} must be positive"
        )
    return matrix
