"""H2O-3D: two hands a frame, flags of validity, the left one as MANO_LEFT has it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extpose.body_file import MANO_TO_OPENPOSE
from pipelines.records import Filtered, Record, SourceError
from pipelines.sources.h2o3d import SOURCE
from tests.pipelines.sources import hands as h

OPENGL = np.diag([1.0, -1.0, -1.0])
TO_MANO = np.argsort(MANO_TO_OPENPOSE)
COUNT = 6


@pytest.fixture
def truth() -> dict[str, h.Hands]:
    found = {}
    for side in ("right", "left"):
        found[side] = h.pose_hands(
            8, COUNT, is_right=side == "right", size=(480, 640), distance=0.6
        )
    return found


def make_meta(truth: dict[str, h.Hands], i: int) -> dict[str, Any]:
    meta: dict[str, Any] = {
        "objName": "035_power_drill",
        "camMat": truth["right"].K,
        "handBeta": truth["right"].betas[i],
    }
    for side, hands in truth.items():
        turned = h.turn(hands, OPENGL)
        meta[f"{side}HandJoints3D"] = turned.keypoints[i][TO_MANO]
        pose = np.hstack([turned.global_orient[i], turned.pose[i].ravel()])
        meta[f"{side}HandPose"], meta[f"{side}HandTrans"] = pose, turned.transl[i]
        meta[f"jointValid{side.title()}"] = np.ones(21)
        meta[f"poseValid{side.title()}"] = np.ones(48)
    return meta


def write_metas(root: Path, truth: dict[str, h.Hands], **changes: Any) -> None:
    for i in range(COUNT):
        meta = make_meta(truth, i)
        for key, function in changes.items():
            meta[key] = function(meta[key])
        h.write_pickle(root / f"train/MPM10/meta/{i:04d}.pkl", meta)


@pytest.fixture
def root(tmp_path: Path, truth: dict[str, h.Hands]) -> Path:
    write_metas(tmp_path, truth)
    for i in range(COUNT):
        image = np.maximum(truth["right"].draw(i), truth["left"].draw(i))
        h.write_image(tmp_path / f"train/MPM10/rgb/{i:04d}.jpg", image)
    (tmp_path / "train.txt").write_text("".join(f"MPM10/{i:04d}\n" for i in range(COUNT)))
    return tmp_path


@pytest.mark.parametrize("with_mano", [False, True])
def test_reads_what_was_written(root: Path, truth: dict[str, h.Hands], with_mano: bool) -> None:
    if with_mano:
        h.write_mano(root)
    left, right = h.read_all(SOURCE, root, "train")
    assert (left.name, right.name) == ("MPM10-0000-left", "MPM10-0000-right")
    for record, side in ((left, "left"), (right, "right")):
        assert isinstance(record, Record)
        h.assert_is(record, truth[side])
        h.assert_posed(record, truth[side])


def test_invalid_joints_and_poses_are_not_labelled(root: Path, truth: dict[str, h.Hands]) -> None:
    last_five = np.array([1.0] * 16 + [0.0] * 5)
    write_metas(
        root,
        truth,
        jointValidLeft=lambda _: last_five,
        poseValidLeft=lambda a: a * ([1] * 47 + [0]),
    )
    left, right = (r for r in h.read_all(SOURCE, root, "train") if isinstance(r, Record))
    hidden = np.flatnonzero(left.targets.keypoints_3d[0, :, 3] == 0)
    assert hidden.tolist() == [4, 8, 12, 16, 20]
    assert not left.targets.has_pose.any()
    assert not left.targets.pose.any()
    assert right.targets.has_pose.all()
    write_metas(root, truth, jointValidLeft=np.zeros_like)
    lost = [item for item in h.read_all(SOURCE, root, "train") if isinstance(item, Filtered)]
    assert [(f.name, f.num_frames) for f in lost] == [("MPM10-left", COUNT)]


def test_refusals(root: Path, truth: dict[str, h.Hands]) -> None:
    def refuses(match: str, **changes: Any) -> None:
        write_metas(root, truth, **changes)
        with pytest.raises(SourceError, match=match):
            h.read_all(SOURCE, root, "train")

    refuses(r"keypoints_3d are \d+ m wide", leftHandJoints3D=lambda a: 1000 * a)
    swapped = {s: truth[o] for s, o in (("left", "right"), ("right", "left"))}
    write_metas(root, swapped)
    with pytest.raises(SourceError, match="leftHandJoints3D should be left hands, but"):
        h.read_all(SOURCE, root, "train")
    refuses(r"rightHandPose has shape \(47,\)", rightHandPose=lambda a: a[:47])
    refuses(r"rightHandTrans holds nan at \(0,\)", rightHandTrans=lambda a: a * np.nan)
    h.write_mano(root)
    refuses("0000.pkl: the pose with .*MANO_LEFT", leftHandPose=lambda a: a * -1)
    (root / "mano/MANO_RIGHT.pkl").unlink()
    refuses("MANO_LEFT.pkl without MANO_RIGHT.pkl")
