"""What the network says: the parameters of bodies or hands, and their camera.

Axes    b clips   t frames   j joint rotations, no root
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class PoseParams:
    """SMPL (`j` = 23) or MANO (`j` = 15) parameters. One shape per clip."""

    global_orient: Float[Tensor, "b t 3 3"]
    pose: Float[Tensor, "b t j 3 3"]
    betas: Float[Tensor, "b 10"]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the network returns."""

    params: PoseParams
    crop_cam: Float[Tensor, "b t 3"]
    """Weak perspective (s, tx, ty) in the crop."""
