"""From sampled bodies to the arrays of a model file: shape space, regressor, vertex order.

Axes    s sampled bodies   v vertices   j joints   k shape components (10)
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, Int
from scipy.optimize import nnls

NUM_CANDIDATES = 200
"""Vertices that a row of the joint regressor may use."""


def fit_shapes(
    vertices: Float32[np.ndarray, "s v 3"], num_betas: int = 10
) -> tuple[Float[np.ndarray, "v 3"], Float[np.ndarray, "v 3 k"], Float[np.ndarray, "s k"]]:
    """Mean, principal directions of unit variance, and every sample's betas.

    The sign of a direction is chosen so that positive betas make a taller (larger) body.
    """
    mean = vertices.mean(0, dtype=np.float64)
    left, scale, right = np.linalg.svd(
        (vertices - mean).reshape(len(vertices), -1), full_matrices=False
    )
    spread = np.sqrt(len(vertices) - 1)
    betas = left[:, :num_betas] * spread
    directions = (right[:num_betas] * scale[:num_betas, None] / spread).T
    directions = directions.reshape(*mean.shape, num_betas)
    sizes = np.ptp(vertices, axis=1).sum(-1)
    signs = np.where(betas.T @ (sizes - sizes.mean()) < 0, -1.0, 1.0)
    return mean, directions * signs, betas * signs


def fit_regressor(
    mean: Float[np.ndarray, "v 3"],
    directions: Float[np.ndarray, "v 3 k"],
    *,
    joints: Float[np.ndarray, "s j 3"],
    betas: Float[np.ndarray, "s k"],
    candidates: Sequence[Int[np.ndarray, " c"]],
) -> Float32[np.ndarray, "j v"]:
    """Sparse non-negative rows, summing to 1, that give each joint and its change with shape.

    `candidates` are the vertices that may take part, for each joint; the nearest of them do.
    """
    joint_mean = joints.mean(0, dtype=np.float64)
    change = np.einsum("sjc,sk->jck", joints - joint_mean, betas) / (len(betas) - 1)
    regressor = np.zeros((len(joint_mean), len(mean)), np.float32)
    for j, choice in enumerate(candidates):
        distance = np.linalg.norm(mean[choice] - joint_mean[j], axis=1)
        near = choice[np.argsort(distance, kind="stable")[: 3 * NUM_CANDIDATES]]
        near = near[np.linspace(0, len(near) - 1, min(NUM_CANDIDATES, len(near))).astype(int)]
        num = len(near)
        # Rows: position, change with each beta, a strong sum to one, a weak pull to zero.
        system = np.concatenate(
            [
                mean[near].T,
                directions[near].reshape(num, -1).T,
                np.full((1, num), 10.0),
                1e-3 * np.eye(num),
            ]
        )
        target = np.concatenate([joint_mean[j], change[j].ravel(), [10.0], np.zeros(num)])
        share, _ = nnls(system, target)
        regressor[j, near] = share / share.sum()
    return regressor


def order_vertices(
    num_vertices: int, *, vertex_of: dict[str, int], wanted: dict[str, int]
) -> Int[np.ndarray, " v"]:
    """For each new vertex its old one, such that the named points get the wanted numbers."""
    old_of_new, new_of_old = np.arange(num_vertices), np.arange(num_vertices)
    for name, new in wanted.items():
        old, displaced, place = vertex_of[name], old_of_new[new], new_of_old[vertex_of[name]]
        old_of_new[new], old_of_new[place] = old, displaced
        new_of_old[old], new_of_old[displaced] = new, place
    return old_of_new


def reorder_faces(
    faces: Int[np.ndarray, "f 3"], old_of_new: Int[np.ndarray, " v"]
) -> Int[np.ndarray, "f 3"]:
    """Triangles in the new vertex numbers."""
    new_of_old = np.empty_like(old_of_new)
    new_of_old[old_of_new] = np.arange(len(old_of_new))
    return new_of_old[faces]
