"""Predictions against truth under one protocol: a clip at a time, then one table.

    reader = load_reader(protocol, body, files={"J_regressor_h36m.npy": path})
    found = reader.read(body(orient, pose, betas))
    truth = read_truth(reader_of_the_gendered_body, clip.targets, bbox_xyxy=clip.bbox_xyxy)
    scores.append(score_clip(protocol, found, truth, key=clip.key, sequence=..., fps=clip.meta.fps))
    result = summarise(scores, protocol)

Only one clip's vertices are ever in memory: a `ClipScores` keeps a few numbers a frame.

Axes    t frames   k joints of the protocol   v vertices   n chain joints
Units   metres and pixels in; printed units (`METRICS`) out
Frames  found and truth share axes; their origins may differ (all 3D metrics are root-relative or
        aligned), but foot sliding needs a camera that stands still and real translations
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor

from extpose.body_model import BodyModel, BodyOutput
from extpose.protocols import Protocol
from extpose.schema import ClipTargets


@dataclass(frozen=True, kw_only=True)
class Posed:
    """What one side, prediction or truth, is for scoring: t consecutive frames of one person."""

    valid: Bool[Tensor, " t"]
    """Frames that count; of the prediction: frames that were predicted."""
    left_out: Mapping[str, int]
    """Why frames do not count: reason and number."""
    joints: Float[Tensor, "t k 3"] | None
    """None: 2D only."""
    has_joint: Bool[Tensor, "t k"] | None
    """Labelled joints; None: all."""
    root: Float[Tensor, "t 3"] | None
    vertices: Float[Tensor, "t v 3"] | None = None
    rotations: Float[Tensor, "t n 3 3"] | None = None
    """Of the chain joints in the frame of the joints (not relative to parents); MPJAE only."""
    feet: Float[Tensor, "t f 3"] | None = None
    """Big toes and heels, with translation, of a camera that stands still."""
    keypoints_2d: Float[Tensor, "t k 2"] | None = None
    """Source pixels."""
    has_2d: Bool[Tensor, "t k"] | None = None
    """Of the truth: which 2D keypoints the protocol counts."""
    scale_2d: Float[Tensor, " t"] | None = None
    """Of the truth: PCK's normaliser in pixels."""


@dataclass(frozen=True, kw_only=True)
class JointReader:
    """Reads a protocol's joints off a posed body."""

    protocol: Protocol
    body: BodyModel
    regressor: Tensor | None
    """Rows of `joints`, then of `root`, for `joints_from="regressor"`."""
    stand_in: str | None
    """What stands in for a file that the protocol needs; None: nothing does."""

    def read(
        self,
        output: BodyOutput,
        *,
        rotations: Float[Tensor, "t n 3 3"] | None = None,
        keypoints_2d: Float[Tensor, "t p 2"] | None = None,
        valid: Bool[Tensor, " t"] | None = None,
        with_feet: bool = False,
    ) -> Posed:
        """A prediction (or a truth with parameters) as the protocol sees it.

        `keypoints_2d` are all 2D points of the body's own set (`body44`, `hand21`) in source
        pixels; they are needed for PCK. `rotations` relative to parents, root first (MPJAE).
        `with_feet`: the output has real translations in a camera that stands still.
        """
        ...


def load_reader(
    protocol: Protocol, body: BodyModel, *, files: Mapping[str, Path] | None = None
) -> JointReader:
    """How to read the protocol's joints off `body`; `files` gives what it `needs`, by file name.

    Raises AssetError where a needed file is not given and nothing may stand in for it (a mesh of
    SMPL's 6890 vertices never gets a stand-in), or does not fit the mesh.
    """
    ...


def read_truth(
    reader: JointReader, targets: ClipTargets, *, bbox_xyxy: Float32[np.ndarray, "t 4"]
) -> Posed:
    """The truth of a clip; `reader.body` is the body of the targets' gender.

    Targets of a left hand must be mirrored as the network's input was (`augment_targets`) unless
    only 2D is scored. Raises ExtPoseError where the protocol's truth is not in the targets.
    """
    ...


@dataclass(frozen=True, kw_only=True)
class ClipScores:
    """The numbers of one clip under one protocol."""

    key: str
    sequence: str
    num_frames: int
    """Frames of the clip, counted or not."""
    num_scored: int
    left_out: Mapping[str, int]
    stand_in: str | None
    values: Mapping[str, Float64[Tensor, "n c"]]
    """By metric (`pck@0.05` for PCK): one row a frame (a triple for acceleration, a quadruple for
    jitter, a pair for foot sliding), one column a joint where there is one, printed units; not a
    number where it does not count."""


def score_clip(
    protocol: Protocol,
    found: Posed,
    truth: Posed,
    *,
    key: str,
    sequence: str,
    fps: float,
    stand_in: str | None = None,
) -> ClipScores:
    """All metrics of the protocol for one clip of consecutive frames.

    Raises ExtPoseError, naming the clip, the field and both values, for other numbers of frames or
    points, for a prediction that is not finite, and for lengths that cannot be metres.
    """
    ...


@dataclass(frozen=True, kw_only=True)
class MetricResult:
    """One number of a table; None where there was nothing to average."""

    name: str
    label: str
    unit: str
    digits: int
    value: float | None
    low: float | None
    high: float | None
    """95 % percentile interval of the bootstrap."""
    count: int
    """Frames (or points, triples, ...) that were averaged."""


@dataclass(frozen=True, kw_only=True)
class SequenceRow:
    """The same metrics for one sequence (or picture)."""

    sequence: str
    num_clips: int
    num_frames: int
    values: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class ProtocolResult:
    """A table with everything that is needed to read it; `to_json` for files."""

    protocol: Protocol
    stand_in: str | None
    metrics: tuple[MetricResult, ...]
    per_joint: Mapping[str, Mapping[str, float | None]]
    """Metric, joint name, value: for metrics that are known per joint."""
    sequences: tuple[SequenceRow, ...]
    num_clips: int
    num_frames: int
    num_scored: int
    left_out: Mapping[str, int]
    bootstrap: int
    seed: int

    def to_json(self) -> dict[str, object]:
        """Plain values only; what is not a number is None."""
        ...

    def table(self) -> str:
        """Text for a terminal: the protocol's choices, then value and interval a line."""
        ...


def summarise(
    scores: Iterable[ClipScores], protocol: Protocol, *, bootstrap: int = 1000, seed: int = 0
) -> ProtocolResult:
    """Pool by the protocol's rule, with percentile intervals over resampled sequences."""
    ...


def compare(results: Iterable[ProtocolResult]) -> str:
    """Several protocols side by side: one row a metric, one column a protocol."""
    ...
