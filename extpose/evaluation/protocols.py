"""The evaluation protocols by name: `PROTOCOLS["3dpw-14-wham"]`.

What each field means is said in `protocol.py`; the same as a table, made from here:
`docs/protocols.md` (`python -m tests.protocol_page --write`). Rules come from the published
evaluation scripts; what of a rule is a guess is said in its `rule_from`.
"""

from dataclasses import replace

from extpose.body_file import MANO_TIP_VERTICES
from extpose.evaluation.protocol import MetricName, Protocol, Subset
from extpose.keypoints import COCO17_OF_BODY44, KEYPOINT_NAMES, MANO_JOINTS, SMPL_JOINTS

LSP14 = (*range(25, 38), 43)
"""Rows of `body44`: LSP's 13 joints, right ankle to neck, and Human3.6M's head."""
H36M_TO_LSP14 = (6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10)
"""The same 14 as rows of Human3.6M's 17."""
_LSP14_NAMES = tuple(KEYPOINT_NAMES["body44"][row] for row in LSP14)
FREIHAND_TIPS = (744, 320, 443, 555, 672)
HO3D_TIPS = (744, 333, 444, 555, 672)
"""MANO's vertices in the truth of the two benchmarks; `MANO_TIP_VERTICES` are smplx's, which
HaMeR's and WiLoR's published numbers were taken with. The choice moves PA-MPJPE by 0.5 mm."""
HAND21_TO_HO3D = (0, 5, 6, 7, 9, 10, 11, 17, 18, 19, 13, 14, 15, 1, 2, 3, 4, 8, 12, 16, 20)

_TEMPORAL: tuple[MetricName, ...] = ("accel", "accel_per_frame", "jitter", "target_jitter")
_BODY: tuple[MetricName, ...] = ("pa_mpjpe", "mpjpe", "mpvpe", *_TEMPORAL)
_HAND: tuple[MetricName, ...] = ("pa_mpjpe", "pa_mpvpe", "auc_j", "auc_v", "f_5", "f_15")

_PROTOCOLS = (
    Protocol(
        name="3dpw-14-wham",
        body="smpl",
        reproduces="the 3DPW table: MPVPE 67.5, MPJPE 54.2, PA-MPJPE 34.0 at T=16",
        rule_from="WHAM's evaluation (VIBE's and TCMR's frames). The paper does not name its "
        "evaluator; its baselines equal WHAM's table. Acceleration here is never taken across "
        "left-out frames; WHAM's is.",
        joints_from="regressor",
        joints=H36M_TO_LSP14,
        joint_names=_LSP14_NAMES,
        needs="J_regressor_h36m.npy",
        root=(4, 1),
        gendered=True,
        frames="campose_valid, and OpenPose found 6 or more points",
        only_detected=True,
        box="labelled 2D points, smoothed over the track",
        box_scale=1.1,
        flip_test=True,
        metrics=_BODY,
    ),
    Protocol(
        name="3dpw-14-hmr2",
        body="smpl",
        reproduces="the 3DPW table, as HMR2.0 prints it: MPJPE and PA-MPJPE",
        rule_from="HMR2.0's evaluation (ProHMR's); its label file stores the joints, which were "
        "not inspected and are made from the gendered mesh here.",
        joints_from="body44",
        joints=LSP14,
        joint_names=_LSP14_NAMES,
        needs="SMPL_to_J19.pkl",
        root=(39,),
        gendered=True,
        frames="campose_valid",
        box="labelled 2D points",
        metrics=_BODY,
    ),
    Protocol(
        name="3dpw-24-smpl",
        body="smpl",
        reproduces="no table of the paper; numbers that others print beside it (PA 46 to 48)",
        rule_from="the 3DPW challenge and ROMP, which use all splits: evaluate all three.",
        joints_from="chain",
        joints=tuple(range(24)),
        joint_names=SMPL_JOINTS,
        root=(0,),
        gendered=True,
        frames="campose_valid, and OpenPose found 6 or more points",
        only_detected=True,
        box="labelled 2D points",
        metrics=("pa_mpjpe", "mpjpe", "mpvpe", "mpjae", *_TEMPORAL),
    ),
    Protocol(
        name="h36m-p2",
        body="smpl",
        reproduces="the Human3.6M table (8): MPJPE 43.5, PA-MPJPE 27.2 at T=16",
        rule_from="HMR's, SPIN's and HMR2.0's protocol 2. How the paper cuts clips of 16 out of "
        "one frame in five is not known; lifting methods there use 17 joints and all cameras.",
        joints_from="body44",
        joints=LSP14,
        joint_names=_LSP14_NAMES,
        needs="SMPL_to_J19.pkl",
        root=(39,),
        truth="keypoints",
        frames="S9 and S11, camera 60457274, every 5th frame",
        box="the truth's mask",
        metrics=("pa_mpjpe", "mpjpe", *_TEMPORAL),
    ),
    Protocol(
        name="freihand",
        body="mano",
        reproduces="the FreiHAND table: PA-MPJPE 4.9, PA-MPVPE 5.1, F@5 .823, F@15 .993",
        rule_from="FreiHAND's evaluation script; the finger tips are those of its truth. Which "
        "ones the paper takes is not known.",
        joints_from="hand21",
        joints=tuple(range(21)),
        joint_names=KEYPOINT_NAMES["hand21"],
        tips=FREIHAND_TIPS,
        root=(0,),
        alignment="reflection",
        truth="stored",
        frames="all 3,960 pictures",
        pooling="keypoints",
        resample="sample",
        box="labelled joints",
        box_scale=1.0,
        metrics=_HAND,
        submission_order=tuple(range(21)),
    ),
    Protocol(
        name="ho3d-v2",
        body="mano",
        reproduces="the HO3D v2 table: AUC_J .863, PA-MPJPE 6.9, AUC_V .856, PA-MPVPE 7.3, "
        "F@5 .667, F@15 .991 at T=16",
        rule_from="HO3D's evaluation script (FreiHAND's, with its own finger tips). Papers print "
        "the aligned AUC.",
        joints_from="hand21",
        joints=tuple(range(21)),
        joint_names=KEYPOINT_NAMES["hand21"],
        tips=HO3D_TIPS,
        root=(0,),
        alignment="reflection",
        truth="stored",
        frames="all 11,524 of evaluation.txt",
        pooling="keypoints",
        box="handBoundingBox",
        box_scale=1.0,
        metrics=(*_HAND, *_TEMPORAL),
        submission_order=HAND21_TO_HO3D,
    ),
    Protocol(
        name="emdb1",
        body="smpl",
        reproduces="no table of the paper; EMDB-1 as others print it (PA, MPJPE, MVE)",
        rule_from="EMDB's evaluation script. Its jitter is of 15 joints with translation, averaged "
        "with nine zeros; here it is of all 24, relative to the root.",
        joints_from="chain",
        joints=tuple(range(24)),
        joint_names=SMPL_JOINTS,
        root=(1, 2),
        pa_vertices="joints",
        gendered=True,
        frames="EMDB-1, good_frames_mask",
        box="bboxes of the data set",
        metrics=("pa_mpjpe", "mpjpe", "mpvpe", "pa_mpvpe", "mpjae", *_TEMPORAL),
    ),
    Protocol(
        name="coco-val-pck",
        body="smpl",
        reproduces="no table of the paper; HMR2.0's COCO-val PCK@0.05 and @0.1",
        rule_from="HMR2.0's evaluation; which of the 44 points its label file has was not "
        "inspected, COCO's own 17 are taken.",
        joints_from="body44",
        joints=COCO17_OF_BODY44,
        joint_names=KEYPOINT_NAMES["coco17"],
        truth="keypoints",
        frames="every person with a labelled point",
        pooling="keypoints",
        resample="sample",
        pck_thresholds=(0.05, 0.1),
        pck_normaliser="box",
        metrics=("pck",),
    ),
    Protocol(
        name="free-body",
        body="smpl",
        reproduces="no table of the paper; clips rendered by this project",
        rule_from="this project: exact truth, so the chain's joints need no regressor.",
        joints_from="chain",
        joints=tuple(range(24)),
        joint_names=SMPL_JOINTS,
        root=(0,),
        metrics=("pa_mpjpe", "mpjpe", "mpvpe", "pa_mpvpe", *_TEMPORAL),
    ),
    Protocol(
        name="free-hand",
        body="mano",
        reproduces="no table of the paper; any shards of hands with parameters",
        rule_from="this project.",
        joints_from="chain",
        joints=tuple(range(16)),
        joint_names=MANO_JOINTS,
        root=(0,),
        metrics=("pa_mpjpe", "mpjpe", "mpvpe", "pa_mpvpe", *_TEMPORAL),
    ),
    Protocol(
        name="pose2sim",
        body="smpl",
        reproduces="no table of the paper; one real person seen by four calibrated cameras",
        rule_from="this project: 12 limb joints, pseudo truth from four views whose own error is "
        "10 to 15 mm (PA); of joints with an uncertainty below 60 mm.",
        joints_from="coco17",
        joints=tuple(range(5, 17)),
        joint_names=KEYPOINT_NAMES["coco17"][5:],
        root=(11, 12),
        feet=(15, 16),
        truth="keypoints",
        frames="frames with 8 or more labelled joints",
        min_joints=8,
        pooling="points",
        box="the reference's projected joints, with a margin",
        pck_thresholds=(0.05, 0.1),
        pck_normaliser="joints_box",
        metrics=("pa_mpjpe", "mpjpe", "pck", *_TEMPORAL, "foot_sliding", "target_foot_sliding"),
    ),
)


def _hint(name: str, subset: Subset) -> Protocol:
    paper = {"newdays": "59.6 / 84.8 / 92.7", "visor": "61.1 / 88.5 / 95.6"}
    given = paper.get(name) if subset == "all" else None
    return Protocol(
        name=f"hint-{name}-{subset[:3]}",
        body="mano",
        reproduces=f"the HInt table (4): PCK {given}"
        if given
        else "no table of the paper; HaMeR's",
        rule_from="HaMeR's evaluation. That its `scale` is the labelled hand box is a guess, as is "
        "that its subsets are the occlusion flags.",
        joints_from="hand21",
        joints=tuple(range(21)),
        joint_names=KEYPOINT_NAMES["hand21"],
        tips=MANO_TIP_VERTICES,
        truth="keypoints",
        frames="every hand of TEST with a point of the subset",
        pooling="keypoints",
        resample="sample",
        pck_thresholds=(0.05, 0.1, 0.15),
        pck_normaliser="box",
        subset=subset,
        box="labelled hand box",
        box_scale=2.0,
        metrics=("pck",),
    )


def _with_variants(protocols: tuple[Protocol, ...]) -> dict[str, Protocol]:
    named = {protocol.name: protocol for protocol in protocols}
    named["ho3d-v3"] = replace(
        named["ho3d-v2"],
        name="ho3d-v3",
        reproduces="no table of the paper; HO3D v3 as others print it",
        frames="all 20,137 of evaluation.txt",
    )
    for name in ("freihand", "ho3d-v2", "ho3d-v3"):
        named[f"{name}-smplx-tips"] = replace(
            named[name],
            name=f"{name}-smplx-tips",
            rule_from=f"{named[name].rule_from} With smplx's finger tips, as HaMeR and WiLoR.",
            tips=MANO_TIP_VERTICES,
        )
    subsets: tuple[Subset, ...] = ("all", "visible", "occluded")
    hints = [_hint(name, s) for name in ("newdays", "visor", "ego4d") for s in subsets]
    return dict(sorted((named | {hint.name: hint for hint in hints}).items()))


PROTOCOLS: dict[str, Protocol] = _with_variants(_PROTOCOLS)
