"""FreiHAND: a miniature of the true layout, its four backgrounds, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pipelines.records import Record, SourceError
from pipelines.sources.freihand import SOURCE
from tests.pipelines.sources import hands as h

COUNT = 6


@pytest.fixture
def truth() -> h.Hands:
    return h.pose_hands(0, COUNT, fixed_betas=False)


@pytest.fixture
def root(tmp_path: Path, truth: h.Hands) -> Path:
    for folder, versions in (("training", 4), ("evaluation", 1)):
        for i in range(COUNT * versions):
            h.write_image(tmp_path / folder / f"rgb/{i:08d}.jpg", truth.draw(i % COUNT))
        relative = truth.pose.reshape(COUNT, 45) - h.HANDS_MEAN
        root = np.zeros((COUNT, 3))
        mano = np.hstack([truth.global_orient, relative, truth.betas, root])
        h.write_json(tmp_path / f"{folder}_xyz.json", truth.keypoints.tolist())
        h.write_json(tmp_path / f"{folder}_verts.json", truth.vertices.tolist())
        h.write_json(tmp_path / f"{folder}_K.json", [truth.K.tolist()] * COUNT)
        h.write_json(tmp_path / f"{folder}_mano.json", mano[:, None].tolist())
        h.write_json(tmp_path / f"{folder}_scale.json", [0.03] * COUNT)
    return tmp_path


@pytest.mark.parametrize(("split", "versions"), [("train", 4), ("test", 1)])
def test_reads_what_was_written(root: Path, truth: h.Hands, split: str, versions: int) -> None:
    records = h.read_all(SOURCE, root, split)
    assert len(records) == COUNT * versions
    for record in records:
        assert isinstance(record, Record)
        i = int(record.name[-8:])
        h.assert_is(record, truth, slice(i, i + 1))
        assert record.targets.vertices is not None
        np.testing.assert_allclose(record.targets.vertices, truth.vertices[i : i + 1], atol=1e-5)
        # Relative rotations are not passed off as absolute ones.
        assert not record.targets.has_pose.any()
        assert record.targets.has_betas


def test_backgrounds_are_numbered_from_the_count(root: Path) -> None:
    files = {r.name: r.frames[0].path.name for r in h.read_all(SOURCE, root, "train")}
    assert files["gs-00000001"] == "00000001.jpg"
    assert files["auto-00000001"] == f"{3 * COUNT + 1:08d}.jpg"


def test_rotations_with_the_users_mano(root: Path, truth: h.Hands) -> None:
    h.write_mano(root)
    for record in h.read_all(SOURCE, root, "train")[:COUNT]:
        i = int(record.name[-8:])
        h.assert_posed(record, truth, slice(i, i + 1))


def test_the_root_rotation_follows_the_mesh(root: Path, truth: h.Hands) -> None:
    """The file's root rotation may belong to a camera that looked elsewhere."""
    h.write_mano(root)
    values = np.array(json.loads((root / "training_mano.json").read_text()))
    values[:, 0, :3] = Rotation.random(COUNT, rng=np.random.default_rng(1)).as_rotvec()
    h.write_json(root / "training_mano.json", values.tolist())
    for i, record in enumerate(h.read_all(SOURCE, root, "train")[:COUNT]):
        assert isinstance(record, Record)
        h.assert_posed(record, truth, slice(i, i + 1))


def rewrite(path: Path, change) -> None:
    path.write_text(json.dumps(change(np.array(json.loads(path.read_text()))).tolist()))


def test_refusals(root: Path) -> None:
    path = root / "training_xyz.json"
    text = path.read_text()

    def refuses(match: str) -> None:
        with pytest.raises(SourceError, match=match):
            h.read_all(SOURCE, root, "train")
        path.write_text(text)

    rewrite(path, lambda a: a * 1000)
    refuses(r"training_xyz.json: .*keypoints_3d are \d+ m wide, a mano is 0.04 to 0.4 m")
    rewrite(path, lambda a: a[:-1])
    refuses(rf"training_xyz.json: lists {COUNT - 1} samples, training_K.json {COUNT}")
    rewrite(path, lambda a: a * [-1, 1, 1])
    refuses("fingers bend as those of left hands")
    rewrite(path, lambda a: np.where(a == a[2, 1, 0], np.nan, a))
    refuses(r"training_xyz.json: \[2\] holds nan at \(1, 0\)")
    rewrite(path, lambda a: a[:, :20])
    refuses(r"training_xyz.json: \[0\] has shape \(20, 3\), expected \(21, 3\)")
    rewrite(path, lambda a: a[:, [0, *(4 * f + j for f in range(5) for j in (4, 3, 2, 1))]])
    refuses("first bone of .* another joint order")
    path.unlink()
    refuses("training_xyz.json: no such file")
    (root / "training/rgb/00000003.jpg").unlink()
    refuses("00000003.jpg: no such file")


def test_a_pose_that_misses_the_mesh_is_refused(root: Path) -> None:
    h.write_mano(root)
    rewrite(root / "training_mano.json", lambda a: a + 0.3)
    with pytest.raises(SourceError, match=r"misses the labelled mesh by \d+\.\d mm, at most 3"):
        h.read_all(SOURCE, root, "train")
