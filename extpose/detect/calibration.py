"""From a detector's raw confidence to how well the keypoint is expected to lie.

A detector's score is not an accuracy: Gu et al. 2024 (arXiv 2311.17105) show that heat maps are
mis-calibrated against OKS. Here every joint has a monotone, piecewise linear map, fitted by
isotonic regression to the keypoint similarity exp(-d^2 / (2 s^2 k^2)) that the detections of
labelled clips have (COCO's: d distance in pixels, s^2 area of the labelled box, k falloff of the
joint). A calibrated confidence of 0.7 says: similarity 0.7 is expected.

Axes     n detections   k keypoints
Values   confidence and similarity, 0 to 1; confidence 0 (not seen) stays 0
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, UInt8

from extpose.detect.people import Detections
from extpose.detect.top_down import COCO_FALLOFF
from extpose.errors import ExtPoseError
from extpose.keypoints import KEYPOINT_NAMES

VERSION = 1
PACKAGED = "packaged"
"""In the place of a path: the map of MoveNet that comes with the project."""
COCO17 = KEYPOINT_NAMES["coco17"]
MAX_KNOTS = 8
MIN_SAMPLES = 200
"""Of a joint that gets a map of its own; with fewer it has that of all joints together."""
NUM_BINS = 10


class CalibrationError(ExtPoseError):
    """A calibration that cannot be fitted, read, or belongs to another detector."""


@dataclass(frozen=True, kw_only=True)
class JointMap:
    """Raw confidence to expected similarity: both rise, linear in between, constant outside."""

    raw: tuple[float, ...]
    expected: tuple[float, ...]
    samples: int

    def __post_init__(self) -> None:
        """Refuse what is no monotone map of 0..1."""
        raw, expected = np.array(self.raw), np.array(self.expected)
        if (
            not 1 <= len(raw) == len(expected)
            or (np.diff(raw) <= 0).any()
            or (np.diff(expected) < 0).any()
            or not (expected.min() >= 0 and expected.max() <= 1)
        ):
            raise CalibrationError(f"no monotone map: raw {self.raw}, expected {self.expected}")


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A map for each of COCO's 17 keypoints, and what it was fitted for and on."""

    detector: str
    origin: str
    joints: dict[str, JointMap]

    def apply(self, keypoints: Float32[np.ndarray, "*n 17 3"]) -> Float32[np.ndarray, "*n 17 3"]:
        """The same points with calibrated confidence; 0 stays 0."""
        result = keypoints.copy()
        for index, name in enumerate(COCO17):
            raw, joint = keypoints[..., index, 2], self.joints[name]
            result[..., index, 2] = np.where(raw > 0, np.interp(raw, joint.raw, joint.expected), 0)
        return result

    def save(self, path: Path) -> None:
        """Write as JSON."""
        value = {"version": VERSION, **asdict(self)}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=1) + "\n")


def calibration_path(path: Path) -> Path:
    """The file itself, or the packaged one where `path` is the word `packaged`."""
    is_packaged = path == Path(PACKAGED)
    return Path(__file__).with_name("movenet_calibration.json") if is_packaged else path


def load_calibration(path: Path, detector: str = "") -> Calibration:
    """Read and check. Raises CalibrationError, also where it is not of `detector`."""
    path = calibration_path(path)
    try:
        value = json.loads(path.read_text())
        if value.pop("version") != VERSION or value["joints"].keys() != set(COCO17):
            raise CalibrationError(f"{path}: not version {VERSION} of the 17 keypoints of COCO")
        joints = {
            name: JointMap(
                raw=tuple(map(float, one["raw"])),
                expected=tuple(map(float, one["expected"])),
                samples=int(one["samples"]),
            )
            for name, one in value["joints"].items()
        }
        calibration = Calibration(detector=value["detector"], origin=value["origin"], joints=joints)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CalibrationError(f"{path}: no calibration ({error})") from error
    if detector and calibration.detector != detector:
        raise CalibrationError(
            f"{path}: fitted for {calibration.detector!r}, the detector is {detector!r}"
        )
    return calibration


def joint_similarity(
    found: Float[np.ndarray, "n 17 3"],
    truth: Float[np.ndarray, "n 17 2"],
    area: Float[np.ndarray, " n"],
) -> Float64[np.ndarray, "n 17"]:
    """COCO's keypoint similarity of each joint; `area` in square pixels."""
    squared = np.square(found[..., :2].astype(np.float64) - truth).sum(-1)
    return np.exp(-squared / (2 * np.maximum(area, 1)[:, None] * COCO_FALLOFF.astype(float) ** 2))


def fit_calibration(
    raw: Float[np.ndarray, "n 17"],
    similarity: Float[np.ndarray, "n 17"],
    is_labelled: Bool[np.ndarray, "n 17"],
    *,
    detector: str,
    origin: str,
) -> Calibration:
    """One map a joint. Raises CalibrationError where all joints together have too few samples."""
    used = is_labelled & (raw > 0)
    if used.sum() < MIN_SAMPLES:
        raise CalibrationError(f"{int(used.sum())} labelled detections, at least {MIN_SAMPLES}")
    common = fit_map(raw[used], similarity[used])
    joints = {}
    for index, name in enumerate(COCO17):
        own = used[:, index]
        count = int(own.sum())
        joints[name] = (
            fit_map(raw[own, index], similarity[own, index])
            if count >= MIN_SAMPLES
            else replace(common, samples=count)
        )
    return Calibration(detector=detector, origin=origin, joints=joints)


def fit_map(raw: Float[np.ndarray, " n"], value: Float[np.ndarray, " n"]) -> JointMap:
    """Isotonic regression of groups of equal size (at most `MAX_KNOTS`), a knot at each mean.

    The map begins at 0, 0: a confidence of 0 means that nothing was found.
    """
    order = np.argsort(raw, kind="stable")
    groups = np.array_split(order, min(MAX_KNOTS, len(order)))
    x = np.array([raw[g].mean() for g in groups], np.float64)
    y = np.array([value[g].mean() for g in groups], np.float64)
    weight = np.array([len(g) for g in groups], np.float64)
    y = isotonic(y, weight)
    x, y = np.concatenate([[0.0], x]), np.concatenate([[0.0], y])
    kept = np.concatenate([[True], np.diff(x) > 1e-4])
    return JointMap(
        raw=tuple(np.round(x[kept], 5).tolist()),
        expected=tuple(np.round(np.clip(y[kept], 0, 1), 5).tolist()),
        samples=len(raw),
    )


def isotonic(
    values: Float[np.ndarray, " n"], weights: Float[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """The rising sequence of least weighted squared distance: pool adjacent violators."""
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        blocks.append((value, weight, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, wa, na), (b, wb, nb) = blocks[-2:]
            blocks[-2:] = [((a * wa + b * wb) / (wa + wb), wa + wb, na + nb)]
    return np.concatenate([np.full(count, value) for value, _, count in blocks])


def calibration_error(
    confidence: Float[np.ndarray, " n"], similarity: Float[np.ndarray, " n"]
) -> float:
    """Expected calibration error: mean distance of confidence and similarity, over ten bins."""
    if not len(confidence):
        return float("nan")
    index = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    gaps = [
        abs(float((confidence[index == b] - similarity[index == b]).sum())) for b in range(NUM_BINS)
    ]
    return sum(gaps) / len(confidence)


@runtime_checkable
class FindsInBoxes(Protocol):
    """A detector that also looks into given boxes."""

    def __call__(self, rgb: UInt8[np.ndarray, "h w 3"]) -> Detections:
        """All people of a frame."""
        ...

    def find_keypoints(
        self, rgb: UInt8[np.ndarray, "h w 3"], boxes: Float32[np.ndarray, "p 4"]
    ) -> Float32[np.ndarray, "p k 3"]:
        """One in each box."""
        ...


class CalibratedDetector:
    """A detector whose keypoints come with calibrated confidences; boxes and scores stay."""

    def __init__(
        self,
        detector: Callable[[UInt8[np.ndarray, "h w 3"]], Detections],
        calibration: Calibration,
        name: str,
    ) -> None:
        self.name, self.detector, self.calibration = name, detector, calibration

    def __call__(self, rgb: UInt8[np.ndarray, "h w 3"]) -> Detections:
        """All people of a frame."""
        found = self.detector(rgb)
        return replace(found, keypoints_2d=self.calibration.apply(found.keypoints_2d))


class CalibratedBoxes(CalibratedDetector):
    """The same of one that also looks into given boxes."""

    def __init__(self, detector: FindsInBoxes, calibration: Calibration, name: str) -> None:
        super().__init__(detector, calibration, name)
        self._boxes = detector

    def find_keypoints(
        self, rgb: UInt8[np.ndarray, "h w 3"], boxes: Float32[np.ndarray, "p 4"]
    ) -> Float32[np.ndarray, "p 17 3"]:
        """x y calibrated confidence of one person in each box."""
        return self.calibration.apply(self._boxes.find_keypoints(rgb, boxes))


@runtime_checkable
class FindsInBatches(FindsInBoxes, Protocol):
    """One that is faster on several frames at once."""

    batch_size: int

    def detect_batch(self, images: list[np.ndarray]) -> list[Detections]:
        """All people of each frame."""
        ...


class CalibratedBatches(CalibratedBoxes):
    """The same of one that also takes several frames at once."""

    def __init__(self, detector: FindsInBatches, calibration: Calibration, name: str) -> None:
        super().__init__(detector, calibration, name)
        self._batches, self.batch_size = detector, detector.batch_size

    def detect_batch(self, images: list[UInt8[np.ndarray, "h w 3"]]) -> list[Detections]:
        """All people of each frame."""
        return [
            replace(found, keypoints_2d=self.calibration.apply(found.keypoints_2d))
            for found in self._batches.detect_batch(images)
        ]
