"""What a clip costs in floating-point operations, counted from the network's config.

Only matrix products count, 2 for a multiply-add: patches, linear maps, and both products of every
attention. Norms, activations and softmax are left out, as is usual for MFU.

Axes    s streams   t frames   n tokens per frame and stream   d width
"""

from extpose.model.head import readout_sizes
from extpose.model.vit import call_scopes, token_grid
from extpose.model_config import ModelConfig, Scope

BACKWARD = 2
"""The backward pass costs twice the forward."""


def num_tokens(config: ModelConfig) -> int:
    """Of one frame and stream."""
    rows, columns = token_grid(config)
    return rows * columns


def clip_flops(config: ModelConfig, *, num_frames: int) -> float:
    """The forward pass of one clip of both modalities.

    Raises ValueError for ablations that add modules: they are not counted.
    """
    if config.adds_modules:
        raise ValueError(
            f"fusion {config.fusion!r} with skeleton_input {config.skeleton_input!r}: "
            "only networks without added modules are counted"
        )
    patches = 2 * num_tokens(config) * 3 * config.patch_size**2 * config.width
    head = head_flops(config, context=num_tokens(config) * head_streams(config))
    return num_frames * (2 * patches + head) + blocks_flops(config, num_frames=num_frames)


def blocks_flops(config: ModelConfig, *, num_frames: int) -> float:
    """Of one clip, all blocks: what activation checkpointing computes twice."""
    n, d = num_tokens(config), config.width
    hidden = int(d * config.mlp_ratio)
    per_token = 0.0
    for scope in config.block_scopes:
        calls = call_scopes(scope, num_streams=2, num_frames=num_frames)
        keys = sum(_num_keys(call, t=num_frames, n=n) for call in calls)
        per_token += 2 * (len(calls) * 4 * d * d + 2 * d * hidden) + 4 * d * keys
    return 2 * num_frames * n * per_token


def head_flops(config: ModelConfig, *, context: int) -> float:
    """Of one frame whose head attends to `context` tokens."""
    w, inner = config.head_width, config.head_num_heads * config.head_dim
    own = 2 * (4 * w * inner + 2 * inner)
    cross = 2 * (2 * context * config.width * inner + 2 * w * inner + 2 * context * inner)
    forward = 2 * 2 * w * config.head_mlp_width
    readout = sum(readout_sizes(config))
    token = {"zero": 1, "mean_shape": readout}[config.head_token]
    layers = config.head_depth * (own + cross + forward)
    return float(config.head_ief_iters * (layers + 2 * w * (readout + token)))


def head_streams(config: ModelConfig) -> int:
    """Streams that the head attends to."""
    return 1 if config.head_context == "image" else 2


def training_flops(config: ModelConfig, *, num_frames: int, recompute: bool = False) -> float:
    """Forward and backward of one clip; `recompute`: with activation checkpointing.

    MFU is defined by the FLOPs without what is computed twice.
    """
    flops = (1 + BACKWARD) * clip_flops(config, num_frames=num_frames)
    return flops + (blocks_flops(config, num_frames=num_frames) if recompute else 0.0)


def _num_keys(scope: Scope, *, t: int, n: int) -> int:
    """That a token attends to, with two streams."""
    return {"frame": 2 * n, "stream": t * n, "union": (t + 1) * n, "full": 2 * t * n}.get(scope, 0)
