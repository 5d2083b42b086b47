"""Discriminators: shapes, what sees what, files; their numbers are in `tests/parity`."""

from pathlib import Path

import pytest
import torch

from extpose.errors import CheckpointError
from extpose.model.foreign import read_checkpoint
from extpose.training.discriminator import (
    Discriminator,
    discriminator_loss,
    generator_loss,
    load_discriminator,
)


@pytest.mark.parametrize(
    ("body", "joints", "size"), [("smpl", 23, 1_807_619), ("mano", 15, 1_545_211)]
)
def test_one_score_a_joint_one_for_the_betas_one_for_all(body, joints, size):
    torch.manual_seed(0)
    critic = Discriminator(body)
    assert sum(p.numel() for p in critic.parameters()) == size
    pose, betas = torch.randn(2, joints, 3, 3), torch.randn(2, 10)
    scores = critic(pose, betas)
    assert scores.shape == (2, joints + 2)
    changed = pose.clone()
    changed[:, 4] += 1
    moved = (critic(changed, betas) != scores).any(0).nonzero().flatten().tolist()
    assert moved == [4, joints + 1]
    moved = (critic(pose, betas + 1) != scores).any(0).nonzero().flatten().tolist()
    assert moved == [joints]
    with pytest.raises(ValueError, match=f"7 joint rotations, the discriminator has {joints}"):
        critic(pose[:, :7], betas)


def test_losses_by_hand():
    fake, real = torch.tensor([[0.5, 2.0]]), torch.tensor([[1.0, 3.0], [0.0, 1.0]])
    assert generator_loss(fake) == 0.25 + 1.0
    assert discriminator_loss(fake, real) == 0.25 + 4.0 + (4.0 + 1.0) / 2
    # The reference divides the sum over two real poses by the one prediction.
    assert discriminator_loss(fake, real, real_weight=2.0) == 0.25 + 4.0 + 4.0 + 1.0


def test_weights_come_from_checkpoints(tmp_path: Path):
    torch.manual_seed(0)
    first, second = Discriminator("smpl"), Discriminator("smpl")
    path = tmp_path / "hmr2.ckpt"
    state = {f"discriminator.{key}": value for key, value in first.state_dict().items()}
    torch.save({"state_dict": state | {"backbone.last_norm.bias": torch.zeros(2)}}, path)
    load_discriminator(second, read_checkpoint(path))
    for key, value in second.state_dict().items():
        assert torch.equal(value, first.state_dict()[key])
    with pytest.raises(CheckpointError, match=r"hmr2\.ckpt"):
        load_discriminator(Discriminator("mano"), read_checkpoint(path))
    torch.save({"state_dict": {"backbone.last_norm.bias": torch.zeros(2)}}, path)
    with pytest.raises(CheckpointError, match=r"hmr2\.ckpt[\s\S]*Missing"):
        load_discriminator(second, read_checkpoint(path))
