"""DexYCB: the s0 split by place, both hands, PCA pose, frames without a hand."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from pipelines.records import Filtered, Record, SourceError
from pipelines.sources.dexycb import NUM_SEQUENCES, SOURCE, SUBJECTS
from tests.pipelines.sources import hands as h
from tests.pipelines.sources.cuts import check_cut

SERIALS = ("836212060125", "932122062010")
EMPTY = (0, 4)
COUNT = 7


def make_hands(*, is_right: bool) -> h.Hands:
    return h.pose_hands(5 + is_right, COUNT, is_right=is_right, size=(480, 640))


def write_labels(path: Path, hands: h.Hands, i: int, *, empty: bool) -> None:
    flip = np.ones(3) if hands.is_right else h.FLIP
    mean = h.HANDS_MEAN.reshape(15, 3) * flip
    components = (h.HANDS_COMPONENTS.reshape(45, 15, 3) * flip).reshape(45, 45)
    relative = (hands.pose[i] - mean).ravel()
    pose = np.hstack([hands.global_orient[i], components @ relative, hands.transl[i]])
    np.savez(
        path,
        seg=np.zeros((480, 640), np.uint8),
        pose_y=np.zeros((2, 3, 4), np.float32),
        pose_m=(pose * (not empty)).astype(np.float32)[None],
        joint_3d=np.where(empty, -1, hands.keypoints[i]).astype(np.float32)[None],
        joint_2d=np.where(empty, -1, hands.uv[i]).astype(np.float32)[None],
    )


def write_sequence(root: Path, folder: Path, hands: h.Hands) -> None:
    side = "right" if hands.is_right else "left"
    meta = {
        "serials": list(SERIALS),
        "num_frames": COUNT,
        "extrinsics": "20200702_151821",
        "ycb_ids": [1, 11],
        "ycb_grasp_ind": 0,
        "mano_sides": [side],
        "mano_calib": [f"20200709_140042_subject-01_{side}"],
    }
    (folder / "meta.yml").write_text(yaml.safe_dump(meta))
    calibration = root / "calibration" / f"mano_{meta['mano_calib'][0]}"
    calibration.mkdir(parents=True, exist_ok=True)
    (calibration / "mano.yml").write_text(yaml.safe_dump({"betas": hands.betas[0].tolist()}))
    K = {"fx": hands.K[0, 0], "fy": hands.K[1, 1], "ppx": hands.K[0, 2], "ppy": hands.K[1, 2]}
    (root / "calibration/intrinsics").mkdir(exist_ok=True)
    for serial in SERIALS:
        (folder / serial).mkdir()
        camera = {"color": {name: float(value) for name, value in K.items()}, "depth": {}}
        path = root / f"calibration/intrinsics/{serial}_640x480.yml"
        path.write_text(yaml.safe_dump(camera))
        for i in range(COUNT):
            h.write_image(folder / serial / f"color_{i:06d}.jpg", hands.draw(i))
            write_labels(folder / serial / f"labels_{i:06d}.npz", hands, i, empty=i in EMPTY)


@pytest.fixture(scope="module")
def skeleton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All folders; two filled sequences: a right hand in train, a left one in val."""
    root = tmp_path_factory.mktemp("dexycb")
    for subject in SUBJECTS:
        for i in range(NUM_SEQUENCES):
            (root / subject / f"20200709_{140000 + i}").mkdir(parents=True)
    for place, is_right in ((0, True), (4, False)):
        folder = root / SUBJECTS[0] / f"20200709_{140000 + place}"
        write_sequence(root, folder, make_hands(is_right=is_right))
    return root


def read(root: Path, split: str, place: int) -> list[Record | Filtered]:
    unit = f"{SUBJECTS[0]}-20200709_{140000 + place}"
    assert unit in SOURCE.list_units(root, split)
    return list(SOURCE.read_unit(root, split, unit))


def test_split_s0(skeleton: Path) -> None:
    units = {split: SOURCE.list_units(skeleton, split) for split in SOURCE.splits}
    assert {split: len(found) for split, found in units.items()} == {
        "train": 800, "val": 40, "test": 160,
    }  # fmt: skip
    assert len(set().union(*units.values())) == 1000
    assert all(name == sorted(name) for name in units.values())
    assert units["test"][0] == f"{SUBJECTS[2]}-20200709_140004"


@pytest.mark.parametrize(("split", "place", "is_right"), [("train", 0, True), ("val", 4, False)])
@pytest.mark.parametrize("with_mano", [False, True])
def test_reads_what_was_written(
    skeleton: Path, split: str, place: int, is_right: bool, with_mano: bool
) -> None:
    if with_mano:
        h.write_mano(skeleton)
    truth = make_hands(is_right=is_right)
    found = read(skeleton, split, place)
    lost = [item for item in found if isinstance(item, Filtered)]
    assert [(item.num_frames, item.reason) for item in lost] == [(2, "no_hand")] * 2
    records = [item for item in found if isinstance(item, Record)]
    assert len(records) == 4
    assert records[0].name == f"20200709_{140000 + place}-{SERIALS[0]}-000001"
    for record, part in zip(records, (slice(1, 4), slice(5, 7)) * 2, strict=True):
        h.assert_is(record, truth, part)
        check_cut(record)
        assert record.track.first_frame == part.start
        assert record.targets.has_betas
        assert record.targets.has_pose.all() == with_mano
        if with_mano:
            h.assert_posed(record, truth, part)
    if with_mano:
        for path in (skeleton / "mano").iterdir():
            path.unlink()


def test_refusals(skeleton: Path) -> None:
    folder = skeleton / SUBJECTS[0] / "20200709_140000"
    path, truth = folder / SERIALS[0] / "labels_000002.npz", make_hands(is_right=True)
    meta = (folder / "meta.yml").read_text()

    def refuses(match: str) -> None:
        with pytest.raises(SourceError, match=match):
            read(skeleton, "train", 0)
        write_labels(path, truth, 2, empty=False)
        (folder / "meta.yml").write_text(meta)

    (folder / "meta.yml").write_text(meta.replace("- right", "- left"))
    refuses("joint_3d should be left hands, but their fingers bend as those of right hands")
    (folder / "meta.yml").write_text(meta.replace("- right", "- both"))
    refuses(r"meta.yml: mano_sides is \['both'\], expected left or right")
    (folder / "meta.yml").write_text("num_frames: 3")
    refuses("meta.yml: lacks serials, mano_sides")
    joints = {"pose_m": np.ones((1, 51)), "joint_2d": truth.uv[2:3]}
    np.savez(path, **joints, joint_3d=np.full((1, 21, 3), np.nan))
    refuses(r"labels_000002.npz: joint_3d holds nan at \(0, 0, 0\)")
    np.savez(path, **joints)
    refuses("labels_000002.npz: .*no array 'joint_3d'")
    path.unlink()
    refuses("labels_000002.npz: no such file")
    for i in range(COUNT):
        if i not in EMPTY:
            label = path.with_name(f"labels_{i:06d}.npz")
            joints = {"pose_m": np.ones((1, 51)), "joint_2d": truth.uv[i : i + 1]}
            np.savez(label, **joints, joint_3d=1000 * truth.keypoints[i : i + 1])
    with pytest.raises(SourceError, match=r"keypoints_3d are \d+ m wide"):
        read(skeleton, "train", 0)


def test_an_incomplete_set_is_not_split_otherwise(skeleton: Path) -> None:
    folder = skeleton / SUBJECTS[3] / "20200709_140050"
    folder.rmdir()
    with pytest.raises(SourceError, match="subject-04: 99 sequences, expected 100"):
        SOURCE.list_units(skeleton, "train")
    folder.mkdir()
