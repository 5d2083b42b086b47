"""Bytes that a forward pass keeps for the backward pass, by torch's saved-tensor hooks."""

import torch

from extpose.config import ModelConfig
from extpose.model.extpose import ExtPose
from extpose.training.engine import checkpoint_blocks

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def saved_bytes(
    config: ModelConfig, *, clips: int, num_frames: int, precision: str, checkpointing: bool
) -> int:
    """Of the storages that are kept, parameters aside; what is recomputed is not in it."""
    model = ExtPose(config).train()
    if checkpointing:
        checkpoint_blocks(model)
    own = {x.untyped_storage().data_ptr() for x in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in own:
            kept[address] = tensor  # held, so that no address is used twice
        return tensor

    size = config.image_size
    images = torch.rand(clips, num_frames, 3, size, size)
    is_half = precision != "fp32"
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", dtype=DTYPES["bf16"], enabled=is_half),
    ):
        model(images, images, None)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
