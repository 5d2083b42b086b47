"""What a training step needs in memory, counted from the config: model states and activations.

States are those of this project's engines: fp32 weights, fp32 gradients, AdamW's two moments, and
under ZeRO 1-3 a second fp32 copy of this worker's part of the weights, which the optimiser works
on. bf16 and fp16 are autocast: states stay, activations of products halve, and half-precision
copies of the matrices are kept for the backward pass.

Units   bytes of one worker
"""

from dataclasses import dataclass

from torch import nn

from extpose.model.vit import call_scopes
from extpose.model_config import ModelConfig
from extpose.training.flops import head_streams, num_tokens
from extpose.training.zero_settings import BUCKET_ELEMENTS

FP32 = 4
WHOLE_BELOW = 100_000
"""Elements of a tensor that ZeRO 3 keeps whole (DeepSpeed's default)."""
PRECISION_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True, kw_only=True)
class ParameterSizes:
    """How many numbers the parameters of a network have."""

    total: int
    trained: int
    small: int
    """In tensors that ZeRO 3 does not part."""


def parameter_sizes(model: nn.Module) -> ParameterSizes:
    """Of a network, which may be on the meta device."""
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return ParameterSizes(
        total=sum(n for n, _ in counts),
        trained=sum(n for n, is_trained in counts if is_trained),
        small=sum(n for n, _ in counts if n <= WHOLE_BELOW),
    )


@dataclass(frozen=True, kw_only=True)
class ModelStates:
    """What is there whatever the batch, when gradients are complete."""

    weights: float
    master: float
    """The optimiser's own fp32 copy."""
    gradients: float
    moments: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.weights + self.master + self.gradients + self.moments


def model_states(
    size: ParameterSizes, *, zero_stage: int | None, workers: int, accumulates: bool = False
) -> ModelStates:
    """Of one worker; `zero_stage` None is the plain engine.

    ZeRO 1 parts the moments among the workers and, unless several micro-batches accumulate, the
    gradients; ZeRO 2 always the gradients too; ZeRO 3 also the weights, but for small tensors,
    which it keeps whole beside its part of them.
    """
    whole, part = float(FP32 * size.trained), FP32 * size.trained / workers
    weights = float(FP32 * size.total)
    if zero_stage in (None, 0):
        return ModelStates(weights=weights, master=0.0, gradients=whole, moments=2 * whole)
    return ModelStates(
        weights=weights / workers + FP32 * size.small if zero_stage == 3 else weights,
        master=part,
        gradients=whole if zero_stage == 1 and accumulates else part,
        moments=2 * part,
    )


def buffers(size: ParameterSizes, *, zero_stage: int | None, workers: int) -> float:
    """What averaging gradients takes in the backward pass, at most.

    ZeRO fills a bucket of a fixed size; without it, gradients are copied into one tensor.
    """
    if zero_stage in (1, 2, 3):
        return float(FP32 * BUCKET_ELEMENTS)
    return float(FP32 * size.trained) if workers > 1 else 0.0


@dataclass(frozen=True, kw_only=True)
class Activations:
    """What the forward pass of a micro-batch keeps for the backward pass."""

    blocks: float
    """Kept by the transformer blocks (their inputs only, with activation checkpointing)."""
    recomputed: float
    """One block's, with its matrices, while its forward pass is done again; 0 without
    activation checkpointing."""
    rest: float
    """Patches, last norm and head."""
    matrices: float
    """Half-precision copies of the weight matrices, whatever the batch."""

    @property
    def total(self) -> float:
        """All of them."""
        return self.blocks + self.recomputed + self.rest + self.matrices


def activations(
    config: ModelConfig, *, clips: int, num_frames: int, precision: str, checkpointing: bool
) -> Activations:
    """Of `clips` clips in one forward pass.

    A block keeps its input and the input of its MLP (fp32), and in the precision of the products:
    both normed inputs, queries, keys, values, what attention gives (as it is and in the order of
    the projection), and the MLP's hidden layer before and after its activation.
    """
    frames = clips * num_frames
    tokens = 2 * frames * num_tokens(config)
    small, d = PRECISION_BYTES[precision], config.width
    hidden = int(d * config.mlp_ratio)
    per_block = []
    for scope in config.block_scopes:
        calls = len(call_scopes(scope, num_streams=2, num_frames=num_frames))
        attention = calls * ((FP32 + 6 * small) * d + FP32 * (config.num_heads + 2))
        per_block.append(attention + (FP32 + small) * d + FP32 * 2 + 2 * small * hidden)
    halved = small if small < FP32 else 0
    block_weights, head_weights = _matrix_weights(config)
    if checkpointing:
        blocks = float(tokens * FP32 * d * config.depth)
        recomputed = float(tokens * max(per_block) + halved * block_weights)
        matrices = float(halved * head_weights)
    else:
        blocks, recomputed = float(tokens * sum(per_block)), 0.0
        matrices = float(halved * (config.depth * block_weights + head_weights))
    rest = tokens * (FP32 * (d + 2)) + _patches(config, frames) + _head(config, frames, small)
    return Activations(blocks=blocks, recomputed=recomputed, rest=rest, matrices=matrices)


def batch_bytes(config: ModelConfig, *, clips: int, num_frames: int) -> float:
    """The pictures of both streams, as they come from the loader."""
    return 2.0 * clips * num_frames * 3 * config.image_size**2 * FP32


def _patches(config: ModelConfig, frames: int) -> float:
    """The pictures cut to 3:4, as the patch convolution keeps them."""
    side = config.image_size
    return 2.0 * frames * 3 * side * (side - 2 * (side // 8)) * FP32


def _head(config: ModelConfig, frames: int, small: int) -> float:
    """Keys and values of each layer, and the context in the precision of the products."""
    inner = config.head_num_heads * config.head_dim
    context = frames * num_tokens(config) * head_streams(config)
    kept = config.head_ief_iters * config.head_depth * 2 * inner + config.width
    own = float(config.head_depth) * (8 * config.head_width + 2 * config.head_mlp_width + 5 * inner)
    return small * context * kept + FP32 * config.head_ief_iters * frames * own


def _matrix_weights(config: ModelConfig) -> tuple[int, int]:
    """Numbers in the matrices of one block, and of the head."""
    d, w, inner = config.width, config.head_width, config.head_num_heads * config.head_dim
    block = 4 * d * d + 2 * d * int(d * config.mlp_ratio)
    layer = 6 * w * inner + 2 * d * inner + 2 * w * config.head_mlp_width
    return block, config.head_depth * layer
