"""`extpose calibrate`: what a detector's confidence is worth, learned from labelled clips.

    extpose synth --out data/fit --keypoints detector --num-clips 64
    extpose calibrate data/fit --check data/held-out data/pose2sim --out movenet.json
    extpose preprocess --source.path walk.mp4 --out data/walk --detect.calibration movenet.json

Clips whose 2D evidence a detector found and whose labels say where the keypoints are. Fitted on the
first folders, reported on all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64

from extpose.data.shards import ShardIndex
from extpose.detect.calibration import (
    Calibration,
    CalibrationError,
    calibration_error,
    fit_calibration,
    joint_similarity,
)
from extpose.keypoints import COCO17_OF_BODY44
from extpose.schema import Clip

BOX_ENDINGS = ("+boxes",)
"""Of a detector's name in clips: they say where boxes are from, not keypoints."""
DRAWN = 0.2
"""`skeleton.min_confidence`: what is drawn at all."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Every joint of every labelled frame of one folder."""

    path: Path
    detector: str
    raw: Float64[np.ndarray, "n 17"]
    similarity: Float64[np.ndarray, "n 17"]
    is_labelled: Bool[np.ndarray, "n 17"]
    """With a label inside the picture."""


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """How far confidence is from similarity on one folder, before and after."""

    path: Path
    role: str
    samples: int
    similarity: float
    """Mean."""
    before: float
    after: float
    drawn_before: float
    """Share of the keypoints that are sure enough to be drawn."""
    drawn_after: float


@dataclass(frozen=True, kw_only=True)
class CalibrationReport:
    """The map, and what it does."""

    calibration: Calibration
    rows: tuple[Reliability, ...]

    def table(self) -> str:
        """As Markdown."""
        lines = [
            f"{self.calibration.detector}, {self.calibration.origin}",
            "",
            "| data | role | keypoints | mean similarity | ECE raw | ECE calibrated | "
            f"drawn (>= {DRAWN}) raw | calibrated |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {row.path} | {row.role} | {row.samples} | {row.similarity:.3f} | {row.before:.3f} "
            f"| {row.after:.3f} | {row.drawn_before:.1%} | {row.drawn_after:.1%} |"
            for row in self.rows
        ]
        return "\n".join(lines)


def calibrate(
    data: Sequence[Path], check: Sequence[Path], out: Path, *, origin: str = ""
) -> CalibrationReport:
    """Fit on the folders `data`, write `out`, and report on these and on `check`.

    Raises CalibrationError for clips without labels or keypoints, of different detectors, or too
    few of them.
    """
    fit = [read_evidence(path) for path in data]
    checked = [read_evidence(path) for path in check]
    names = {one.detector for one in [*fit, *checked]}
    if len(names) != 1:
        raise CalibrationError(f"clips of different detectors: {sorted(names)}")
    calibration = fit_calibration(
        np.concatenate([one.raw for one in fit]),
        np.concatenate([one.similarity for one in fit]),
        np.concatenate([one.is_labelled for one in fit]),
        detector=names.pop(),
        origin=origin or f"fitted on {', '.join(path.name for path in data)}",
    )
    calibration.save(out)
    rows = [measure(one, calibration, role="fitted on") for one in fit]
    rows += [measure(one, calibration, role="held out") for one in checked]
    return CalibrationReport(calibration=calibration, rows=tuple(rows))


def read_evidence(folder: Path) -> Evidence:
    """What a folder's clips say. Raises CalibrationError for other clips than labelled people."""
    index = ShardIndex(sorted(folder.glob("*.tar")))
    detectors: set[str] = set()
    parts = []
    for i in range(len(index)):
        clip = index.read_clip(i)
        if clip.targets is None or clip.meta.keypoint_set != "coco17":
            raise CalibrationError(f"{folder}: {clip.key}: not a labelled clip of a person")
        name = clip.meta.detector
        for ending in BOX_ENDINGS:
            name = name.removesuffix(ending)
        detectors.add(name)
        parts.append(_compare(clip))
    if len(detectors) != 1:
        raise CalibrationError(f"{folder}: one detector's clips are needed, found {detectors}")
    raw, similarity, is_labelled = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Evidence(
        path=folder,
        detector=detectors.pop(),
        raw=raw,
        similarity=similarity,
        is_labelled=is_labelled,
    )


def _compare(clip: Clip) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Raw confidence, similarity, and whether there is something to compare with."""
    if clip.targets is None:
        raise CalibrationError(f"{clip.key}: no labels")
    truth = clip.targets.keypoints_2d[:, list(COCO17_OF_BODY44)].astype(np.float64)
    height, width = clip.meta.image_size
    x, y = truth[..., 0], truth[..., 1]
    inside = (x >= -0.5) & (y >= -0.5) & (x < width - 0.5) & (y < height - 0.5)
    sides = clip.bbox_xyxy[:, 2:] - clip.bbox_xyxy[:, :2]
    found = clip.keypoints_2d.astype(np.float64)
    similarity = joint_similarity(found, truth[..., :2], sides.prod(-1).astype(np.float64))
    return found[..., 2], similarity, (truth[..., 2] > 0) & inside


def measure(evidence: Evidence, calibration: Calibration, *, role: str) -> Reliability:
    """Expected calibration error over all keypoints that were found and are labelled."""
    used = evidence.is_labelled & (evidence.raw > 0)
    points = np.zeros((*evidence.raw.shape, 3), np.float32)
    points[..., 2] = evidence.raw
    raw, after = evidence.raw[used], calibration.apply(points)[..., 2][used].astype(np.float64)
    similarity = evidence.similarity[used]
    return Reliability(
        path=evidence.path,
        role=role,
        samples=int(used.sum()),
        similarity=float(similarity.mean()),
        before=calibration_error(raw, similarity),
        after=calibration_error(after, similarity),
        drawn_before=float((raw >= DRAWN).mean()),
        drawn_after=float((after >= DRAWN).mean()),
    )
