"""How a training step is run and its update made. Standard library only."""

from dataclasses import dataclass
from typing import Literal

Trainable = Literal["all", "qk", "first_half", "added"]
"""What of the backbone is trained; see `training/trainable.py`."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How a step is run."""

    backend: Literal["deepspeed", "plain"] = "deepspeed"
    zero_stage: Literal[0, 1, 2, 3] = 2
    offload: Literal["nothing", "optimizer", "parameters"] = "nothing"
    """What ZeRO keeps in main memory instead of on the GPU: gradients and the optimiser's state
    (stages 1 to 3), or the weights too (stage 3)."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    lr: float = 1e-5
    weight_decay: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's, of the running means of the gradient and of its square."""
    trainable: Trainable = "all"
    """Of the backbone: everything; only W_Q and W_K; the first half of its blocks; or nothing."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from zero."""
    decay: bool = False
    """Whether the learning rate falls to zero along a half cosine after the warm-up."""
    clip_grad_norm: float = 0.0
    """0: no clipping."""
    micro_batch: int = 4
    """Clips of one forward pass of one worker; the rest of the batch is accumulated."""
    activation_checkpointing: bool = False
    threads: int = 0
    """CPU threads of one worker; 0: torch's choice."""
