"""The image ViT of HMR2.0 and HaMeR, on two streams and time; names as in their checkpoints.

Nothing here depends on how many streams or frames there are: every frame of both streams is
embedded with the same weights, and only attention looks across (`attention.py`).

Axes    b clips   s streams   t frames   n tokens per frame and stream   d width   h w pixels
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from extpose.model.attention import Attention, CallScope
from extpose.model_config import ModelConfig, Scope

PATCH_PADDING = 2
"""HMR2.0's patches are cut from an image with a border of two zeros."""
NORM_EPS = 1e-6


def token_grid(config: ModelConfig) -> tuple[int, int]:
    """Rows and columns of tokens of one frame, after the cut to 3:4."""
    size, patch = config.image_size, config.patch_size
    rows, columns = (
        (side + 2 * PATCH_PADDING - patch) // patch + 1 for side in (size, size - 2 * (size // 8))
    )
    return rows, columns


def cut_columns(images: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch c h w2"]:
    """Square crops to the 3:4 that HMR2.0 sees: an eighth of the columns less on each side."""
    cut = images.shape[-1] // 8
    return images[..., cut : images.shape[-1] - cut]


class PatchEmbed(nn.Module):
    """Image patches to tokens."""

    def __init__(self, width: int, patch_size: int, channels: int = 3) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch_size, stride=patch_size, padding=PATCH_PADDING)

    def forward(self, images: Float[Tensor, "b s t c h w"]) -> Float[Tensor, "b s t n d"]:
        """Row-major tokens."""
        b, s, t = images.shape[:3]
        patches = self.proj(rearrange(images, "b s t c h w -> (b s t) c h w"))
        return rearrange(patches, "(b s t) d h w -> b s t (h w) d", b=b, s=s, t=t)


class Mlp(nn.Module):
    """The two linear maps of a block."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Exact GELU between."""
        return self.fc2(F.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, config: ModelConfig, scope: Scope, drop_path: float) -> None:
        super().__init__()
        self.scope, self.drop_path = scope, drop_path
        self.norm1 = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.attn = Attention(config.width, config.num_heads)
        self.norm2 = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.mlp = Mlp(config.width, int(config.width * config.mlp_ratio))

    def forward(
        self, tokens: Float[Tensor, "b s t n d"], valid: Bool[Tensor, "b t"] | None
    ) -> Float[Tensor, "b s t n d"]:
        """Attention call(s) of the block's scope, then the MLP, each residual."""
        for scope in call_scopes(
            self.scope, num_streams=tokens.shape[1], num_frames=tokens.shape[2]
        ):
            tokens = tokens + self._drop(self.attn(self.norm1(tokens), scope, valid))
        return tokens + self._drop(self.mlp(self.norm2(tokens)))

    def _drop(self, residual: Tensor) -> Tensor:
        """Stochastic depth, one draw for a clip: frames of a clip stay consistent."""
        if not self.training or self.drop_path == 0:
            return residual
        keep = 1 - self.drop_path
        mask = residual.new_empty(len(residual), 1, 1, 1, 1).bernoulli_(keep)
        return residual * mask / keep


def call_scopes(scope: Scope, *, num_streams: int, num_frames: int) -> tuple[CallScope, ...]:
    """The attention calls of one block.

    `sequential` is cross-modal, then temporal attention; a call that has nothing to reach across
    is left out, so that one frame of one stream passes the block once, as in the image model.
    """
    if scope != "sequential":
        return (scope,)
    if num_frames == 1:
        return ("frame",)
    return ("frame", "stream") if num_streams > 1 else ("stream",)


class ViT(nn.Module):
    """Patch embedding, learned positions, blocks, last norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        rows, columns = token_grid(config)
        rates = torch.linspace(0, config.drop_path, config.depth, device="cpu").tolist()
        self.patch_embed = PatchEmbed(config.width, config.patch_size)
        self.pos_embed = nn.Parameter(sine_positions(rows, columns, config.width))
        self.blocks = nn.ModuleList(
            Block(config, scope, rate)
            for scope, rate in zip(config.block_scopes, rates, strict=True)
        )
        self.last_norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.apply(init_linear)
        init_patches(self.patch_embed.proj.weight)

    def forward(
        self,
        images: Float[Tensor, "b s t 3 h w"],
        temporal: Float[Tensor, "t d"] | None = None,
        valid: Bool[Tensor, "b t"] | None = None,
    ) -> Float[Tensor, "b s t n d"]:
        """Tokens of every frame and stream."""
        tokens = self.place(self.patch_embed(images), temporal)
        for block in self.blocks:
            tokens = block(tokens, valid)
        return self.last_norm(tokens)

    def place(
        self, patches: Float[Tensor, "b s t n d"], temporal: Float[Tensor, "t d"] | None
    ) -> Float[Tensor, "b s t n d"]:
        """Add the positions; `temporal` is added to all tokens of its frame.

        Entry 0 of `pos_embed`, the pretraining's class token, is added to every token (HMR2.0).
        """
        tokens = patches + self.pos_embed[0, 1:] + self.pos_embed[0, :1]
        return tokens if temporal is None else tokens + rearrange(temporal, "t d -> t 1 d")


def init_linear(module: nn.Module) -> None:
    """Xavier-uniform weights, zero biases: at small widths a fixed deviation of 0.02 is too weak.

    A convolution counts as the linear map of its patch (MAE).
    """
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight.flatten(1))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def init_patches(weight: Float[Tensor, "d c h w"]) -> None:
    """Filters without a mean, three times as strong: an even patch gives nothing.

    The drawn skeleton is a few lines on black; without this, what all black patches have in common
    outweighs the lines, and training from scratch is slow.
    """
    if weight.is_meta:  # nothing to change; and see `sine_positions`
        return
    with torch.no_grad():
        weight.sub_(weight.mean((2, 3), keepdim=True)).mul_(3)


def sine_positions(rows: int, columns: int, width: int) -> Float[Tensor, "1 n_plus_1 d"]:
    """Small sines and cosines of row and column (as in MAE), zero for the class token.

    Where to start from: without a pretrained table, learning that places differ takes long.
    """
    with torch.device("cpu"):  # arithmetic on meta tensors loads torch's compiler, for seconds
        quarter = -(-width // 4)
        frequency = 10_000.0 ** -(torch.arange(quarter) / quarter)
        row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        angles = [rearrange(place, "h w -> (h w) 1") * frequency for place in (row, column)]
        waves = [wave(angle) for angle in angles for wave in (torch.sin, torch.cos)]
        table = torch.cat(waves, dim=1)[:, :width]
        return 0.3 * torch.cat([torch.zeros(1, width), table])[None]
