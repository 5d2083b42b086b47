"""The adversarial term: who learns from what, weights of clips, real poses, state.

Its numbers against the reference's are in `tests/parity`, two workers against one in
`tests/engines`.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from extpose.batch import Batch
from extpose.config import AdversaryConfig
from extpose.errors import CheckpointError, TrainingError
from extpose.params import PoseParams, Prediction
from extpose.rotations import axis_angle_to_matrix
from extpose.training.adversary import Adversary, frame_weights
from extpose.training.discriminator import discriminator_loss, generator_loss
from extpose.training.mocap import Mocap, read_mocap
from extpose.training.workers import Workers

B, T = 4, 3


def make_mocap(count: int = 50, *, seed: int = 0) -> Mocap:
    rng = np.random.default_rng(seed)
    pose, betas = rng.normal(0, 0.3, (count, 23, 3)), rng.normal(size=(count, 10))
    return Mocap(pose=pose.astype(np.float32), betas=betas.astype(np.float32))


def make_adversary(
    mocap: Mocap | None = None,
    *,
    weight: float = 0.5,
    batch: int = B,
    workers: Workers | None = None,
    real_weight: float = 2.0,
) -> Adversary:
    return Adversary(
        AdversaryConfig(lr=1e-3, real_weight=real_weight),
        mocap or make_mocap(),
        body="smpl",
        weight=weight,
        batch=batch,
        seed=0,
        workers=workers or Workers(torch.device("cpu")),
    )


def predict(seed: int, clips: int = B) -> Prediction:
    generator = torch.Generator().manual_seed(seed)
    vectors = 0.5 * torch.randn(clips, T, 24, 3, generator=generator)
    rotations = axis_angle_to_matrix(vectors)
    betas = torch.randn(clips, 10, generator=generator)
    return Prediction(
        params=PoseParams(
            global_orient=rotations[:, :, 0],
            pose=rotations[:, :, 1:].clone().requires_grad_(),
            betas=betas.requires_grad_(),
        ),
        crop_cam=torch.zeros(clips, T, 3),
    )


def batch_with(valid: torch.Tensor) -> Batch:
    b, t = valid.shape
    return Batch(
        keys=tuple(map(str, range(b))),
        rgb=torch.zeros(b, t, 3, 2, 2),
        skeleton=torch.zeros(b, t, 3, 2, 2),
        valid=valid,
        crop_box_img=torch.zeros(b, t, 3),
        keypoints_crop=torch.zeros(b, t, 17, 3),
        image_size=torch.zeros(b, 2),
        targets=None,
    )


FULL = batch_with(torch.ones(B, T, dtype=torch.bool))


def test_the_generator_learns_and_the_discriminator_does_not() -> None:
    adversary, prediction = make_adversary(), predict(1)
    term = adversary.term(prediction, FULL)
    term.backward()
    assert prediction.params.pose.grad.abs().sum() > 0
    assert prediction.params.betas.grad.abs().sum() > 0
    assert all(p.grad is None for p in adversary.discriminator.parameters())
    pose = prediction.params.pose.detach().flatten(0, 1)
    betas = prediction.params.betas.detach().repeat_interleave(T, 0)
    with torch.no_grad():
        expected = 0.5 * generator_loss(adversary.discriminator(pose, betas))
    torch.testing.assert_close(term.detach(), expected)


def test_a_step_moves_the_discriminator_alone_and_tells_its_loss() -> None:
    adversary, prediction = make_adversary(real_weight=3.0), predict(1)
    adversary.term(prediction, FULL)
    before = {n: p.detach().clone() for n, p in adversary.discriminator.named_parameters()}
    real = adversary.real_poses(7, clips=B, frames=T)
    assert len(real[0]) == 2 * B * T
    with torch.no_grad():
        fake = adversary.discriminator(
            prediction.params.pose.flatten(0, 1), prediction.params.betas.repeat_interleave(T, 0)
        )
        expected = discriminator_loss(fake, adversary.discriminator(*real), real_weight=3.0)
    assert adversary.step(7) == pytest.approx(float(expected), rel=1e-5)
    assert prediction.params.pose.grad is None
    for name, parameter in adversary.discriminator.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_a_loss_that_is_not_finite_names_the_clips_of_the_step() -> None:
    adversary, prediction = make_adversary(), predict(1)
    prediction.params.betas.data[0, 0] = float("nan")
    adversary.term(prediction, FULL)
    with pytest.raises(TrainingError, match=r"step 8: the discriminator.* clips: 0, 1, 2, 3$"):
        adversary.step(7)


def test_it_learns_to_tell_real_from_predicted() -> None:
    adversary = make_adversary()
    losses = []
    for step in range(20):
        adversary.term(predict(step), FULL)
        losses.append(adversary.step(step))
    assert losses[-1] < 0.8 * losses[0]


def test_clips_count_the_same_and_padding_nothing() -> None:
    valid = torch.tensor([[True, True, True], [True, False, False]])
    expected = torch.tensor([1, 1, 1, 3, 0, 0]) / 6
    torch.testing.assert_close(frame_weights(valid), expected)
    adversary, prediction = make_adversary(), predict(3)
    valid = torch.ones(B, T, dtype=torch.bool)
    valid[1, 1:] = False
    term = adversary.term(prediction, batch_with(valid))
    term.backward()
    grad = prediction.params.pose.grad
    assert (grad[1, 1:] == 0).all()
    # One clip of one frame is what it would be in a batch of images.
    parts = []
    for clip, frames in ((0, T), (1, 1), (2, T), (3, T)):
        rows = slice(clip, clip + 1)
        params = prediction.params
        alone = Prediction(
            params=PoseParams(
                global_orient=params.global_orient[rows, :frames],
                pose=params.pose[rows, :frames],
                betas=params.betas[rows],
            ),
            crop_cam=prediction.crop_cam[rows, :frames],
        )
        one = batch_with(torch.ones(1, frames, dtype=torch.bool))
        parts.append(make_adversary().term(alone, one))
    torch.testing.assert_close(term, torch.stack(parts).mean())


def test_micro_batches_are_one_batch() -> None:
    whole, parts = make_adversary(), make_adversary()
    for step in range(3):
        prediction = predict(step)
        total = whole.term(prediction, FULL)
        terms = []
        for rows in (slice(0, 2), slice(2, 4)):
            params = prediction.params
            half = replace(
                prediction,
                params=PoseParams(
                    global_orient=params.global_orient[rows],
                    pose=params.pose[rows],
                    betas=params.betas[rows],
                ),
                crop_cam=prediction.crop_cam[rows],
            )
            terms.append(parts.term(half, batch_with(FULL.valid[rows])))
        torch.testing.assert_close(torch.stack(terms).mean(), total)
        assert parts.step(step) == pytest.approx(whole.step(step), rel=1e-5)


def test_real_poses_are_gone_through_in_epochs() -> None:
    mocap = make_mocap(2 * B * T * 2)
    adversary = make_adversary(mocap)
    steps = [adversary.real_poses(step, clips=B, frames=T)[1] for step in range(4)]
    first, second = torch.cat(steps[:2]), torch.cat(steps[2:])
    rows = {tuple(row.tolist()) for row in first}
    assert len(rows) == len(first) == len(mocap.betas)
    assert rows == {tuple(row.tolist()) for row in second}
    assert not torch.equal(first, second)


def test_state_goes_on_bit_for_bit() -> None:
    straight, stopped = make_adversary(), make_adversary()

    def steps(adversary: Adversary, numbers: range) -> list[float]:
        losses = []
        for step in numbers:
            adversary.term(predict(step), FULL)
            losses.append(adversary.step(step))
        return losses

    expected = steps(straight, range(6))
    steps(stopped, range(3))
    resumed = make_adversary()
    resumed.load_state(stopped.state(), "run")
    assert steps(resumed, range(3, 6)) == expected[3:]
    for key, value in straight.state().items():
        assert torch.equal(value, resumed.state()[key]), key
    fresh = make_adversary()
    fresh.load_state(make_adversary().state(), "run")
    assert steps(fresh, range(3)) == expected[:3]
    with pytest.raises(CheckpointError, match="run: its real poses are not those"):
        make_adversary(make_mocap(seed=5)).load_state(stopped.state(), "run")
    state = stopped.state()
    del state["weights/D_conv1.bias"]
    with pytest.raises(CheckpointError, match=r"run: the discriminator: .*D_conv1\.bias"):
        make_adversary().load_state(state, "run")


def test_networks_start_does_not_depend_on_it() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    adversary = make_adversary()
    adversary.term(predict(0), FULL)
    adversary.step(0)
    assert torch.equal(torch.rand(2), expected)


def test_a_loss_that_is_not_finite_is_refused() -> None:
    adversary, prediction = make_adversary(), predict(0)
    prediction.params.pose.data[0, 0, 0, 0, 0] = float("nan")
    adversary.term(prediction, FULL)
    with pytest.raises(TrainingError, match="step 5: the discriminator's loss is not finite"):
        adversary.step(4)


def write(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("body", "key", "width"), [("smpl", "body_pose", 69), ("mano", "hand_pose", 45)]
)
def test_files_are_read_with_and_without_the_root(tmp_path: Path, body, key, width) -> None:
    rng = np.random.default_rng(0)
    pose, betas = rng.normal(size=(5, width)), rng.normal(size=(5, 10)).astype(np.float32)
    own = read_mocap(write(tmp_path / "a.npz", **{key: pose, "betas": betas}), body)
    assert own.pose.dtype == np.float32
    np.testing.assert_allclose(own.pose, pose.reshape(5, -1, 3), rtol=1e-6)
    whole = np.concatenate([rng.normal(size=(5, 3)), pose], 1)
    theirs = read_mocap(write(tmp_path / "b.npz", **{key: whole, "betas": betas}), body)
    assert theirs.fingerprint() == own.fingerprint()
    other = replace(own, betas=own.betas + 1)
    assert other.fingerprint() != own.fingerprint()


GOOD = {"body_pose": np.zeros((5, 69)), "betas": np.zeros((5, 10))}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"betas": np.zeros((5, 10))}, "no array 'body_pose', has"),
        ({"body_pose": np.zeros((5, 45))}, r"body_pose has shape \(5, 45\), expected \(n, 69\)"),
        ({"body_pose": np.zeros((0, 69)), "betas": np.zeros((0, 10))}, "with n > 0"),
        ({"betas": np.zeros((4, 10))}, r"betas has shape \(4, 10\), expected \(5, 10\)"),
        ({"body_pose": np.full((5, 69), np.nan)}, "expected finite floats"),
        ({"body_pose": np.zeros((5, 69), int)}, "body_pose is int64, expected finite floats"),
        ({"body_pose": np.full((5, 69), 90.0)}, "reaches 90, at most 12.6: degrees"),
        ({"body_pose": np.array([{}], object)}, "not a readable npz of plain arrays"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, arrays, message) -> None:
    whole = GOOD | arrays
    if message.startswith("no array"):
        whole = arrays
    path = write(tmp_path / "mocap.npz", **whole)
    with pytest.raises(TrainingError, match=rf"mocap\.npz: .*{message}"):
        read_mocap(path, "smpl")


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mocap.npz"
    for content in (None, b"", b"PK\x03\x04 cut off", b"\x80\x04N."):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(TrainingError, match=r"mocap\.npz: not a readable npz"):
            read_mocap(path, "smpl")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(TrainingError, match=r"one\.npy: not a readable npz"):
        read_mocap(tmp_path / "one.npy", "smpl")
