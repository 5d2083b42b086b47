"""From two sides of a clip to a table: what counts, and how it is pooled."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from extpose.body_model import BodyModel, find_evidence, load_body_model
from extpose.errors import ExtPoseError
from extpose.evaluation.posed import Posed
from extpose.evaluation.protocol import Protocol
from extpose.evaluation.protocols import PROTOCOLS
from extpose.evaluation.scoring import ClipScores, score_clip
from extpose.evaluation.summary import compare, summarise
from extpose.keypoints import COCO17_OF_BODY44
from extpose.schema import ClipTargets
from tests import official
from tests.conventions import (
    BODY_PROTOCOLS,
    HAND_PROTOCOLS,
    evaluate,
    make_clips,
    pose,
    project,
    score,
)

BODY = PROTOCOLS["free-body"]
T = 6


@pytest.fixture(scope="module")
def bodies() -> dict[str, BodyModel]:
    return {"smpl": load_body_model(None, "smpl"), "mano": load_body_model(None, "mano")}


def posed(points: np.ndarray, **changes: object) -> Posed:
    """A side whose joints are `points` and whose root is the first."""
    tensor = torch.from_numpy(points)
    side = Posed(
        valid=torch.ones(len(points), dtype=torch.bool),
        joints=tensor,
        root=tensor[:, 0],
        vertices=tensor.repeat(1, 2, 1),
    )
    return replace(side, **changes)


def two_sides(seed: int = 0, t: int = T) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = 0.3 * rng.normal(size=(1, 24, 3)) + 0.02 * rng.normal(size=(t, 24, 3))
    return truth + 0.03 * rng.normal(size=truth.shape), truth


def run(
    found: Posed, truth: Posed, protocol: Protocol = BODY, *, fps: float = 30.0, name: str = "a"
) -> ClipScores:
    return score_clip(protocol, found, truth, key=f"clip-{name}", sequence=name, fps=fps)


def test_scores_equal_the_plain_definitions():
    a, b = two_sides()
    scores = run(posed(a), posed(b), fps=25.0)
    values = {name: value.nanmean() for name, value in scores.values.items()}
    rooted = [x - x[:, :1] for x in (a, b)]
    aligned = [official.align_body(x, y) for x, y in zip(a, b, strict=True)]
    assert values["mpjpe"] == pytest.approx(1000 * official.mean_distance(*rooted))
    assert values["pa_mpjpe"] == pytest.approx(1000 * official.mean_distance(np.stack(aligned), b))
    assert values["mpvpe"] == pytest.approx(values["mpjpe"])
    assert values["pa_mpvpe"] == pytest.approx(values["pa_mpjpe"])
    accel = official.acceleration_error(*rooted, np.ones(T, bool))
    assert values["accel"] == pytest.approx(25**2 * accel)
    assert values["accel_per_frame"] == pytest.approx(1000 * accel)
    assert values["jitter"] == pytest.approx(official.jitter(rooted[0], 25.0))
    assert values["target_jitter"] == pytest.approx(official.jitter(rooted[1], 25.0))
    assert scores.values["mpjpe"].shape == (T, 24)
    assert scores.values["accel"].shape == (T - 2, 24)


def test_frames_that_do_not_count_are_named_and_may_hold_anything():
    a, b = two_sides()
    clean = run(posed(a), posed(b))
    a[1], b[4] = np.nan, 1e6
    found = posed(a, valid=torch.tensor([True, False, True, True, True, True]))
    truth = posed(
        b,
        valid=torch.tensor([True, True, True, True, False, True]),
        left_out={"no labelled pose": 1},
    )
    scores = run(found, truth)
    assert (scores.num_frames, scores.num_scored) == (6, 4)
    assert scores.left_out == {"no labelled pose": 1, "not predicted": 1}
    keep = [0, 2, 3, 5]
    for name in ("mpjpe", "pa_mpjpe", "mpvpe"):
        torch.testing.assert_close(scores.values[name][keep], clean.values[name][keep])
        assert scores.values[name][[1, 4]].isnan().all()
    assert scores.values["accel"].isnan().all()


def test_hands_are_aligned_with_mirrors_and_scored_by_surface():
    protocol = replace(PROTOCOLS["ho3d-v2"], joints=tuple(range(24)))
    _, b = two_sides()
    scores = run(posed(0.5 * b * [-1, 1, 1]), posed(b), protocol)
    for name, perfect in {"pa_mpjpe": 0, "pa_mpvpe": 0, "auc_j": 1, "f_5": 1}.items():
        assert scores.values[name].mean() == pytest.approx(perfect, abs=6e-3)
    assert run(posed(b * [-1, 1, 1]), posed(b)).values["pa_mpjpe"].mean() > 1


def test_vertices_can_be_aligned_by_the_joints():
    a, b = two_sides()
    shift = np.array([0.1, 0, 0])
    sides = [posed(a), posed(b, vertices=torch.from_numpy(b + shift).repeat(1, 2, 1))]
    by_vertices = run(*sides).values["pa_mpvpe"]
    by_joints = run(*sides, replace(BODY, pa_vertices="joints")).values["pa_mpvpe"]
    pairs = [(official.align_body(x, y), y + shift) for x, y in zip(a, b, strict=True)]
    plain = [1000 * official.mean_distance(x, y) for x, y in pairs]
    np.testing.assert_allclose(by_joints[:, 0], plain)
    assert (by_joints > by_vertices + 30).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: posed(x[:3]), "valid are .3,., the truth's .6,."),
        (lambda x: posed(x[:, :20]), "joints are .6, 20, 3., the truth's .6, 24, 3."),
        (lambda x: posed(x, vertices=torch.zeros(6, 7, 3)), "vertices are .6, 7, 3."),
        (lambda x: posed(x * np.nan), "the prediction's joints are not finite"),
        (lambda x: posed(1000 * x), "prediction is .* m from the root, at most 5 m.*millimetres"),
    ],
)
def test_what_would_give_a_wrong_number_is_refused(change, message):
    a, b = two_sides()
    with pytest.raises(ExtPoseError, match=f"clip-a: .*{message}"):
        run(change(a), posed(b))


def test_a_frame_rate_of_zero_is_refused():
    a, b = two_sides()
    with pytest.raises(ExtPoseError, match="clip-a: fps is 0"):
        run(posed(a), posed(b), fps=0.0)


def test_sequences_are_pooled_by_the_protocols_rule():
    _, b = two_sides(0, 4)
    values = {"x": 0.01, "y": 0.03}
    scores = []
    for name, t in (("x", 3), ("y", 1)):
        a = b[:t].copy()
        a[:, 1:] += [values[name], 0, 0]
        scores.append(run(posed(a), posed(b[:t]), name=name))
    pooled = 23 / 24 * 1000
    for pooling, expected in {"frames": 0.015, "points": 0.015, "sequences": 0.02}.items():
        result = summarise(scores, replace(BODY, pooling=pooling))
        found = {m.name: m for m in result.metrics}["mpjpe"]
        assert found.value == pytest.approx(pooled * expected)
        assert found.count == 4
        assert found.low <= found.value <= found.high
    assert [row.sequence for row in result.sequences] == ["x", "y"]
    assert result.sequences[1].values["mpjpe"] == pytest.approx(30 * 23 / 24)
    assert result.per_joint["mpjpe"]["pelvis"] == 0
    assert result.per_joint["mpjpe"]["head"] == pytest.approx(15)


def test_keypoints_are_averaged_over_the_set_first():
    protocol = PROTOCOLS["coco-val-pck"]
    k = 17
    truth = [np.zeros((1, k, 2)), np.zeros((1, k, 2))]
    labelled = [np.ones((1, k), bool), np.zeros((1, k), bool)]
    labelled[1][0, 0] = True
    scores = []
    for i in range(2):
        far = truth[i].copy()
        far[:, 0] = 7 * i  # keypoint 0 is missed by 9.9 pixels of 100 in the second picture
        found = posed(np.zeros((1, k, 3)), keypoints_2d=torch.from_numpy(far))
        side = Posed(
            valid=torch.ones(1, dtype=torch.bool),
            keypoints_2d=torch.from_numpy(truth[i]),
            has_2d=torch.from_numpy(labelled[i]),
            scale_2d=torch.tensor([100.0]),
        )
        scores.append(run(found, side, protocol, name=str(i)))
    result = {m.name: m for m in summarise(scores, protocol).metrics}
    assert result["pck@0.05"].value == pytest.approx(100 * (0.5 + 16) / 17)
    assert result["pck@0.1"].value == pytest.approx(100)


def test_the_bootstrap_covers_and_repeats():
    rng = np.random.default_rng(0)
    scores = []
    for i in range(40):
        _, b = two_sides(i, 1)
        a = b.copy()
        a[:, 1:] += [rng.normal(0.05, 0.01), 0, 0]
        scores.append(run(posed(a), posed(b), name=str(i)))
    first, again, other = (summarise(scores, BODY, seed=seed) for seed in (0, 0, 1))
    assert first == again
    mpjpe = {m.name: m for m in first.metrics}["mpjpe"]
    assert mpjpe.high - mpjpe.low == pytest.approx(4 * 10 / 40**0.5, rel=0.3)
    assert first.metrics != other.metrics
    single = summarise(scores[:1], BODY).metrics[0]
    assert (single.low, single.high) == (None, None)
    assert summarise([], BODY).metrics[0].value is None


def test_results_are_plain_json_and_text():
    results = evaluate(("3dpw-14-wham", "free-body"), num_clips=2, bootstrap=50)
    content = json.loads(json.dumps(results[0].to_json(), allow_nan=False))
    assert content["protocol"]["root"] == [4, 1]
    assert content["stand_in"] == [
        "the mesh's own regressor rows for J_regressor_h36m.npy",
        "one free body for SMPL's male and female bodies",
    ]
    assert "NOT the published protocol" in results[0].table()
    assert "NOT" not in results[1].table()
    assert "PA-MPJPE, mm" in results[1].table()
    side_by_side = compare(results)
    assert "3dpw-14-wham *" in side_by_side
    assert "* the mesh's own" in side_by_side


def test_a_short_clip_has_accuracy_and_no_motion():
    a, b = two_sides(0, 2)
    result = {m.name: m for m in summarise([run(posed(a), posed(b))], BODY).metrics}
    assert result["mpjpe"].value is not None
    assert result["accel"].value is None
    assert result["accel"].text() == "-"


def test_numbers_move_by_convention_alone():
    results = {r.protocol.name: r for r in evaluate(BODY_PROTOCOLS, num_clips=2, bootstrap=0)}
    pa = {name: r.metrics[0].value for name, r in results.items()}
    assert results["free-body"].metrics[0].name == "pa_mpjpe"
    assert pa["3dpw-24-smpl"] == pa["emdb1"]
    assert abs(pa["3dpw-14-wham"] - pa["3dpw-24-smpl"]) > 1
    hands = {r.protocol.name: r for r in evaluate(HAND_PROTOCOLS, num_clips=2, bootstrap=0)}
    assert "the posed mesh for stored vertices" in hands["freihand"].stand_in
    assert len(hands["freihand"].stand_in) == 2
    assert len(hands["freihand-smplx-tips"].stand_in) == 1


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_perfect_prediction_is_perfect_under_every_protocol(bodies, name):
    protocol = PROTOCOLS[name]
    body = bodies[protocol.body]
    clip = next(iter(make_clips(body, num_clips=1, num_frames=5)))
    labels = clip.targets.keypoints_2d
    visible = np.random.default_rng(0).random(labels.shape[:2]) > 0.5
    targets = replace(clip.targets, is_visible=visible)
    if protocol.joints_from == "coco17":  # labelled as the surface says, not as the 44 are
        targets = _coco_labels(targets, body)
    turns = np.concatenate([targets.global_orient[:, None], targets.pose], 1)
    perfect = replace(
        clip,
        targets=targets,
        rotations=torch.from_numpy(turns),
        betas=torch.from_numpy(targets.betas),
        transl=torch.from_numpy(targets.transl),
    )
    for metric in summarise([score(perfect, protocol, body)], protocol).metrics:
        if metric.name.startswith(("pck", "auc", "f_")):
            best = 100 if metric.name.startswith("pck") else 1
            assert metric.value == pytest.approx(best, abs=2e-2)
        elif not metric.name.startswith(("jitter", "target_", "foot")):
            limit = 0.2 if metric.name.startswith("accel") else 0.1
            assert metric.value is not None
            assert metric.value < limit


def _coco_labels(targets: ClipTargets, body: BodyModel) -> ClipTargets:
    turns = np.concatenate([targets.global_orient[:, None], targets.pose], 1)
    output = pose(body, turns, targets.betas, targets.transl)
    coco = find_evidence(output, body).numpy()
    points, pixels = targets.keypoints_3d.copy(), targets.keypoints_2d.copy()
    points[:, COCO17_OF_BODY44, :3] = coco
    pixels[:, COCO17_OF_BODY44, :2] = project(coco)
    return replace(targets, keypoints_3d=points, keypoints_2d=pixels)
