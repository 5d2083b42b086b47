"""InterHand2.6M: a world in millimetres, several cameras, two hands, fits about a mean pose."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pipelines.records import Filtered, Record, SourceError
from pipelines.sources.interhand import SOURCE_5FPS, SOURCE_30FPS
from tests.pipelines.sources import hands as h

COUNT = 6
NUMBERS = (18000, 18003, 18006, 18012, 18015, 18018)
RUNS = (slice(0, 3), slice(3, 6))
ORDER = [*(4 * finger + joint for finger in range(5) for joint in (4, 3, 2, 1)), 0]
WORLD_TO_CAM = Rotation.from_rotvec([0.4, -0.9, 0.2]).as_matrix()
POSITION = np.array([0.3, -0.2, 0.9])
SPLIT = "train"


@pytest.fixture
def truth() -> dict[str, h.Hands]:
    return {
        side: h.pose_hands(40, COUNT, is_right=side == "right", size=(512, 334), distance=0.9)
        for side in ("right", "left")
    }


def in_world(hands: h.Hands) -> h.Hands:
    """The hands seen by the camera, in the world's axes."""
    turned = h.turn(hands, WORLD_TO_CAM.T)
    return h.move(turned, POSITION)


def make_joints(truth: dict[str, h.Hands]) -> dict[str, Any]:
    world = [in_world(truth[side]).keypoints[:, ORDER] for side in ("right", "left")]
    return {
        "0": {
            str(number): {
                "world_coord": (1000 * np.vstack([w[i] for w in world])).tolist(),
                "joint_valid": [[1]] * 42,
                "hand_type": "interacting",
                "hand_type_valid": True,
                "seq": "ROM01",
            }
            for i, number in enumerate(NUMBERS)
        }
    }


def make_fits(truth: dict[str, h.Hands]) -> dict[str, Any]:
    fits: dict[str, Any] = {"0": {}}
    for i, number in enumerate(NUMBERS):
        frame: dict[str, Any] = {}
        for side, hands in truth.items():
            world = in_world(hands)
            mean = h.HANDS_MEAN.reshape(15, 3) * (1 if side == "right" else h.FLIP)
            pose = np.hstack([world.global_orient[i], (world.pose[i] - mean).ravel()])
            frame[side] = {
                "pose": pose.tolist(),
                "shape": world.betas[i].tolist(),
                "trans": world.transl[i].tolist(),
            }
        fits["0"][str(number)] = frame
    return fits


def annotation(root: Path, kind: str) -> Path:
    return root / f"annotations/{SPLIT}/InterHand2.6M_{SPLIT}_{kind}.json"


@pytest.fixture
def root(tmp_path: Path, truth: dict[str, h.Hands]) -> Path:
    K = truth["right"].K
    cameras: dict[str, Any] = {"campos": {}, "camrot": {}, "focal": {}, "princpt": {}}
    for i, name in enumerate(("400262", "400263")):
        cameras["campos"][name] = (1000 * POSITION + 5000 * i).tolist()
        cameras["camrot"][name] = WORLD_TO_CAM.tolist()
        cameras["focal"][name] = [K[0, 0], K[1, 1]]
        cameras["princpt"][name] = [K[0, 2], K[1, 2]]
        for j, number in enumerate(NUMBERS):
            image = np.maximum(truth["right"].draw(j), truth["left"].draw(j))
            folder = tmp_path / f"images/{SPLIT}/Capture0/ROM01_Two-Hands/cam{name}"
            h.write_image(folder / f"image{number}.jpg", image)
    h.write_json(annotation(tmp_path, "camera"), {"0": cameras})
    h.write_json(annotation(tmp_path, "joint_3d"), make_joints(truth))
    h.write_json(annotation(tmp_path, "MANO_NeuralAnnot"), make_fits(truth))
    return tmp_path


@pytest.mark.parametrize("with_mano", [False, True])
def test_reads_what_was_written(root: Path, truth: dict[str, h.Hands], with_mano: bool) -> None:
    if with_mano:
        h.write_mano(root)
    assert SOURCE_5FPS.list_units(root, SPLIT) == ["Capture0-ROM01_Two-Hands"]
    found = h.read_all(SOURCE_5FPS, root, SPLIT)
    lost = [item for item in found if isinstance(item, Filtered)]
    # The second camera looks past the hands.
    assert [(item.num_frames, item.reason) for item in lost] == [(COUNT, "out_of_view")] * 2
    records = [item for item in found if isinstance(item, Record)]
    assert [record.is_right for record in records] == [True, True, False, False]
    for record, part in zip(records, RUNS * 2, strict=True):
        hands = truth["right" if record.is_right else "left"]
        h.assert_is(record, hands, part)
        assert record.fps == 5
        assert record.track.first_frame == NUMBERS[part.start] // 3
        assert record.targets.has_betas
        assert record.targets.has_pose.all() == with_mano
        if with_mano:
            h.assert_posed(record, hands, part)
    assert next(iter(SOURCE_30FPS.read_unit(root, SPLIT, "Capture0-ROM01_Two-Hands"))).fps == 30


def test_single_hands_and_missing_fits(root: Path, truth: dict[str, h.Hands]) -> None:
    h.write_mano(root)
    joints, fits = make_joints(truth), make_fits(truth)
    for number in NUMBERS:
        joints["0"][str(number)]["joint_valid"] = [[1]] * 21 + [[0]] * 21
        fits["0"][str(number)]["left"] = None
    del fits["0"][str(NUMBERS[4])]["right"]
    joints["0"][str(NUMBERS[0])]["joint_valid"][20] = [0]
    h.write_json(annotation(root, "joint_3d"), joints)
    h.write_json(annotation(root, "MANO_NeuralAnnot"), fits)
    found = h.read_all(SOURCE_5FPS, root, SPLIT)
    records = [item for item in found if isinstance(item, Record)]
    assert [record.is_right for record in records] == [True, True]
    assert [record.targets.has_pose.tolist() for record in records] == [
        [True, True], [True, False, True],
    ]  # fmt: skip
    assert not records[1].targets.pose[1].any()
    lost = [(item.num_frames, item.reason) for item in found if isinstance(item, Filtered)]
    assert (1, "invalid_joints") in lost
    annotation(root, "MANO_NeuralAnnot").unlink()
    record = h.read_all(SOURCE_5FPS, root, SPLIT)[1]
    assert isinstance(record, Record)
    assert not record.targets.has_betas
    assert not record.targets.has_pose.any()


def test_shapes_that_vary_become_one(root: Path, truth: dict[str, h.Hands]) -> None:
    """Wrists stay where the fits have them; the other joints miss by what the shapes differ."""
    h.write_mano(root)
    fits = make_fits(truth)
    for i, number in enumerate(NUMBERS):
        fit = fits["0"][str(number)]["right"]
        fit["shape"] = (np.array(fit["shape"]) + 0.2 * (i % 3 - 1)).tolist()
    h.write_json(annotation(root, "MANO_NeuralAnnot"), fits)
    record = next(r for r in h.read_all(SOURCE_5FPS, root, SPLIT) if isinstance(r, Record))
    assert len(record.frames) == 3
    np.testing.assert_allclose(record.targets.betas, truth["right"].betas[0], atol=1e-5)
    betas = np.repeat(record.targets.betas[None].astype(float), 3, 0)
    t = record.targets
    _, posed = h.model_output(t.global_orient.astype(float), t.pose.astype(float), betas)
    wrists = posed[:, 0] + t.transl
    expected = [
        in_world(truth["right"]).transl[i]
        + h.rest_root(np.array([fits["0"][str(number)]["right"]["shape"]]), is_right=True)[0]
        for i, number in enumerate(NUMBERS[:3])
    ]
    np.testing.assert_allclose(wrists, (np.stack(expected) - POSITION) @ WORLD_TO_CAM.T, atol=1e-5)


def test_refusals(root: Path, truth: dict[str, h.Hands]) -> None:
    def refuses(match: str) -> None:
        with pytest.raises(SourceError, match=match):
            h.read_all(SOURCE_5FPS, root, SPLIT)

    def change(function: Any) -> None:
        joints = make_joints(truth)
        for frame in joints["0"].values():
            frame["world_coord"] = function(np.array(frame["world_coord"])).tolist()
        h.write_json(annotation(root, "joint_3d"), joints)

    change(lambda a: np.roll(a, 21, 0))
    refuses(r"world_coord \(right\) should be right hands, but")
    change(lambda a: a[:21])
    refuses(r"joint_3d.json: world_coord of 0/18000 has shape \(21, 3\), expected \(42, 3\)")
    change(lambda a: a * np.nan)
    refuses(r"world_coord of 0/18000 holds nan")
    close = 1000 * POSITION
    change(lambda a: close + 1000 * (a - close))
    refuses(r"joint_3d.json: Capture0.* keypoints_3d are \d+ m wide, a mano is 0.04 to 0.4")
    change(lambda a: a)
    h.write_mano(root)
    fits = make_fits(truth)
    for frame in fits["0"].values():
        for fit in frame.values():
            fit["trans"] = (1000 * np.array(fit["trans"])).tolist()
    h.write_json(annotation(root, "MANO_NeuralAnnot"), fits)
    refuses("misses the labelled joints by .* mm, at most 20")
    h.write_json(annotation(root, "camera"), {"0": {"campos": {"400262": [0, 0, 0]}}})
    refuses("camera.json: lacks camrot of capture 0, camera 400262")
    h.write_json(annotation(root, "camera"), {"1": {}})
    refuses("camera.json: lacks the capture 0")
    annotation(root, "joint_3d").unlink()
    refuses("joint_3d.json: no such file")
