"""The published evaluation rules, written again as plainly as they are stated: loops and numpy.

Nothing here comes from `extpose`; metres in, metres (or fractions, degrees) out.
"""

import numpy as np
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.transform import Rotation


def align_body(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """HMR's, 3DPW's and EMDB's alignment of one frame, determinant +1."""
    a, b = found - found.mean(0), truth - truth.mean(0)
    u, _, vh = np.linalg.svd(a.T @ b)
    fix = np.diag([1, 1, np.sign(np.linalg.det(u @ vh))])
    turn = vh.T @ fix @ u.T
    scale = np.trace(turn @ (a.T @ b)) / (a**2).sum()
    return scale * a @ turn.T + truth.mean(0)


def align_body_by_scipy(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The same by another road: Kabsch's rotation of scipy, scale by least squares."""
    a, b = found - found.mean(0), truth - truth.mean(0)
    turned = Rotation.align_vectors(b, a)[0].apply(a)
    return (turned * b).sum() / (a * a).sum() * turned + truth.mean(0)


def align_hand(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """FreiHAND's and HO3D's: norms divided out, scipy's orthogonal Procrustes, mirrors allowed."""
    a, b = found - found.mean(0), truth - truth.mean(0)
    norm_a, norm_b = np.linalg.norm(a) + 1e-8, np.linalg.norm(b) + 1e-8
    turn, scale = orthogonal_procrustes(b / norm_b, a / norm_a)
    return (a / norm_a) @ turn.T * scale * norm_b + truth.mean(0)


def mean_distance(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sqrt(((found - truth) ** 2).sum(-1)).mean())


def area_under_pck(errors: np.ndarray) -> float:
    """FreiHAND's AUC of errors (samples, points): curve per point, trapezoids, mean over points."""
    thresholds = np.linspace(0, 0.05, 100)
    areas = []
    for point in errors.T:
        curve = np.array([(point <= threshold).mean() for threshold in thresholds])
        areas.append(np.trapezoid(curve, thresholds) / np.trapezoid(np.ones(100), thresholds))
    return float(np.mean(areas))


def f_score(found: np.ndarray, truth: np.ndarray, threshold: float) -> float:
    """FreiHAND's F-score of one sample."""
    to_found = np.array([np.sqrt(((found - point) ** 2).sum(-1)).min() for point in truth])
    to_truth = np.array([np.sqrt(((truth - point) ** 2).sum(-1)).min() for point in found])
    recall, precision = (to_truth < threshold).mean(), (to_found < threshold).mean()
    both = recall + precision
    return float(2 * recall * precision / both) if both > 0 else 0.0


def pck(
    found: np.ndarray, truth: np.ndarray, confidence: np.ndarray, sides: np.ndarray, at: float
) -> float:
    """HMR2.0's and HaMeR's: share of each keypoint over the set, then the mean over keypoints."""
    shares = []
    for k in range(found.shape[1]):
        hits = [
            np.linalg.norm(found[i, k] - truth[i, k]) / sides[i] < at
            for i in range(len(found))
            if confidence[i, k] > 0.5
        ]
        if hits:
            shares.append(np.mean(hits))
    return float(np.mean(shares))


def acceleration_error(found: np.ndarray, truth: np.ndarray, valid: np.ndarray) -> float:
    """VIBE's, with triples that touch an invalid frame left out; metres a frame^2."""
    errors = []
    for t in range(1, len(found) - 1):
        if valid[t - 1] and valid[t] and valid[t + 1]:
            a, b = (x[t - 1] - 2 * x[t] + x[t + 1] for x in (found, truth))
            errors.append(np.linalg.norm(a - b, axis=-1).mean())
    return float(np.mean(errors))


def jitter(points: np.ndarray, fps: float) -> float:
    """WHAM's, 10 m/s^3."""
    third = points[3:] - 3 * points[2:-1] + 3 * points[1:-2] - points[:-3]
    return float((np.linalg.norm(third * fps**3, axis=2).mean(-1) / 10).mean())


def foot_sliding(found: np.ndarray, truth: np.ndarray, threshold: float) -> float:
    """WHAM's: mean motion of the prediction's feet where the truth's stand."""
    stood = np.linalg.norm(truth[1:] - truth[:-1], axis=-1) < threshold
    return float(np.linalg.norm(found[1:] - found[:-1], axis=-1)[stood].mean())


def angles(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """3DPW's and EMDB's: geodesic distance of rotation matrices (..., 3, 3), degrees."""
    turns = (found @ np.swapaxes(truth, -1, -2)).reshape(-1, 3, 3)
    return np.degrees(Rotation.from_matrix(turns).magnitude()).reshape(found.shape[:-2])
