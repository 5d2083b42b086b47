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
Fusion = Literal["joint", "late", "channel", "controlnet"]
"""How image and skeleton meet (docs/ablations.md):

joint       in every block, by the block's scope: the paper's method
late        each stream by itself, and joint in the last `fusion_blocks` blocks
channel     the skeleton as three more input channels of the image (adds parameters)
controlnet  a second encoder's tokens are added to the image's after each block (adds parameters)
"""
SkeletonInput = Literal["drawing", "heatmap", "coordinates"]
"""What the network gets of the 2D keypoints: the drawn skeleton (the paper's), a Gaussian for each
keypoint, or the numbers themselves; the last two add parameters (docs/ablations.md)."""


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
    fusion: Fusion = "joint"
    """How the skeleton meets the image; all but `joint` are ablations."""
    fusion_blocks: int = 0
    """Of fusion `late`: how many blocks, the last ones, are joint."""
    skeleton_input: SkeletonInput = "drawing"
    """What the network gets of the 2D keypoints; all but `drawing` are ablations."""
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

    @property
    def adds_modules(self) -> bool:
        """Whether the network has parameters beside the image model's: `model/ablations.py`."""
        return self.fusion in ("channel", "controlnet") or self.skeleton_input != "drawing"

    @property
    def block_scopes(self) -> tuple[Scope, ...]:
        """The attention scope of each block."""
        if self.fusion != "late":
            return self.scope if len(self.scope) == self.depth else self.scope * self.depth
        alone: tuple[Scope, ...] = ("stream",)
        return alone * (self.depth - self.fusion_blocks) + self.scope * self.fusion_blocks
