"""What an evaluation protocol is: one frozen record that names every choice behind a number.

The same predictions give numbers that differ by several millimetres under two protocols, so no
number is printed without its protocol. `protocols.py` lists them, `scoring.py` computes; nothing is
computed here.

Rows of joints are indices into the source that `joints_from` names:

regressor   a joint regressor on posed vertices, `needs` names the file (17 rows of Human3.6M)
body44      the 44 keypoints of HMR2.0 (25 of OpenPose, 19 of `SMPL_to_J19`), `extpose.keypoints`
chain       the posed joints of the kinematic chain (24 of SMPL, 16 of MANO)
coco17      COCO's 17 keypoints, read off the surface where the body file says how
hand21      OpenPose's 21 hand joints; finger tips are the vertices `tips`
"""

from dataclasses import dataclass
from typing import Literal

from extpose.schema import BodyName

JointSource = Literal["regressor", "body44", "chain", "coco17", "hand21"]
TruthSource = Literal["mesh", "keypoints", "stored"]
"""mesh: the (gendered) body posed by the labelled parameters, joints read as the prediction's.
keypoints: the labelled 3D keypoints (2D for PCK); no mesh.
stored: labelled 3D keypoints and the labelled vertices."""
Alignment = Literal["rotation", "reflection"]
"""Of PA metrics: similarity with determinant +1, or with the mirror allowed (hand benchmarks)."""
Pooling = Literal["frames", "points", "keypoints", "sequences"]
"""How values become one number: the mean over all frames of all clips; over all labelled points of
all frames; of each keypoint over the set, then over keypoints; of each sequence, then over them."""
Subset = Literal["all", "visible", "occluded"]
MetricName = Literal[
    "mpjpe", "pa_mpjpe", "mpvpe", "pa_mpvpe", "mpjae", "auc_j", "auc_v", "f_5", "f_15",
    "pck", "accel", "accel_per_frame", "jitter", "target_jitter", "foot_sliding",
    "target_foot_sliding",
]  # fmt: skip

MPJAE_JOINTS = (0, 1, 2, 4, 5, 16, 17, 18, 19)
"""Chain joints whose orientation is compared: pelvis, hips, knees, shoulders, elbows."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """How a metric is printed."""

    label: str
    unit: str
    digits: int
    larger_is_better: bool = False


METRICS: dict[MetricName, Unit] = {
    "mpjpe": Unit(label="MPJPE", unit="mm", digits=1),
    "pa_mpjpe": Unit(label="PA-MPJPE", unit="mm", digits=1),
    "mpvpe": Unit(label="MPVPE", unit="mm", digits=1),
    "pa_mpvpe": Unit(label="PA-MPVPE", unit="mm", digits=1),
    "mpjae": Unit(label="MPJAE", unit="deg", digits=2),
    "auc_j": Unit(label="AUC_J", unit="", digits=3, larger_is_better=True),
    "auc_v": Unit(label="AUC_V", unit="", digits=3, larger_is_better=True),
    "f_5": Unit(label="F@5", unit="", digits=3, larger_is_better=True),
    "f_15": Unit(label="F@15", unit="", digits=3, larger_is_better=True),
    "pck": Unit(label="PCK", unit="%", digits=1, larger_is_better=True),
    "accel": Unit(label="acceleration error", unit="m/s^2", digits=2),
    "accel_per_frame": Unit(label="acceleration error", unit="mm/frame^2", digits=2),
    "jitter": Unit(label="jitter", unit="10 m/s^3", digits=2),
    "target_jitter": Unit(label="jitter of the truth", unit="10 m/s^3", digits=2),
    "foot_sliding": Unit(label="foot sliding", unit="mm/frame", digits=2),
    "target_foot_sliding": Unit(label="foot sliding of the truth", unit="mm/frame", digits=2),
}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Every choice that moves a number. Field by field: what, from where, how averaged."""

    name: str
    body: BodyName
    reproduces: str
    """The table and row of the paper that it is meant for."""
    rule_from: str
    """Where the rule is known from, and what of it is a guess."""
    joints_from: JointSource
    joints: tuple[int, ...]
    """Rows of the source that are scored; of the 2D keypoints of that source for PCK."""
    joint_names: tuple[str, ...]
    needs: str | None = None
    """A file that users must bring. The free body stands in for it, and the result says so."""
    tips: tuple[int, ...] | None = None
    """MANO's vertices that are finger tips: thumb, index, middle, ring, little (`hand21` only)."""
    root: tuple[int, ...] = ()
    """Rows of the source whose mean is the origin of MPJPE, MPVPE and acceleration."""
    feet: tuple[int, ...] = ()
    """Rows of the source whose sliding is measured; only for cameras that stand still."""
    alignment: Alignment = "rotation"
    truth: TruthSource = "mesh"
    pa_vertices: Literal["vertices", "joints"] = "vertices"
    """What the similarity of PA-MPVPE is fitted to: the vertices, or the joints (EMDB)."""
    gendered: bool = False
    """Whether the truth's mesh is the gendered body's (the prediction's is always neutral)."""
    frames: str = "every labelled frame"
    """Which frames count, in words; the source of the data set leaves out or marks the others."""
    only_detected: bool = False
    """Whether frames count only where the clip's `is_detected` says that the person was found."""
    min_joints: int | None = None
    """A frame counts only with so many labelled joints (None: all), and is aligned by those."""
    pooling: Pooling = "frames"
    resample: Literal["sequence", "sample"] = "sequence"
    """What the bootstrap draws: whole sequences, or pictures where there are none."""
    pck_thresholds: tuple[float, ...] = ()
    """Fractions of the normaliser."""
    pck_normaliser: Literal["box", "joints_box"] | None = None
    """box: the longer side of the labelled box, not expanded; joints_box: of the tight box of all
    labelled 2D keypoints."""
    subset: Subset = "all"
    box: str = "labelled box"
    box_scale: float = 1.2
    """The network's square is so many times the box."""
    evidence: str = "the shard's 2D keypoints"
    flip_test: bool = False
    """Whether the mirrored picture is predicted too and averaged, by default."""
    metrics: tuple[MetricName, ...] = ()
    """What is printed, in this order."""
    submission_order: tuple[int, ...] | None = None
    """The benchmark's joint order as indices into `joints`, for files that its server reads."""
