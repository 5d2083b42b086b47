"""What the paper compares itself with: networks that take in the skeleton through added modules.

`build_network` makes the network of any config. `docs/ablations.md` lists what each switch adds,
and where in the paper it is. None of this is part of the paper's own method. Added modules start
so that the image model's output is not changed (`heatmap` excepted: a second stream always has a
part in the attention).

Axes    b clips   s streams   t frames   n tokens per frame and stream   d width   h w pixels
        k keypoints, x y in the crop, [-0.5, 0.5], and confidence; all zero where not seen
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from extpose.keypoints import NUM_KEYPOINTS
from extpose.model.extpose import ExtPose
from extpose.model.head import CrossAttention
from extpose.model.vit import PatchEmbed, ViT, cut_columns, init_patches
from extpose.model_config import ModelConfig

NUM_EVIDENCE = {"smpl": NUM_KEYPOINTS["coco17"], "mano": NUM_KEYPOINTS["hand21"]}
"""Keypoints that a detector finds."""
ONE_STREAM_SCOPES = ("frame", "stream", "union")
HEATMAP_SIGMA = 1 / 32
"""Of the Gaussians, fraction of the crop: ViTPose's 2 pixels of a 64 pixel high heatmap."""
ENCODER_LAYERS = 4
"""Of the coordinates' transformer encoder; its width is the head's attention width."""


def build_network(config: ModelConfig) -> ExtPose:
    """The network of a config: the paper's, or one of its ablations.

    Raises ValueError, with both values, for switches that exclude each other.
    """
    if not config.adds_modules:
        return ExtPose(config)
    _check(config)
    if config.fusion == "channel":
        return ExtPose(config, ChannelFusion(config))
    if config.fusion == "controlnet":
        model = ExtPose(config, ControlNet(config))
        copy_backbone(model)
        return model
    if config.skeleton_input == "heatmap":
        return ExtPose(config, HeatmapStream(config))
    return ExtPose(config, CoordinateFusion(config))


def copy_backbone(model: ExtPose) -> None:
    """ControlNet's second encoder becomes a copy of the first; for other networks, nothing.

    To be called again after image weights were loaded.
    """
    if isinstance(model.ablation, ControlNet):
        own = model.ablation.encoder.state_dict()
        state = {key: value for key, value in model.backbone.state_dict().items() if key in own}
        model.ablation.encoder.load_state_dict(state)


def extra_parameters(model: ExtPose) -> dict[str, int]:
    """How many parameters a network has beside the image model's, by module."""
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if not name.startswith(("backbone.", "smpl_head.", "mano_head.")):
            part = ".".join(name.split(".")[:2])
            counts[part] = counts.get(part, 0) + parameter.numel()
    return counts


class ChannelFusion(nn.Module):
    """Image and skeleton as one picture of six channels (paper, Table 6: channel concatenation).

    A convolution over six channels is the sum of two over three each; that of the skeleton is an
    extra, zero at the start, so image checkpoints load by their own keys.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(config.width, config.patch_size)
        self.patch_embed.proj.register_parameter("bias", None)  # the image's bias is theirs both
        nn.init.zeros_(self.patch_embed.proj.weight)

    def forward(
        self,
        backbone: ViT,
        rgb: Float[Tensor, "b t 3 h w"],
        skeleton: Float[Tensor, "b t 3 h w"] | None,
        temporal: Float[Tensor, "t d"] | None,
        valid: Bool[Tensor, "b t"] | None,
    ) -> Float[Tensor, "b 1 t n d"]:
        """Tokens of the one stream."""
        patches = backbone.patch_embed(cut_columns(rgb)[:, None])
        if skeleton is not None:
            patches = patches + self.patch_embed(cut_columns(skeleton)[:, None])
        return encode(backbone, backbone.place(patches, temporal), valid)


class ControlNet(nn.Module):
    """A copy of the encoder reads the skeleton, and its tokens are added to the image's.

    The copy runs on the image's tokens plus the skeleton's; what it has after each block goes
    through a linear map of its own to the main encoder. All these maps are zero at the start
    (Zhang et al., 2023; paper, Table 6).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = ViT(config)
        self.encoder.last_norm = nn.Identity()  # type: ignore[assignment]
        width = config.width
        self.enter = nn.Linear(width, width)
        self.leave = nn.ModuleList(nn.Linear(width, width) for _ in range(config.depth))
        for linear in (self.enter, *self.leave):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        backbone: ViT,
        rgb: Float[Tensor, "b t 3 h w"],
        skeleton: Float[Tensor, "b t 3 h w"] | None,
        temporal: Float[Tensor, "t d"] | None,
        valid: Bool[Tensor, "b t"] | None,
    ) -> Float[Tensor, "b 1 t n d"]:
        """Tokens of the main encoder."""
        tokens = backbone.place(backbone.patch_embed(cut_columns(rgb)[:, None]), temporal)
        if skeleton is None:
            return encode(backbone, tokens, valid)
        drawn = self.encoder.patch_embed(cut_columns(skeleton)[:, None])
        side = tokens + self.enter(self.encoder.place(drawn, temporal))
        for block, copy, leave in zip(
            backbone.blocks, self.encoder.blocks, self.leave, strict=True
        ):
            side = copy(side, valid)
            tokens = block(tokens, valid) + leave(side)
        return backbone.last_norm(tokens)


class HeatmapStream(nn.Module):
    """The second stream is a stack of heatmaps with its own patch embedding (paper, Table 5)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        num_keypoints = NUM_EVIDENCE[config.body]
        self.patch_embed = PatchEmbed(config.width, config.patch_size, channels=num_keypoints)
        projection = self.patch_embed.proj
        nn.init.xavier_uniform_(projection.weight.flatten(1))
        nn.init.zeros_(projection.bias)  # type: ignore[arg-type]
        init_patches(projection.weight)

    def forward(
        self,
        backbone: ViT,
        rgb: Float[Tensor, "b t 3 h w"],
        skeleton: Float[Tensor, "b t k 3"] | None,
        temporal: Float[Tensor, "t d"] | None,
        valid: Bool[Tensor, "b t"] | None,
    ) -> Float[Tensor, "b s t n d"]:
        """Tokens of both streams."""
        patches = backbone.patch_embed(cut_columns(rgb)[:, None])
        if skeleton is not None:
            _check_count(skeleton, self.patch_embed.proj.in_channels)
            maps = cut_columns(draw_heatmaps(skeleton, size=rgb.shape[-1]))
            patches = torch.cat([patches, self.patch_embed(maps[:, None])], dim=1)
        return encode(backbone, backbone.place(patches, temporal), valid)


class CoordinateFusion(nn.Module):
    """Keypoints as numbers: a transformer encoder, and cross-attention to it (paper, 5.4).

    One token a keypoint; the image's tokens, as the encoder leaves them, attend to those of their
    frame.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        heads, dim = config.head_num_heads, config.head_dim
        width = heads * dim
        self.embed = nn.Linear(3, width)
        self.names = nn.Parameter(torch.empty(NUM_EVIDENCE[config.body], width))
        nn.init.trunc_normal_(self.names, std=0.02)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu",
            batch_first=True, norm_first=True,
        )  # fmt: skip
        self.encoder = nn.TransformerEncoder(
            layer, ENCODER_LAYERS, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.attend = CrossAttention(config.width, width, heads, dim)
        for parameter in self.attend.to_out.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        backbone: ViT,
        rgb: Float[Tensor, "b t 3 h w"],
        skeleton: Float[Tensor, "b t k 3"] | None,
        temporal: Float[Tensor, "t d"] | None,
        valid: Bool[Tensor, "b t"] | None,
    ) -> Float[Tensor, "b 1 t n d"]:
        """Tokens of the image stream."""
        tokens: Tensor = backbone(cut_columns(rgb)[:, None], temporal, valid)
        if skeleton is None:
            return tokens
        _check_count(skeleton, len(self.names))
        b, t = rgb.shape[:2]
        points = self.encoder(self.embed(rearrange(skeleton, "b t k c -> (b t) k c")) + self.names)
        queries = rearrange(tokens, "b 1 t n d -> (b t) n d")
        read = self.attend(queries, points)
        return tokens + rearrange(read, "(b t) n d -> b 1 t n d", b=b, t=t)


def encode(
    backbone: ViT, tokens: Float[Tensor, "b s t n d"], valid: Bool[Tensor, "b t"] | None
) -> Float[Tensor, "b s t n d"]:
    """The blocks and the last norm of the image model."""
    for block in backbone.blocks:
        tokens = block(tokens, valid)
    return backbone.last_norm(tokens)


def draw_heatmaps(
    keypoints: Float[Tensor, "b t k 3"], *, size: int
) -> Float[Tensor, "b t k {size} {size}"]:
    """A Gaussian for each keypoint, as high as its confidence; zero where it was not seen."""
    place = torch.arange(size, dtype=keypoints.dtype, device=keypoints.device) / size - 0.5
    x, y, confidence = (rearrange(v, "b t k -> b t k 1") for v in keypoints.unbind(-1))
    across, down = (torch.exp(-0.5 * ((place - v) / HEATMAP_SIGMA) ** 2) for v in (x, y))
    return torch.einsum("btky,btkx->btkyx", down * confidence, across)


def _check_count(skeleton: Tensor, expected: int) -> None:
    if skeleton.shape[2] != expected:
        raise ValueError(f"{skeleton.shape[2]} keypoints, the network reads {expected}")


def _check(config: ModelConfig) -> None:
    """Refuse switches that exclude each other."""
    fusion, given, scopes = config.fusion, config.skeleton_input, config.scope
    if given != "drawing" and fusion in ("channel", "controlnet"):
        raise ValueError(f"fusion {fusion!r} with skeleton_input {given!r}: it needs 'drawing'")
    if given == "coordinates" and fusion != "joint":
        raise ValueError(f"skeleton_input {given!r} with fusion {fusion!r}: it has one of its own")
    if given == "heatmap":
        return
    name = repr(given) if given == "coordinates" else repr(fusion)
    if refused := sorted(set(scopes) - set(ONE_STREAM_SCOPES)):
        raise ValueError(f"{name} has one stream, scope {refused} needs two: {ONE_STREAM_SCOPES}")
    if config.head_context != "image":
        raise ValueError(f"{name} has one stream, head_context is {config.head_context!r}")
