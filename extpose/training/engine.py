"""How a step is run: DeepSpeed ZeRO 0-3, or plain torch. Nothing else knows about parallelism.

Both engines keep fp32 weights (bf16 and fp16 are autocast), average gradients over micro-batches
and workers, and take the learning rate of each step from the caller; so they agree within
rounding, and two workers agree with one on the same global batch.

Neither writes files: they hand out their state by parameter name and take it back
(`extpose.training.state`), so a checkpoint is of no engine and of no number of workers.
"""

import math
import os
from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from extpose.batch import Batch, map_tensors, network_inputs
from extpose.config import EngineConfig
from extpose.errors import TrainingError
from extpose.model.vit import Block
from extpose.model_config import SkeletonInput
from extpose.params import PoseParams, Prediction
from extpose.training.plain import PlainEngine, create_optimizer
from extpose.training.state import adam_state, load_adam_state, load_scaler_state, scaler_state
from extpose.training.workers import Workers, join_alone
from extpose.training.zero_settings import check_offload, deepspeed_settings
from extpose.training.zero_state import gather_zero_state, load_zero_state


@runtime_checkable
class Engine(Protocol):
    """What the training loop needs."""

    workers: Workers
    accumulation: int
    """Micro-batches of one step, on this worker."""

    def __call__(self, batch: Batch) -> Prediction:
        """Forward pass in training mode; results are fp32."""

    def backward(self, loss: Tensor) -> None:
        """Add one micro-batch's gradient; call it `accumulation` times before `step`."""

    def step(self, lr: float) -> float:
        """Clip, update the weights, forget the gradient. Returns its norm before clipping."""

    def gather_state(self) -> dict[str, Tensor]:
        """Copies of all state on rank 0's CPU, named as in `extpose.training.state`.

        Nothing on the other workers; every worker calls it.
        """

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take what `gather_state` gave, in any engine with any number of workers.

        Every worker calls it with the same state. Raises CheckpointError for another network.
        """

    def consolidated_state_dict(self) -> dict[str, Tensor]:
        """All weights in fp32 on the CPU; every worker calls it."""


def create_engine(
    model: nn.Module,
    config: EngineConfig,
    *,
    accumulation: int,
    micro_batch: int,
    use_gpu: bool,
    skeleton_input: SkeletonInput = "drawing",
) -> Engine:
    """Move the model to its device and wrap it. Raises TrainingError for what cannot work.

    `skeleton_input` is what the model takes of a batch, as in its config.
    """
    if use_gpu and not torch.cuda.is_available():
        raise TrainingError("use_gpu is set, but torch sees no CUDA device")
    if config.precision == "fp16" and not use_gpu:
        raise TrainingError("precision fp16 needs a GPU; on a CPU use fp32 or bf16")
    check_offload(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    device = worker_device(use_gpu)
    if config.activation_checkpointing:
        checkpoint_blocks(model)
    model = model.to(device).train()
    kind = PlainEngine if config.backend == "plain" else DeepSpeedEngine
    return kind(
        model,
        config,
        accumulation=accumulation,
        micro_batch=micro_batch,
        device=device,
        skeleton_input=skeleton_input,
    )


def worker_device(use_gpu: bool) -> torch.device:
    """The CPU, or this worker's GPU among those of its machine (as DeepSpeed counts them)."""
    return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if use_gpu else "cpu")


def checkpoint_blocks(model: nn.Module) -> None:
    """Recompute each transformer block in the backward pass instead of keeping its activations."""
    for block in model.modules():
        if isinstance(block, Block):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]


def learning_rate(config: EngineConfig, step: int, progress: float) -> float:
    """Linear warm-up over steps, then constant or a half cosine over `progress`, 0 to 1."""
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    decay = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))) if config.decay else 1.0
    return config.lr * warmup * decay


class DeepSpeedEngine:
    """ZeRO 0-3 with torch's AdamW, so that nothing is compiled at start-up."""

    def __init__(
        self,
        model: nn.Module,
        config: EngineConfig,
        *,
        accumulation: int,
        micro_batch: int,
        device: torch.device,
        skeleton_input: SkeletonInput,
    ) -> None:
        deepspeed = import_deepspeed(device)
        join_alone(device)
        self.workers = Workers(device)
        self.accumulation, self.config = accumulation, config
        self.skeleton_input = skeleton_input
        self.deepspeed = deepspeed
        settings = deepspeed_settings(config, accumulation=accumulation, micro_batch=micro_batch)
        return_tensors(model)
        self.engine, *_ = deepspeed.initialize(
            model=model, optimizer=create_optimizer(model, config), config=settings
        )

    def __call__(self, batch: Batch) -> Prediction:
        """Forward pass; see `Engine`."""
        *params, crop_cam = self.engine(*network_inputs(batch, self.skeleton_input))
        names = ("global_orient", "pose", "betas")
        prediction = Prediction(
            params=PoseParams(**dict(zip(names, params, strict=True))), crop_cam=crop_cam
        )
        return map_tensors(prediction, lambda tensor: tensor.float())

    def backward(self, loss: Tensor) -> None:
        """Accumulate; see `Engine`."""
        self.engine.backward(loss)
        if not self.engine.is_gradient_accumulation_boundary():
            self.engine.step()

    def step(self, lr: float) -> float:
        """Update; see `Engine`."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        if self.config.zero_stage == 0:
            grads = [p.grad for p in self.engine.module.parameters() if p.grad is not None]
            scaler = self._scaler()
            # In fp16 what is accumulated is scaled, until the step.
            scale = scaler.get_scale() if scaler is not None else 1.0
            norm = torch.nn.utils.get_total_norm(grads) / scale
            self.engine.step()
            return float(norm)
        self.engine.step()
        return float(self.engine.get_global_grad_norm())

    def gather_state(self) -> dict[str, Tensor]:
        """State; see `Engine`."""
        keep = self.workers.rank == 0
        if self.config.zero_stage:
            state = gather_zero_state(self.deepspeed, self.engine, keep=keep)
        else:
            state = adam_state(self.engine.module, self.engine.optimizer) if keep else {}
        return state | scaler_state(self._scaler()) if keep else state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Read; see `Engine`."""
        if self.config.zero_stage:
            load_zero_state(self.deepspeed, self.engine, state)
        else:
            load_adam_state(self.engine.module, self.engine.optimizer, state)
        load_scaler_state(self._scaler(), state)

    def _scaler(self) -> "torch.amp.GradScaler | None":
        """DeepSpeed keeps it in one of two places, and only for fp16."""
        at_zero = getattr(self.engine.optimizer, "torch_autocast_gradscaler", None)
        return at_zero or self.engine.torch_autocast_z0_gradscaler

    def consolidated_state_dict(self) -> dict[str, Tensor]:
        """Weights; see `Engine`."""
        module = self.engine.module
        parameters = list(module.parameters()) if self.config.zero_stage == 3 else []
        with self.deepspeed.zero.GatheredParameters(parameters, enabled=bool(parameters)):
            return {k: v.detach().cpu().clone() for k, v in module.state_dict().items()}


def return_tensors(model: nn.Module) -> None:
    """Make the network return a tuple: ZeRO-3's hooks do not find tensors in a dataclass."""
    forward = model.forward

    def flat_forward(*inputs: Tensor) -> tuple[Tensor, ...]:
        prediction: Prediction = forward(*inputs)
        params = prediction.params
        return params.global_orient, params.pose, params.betas, prediction.crop_cam

    model.forward = flat_forward


def import_deepspeed(device: torch.device) -> Any:
    """DeepSpeed, kept from compiling its shared-memory collectives (40 s) on a CPU."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("LOCAL_RANK", "0")
    try:
        import deepspeed
    except ImportError as error:
        raise TrainingError(
            'DeepSpeed is not installed: pip install "extpose[cluster]", '
            "or choose --engine.backend plain"
        ) from error
    if device.type == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
