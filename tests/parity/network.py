"""Backbone, head and the whole network of the small size against the reference's numbers."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from extpose.geometry import crop_cam_to_transl
from extpose.model.extpose import ExtPose
from extpose.model.head import HEAD_NAME, PoseHead
from extpose.model_config import ModelConfig
from extpose.rotations import rot6d_to_matrix
from tests.parity.plain_head import run_head
from tests.parity.rows import Row, compare, compare_relative, stored, to_tensor
from tests.reference_recipe import reference_state, uniform

SMALL = ModelConfig(
    width=64,
    depth=3,
    num_heads=4,
    drop_path=0.0,
    max_frames=4,
    head_width=48,
    head_depth=2,
    head_num_heads=4,
    head_dim=16,
    head_mlp_width=96,
)
"""The size of the stored numbers."""


def small_model(config: ModelConfig = SMALL) -> ExtPose:
    """With the weights that the stored numbers were made with."""
    model = ExtPose(config)
    model.load_state_dict(reference_state(model.state_dict()), strict=False)
    return model.eval()


def batch_images() -> Tensor:
    """The three normalised crops of the stored batch; the columns that are cut off are zero."""
    first = stored("hmr2_small")["image64"][None, :, :, 32:-32]
    images = np.concatenate([first, stored("hmr2_images")["images64"]]) / 64
    return torch.nn.functional.pad(to_tensor(images), (32, 32))


@torch.no_grad()
def check_backbone() -> Iterator[Row]:
    """Patch embedding, positions, each block, the last norm; then longer token sequences."""
    numbers, backbone = stored("vit_small") | stored("vit_small_blocks"), small_model().backbone
    image = to_tensor(numbers["image64"] / 64)[None, None, None, ..., 32:-32]
    tokens = backbone.patch_embed(image)
    yield compare("patch_embed", tokens[0, 0, 0, ::8], numbers["patch_embed"])
    position = backbone.pos_embed[0, 1:] + backbone.pos_embed[0, :1]
    tokens, expected = tokens + position, numbers["patch_embed"] + position[::8].numpy()
    yield compare("after_pos", tokens[0, 0, 0, ::8], expected)
    for i, block in enumerate(backbone.blocks):
        tokens = block(tokens, None)
        yield compare(f"block{i}", tokens[0, 0, 0, ::8], numbers[f"block{i}"])
    feat = rearrange(backbone(image)[0, 0, 0], "(h w) d -> d h w", h=16)
    yield compare("feat", feat[::4], numbers["feat"])
    for length, stride in ((384, 16), (768, 32)):
        name = f"tok{length}"
        tokens = to_tensor(uniform(name, (1, length, 64)))
        tokens = rearrange(tokens, "b (s t n) d -> b s t n d", s=2, n=192)
        mixed = backbone.blocks[0].attn(tokens, "full", None)
        yield compare(f"{name} attn", _rows(mixed, stride), numbers[f"attn_{name}"])
        yield compare(
            f"{name} block0",
            _rows(_with_scope(backbone.blocks[0], tokens), stride),
            numbers[f"block0_{name}"],
        )
        for block in backbone.blocks:
            tokens = _with_scope(block, tokens)
        stack = _rows(backbone.last_norm(tokens), stride)
        yield compare(f"{name} stack", stack, numbers[f"stack_lastnorm_{name}"])


def _with_scope(block: torch.nn.Module, tokens: Tensor) -> Tensor:
    """The block with all tokens in one attention, as the numbers are."""
    tokens = tokens + block.attn(block.norm1(tokens), "full", None)
    return tokens + block.mlp(block.norm2(tokens))


def _rows(tokens: Tensor, stride: int) -> Tensor:
    return rearrange(tokens, "b s t n d -> (b s t n) d")[::stride]


@torch.no_grad()
def check_head() -> Iterator[Row]:
    """The released form: zero token, one iteration; and the same on four times the context."""
    numbers, head = stored("head_small"), small_model().head
    contexts = {"": uniform("feat.head", (2, 64, 16, 12)), "long_": numbers["long_feat"]}
    for prefix, features in contexts.items():
        context = rearrange(to_tensor(features), "b d h w -> b (h w) d")
        pose, betas, cam = head(context)
        rotations = rot6d_to_matrix(rearrange(pose, "b (j x) -> b j x", x=6))
        found = {
            "global_orient": rotations[:, :1],
            "body_pose": rotations[:, 1:],
            "betas": betas,
            "cam": cam,
        }
        for name, value in found.items():
            yield compare(f"{prefix}{name}", value, numbers[prefix + name])
        if not prefix:
            decoded = head.transformer(context.new_zeros(2, 1), context)
            yield compare("decoded token", decoded, numbers["token_out_iter0"])


@torch.no_grad()
def check_head_modes() -> Iterator[Row]:
    """Every token, body and number of iterations against a second implementation in float64."""
    context = uniform("feat.head", (3, 192, 64))
    for body in ("smpl", "mano"):
        for token in ("zero", "mean_shape"):
            for iterations in (1, 3):
                config = replace(SMALL, body=body, head_token=token, head_ief_iters=iterations)
                head = PoseHead(config)
                prefix = HEAD_NAME[body] + "."
                own = {prefix + key: value for key, value in head.state_dict().items()}
                state = {k.removeprefix(prefix): v for k, v in reference_state(own).items()}
                head.load_state_dict(state)
                expected = run_head(
                    {key: value.numpy() for key, value in state.items()},
                    context,
                    num_heads=config.head_num_heads,
                    num_iterations=iterations,
                    starts_from_mean=token == "mean_shape",
                )
                found = torch.cat(head(to_tensor(context)), 1)
                yield compare(f"{body} {token} x{iterations} (plain)", found, expected)


@torch.no_grad()
def check_network() -> Iterator[Row]:
    """Images to parameters and cameras, one frame without a skeleton."""
    numbers = stored("hmr2_batch")
    prediction = small_model()(batch_images()[:, None])
    params, cam = prediction.params, prediction.crop_cam[:, 0]
    yield compare("global_orient", params.global_orient, numbers["out_global_orient"])
    yield compare("body_pose", params.pose[:, 0], numbers["out_body_pose"])
    yield compare("betas", params.betas, numbers["out_betas"])
    yield compare("pred_cam", cam, numbers["out_pred_cam"])
    yield compare_relative("pred_cam_t", crop_cam_to_transl(cam), numbers["out_pred_cam_t"])
