"""HMR2.0's and HaMeR's discriminator of poses and shapes, and the least-squares losses with it.

Each joint is judged alone, by weights that the joints share up to the last linear map; the betas
are judged alone; and all joints together. Names as in the checkpoints (`discriminator.*`).

Axes    b poses   j joint rotations without the root (23 SMPL, 15 MANO)   c channels
        scores = j + 2
Source  Kanazawa et al., HMR (2018), 3.3; Mao et al., LSGAN (2017); 4D-Humans, HaMeR
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from extpose.errors import CheckpointError
from extpose.model.foreign import DISCRIMINATOR, ForeignCheckpoint
from extpose.model.head import NUM_ROTATIONS
from extpose.schema import BodyName

CHANNELS = 32
HIDDEN = 1024


class Discriminator(nn.Module):
    """Scores of a pose and a shape: 1 for real ones, 0 for predicted ones."""

    def __init__(self, body: BodyName) -> None:
        super().__init__()
        num_joints = NUM_ROTATIONS[body] - 1
        self.D_conv1 = nn.Conv2d(9, CHANNELS, kernel_size=1)
        self.D_conv2 = nn.Conv2d(CHANNELS, CHANNELS, kernel_size=1)
        self.pose_out = nn.ModuleList(nn.Linear(CHANNELS, 1) for _ in range(num_joints))
        self.betas_fc1, self.betas_fc2 = nn.Linear(10, 10), nn.Linear(10, 5)
        self.betas_out = nn.Linear(5, 1)
        self.D_alljoints_fc1 = nn.Linear(CHANNELS * num_joints, HIDDEN)
        self.D_alljoints_fc2 = nn.Linear(HIDDEN, HIDDEN)
        self.D_alljoints_out = nn.Linear(HIDDEN, 1)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(
        self, pose: Float[Tensor, "b j 3 3"], betas: Float[Tensor, "b 10"]
    ) -> Float[Tensor, "b scores"]:
        """One score a joint, one for the betas, one for all joints.

        Raises ValueError where `pose` has another number of joints.
        """
        if pose.shape[1] != len(self.pose_out):
            raise ValueError(
                f"{pose.shape[1]} joint rotations, the discriminator has {len(self.pose_out)}"
            )
        # A 1x1 convolution over a row of joints: the same linear map for each.
        joints = rearrange(pose, "b j row column -> b (row column) j 1")
        joints = F.relu(self.D_conv2(F.relu(self.D_conv1(joints))))
        alone = [out(joints[:, :, j, 0]) for j, out in enumerate(self.pose_out)]
        shape = F.relu(self.betas_fc2(F.relu(self.betas_fc1(betas))))
        together = F.relu(self.D_alljoints_fc1(rearrange(joints, "b c j 1 -> b (c j)")))
        together = F.relu(self.D_alljoints_fc2(together))
        return torch.cat([*alone, self.betas_out(shape), self.D_alljoints_out(together)], 1)


def load_discriminator(discriminator: Discriminator, checkpoint: ForeignCheckpoint) -> None:
    """Take the `discriminator.*` of a checkpoint, or of the file that `convert` writes beside.

    Raises CheckpointError where there is none, or one of the other body.
    """
    state = {
        key.removeprefix(DISCRIMINATOR): value
        for key, value in checkpoint.others.items()
        if key.startswith(DISCRIMINATOR)
    }
    try:
        discriminator.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error


def generator_loss(
    fake: Float[Tensor, "b scores"], weights: Float[Tensor, " b"] | None = None
) -> Float[Tensor, ""]:
    """How far the scores of predictions are from 1: squares, summed over scores, mean over b.

    `weights`, which add up to 1, make it a weighted mean.
    """
    return _mean((fake - 1).square(), weights)


def discriminator_loss(
    fake: Float[Tensor, "b scores"],
    real: Float[Tensor, "b_real scores"],
    weights: Float[Tensor, " b"] | None = None,
    *,
    real_weight: float = 1.0,
) -> Float[Tensor, ""]:
    """How far the scores of predictions are from 0 and those of real poses from 1.

    Each term is the mean over its own rows, that of predictions by `weights`. The reference divides
    both sums by the number of predictions while it draws twice as many real poses, so that the real
    term counts double: `real_weight=2` gives its numbers.
    """
    return _mean(fake.square(), weights) + real_weight * _mean((real - 1).square(), None)


def _mean(
    squares: Float[Tensor, "b scores"], weights: Float[Tensor, " b"] | None
) -> Float[Tensor, ""]:
    if weights is None:
        return squares.sum() / len(squares)
    return (weights * squares.sum(1)).sum()
