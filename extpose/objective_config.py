"""What training minimises: weights of the losses, and the discriminator. Standard library only."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the objective (HMR2.0's) and how a term is reduced."""

    keypoints_3d: float = 0.05
    keypoints_2d: float = 0.01
    global_orient: float = 0.001
    pose: float = 0.001
    betas: float = 0.0005
    adversarial: float = 0.0005
    """Has an effect only where `mocap` is given. Always a mean over clips of means over frames."""
    velocity: float = 0.0
    """Of root-relative 3D keypoints, in metres from one frame of the window to the next."""
    acceleration: float = 0.0
    """Likewise, over three frames. Neither is a term of the paper."""
    reduction: Literal["sum", "mean"] = "sum"
    """`sum` over the clips is HMR2.0's rule; `mean` divides by the number of labelled frames."""
    clips_per_sum: int = 4
    """Of `sum`: the loss is the sum over so many clips, in expectation, however many a forward pass
    takes. 4 is the paper's batch of 32 on 8 GPUs."""


@dataclass(frozen=True, kw_only=True)
class AdversaryConfig:
    """The discriminator of poses and shapes; there is one where `mocap` is given."""

    init: Path | None = None
    """Start from the `discriminator.*` of this checkpoint; None: random weights."""
    lr: float = 1e-5
    """Constant: neither warm-up nor decay."""
    weight_decay: float = 1e-4
    real_weight: float = 2.0
    """Of the real poses' term against that of the predicted ones. 2 is HMR2.0's and HaMeR's rule:
    they draw two real poses a prediction and divide both sums by the predictions. 1 is a mean each.
    """
