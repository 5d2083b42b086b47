"""A hand benchmark's metrics here and in loops over samples.

    python -m tests.benchmarks.bench_metrics [--samples 11524]

HO3D v2 has 11,524 samples of 21 joints and 778 vertices. Two loops are timed on fewer samples and
extrapolated: *plain* tries all pairs in numpy; *script* does as the published script does (a k-d
tree for each direction, sums over Python numbers, all for each of the two thresholds).

Seconds are CPU time of one process, which a busy machine distorts less than wall time.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import cKDTree

from extpose.body_model import load_body_model
from extpose.evaluation.metrics import aligned_errors, auc
from extpose.evaluation.surface import F_THRESHOLDS, f_scores
from extpose.geometry import find_similarity
from tests import official

NUM_VERTICES, NUM_JOINTS = 778, 21
BATCH = 512


def make_hands(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Meshes (count, 778, 3) with aligned errors like those of published methods (7 mm)."""
    rng = np.random.default_rng(seed)
    template = load_body_model(None, "mano").v_template[:NUM_VERTICES].double().numpy()
    bumps = gaussian_filter1d(rng.normal(size=(NUM_VERTICES, 40, 3)), 30, axis=0)
    weights = rng.normal(0, 1, (count, 40))
    errors = np.einsum("n k, v k c -> n v c", weights, bumps)
    truth = np.repeat(template[None], count, 0)
    return truth + 0.0075 * errors / errors.std() / 3**0.5, truth


def ours(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """PA-MPVPE, AUC_V, F@5, F@15 by batches, as `extpose.evaluation.scoring` computes them."""
    errors, scores = [], []
    for i in range(0, len(found), BATCH):
        a, b = (torch.from_numpy(x[i : i + BATCH]) for x in (found, truth))
        aligned = find_similarity(a, b, reflection=True)(a)
        errors.append((aligned - b).norm(dim=-1))
        scores.append(f_scores(aligned, b))
    whole = torch.cat(errors)
    return np.array([whole.mean(), auc(whole), *torch.cat(scores).mean(0)])


def plain(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The same by `tests.official`."""
    return _loop(found, truth, official.f_score)


def script(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The same with trees and sums over Python numbers."""
    return _loop(found, truth, _script_f_score)


def _loop(found: np.ndarray, truth: np.ndarray, f_score: Callable) -> np.ndarray:
    aligned = np.stack([official.align_hand(a, b) for a, b in zip(found, truth, strict=True)])
    errors = np.linalg.norm(aligned - truth, axis=-1)
    scores = [[f_score(a, b, t) for t in F_THRESHOLDS] for a, b in zip(aligned, truth, strict=True)]
    return np.array([errors.mean(), official.area_under_pck(errors), *np.mean(scores, 0)])


def _script_f_score(found: np.ndarray, truth: np.ndarray, threshold: float) -> float:
    of_truth, of_found = cKDTree(found).query(truth)[0], cKDTree(truth).query(found)[0]
    recall = float(sum(d < threshold for d in of_found)) / len(of_found)
    precision = float(sum(d < threshold for d in of_truth)) / len(of_truth)
    return 2 * recall * precision / (recall + precision) if recall + precision else 0.0


def align_loop(found: np.ndarray, truth: np.ndarray) -> float:
    """PA-MPJPE of bodies, sample by sample."""
    pairs = zip(found, truth, strict=True)
    return float(np.mean([official.mean_distance(official.align_body(a, b), b) for a, b in pairs]))


def _time(function: Callable, *arguments: np.ndarray) -> tuple[np.ndarray, float]:
    start = time.process_time()
    result = function(*arguments)
    return result, time.process_time() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=11524)
    parser.add_argument("--loop-samples", type=int, default=64)
    parser.add_argument("--bodies", type=int, default=35515, help="frames of 3DPW's test set")
    options = parser.parse_args()
    found, truth = make_hands(options.samples)
    few = found[: options.loop_samples], truth[: options.loop_samples]
    ours(*few)  # compile
    print(f"{options.samples} hands of {NUM_VERTICES} vertices; PA-MPVPE, AUC_V, F@5, F@15")
    print("way      samples   CPU s   s for all  PA-MPVPE  AUC_V   F@5    F@15   difference")
    reference, _ = _time(ours, *few)
    for name, function, pair in (
        ("ours", ours, (found, truth)),
        ("plain", plain, few),
        ("script", script, few),
    ):
        result, seconds = _time(function, *pair)
        count = len(pair[0])
        far = "" if name == "ours" else f"{np.abs(result - reference).max():.0e}"
        print(
            f"{name:7} {count:8} {seconds:7.2f} {seconds / count * options.samples:11.1f}  "
            f"{1000 * result[0]:8.3f}  {result[1]:.3f}  {result[2]:.3f}  {result[3]:.3f}  {far}"
        )
    rng = np.random.default_rng(0)
    joints = rng.normal(size=(options.bodies, 14, 3))
    spoilt = joints + 0.1 * rng.normal(size=joints.shape)
    _, fast = _time(lambda a, b: aligned_errors(*map(torch.from_numpy, (a, b))), spoilt, joints)
    _, slow = _time(align_loop, spoilt[:2000], joints[:2000])
    print(
        f"PA-MPJPE of {options.bodies} bodies of 14 joints: ours {fast:.2f} s, "
        f"loop {slow / 2000 * options.bodies:.1f} s (from 2000)"
    )


if __name__ == "__main__":
    main()
