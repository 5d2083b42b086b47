"""The agreement table: each metric here, the same by an independent road, the largest difference.

python -m tests.agreement
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from torch import Tensor

from extpose.evaluation.metrics import (
    aligned_errors,
    auc,
    mpjae,
    mpjpe,
    mpvpe,
    pa_mpjpe,
    pa_mpvpe,
    pck_hits,
)
from extpose.evaluation.surface import f_scores
from extpose.evaluation.temporal import acceleration_error, foot_sliding, jitter
from tests import official

ROOT = (2, 3)
FPS = 30.0


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """One line: the mean over the samples by both roads, and the largest difference of a value."""

    metric: str
    independent: str
    unit: str
    ours: float
    theirs: float
    difference: float


@dataclass(frozen=True)
class Samples:
    """Poses with the size and the errors of real ones, metres and pixels."""

    found: np.ndarray
    truth: np.ndarray
    found_hand: np.ndarray
    found_mesh: np.ndarray
    truth_mesh: np.ndarray
    found_2d: np.ndarray
    truth_2d: np.ndarray
    confidence: np.ndarray
    sides: np.ndarray
    rotations: tuple[np.ndarray, np.ndarray]
    valid: np.ndarray


def make_samples(seed: int, num_frames: int = 24, num_vertices: int = 200) -> Samples:
    """Moving points and noisy predictions of them; every fifth hand is a mirrored one."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 0.08, (14, 3)) + np.cumsum(rng.normal(0, 0.004, (num_frames, 14, 3)), 0)
    mesh = rng.normal(0, 0.05, (num_vertices, 3)) + rng.normal(0, 0.002, (num_frames, 1, 3))
    turn = Rotation.from_rotvec(rng.normal(0, 0.1, 3)).as_matrix()

    def spoil(points: np.ndarray, noise: float, *, mirrored: bool = False) -> np.ndarray:
        noisy = points + rng.normal(0, noise, points.shape)
        if mirrored:
            noisy[::5, :, 0] *= -1
        return 1.1 * noisy @ turn + rng.normal(0, 0.1, (1, 1, 3))

    truth_2d = rng.uniform(0, 200, (num_frames, 21, 2))
    angles = [Rotation.random(num_frames * 9, random_state=seed + i).as_matrix() for i in (1, 2)]
    return Samples(
        found=spoil(truth, 0.01),
        truth=truth,
        found_hand=spoil(truth, 0.01, mirrored=True),
        found_mesh=spoil(mesh, 0.004, mirrored=True),
        truth_mesh=mesh,
        found_2d=truth_2d + rng.normal(0, 12, truth_2d.shape),
        truth_2d=truth_2d,
        confidence=rng.uniform(0, 1, (num_frames, 21)),
        sides=rng.uniform(80, 200, num_frames),
        rotations=(angles[0].reshape(-1, 9, 3, 3), angles[1].reshape(-1, 9, 3, 3)),
        valid=rng.uniform(size=num_frames) > 0.1,
    )


def agreements(seed: int = 0) -> list[Agreement]:
    """All lines of the table."""
    s = make_samples(seed)
    return [*_frame_lines(s), *_set_lines(s), *_time_lines(s)]


def _frame_lines(s: Samples) -> Iterator[Agreement]:
    t = {name: torch.from_numpy(getattr(s, name)) for name in ("found", "truth")}
    hand = torch.from_numpy(s.found_hand)
    meshes = torch.from_numpy(s.found_mesh), torch.from_numpy(s.truth_mesh)
    centred = [x - x[:, list(ROOT)].mean(1, keepdims=True) for x in (s.found, s.truth)]
    roots = [x[:, list(ROOT)].mean(1) for x in (s.found, s.truth)]
    found_root, target_root = map(torch.from_numpy, roots)
    shifted = [m - r[:, None] for m, r in zip((s.found_mesh, s.truth_mesh), roots, strict=True)]

    def loop(align: Callable, found: np.ndarray, truth: np.ndarray) -> np.ndarray:
        pairs = zip(found, truth, strict=True)
        return np.array([official.mean_distance(align(a, b), b) for a, b in pairs])

    def keep(found: np.ndarray, _: np.ndarray) -> np.ndarray:
        return found

    yield _line("MPJPE", "plain numpy", mpjpe(**_pair(t), root=ROOT), loop(keep, *centred))
    yield _line("PA-MPJPE, bodies", "HMR's SVD", pa_mpjpe(**_pair(t)),
                loop(official.align_body, s.found, s.truth))  # fmt: skip
    yield _line("PA-MPJPE, bodies", "scipy Kabsch", pa_mpjpe(**_pair(t)),
                loop(official.align_body_by_scipy, s.found, s.truth))  # fmt: skip
    yield _line("PA-MPJPE, hands", "scipy Procrustes", pa_mpjpe(hand, t["truth"], reflection=True),
                loop(official.align_hand, s.found_hand, s.truth))  # fmt: skip
    yield _line("MPVPE", "plain numpy",
                mpvpe(*meshes, found_root=found_root, target_root=target_root),
                loop(keep, *shifted))  # fmt: skip
    yield _line("PA-MPVPE, hands", "scipy Procrustes", pa_mpvpe(*meshes, reflection=True),
                loop(official.align_hand, s.found_mesh, s.truth_mesh))  # fmt: skip


def _set_lines(s: Samples) -> Iterator[Agreement]:
    sides = {"AUC_J": (s.found_hand, s.truth), "AUC_V": (s.found_mesh, s.truth_mesh)}
    for name, (found, truth) in sides.items():
        pairs = zip(found, truth, strict=True)
        aligned = np.stack([official.align_hand(a, b) for a, b in pairs])
        errors = np.linalg.norm(aligned - truth, axis=-1)
        ours = auc(aligned_errors(*map(torch.from_numpy, (found, truth)), reflection=True))
        yield _line(name, "FreiHAND's curve", ours, official.area_under_pck(errors), unit="")
    scores = f_scores(torch.from_numpy(aligned), torch.from_numpy(s.truth_mesh))
    for i, threshold in enumerate((0.005, 0.015)):
        pairs = list(zip(aligned, s.truth_mesh, strict=True))
        plain = [official.f_score(a, b, threshold) for a, b in pairs]
        tree = [_f_score_by_tree(a, b, threshold) for a, b in pairs]
        name = f"F@{1000 * threshold:g}"
        yield _line(name, "plain loop", scores[:, i], np.array(plain), unit="")
        yield _line(name, "scipy's k-d tree", scores[:, i], np.array(tree), unit="")
    for at in (0.05, 0.1):
        hits = pck_hits(
            torch.from_numpy(s.found_2d),
            torch.from_numpy(s.truth_2d),
            scale=torch.from_numpy(s.sides),
            threshold=at,
            has_point=torch.from_numpy(s.confidence > 0.5),
        )
        theirs = official.pck(s.found_2d, s.truth_2d, s.confidence, s.sides, at)
        yield _line(f"PCK@{at:g}", "HaMeR's rule", hits.nanmean(0).nanmean(), theirs, unit="")


def _time_lines(s: Samples) -> Iterator[Agreement]:
    found, truth = torch.from_numpy(s.found), torch.from_numpy(s.truth)
    valid = torch.from_numpy(s.valid)
    accel = acceleration_error(found, truth, valid=valid).nanmean()
    theirs = official.acceleration_error(s.found, s.truth, s.valid)
    yield _line("acceleration error", "plain loop", accel, theirs, scale=1000, unit="mm/frame^2")
    yield _line("acceleration error", "plain loop", accel, theirs, scale=FPS**2, unit="m/s^2")
    yield _line("jitter", "WHAM's formula", jitter(truth).mean() * FPS**3 / 10,
                official.jitter(s.truth, FPS), scale=1, unit="10 m/s^3")  # fmt: skip
    slide = foot_sliding(found[:, :4], truth[:, :4], threshold=0.01).nanmean()
    yield _line("foot sliding", "WHAM's formula", slide,
                official.foot_sliding(s.found[:, :4], s.truth[:, :4], 0.01),
                unit="mm/frame")  # fmt: skip
    yield _line("MPJAE", "scipy Rotation", mpjae(*map(torch.from_numpy, s.rotations)),
                official.angles(*s.rotations), scale=1, unit="deg")  # fmt: skip


def _pair(points: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"found": points["found"], "target": points["truth"]}


def _f_score_by_tree(found: np.ndarray, truth: np.ndarray, threshold: float) -> float:
    recall = (cKDTree(truth).query(found)[0] < threshold).mean()
    precision = (cKDTree(found).query(truth)[0] < threshold).mean()
    return float(2 * recall * precision / (recall + precision)) if recall + precision else 0.0


def _line(
    metric: str,
    independent: str,
    ours: Tensor,
    theirs: np.ndarray | float,
    *,
    scale: float | None = None,
    unit: str = "mm",
) -> Agreement:
    factor = scale if scale is not None else 1.0 if unit == "" else 1000.0
    a, b = factor * ours.numpy(), factor * np.asarray(theirs)
    return Agreement(
        metric=metric,
        independent=independent,
        unit=unit,
        ours=float(a.mean()),
        theirs=float(b.mean()),
        difference=float(np.abs(a - b).max()),
    )


def main() -> None:
    """Print the table."""
    print(f"{'metric':20} {'unit':11} {'ours':>14} {'independent':>14}  {'by':18} max difference")
    for line in agreements():
        print(
            f"{line.metric:20} {line.unit:11} {line.ours:14.8f} {line.theirs:14.8f}  "
            f"{line.independent:18} {line.difference:.1e}"
        )


if __name__ == "__main__":
    main()
