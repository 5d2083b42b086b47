"""The shape of the network. `config.py` shows it together with every other knob.

By itself, so that who reads the network need not read what has nothing to do with it.
"""

from dataclasses import dataclass
from typing import Literal

Scope = Literal["frame", "stream", "union", "full", "sequential"]
"""Which tokens attend to which (DESIGN: attention):

frame       both streams of one frame (paper, Eq. 5-9)
stream      one stream over all frames (Eq. 10-11)
union       one softmax over the union of both sets
full        both streams over all frames
sequential  `frame`, then `stream`, as two residual calls of one block
"""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of the network. Defaults: ViT-H/16 of HMR2.0 and HaMeR."""

    body: Literal["smpl", "mano"] = "smpl"
    image_size: int = 256
    """Side of the square crop; an eighth of the columns is cut on each side (256 x 192)."""
    patch_size: int = 16
    width: int = 1280
    depth: int = 32
    num_heads: int = 16
    mlp_ratio: float = 4.0
    drop_path: float = 0.55
    """Largest stochastic depth rate, reached linearly at the last block (training only)."""
    scope: tuple[Scope, ...] = ("union",)
    """Attention scope of the blocks: one for all, or one for each."""
    max_frames: int = 16
    temporal_positions: bool = True
    """The paper's table of temporal positions, zero-initialised."""
    head_width: int = 1024
    head_depth: int = 6
    head_num_heads: int = 8
    head_dim: int = 64
    head_mlp_width: int = 1024
    head_token: Literal["zero", "mean_shape"] = "zero"
    """What the query is made of: nothing, or the estimate so far (first the mean parameters)."""
    head_ief_iters: int = 1
    """How often the head runs, each time adding to its estimate (iterative error feedback)."""
    head_context: Literal["image", "both"] = "image"
    """Tokens that the head attends to: the image stream's, or both streams'."""
