"""Protocols as data: complete, consistent, and the same in the documentation."""

from dataclasses import fields

import pytest

from extpose.evaluation.protocol import METRICS, Protocol
from extpose.evaluation.protocols import H36M_TO_LSP14, HAND21_TO_HO3D, PROTOCOLS
from extpose.keypoints import EXTRA19, KEYPOINT_NAMES, NUM_KEYPOINTS
from tests.protocol_page import PAGE, TABLES, page

SIZES = {"regressor": 17, "chain": 24, **NUM_KEYPOINTS}
TEMPORAL = {"accel", "accel_per_frame", "jitter", "target_jitter"}


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == page(), "run python -m tests.protocol_page --write"


def test_the_page_shows_every_choice():
    shown = [name for columns in TABLES.values() for names, _ in columns.values() for name in names]
    left_out = {"name", "joint_names"}  # the first column, and the names of the rows
    assert sorted([*shown, *left_out]) == sorted(field.name for field in fields(Protocol))


def test_all_promised_protocols_exist():
    hint = {f"hint-{n}-{s}" for n in ("newdays", "visor", "ego4d") for s in ("all", "vis", "occ")}
    promised = {
        "3dpw-14-wham", "3dpw-14-hmr2", "3dpw-24-smpl", "h36m-p2", "freihand", "ho3d-v2",
        "ho3d-v3", "emdb1", "coco-val-pck", "free-body", "free-hand", "pose2sim",
    }  # fmt: skip
    assert promised | hint <= set(PROTOCOLS)
    assert all(protocol.name == name for name, protocol in PROTOCOLS.items())


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_choices_fit_together(protocol):
    size = 16 if protocol.name == "free-hand" else SIZES[protocol.joints_from]
    rows = (*protocol.joints, *protocol.root, *protocol.feet)
    assert all(0 <= row < size for row in rows)
    assert len(protocol.joints) == len(set(protocol.joints)) == len(protocol.joint_names)
    assert set(protocol.metrics) <= set(METRICS)
    assert ("pck" in protocol.metrics) == bool(protocol.pck_thresholds)
    assert bool(protocol.pck_thresholds) == (protocol.pck_normaliser is not None)
    assert bool(protocol.feet) == ("foot_sliding" in protocol.metrics)
    if {"mpjpe", "mpvpe", "accel"} & set(protocol.metrics):
        assert protocol.root
    if protocol.truth == "keypoints":
        assert not {"mpvpe", "pa_mpvpe", "auc_v", "f_5"} & set(protocol.metrics)
        assert protocol.joints_from in ("body44", "coco17", "hand21")
    if protocol.submission_order is not None:
        assert sorted(protocol.submission_order) == list(range(21))


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_accuracy_is_never_without_temporal_quality(protocol):
    is_3d = "pa_mpjpe" in protocol.metrics
    if is_3d and protocol.resample == "sequence":
        assert set(protocol.metrics) >= TEMPORAL
    else:
        assert not TEMPORAL & set(protocol.metrics)  # pictures without neighbours


def test_joints_by_name():
    wham, hmr2 = PROTOCOLS["3dpw-14-wham"], PROTOCOLS["3dpw-14-hmr2"]
    assert wham.joint_names == hmr2.joint_names == (*EXTRA19[:13], "h36m_head")
    assert wham.joints == H36M_TO_LSP14
    hips = [wham.joint_names[wham.joints.index(row)] for row in wham.root]
    assert sorted(hips) == ["lsp_left_hip", "lsp_right_hip"]
    assert KEYPOINT_NAMES["body44"][hmr2.root[0]] == "mpii_pelvis"
    assert [PROTOCOLS["emdb1"].joint_names[i] for i in (1, 2)] == ["left_hip", "right_hip"]
    assert PROTOCOLS["pose2sim"].joint_names[0] == "left_shoulder"


def test_ho3ds_order_is_manos_with_the_tips_last():
    names = [KEYPOINT_NAMES["hand21"][row] for row in HAND21_TO_HO3D]
    assert names[0] == "wrist"
    assert names[1:4] == ["index_1", "index_2", "index_3"]
    assert names[7:10] == ["little_1", "little_2", "little_3"]
    assert names[16:] == [f"{f}_tip" for f in ("thumb", "index", "middle", "ring", "little")]
