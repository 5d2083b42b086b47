"""ExtPose: an image ViT for 3D pose, extended to a drawn skeleton and to time without new modules.

Reading order: this file, `vit.py` (the image model), `attention.py` (what is new), `head.py`.

Axes    b clips   s streams (image, skeleton)   t frames   n tokens per frame and stream
        d width   h w crop pixels   j joint rotations without the root
"""

from typing import get_args

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor, nn

from extpose.model.head import HEAD_NAME, PoseHead
from extpose.model.vit import ViT, cut_columns
from extpose.model_config import ModelConfig, Scope
from extpose.params import PoseParams, Prediction
from extpose.rotations import rot6d_to_matrix


class ExtPose(nn.Module):
    """State-dict keys: HMR2.0's or HaMeR's `backbone.*` and `smpl_head.*` or `mano_head.*`, and
    `temporal_embed`, the one addition.

    `ablation` is what the paper compares with and is None in its own method; `build_network` of
    `ablations.py` makes the network of any config.
    """

    def __init__(self, config: ModelConfig, ablation: nn.Module | None = None) -> None:
        super().__init__()
        _check_config(config)
        if config.adds_modules != (ablation is not None):
            raise ValueError(
                f"fusion {config.fusion!r} with skeleton_input {config.skeleton_input!r} and "
                f"ablation {ablation}: networks with modules of their own come from build_network"
            )
        self.config = config
        self.backbone = ViT(config)
        if config.temporal_positions and config.max_frames > 1:
            table = torch.zeros(config.max_frames, config.width)
            self.temporal_embed: nn.Parameter | None = nn.Parameter(table)
        else:
            self.register_parameter("temporal_embed", None)
        self.ablation = ablation
        self.add_module(HEAD_NAME[config.body], PoseHead(config))

    def forward(
        self,
        rgb: Float[Tensor, "b t 3 h w"],
        skeleton: Float[Tensor, "b t 3 h w"] | Float[Tensor, "b t k 3"] | None = None,
        valid: Bool[Tensor, "b t"] | None = None,
    ) -> Prediction:
        """Square crops, normalised, to pose and camera a frame and one shape a clip.

        Without `skeleton` there is one stream (it is the drawing; keypoints in the ablations that
        read them, see `network_inputs`). Frames that are not `valid` are padding: no other frame
        sees them, and what is predicted for them means nothing.
        """
        self._check_input(rgb, skeleton, valid)
        on_host = None if valid is None or valid.all() else valid.cpu()
        tokens = self._encode(rgb, skeleton, on_host)
        if self.config.head_context == "image":
            tokens = tokens[:, :1]
        pose6d, betas, crop_cam = self.head(rearrange(tokens, "b s t n d -> (b t) (s n) d"))
        b, t = rgb.shape[:2]
        rotations = rot6d_to_matrix(rearrange(pose6d, "(b t) (j x) -> b t j x", b=b, x=6))
        params = PoseParams(
            global_orient=rotations[:, :, 0],
            pose=rotations[:, :, 1:],
            betas=_clip_mean(rearrange(betas, "(b t) k -> b t k", t=t), valid),
        )
        return Prediction(params=params, crop_cam=rearrange(crop_cam, "(b t) k -> b t k", t=t))

    def _encode(
        self, rgb: Tensor, skeleton: Tensor | None, valid: Tensor | None
    ) -> Float[Tensor, "b s t n d"]:
        temporal = None if self.temporal_embed is None else self.temporal_embed[: rgb.shape[1]]
        if self.ablation is not None:
            return self.ablation(self.backbone, rgb, skeleton, temporal, valid)
        images = torch.stack([rgb] if skeleton is None else [rgb, skeleton], dim=1)
        return self.backbone(cut_columns(images), temporal, valid)

    @property
    def head(self) -> PoseHead:
        """The decoder of the configured body."""
        return self.get_submodule(HEAD_NAME[self.config.body])  # type: ignore[return-value]

    def _check_input(self, rgb: Tensor, skeleton: Tensor | None, valid: Tensor | None) -> None:
        size, limit = self.config.image_size, self.config.max_frames
        if rgb.shape[-2:] != (size, size):
            raise ValueError(f"crops are {tuple(rgb.shape[-2:])}, the network's are {(size, size)}")
        if rgb.shape[1] > limit:
            raise ValueError(f"clips of {rgb.shape[1]} frames, the network's max_frames is {limit}")
        if valid is not None and valid.shape != rgb.shape[:2]:
            raise ValueError(f"valid is {tuple(valid.shape)}, rgb {tuple(rgb.shape[:2])} frames")
        if skeleton is None:
            return
        is_drawing = self.config.skeleton_input == "drawing"
        expected = rgb.shape if is_drawing else (*rgb.shape[:2], *skeleton.shape[2:3], 3)
        if skeleton.shape != expected:
            raise ValueError(
                f"rgb {tuple(rgb.shape)}, skeleton {tuple(skeleton.shape)}, "
                f"skeleton_input is {self.config.skeleton_input!r}"
            )
        if (skeleton.dtype, skeleton.device) != (rgb.dtype, rgb.device):
            kinds = f"{rgb.dtype} on {rgb.device}, skeleton {skeleton.dtype} on {skeleton.device}"
            raise ValueError(f"rgb is {kinds}")


def _clip_mean(
    values: Float[Tensor, "b t k"], valid: Bool[Tensor, "b t"] | None
) -> Float[Tensor, "b k"]:
    """The mean over the valid frames of each clip."""
    if valid is None:
        return reduce(values, "b t k -> b k", "mean")
    weights = rearrange(valid, "b t -> b t 1").to(values.dtype)
    return (values * weights).sum(1) / weights.sum(1).clamp_min(1)


def _check_config(config: ModelConfig) -> None:
    if config.width % config.num_heads:
        raise ValueError(f"width {config.width} is not a multiple of num_heads {config.num_heads}")
    if len(config.scope) not in (1, config.depth):
        raise ValueError(
            f"{len(config.scope)} scopes for {config.depth} blocks: give 1 or one each"
        )
    if unknown := set(config.scope) - set(get_args(Scope)):
        raise ValueError(f"unknown scope {sorted(unknown)}, known: {get_args(Scope)}")
    late = config.fusion == "late"
    if config.fusion_blocks not in (range(1, config.depth) if late else (0,)):
        raise ValueError(
            f"fusion {config.fusion!r} with fusion_blocks {config.fusion_blocks} of {config.depth}:"
            f" 'late' needs 1 to {config.depth - 1}, the others 0"
        )
    if late and (len(config.scope) > 1 or config.scope == ("stream",)):
        raise ValueError(f"fusion 'late' with scope {config.scope}: give one that joins streams")
    if config.body not in HEAD_NAME:
        raise ValueError(f"unknown body {config.body!r}, known: {tuple(HEAD_NAME)}")
    if config.max_frames < 1:
        raise ValueError(f"max_frames is {config.max_frames}, at least 1")
