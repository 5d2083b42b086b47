"""HMR2.0's, HaMeR's and ViTPose's checkpoints, by this project's names, and back.

Their keys are this project's keys, so there is little to translate: prefixes come and go, and the
shape of the network is read from the shapes of its tensors.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from extpose.errors import CheckpointError
from extpose.model.head import HEAD_NAME
from extpose.model.torch_file import read_torch
from extpose.model.vit import token_grid
from extpose.model_config import ModelConfig

BACKBONE = "backbone."
DISCRIMINATOR = "discriminator."
IGNORED = (
    "initialized",
    "smpl.",
    "mano.",
    DISCRIMINATOR,
    "keypoint_head.",
    "associate_keypoint_heads.",
)
"""Prefixes of foreign checkpoints that are not part of the network."""
EXPERTS = ".mlp.experts."
NUM_HEADS = {768: 12, 1024: 16, 1280: 16}
"""Width to attention heads, which shapes do not show: ViT-B, L and H. ViT-S has 6, ViTPose's 12."""
HEAD_NUM_HEADS = {512: 8}
"""Attention channels of the decoder to heads: HMR2.0's and HaMeR's."""
SHOWN_BY_SHAPES = (
    "width", "depth", "patch_size", "image_size", "mlp_ratio", "body",
    "head_width", "head_depth", "head_mlp_width", "head_token",
)  # fmt: skip
LIGHTNING_VERSION = "1.8.1"
"""What HMR2.0's files say; Lightning refuses a file without it."""


@dataclass(frozen=True, kw_only=True)
class ForeignCheckpoint:
    """The tensors of a file, mapped."""

    path: Path
    network: dict[str, Tensor]
    """`backbone.*`, the head's, and whatever has an unknown name."""
    others: dict[str, Tensor]
    """Known, but not part of the network; by the names in the file."""

    @property
    def has_head(self) -> bool:
        """False for a backbone alone."""
        return any(key.startswith(tuple(HEAD_NAME.values())) for key in self.network)

    def count_ignored(self) -> dict[str, int]:
        """Number of `others` by prefix."""
        prefixes = (next(p for p in IGNORED if key.startswith(p)) for key in self.others)
        return dict(sorted(Counter(prefixes).items()))


def read_checkpoint(path: Path) -> ForeignCheckpoint:
    """Map the tensors of a torch or safetensors file and sort them.

    Raises:
        CheckpointError: The file is missing or broken, or a mixture of experts (ViTPose+).
    """
    state = read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)
    if experts := [key for key in state if EXPERTS in key]:
        raise CheckpointError(
            f"{path}: {len(experts)} keys such as {experts[0]}: ViTPose+'s mixture of experts is "
            "another network; split off the weights of one data set first (fc2 and its expert "
            "stacked give the plain fc2)"
        )
    others = {key: value for key, value in state.items() if key.startswith(IGNORED)}
    network = {key: value for key, value in state.items() if key not in others}
    if not any(key.startswith(BACKBONE) for key in network):
        network = {BACKBONE + key: value for key, value in network.items()}
    return ForeignCheckpoint(path=path, network=network, others=others)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, mapped."""
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors: {error}") from error


def infer_config(
    checkpoint: ForeignCheckpoint, *, num_heads: int = 0, head_num_heads: int = 0
) -> ModelConfig:
    """The shape of the network from the shapes of its tensors.

    Attention heads leave no trace in shapes. They are those of the published networks of the same
    width (`NUM_HEADS`, `HEAD_NUM_HEADS`), where they are not given. The number of iterations of the
    head is the published one, 1. A backbone alone gets HMR2.0's head.

    Raises:
        CheckpointError: A tensor that decides is missing, or the heads are not given and unknown.
    """
    try:
        config = _infer_backbone(checkpoint, num_heads)
        return _infer_head(checkpoint, config, head_num_heads) if checkpoint.has_head else config
    except KeyError as error:
        raise CheckpointError(
            f"{checkpoint.path}: the network's shape cannot be read from it: no key {error}, its "
            f"{len(checkpoint.network)} keys are such as {list(checkpoint.network)[:3]}"
        ) from error
    except (ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{checkpoint.path}: the network's shape cannot be read from it: {error!r}"
        ) from error


def _infer_backbone(checkpoint: ForeignCheckpoint, num_heads: int) -> ModelConfig:
    state, path = checkpoint.network, checkpoint.path
    width, _, patch_size, _ = state["backbone.patch_embed.proj.weight"].shape
    blocks = [re.match(r"backbone\.blocks\.(\d+)\.", key) for key in state]
    hidden = state["backbone.blocks.0.mlp.fc1.weight"].shape[0]
    if not num_heads and width not in NUM_HEADS:
        raise CheckpointError(
            f"{path}: width {width}: the number of attention heads cannot be read from shapes and "
            f"is known for widths {tuple(NUM_HEADS)} only: give num_heads"
        )
    config = ModelConfig(
        width=width,
        depth=1 + max(int(block[1]) for block in blocks if block),
        patch_size=patch_size,
        num_heads=num_heads or NUM_HEADS[width],
        mlp_ratio=hidden / width,
    )
    num_tokens = state["backbone.pos_embed"].shape[1] - 1
    for image_size in range(patch_size, 128 * patch_size, patch_size):
        sized = replace(config, image_size=image_size)
        rows, columns = token_grid(sized)
        if rows * columns == num_tokens:
            return sized
    raise CheckpointError(f"{path}: backbone.pos_embed has {num_tokens} tokens, of no 3:4 image")


def _infer_head(
    checkpoint: ForeignCheckpoint, config: ModelConfig, head_num_heads: int
) -> ModelConfig:
    state = checkpoint.network
    is_body = any(key.startswith(HEAD_NAME["smpl"]) for key in state)
    name = HEAD_NAME["smpl" if is_body else "mano"]
    layer = f"{name}.transformer.transformer.layers.0."
    layers = [re.match(rf"{name}\.transformer\.transformer\.layers\.(\d+)\.", key) for key in state]
    channels, width = state[f"{layer}1.fn.to_q.weight"].shape
    if not head_num_heads and channels not in HEAD_NUM_HEADS:
        raise CheckpointError(
            f"{checkpoint.path}: the head has {channels} attention channels; into how many heads "
            f"cannot be read from shapes, known for {tuple(HEAD_NUM_HEADS)}: give head_num_heads"
        )
    num_heads = head_num_heads or HEAD_NUM_HEADS[channels]
    is_zero = state[f"{name}.transformer.to_token_embedding.weight"].shape[1] == 1
    table = state.get("temporal_embed")
    return replace(
        config,
        body="smpl" if is_body else "mano",
        head_width=width,
        head_depth=1 + max(int(match[1]) for match in layers if match),
        head_num_heads=num_heads,
        head_dim=channels // num_heads,
        head_mlp_width=state[f"{layer}2.fn.net.0.weight"].shape[0],
        head_token="zero" if is_zero else "mean_shape",
        max_frames=config.max_frames if table is None else len(table),
    )


def name_differences(found: ModelConfig, expected: ModelConfig) -> list[str]:
    """What of the shapes differs, with both values."""
    pairs = [(name, getattr(found, name), getattr(expected, name)) for name in SHOWN_BY_SHAPES]
    return [f"{name}: {a} in the file, {b} in the model" for name, a, b in pairs if a != b]


def lightning_content(
    state: Mapping[str, Tensor], body: str, *, discriminator: Mapping[str, Tensor]
) -> dict[str, object]:
    """What HMR2.0 or HaMeR finds in its checkpoints: the state dict by its own keys.

    `temporal_embed` is left out. Raises ValueError for any other key that they do not have.
    """
    prefixes = (BACKBONE, HEAD_NAME[body] + ".")
    kept = {key: value for key, value in state.items() if key.startswith(prefixes)}
    if more := state.keys() - kept.keys() - {"temporal_embed"}:
        raise ValueError(f"the reference has no place for {sorted(more)[:5]} ({len(more)} keys)")
    return {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": LIGHTNING_VERSION,
        "state_dict": kept | dict(discriminator),
    }
