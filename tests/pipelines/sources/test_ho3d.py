"""HO-3D: pickles in OpenGL axes and MANO's order, both versions, released evaluation labels."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extpose.body_file import MANO_TO_OPENPOSE
from extpose.errors import AssetError
from pipelines.records import Filtered, Record, Source, SourceError
from pipelines.sources.ho3d import SOURCE_V2, SOURCE_V3
from tests.pipelines.sources import hands as h

OPENGL = np.diag([1.0, -1.0, -1.0])
TO_MANO = np.argsort(MANO_TO_OPENPOSE)
NUMBERS = (0, 1, 2, 3, 4, 7, 8, 9)


@pytest.fixture(params=[2, 3])
def version(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def source(version: int) -> Source:
    return SOURCE_V2 if version == 2 else SOURCE_V3


@pytest.fixture
def truth() -> h.Hands:
    return h.pose_hands(1, len(NUMBERS), size=(480, 640), distance=0.6)


def make_meta(truth: h.Hands, i: int) -> dict[str, Any]:
    """What a train pickle holds, in OpenGL axes."""
    turned = h.turn(truth, OPENGL)
    return {
        "objName": "021_bleach_cleanser",
        "objRot": np.zeros((3, 1)),
        "camMat": truth.K,
        "handJoints3D": turned.keypoints[i][TO_MANO],
        "handPose": np.hstack([turned.global_orient[i], turned.pose[i].ravel()]),
        "handBeta": turned.betas[i],
        "handTrans": turned.transl[i],
    }


@pytest.fixture
def root(tmp_path: Path, truth: h.Hands, version: int) -> Path:
    suffix = {2: ".png", 3: ".jpg"}[version]
    for folder in ("train", "evaluation"):
        for i, number in enumerate(NUMBERS):
            meta = make_meta(truth, i)
            if folder == "evaluation":
                for key in ("handPose", "handBeta", "handTrans"):
                    del meta[key]
                meta["handJoints3D"] = meta["handJoints3D"][0]
                uv = truth.uv[i]
                meta["handBoundingBox"] = [*(uv.min(0) - 5).tolist(), *(uv.max(0) + 5).tolist()]
            h.write_image(tmp_path / folder / f"SM1/rgb/{number:04d}{suffix}", truth.draw(i))
            h.write_pickle(tmp_path / folder / f"SM1/meta/{number:04d}.pkl", meta)
    lines = [f"SM1/{number:04d}" for number in NUMBERS]
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n")
    order = list(range(len(lines)))
    random.Random(0).shuffle(order)
    (tmp_path / "evaluation.txt").write_text("\n".join(lines[i] for i in order) + "\n")
    xyz, verts = truth.keypoints[:, TO_MANO] @ OPENGL, truth.vertices @ OPENGL
    h.write_json(tmp_path / "evaluation_xyz.json", [xyz[i].tolist() for i in order])
    h.write_json(tmp_path / "evaluation_verts.json", [verts[i].tolist() for i in order])
    return tmp_path


@pytest.mark.parametrize("with_mano", [False, True])
def test_train(root: Path, source: Source, truth: h.Hands, with_mano: bool) -> None:
    if with_mano:
        h.write_mano(root)
    first, second = h.read_all(source, root, "train")
    assert isinstance(first, Record)
    assert isinstance(second, Record)
    assert (first.name, second.name) == ("SM1-0000", "SM1-0007")
    assert second.track.first_frame == 7
    assert first.fps == 30
    for record, part in ((first, slice(0, 5)), (second, slice(5, 8))):
        h.assert_is(record, truth, part)
        h.assert_posed(record, truth, part)


def test_evaluation(root: Path, source: Source, truth: h.Hands) -> None:
    for record, part in zip(
        h.read_all(source, root, "test"), (slice(0, 5), slice(5, 8)), strict=True
    ):
        assert isinstance(record, Record)
        t = record.targets
        np.testing.assert_allclose(t.keypoints_3d[..., :3], truth.keypoints[part], atol=1e-5)
        np.testing.assert_allclose(t.keypoints_2d[..., :2], truth.uv[part], atol=2e-2)
        np.testing.assert_allclose(t.vertices, truth.vertices[part], atol=1e-5)
        low = truth.uv[part].min(1) - 5
        np.testing.assert_allclose(record.track.bbox_xyxy[:, :2], low, atol=2e-2)
        assert not t.has_pose.any()


def test_evaluation_without_the_published_labels(
    root: Path, source: Source, truth: h.Hands
) -> None:
    (root / "evaluation_xyz.json").unlink()
    record = h.read_all(source, root, "test")[0]
    assert isinstance(record, Record)
    labelled = record.targets.keypoints_3d[..., 3]
    assert labelled[:, 0].all()
    assert not labelled[:, 1:].any()
    np.testing.assert_allclose(
        record.targets.keypoints_3d[:, 0, :3], truth.keypoints[:5, 0], atol=1e-5
    )


def test_frames_without_annotation_are_counted(root: Path, source: Source, truth: h.Hands) -> None:
    empty = make_meta(truth, 2) | dict.fromkeys(("handJoints3D", "handPose", "objRot"))
    h.write_pickle(root / "train/SM1/meta/0002.pkl", empty)
    found = h.read_all(source, root, "train")
    lost = [item for item in found if isinstance(item, Filtered)]
    assert [(item.num_frames, item.reason) for item in lost] == [(1, "no_annotation")]
    assert sum(len(item.frames) for item in found if isinstance(item, Record)) == 7


def test_a_change_of_shape_ends_a_record(root: Path, source: Source, truth: h.Hands) -> None:
    meta = make_meta(truth, 4)
    h.write_pickle(root / "train/SM1/meta/0004.pkl", meta | {"handBeta": meta["handBeta"] + 1})
    assert [len(r.frames) for r in h.read_all(source, root, "train")] == [4, 1, 3]


def change(root: Path, truth: h.Hands, **changes: Any) -> None:
    for i, number in enumerate(NUMBERS):
        meta = make_meta(truth, i)
        new = {key: function(meta[key]) for key, function in changes.items()}
        h.write_pickle(root / f"train/SM1/meta/{number:04d}.pkl", meta | new)


def test_refusals(root: Path, source: Source, truth: h.Hands, version: int) -> None:
    def refuses(match: str, split: str = "train") -> None:
        with pytest.raises(SourceError, match=match):
            h.read_all(source, root, split)

    change(root, truth, handJoints3D=lambda a: a * 1000)
    refuses(r"0000.pkl: SM1-0000: keypoints_3d are \d+ m wide")
    change(root, truth, handJoints3D=lambda a: a @ OPENGL)
    refuses("0000.pkl: .*no labelled point|depth")
    change(root, truth, handJoints3D=lambda a: a * [-1, 1, 1])
    refuses("handJoints3D should be right hands, but their fingers bend as those of left hands")
    change(root, truth, handJoints3D=lambda a: a[MANO_TO_OPENPOSE,])
    refuses("another joint order|fingers bend")
    change(root, truth, handPose=lambda a: a[:45])
    refuses(r"0000.pkl: handPose has shape \(45,\), expected \(48\)")
    h.write_mano(root)
    change(root, truth, handPose=lambda a: np.hstack([a[:3], a[3:] - h.HANDS_MEAN]))
    refuses(r"misses the labelled joints by")
    (root / "evaluation_xyz.json").write_text("[[[0, 0, 0]]]")
    refuses(r"evaluation_xyz.json: lists 1 hands, evaluation.txt 8 frames", "test")
    suffix = {2: ".png", 3: ".jpg"}[version]
    (root / f"train/SM1/rgb/0003{suffix}").unlink()
    refuses("0003.* no such file or folder .version 2 has png")
    (root / "train.txt").unlink()
    refuses("train.txt: no such file")


def test_a_pickle_with_code_is_refused(root: Path, source: Source) -> None:
    (root / "train/SM1/meta/0000.pkl").write_bytes(b"cposix\nsystem\n(S'true'\ntR.")
    with pytest.raises(AssetError, match=r"posix.system"):
        h.read_all(source, root, "train")
