"""The engine without DeepSpeed: torch alone."""

import math
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from extpose.batch import Batch, map_tensors, network_inputs
from extpose.config import EngineConfig
from extpose.model_config import SkeletonInput
from extpose.params import Prediction
from extpose.training.state import adam_state, load_adam_state, load_scaler_state, scaler_state
from extpose.training.workers import Workers

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def create_optimizer(model: nn.Module, config: EngineConfig) -> torch.optim.AdamW:
    """One group, weight decay on everything that is trained (HMR2.0's rule)."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(
        trained, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
    )


class PlainEngine:
    """torch alone. With more than one worker gradients are averaged before the update."""

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
        self.workers = Workers(device)
        self.accumulation, self.config, self.model = accumulation, config, model
        self.skeleton_input = skeleton_input
        self.optimizer = create_optimizer(model, config)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        if self.workers.size > 1:
            for tensor in (*model.parameters(), *model.buffers()):
                dist.broadcast(tensor.detach(), src=0)

    def __call__(self, batch: Batch) -> Prediction:
        """Forward pass; see `Engine`."""
        device, precision = self.workers.device, self.config.precision
        with torch.autocast(device.type, AUTOCAST.get(precision), enabled=precision in AUTOCAST):
            prediction = self.model(*network_inputs(batch, self.skeleton_input))
        return map_tensors(prediction, lambda tensor: tensor.float())

    def backward(self, loss: Tensor) -> None:
        """Accumulate; see `Engine`."""
        self.scaler.scale(loss / self.accumulation).backward()

    def step(self, lr: float) -> float:
        """Update; see `Engine`."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.workers.average_gradients(parameters)
        self.scaler.unscale_(self.optimizer)
        limit = self.config.clip_grad_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def gather_state(self) -> dict[str, Tensor]:
        """State; see `Engine`."""
        if self.workers.rank:
            return {}
        scaler = self.scaler if self.scaler.is_enabled() else None
        return adam_state(self.model, self.optimizer) | scaler_state(scaler)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Read; see `Engine`."""
        load_adam_state(self.model, self.optimizer, state)
        load_scaler_state(self.scaler, state)

    def consolidated_state_dict(self) -> dict[str, Tensor]:
        """Weights; see `Engine`."""
        return {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()}
