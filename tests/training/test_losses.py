"""Terms against the reference's sums, masks, and the weights' bookkeeping."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from extpose.batch import Batch, Targets, map_tensors
from extpose.body_file import BodyArrays
from extpose.body_model import BodyModel
from extpose.config import LossConfig
from extpose.geometry import project_to_crop
from extpose.params import PoseParams, Prediction
from extpose.rotations import axis_angle_to_matrix
from extpose.training.losses import (
    compute_losses,
    sum_differences,
    sum_keypoints_2d,
    sum_keypoints_3d,
    sum_squares,
)

DATA = Path(__file__).parents[1] / "data"
TERMS = ("keypoints_3d", "keypoints_2d", "global_orient", "pose", "betas")
B, T, J, K = 2, 3, 23, 44
ONES = LossConfig(**dict.fromkeys(TERMS, 1.0), clips_per_sum=B)
NUM_VERTICES = 6800
"""Enough for the numbers by which points of the surface are known."""


@pytest.fixture(scope="module")
def body_model() -> BodyModel:
    """A cloud of points with the layout of a body."""
    rng = np.random.default_rng(0)
    weights = rng.random((NUM_VERTICES, J + 1)).astype(np.float32)
    return BodyModel(
        BodyArrays(
            v_template=rng.normal(size=(NUM_VERTICES, 3)).astype(np.float32),
            shapedirs=rng.normal(0, 0.1, (NUM_VERTICES, 3, 10)).astype(np.float32),
            posedirs=rng.normal(0, 0.01, (NUM_VERTICES, 3, 9 * J)).astype(np.float32),
            J_regressor=np.full((J + 1, NUM_VERTICES), 1 / NUM_VERTICES, np.float32),
            weights=weights / weights.sum(1, keepdims=True),
            parents=(-1, *range(J)),
            faces=np.zeros((1, 3), np.int64),
            coco_regressor=None,
            extra_regressor=rng.random((19, NUM_VERTICES)).astype(np.float32) / NUM_VERTICES,
        )
    )


def rotations(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return axis_angle_to_matrix(0.5 * torch.randn(*shape, 3, generator=generator))


def params(seed: int) -> PoseParams:
    generator = torch.Generator().manual_seed(seed)
    return PoseParams(
        global_orient=rotations(B, T, seed=seed),
        pose=rotations(B, T, J, seed=seed + 1),
        betas=torch.randn(B, 10, generator=generator),
    )


def keypoints_of(body_model: BodyModel, p: PoseParams) -> Tensor:
    return body_model(p.global_orient, p.pose, p.betas[:, None].expand(-1, T, -1)).keypoints


def make_batch(body_model: BodyModel, *, seed: int = 7) -> Batch:
    """Fully labelled; its truth is the body with the parameters of `seed` and camera (1, 0, 0)."""
    truth = params(seed)
    points, ones = keypoints_of(body_model, truth), torch.ones(B, T, K, 1)
    camera = torch.tensor([1.0, 0, 0]).expand(B, T, 3)
    return Batch(
        keys=("a", "b"),
        rgb=torch.zeros(B, T, 3, 8, 8),
        skeleton=torch.zeros(B, T, 3, 8, 8),
        valid=torch.ones(B, T, dtype=torch.bool),
        crop_box_img=torch.ones(B, T, 3),
        keypoints_crop=torch.zeros(B, T, 17, 3),
        image_size=torch.ones(B, 2),
        targets=Targets(
            params=truth,
            has_pose=torch.ones(B, T, dtype=torch.bool),
            has_betas=torch.ones(B, dtype=torch.bool),
            keypoints_2d=torch.cat([project_to_crop(points, camera), ones], -1),
            keypoints_3d=torch.cat([points + 3.0, ones], -1),
            transl=torch.full((B, T, 3), 3.0),
        ),
    )


def predict(seed: int) -> Prediction:
    return Prediction(params=params(seed), crop_cam=torch.tensor([1.0, 0, 0]).expand(B, T, 3))


def change(batch: Batch, **targets: Tensor) -> Batch:
    assert batch.targets is not None
    return replace(batch, targets=replace(batch.targets, **targets))


def test_sums_equal_the_reference():
    numbers = {k: torch.from_numpy(v) for k, v in np.load(DATA / "losses.npz").items()}
    close = {"rtol": 1e-6, "atol": 0}
    found = sum_keypoints_2d(numbers["p2"], numbers["g2"])
    torch.testing.assert_close(found, numbers["kp2_l1"], **close)
    for pelvis in (0, 39):
        found = sum_keypoints_3d(numbers["p3"], numbers["g3"], root=(pelvis,))
        torch.testing.assert_close(found, numbers[f"kp3_l1_pelvis{pelvis}"], **close)
    # The reference's labels are fractions here; ours are yes or no, so they come row by row.
    rows = torch.stack(
        [
            sum_squares(a, b, torch.tensor(True))
            for a, b in zip(numbers["pp"], numbers["gp"], strict=True)
        ]
    )
    torch.testing.assert_close((numbers["has"] * rows).sum(), numbers["param"], **close)


def test_truth_has_no_loss(body_model: BodyModel):
    total, terms = compute_losses(predict(7), make_batch(body_model), body_model, ONES)
    assert tuple(terms) == TERMS
    assert total < 1e-3
    assert terms["pose"] == 0


def test_terms_by_hand(body_model: BodyModel):
    batch, prediction = make_batch(body_model), predict(11)
    truth, found = batch.targets.params, prediction.params
    total, terms = compute_losses(prediction, batch, body_model, ONES)
    a, b = (keypoints_of(body_model, p) for p in (found, truth))
    expected = {
        "keypoints_3d": sum(
            ((a[i, t] - a[i, t, 39]) - (b[i, t] - b[i, t, 39])).abs().sum()
            for i in range(B)
            for t in range(T)
        ),
        "keypoints_2d": (
            project_to_crop(a, prediction.crop_cam) - project_to_crop(b, prediction.crop_cam)
        )
        .abs()
        .sum(),
        "global_orient": (found.global_orient - truth.global_orient).square().sum(),
        "pose": (found.pose - truth.pose).square().sum(),
        "betas": (found.betas - truth.betas).square().sum(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(total, torch.stack(list(expected.values())).sum())


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_weights_scale_their_own_term(body_model: BodyModel, reduction):
    batch, prediction = make_batch(body_model), predict(11)
    ones = replace(ONES, reduction=reduction)
    _, plain = compute_losses(prediction, batch, body_model, ones)
    for name in TERMS:
        total, terms = compute_losses(prediction, batch, body_model, replace(ones, **{name: 3.0}))
        for other in TERMS:
            factor = 3 if other == name else 1
            torch.testing.assert_close(terms[other], factor * plain[other])
        torch.testing.assert_close(total, torch.stack(list(terms.values())).sum())


def test_mean_divides_by_labelled_frames_and_clips(body_model: BodyModel):
    batch, prediction = make_batch(body_model), predict(11)
    has_pose = torch.tensor([[True, False, False], [True, True, True]])
    points = batch.targets.keypoints_2d.clone()
    points[0, 0, :, 2] = 0
    batch = change(
        batch, has_pose=has_pose, has_betas=torch.tensor([True, False]), keypoints_2d=points
    )
    batch = replace(batch, valid=torch.tensor([[True, True, True], [True, True, False]]))
    _, sums = compute_losses(prediction, batch, body_model, ONES)
    _, means = compute_losses(prediction, batch, body_model, replace(ONES, reduction="mean"))
    counts = {"keypoints_3d": 5, "keypoints_2d": 4, "global_orient": 3, "pose": 3, "betas": 1}
    for name, count in counts.items():
        torch.testing.assert_close(means[name], sums[name] / count)


@pytest.mark.parametrize("rubbish", [1e6, float("nan")])
def test_what_is_not_labelled_changes_nothing(body_model: BodyModel, rubbish):
    batch, prediction = make_batch(body_model), predict(11)
    has_pose = torch.tensor([[True, False, True], [True, True, True]])
    valid = torch.tensor([[True, True, True], [True, True, False]])
    points_2d, points_3d = (
        batch.targets.keypoints_2d.clone(),
        batch.targets.keypoints_3d.clone(),
    )
    points_2d[0, 1, 4, 2] = points_3d[0, 1, 5, 3] = 0
    points_3d[1, 0, 39, 3] = 0  # without the pelvis there is no root: no 3D term in this frame
    batch = replace(
        change(batch, has_pose=has_pose, keypoints_2d=points_2d, keypoints_3d=points_3d),
        valid=valid,
    )
    pose, dirty_2d, dirty_3d = (
        batch.targets.params.pose.clone(),
        points_2d.clone(),
        points_3d.clone(),
    )
    pose[0, 1] = pose[1, 2] = rubbish
    dirty_2d[0, 1, 4, :2] = dirty_2d[1, 2, :, :2] = rubbish
    dirty_3d[0, 1, 5, :3] = dirty_3d[1, 2, :, :3] = dirty_3d[1, 0, :, :3] = rubbish
    dirty = change(
        batch,
        params=replace(batch.targets.params, pose=pose),
        keypoints_2d=dirty_2d,
        keypoints_3d=dirty_3d,
    )
    clean_total, clean = compute_losses(prediction, batch, body_model, ONES)
    prediction.params.pose.requires_grad_()
    dirty_total, found = compute_losses(prediction, dirty, body_model, ONES)
    assert found == clean
    assert dirty_total == clean_total
    dirty_total.backward()
    assert torch.isfinite(prediction.params.pose.grad).all()


def test_no_labels_at_all_is_zero_with_a_gradient(body_model: BodyModel):
    batch = make_batch(body_model)
    batch = change(
        batch,
        has_pose=torch.zeros(B, T, dtype=torch.bool),
        has_betas=torch.zeros(B, dtype=torch.bool),
        keypoints_2d=torch.zeros_like(batch.targets.keypoints_2d),
        keypoints_3d=torch.zeros_like(batch.targets.keypoints_3d),
    )
    prediction = predict(11)
    camera = prediction.crop_cam.clone().requires_grad_()
    total, _ = compute_losses(
        replace(prediction, crop_cam=camera), batch, body_model, replace(ONES, reduction="mean")
    )
    total.backward()
    assert total == 0
    assert (camera.grad == 0).all()


def weighted_clip(seed: int, t: int) -> tuple[Tensor, Tensor]:
    """Points found, and true ones with confidences."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(2, t, 5, 3, generator=generator)
    true = torch.randn(2, t, 5, 4, generator=generator)
    true[..., 3] = torch.rand(2, t, 5, generator=generator)
    return found, true


def test_velocity_and_acceleration_by_hand():
    found, true = weighted_clip(0, 4)
    expected = {1: 0.0, 2: 0.0}
    for b in range(2):
        for k in range(5):
            a = found[b, :, k] - found[b, :, 1]
            c = true[b, :, k, :3] - true[b, :, 1, :3]
            w = true[b, :, k, 3]
            for t in range(3):
                gap = (a[t + 1] - a[t]) - (c[t + 1] - c[t])
                expected[1] += float(min(w[t], w[t + 1]) * gap.abs().sum())
            for t in range(2):
                gap = (a[t + 2] - 2 * a[t + 1] + a[t]) - (c[t + 2] - 2 * c[t + 1] + c[t])
                expected[2] += float(w[t : t + 3].min() * gap.abs().sum())
    for order, value in expected.items():
        total = sum_differences(found, true, root=(1,), order=order)
        assert float(total) == pytest.approx(value, rel=1e-5)


@settings(max_examples=20)
@given(seed=st.integers(0, 99), t=st.integers(1, 5), order=st.sampled_from([1, 2]))
def test_temporal_terms_see_neither_constant_offsets_nor_too_few_frames(seed, t, order):
    found, true = weighted_clip(seed, t)
    still = sum_differences(found, true, root=(0,), order=order)
    moved = true.clone()
    moved[..., :3] += torch.randn(2, 1, 5, 3)
    torch.testing.assert_close(sum_differences(found, moved, root=(0,), order=order), still)
    assert (still == 0) == (t <= order)
    # Frames without confidence (padding) change nothing, whatever they hold.
    padded = [torch.cat([x, 100 * torch.randn(2, 2, 5, x.shape[-1])], 1) for x in (found, true)]
    padded[1][:, t:, :, 3] = 0
    torch.testing.assert_close(sum_differences(*padded, root=(0,), order=order), still)


def test_temporal_terms_are_off_and_stop_at_padding(body_model: BodyModel):
    batch, prediction = make_batch(body_model), predict(11)
    _, terms = compute_losses(prediction, batch, body_model, ONES)
    assert set(terms) == set(TERMS)
    on = replace(ONES, velocity=2.0, acceleration=3.0)
    total, terms = compute_losses(prediction, batch, body_model, on)
    assert set(terms) == {*TERMS, "velocity", "acceleration"}
    torch.testing.assert_close(total, torch.stack(list(terms.values())).sum())
    batch = replace(batch, valid=torch.tensor([[True, False, False], [True, True, False]]))
    _, terms = compute_losses(prediction, batch, body_model, on)
    assert terms["velocity"] > 0
    assert terms["acceleration"] == 0
    _, means = compute_losses(prediction, batch, body_model, replace(on, reduction="mean"))
    torch.testing.assert_close(means["velocity"], terms["velocity"])
    assert means["acceleration"] == 0


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_an_image_among_clips_is_what_it_is_alone(body_model: BodyModel, reduction):
    """A clip of one frame in a batch of three: padding adds nothing to any term or gradient."""
    config = replace(ONES, reduction=reduction, velocity=1.0)
    batch, prediction = make_batch(body_model), predict(11)
    batch = replace(batch, valid=torch.tensor([[True, False, False], [True, True, True]]))

    def cut(value, clip: int, frames: int):
        """One clip, its first frames; betas have no frames."""
        if isinstance(value, Tensor):
            part = value[clip : clip + 1]
            return part[:, :frames] if value.ndim > 1 and value.shape[1] == T else part
        return value

    whole, _ = compute_losses(prediction, batch, body_model, config)
    parts = []
    for clip, frames in ((0, 1), (1, T)):
        one = map_tensors(batch, lambda v, c=clip, f=frames: cut(v, c, f))
        alone = map_tensors(prediction, lambda v, c=clip, f=frames: cut(v, c, f))
        parts.append(compute_losses(alone, one, body_model, config)[1])
    counts = dict.fromkeys([*TERMS, "velocity"], (1, T)) | {"betas": (1, 1), "velocity": (0, 2)}
    expected = 0.0
    for name, numbers in counts.items():
        if reduction == "sum":
            # Of a batch of one too the loss is that of `clips_per_sum` clips.
            expected += sum(float(part[name]) for part in parts) / B
        else:
            sums = [float(part[name]) * n for part, n in zip(parts, numbers, strict=True)]
            expected += sum(sums) / sum(numbers)
    assert float(whole) == pytest.approx(expected, rel=1e-5)


def test_half_precision_predictions_are_compared_in_float32(body_model: BodyModel):
    prediction, batch = predict(11), make_batch(body_model)
    half = Prediction(
        params=PoseParams(
            global_orient=prediction.params.global_orient.bfloat16(),
            pose=prediction.params.pose.bfloat16(),
            betas=prediction.params.betas.bfloat16(),
        ),
        crop_cam=prediction.crop_cam.bfloat16(),
    )
    total, terms = compute_losses(half, batch, body_model, ONES)
    assert {value.dtype for value in (total, *terms.values())} == {torch.float32}


def test_bad_batches_are_refused(body_model: BodyModel):
    batch = make_batch(body_model)
    with pytest.raises(ValueError, match="'a', 'b'"):
        compute_losses(predict(1), replace(batch, targets=None), body_model, ONES)
    other = change(
        batch, keypoints_2d=torch.ones(B, T, 21, 3), keypoints_3d=torch.ones(B, T, 21, 4)
    )
    with pytest.raises(ValueError, match=r"21 .* 44"):
        compute_losses(predict(1), other, body_model, ONES)
