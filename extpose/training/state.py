"""The state of a training as one flat mapping from names to tensors, whatever engine holds it.

    weights/NAME       fp32, as in the network's state dict
    step/NAME          updates that the parameter has had, a scalar
    exp_avg/NAME       AdamW's first moment, of the parameter's shape
    exp_avg_sq/NAME    AdamW's second moment
    scaler/KEY         of fp16's gradient scaler
    extra/...          what else a training keeps, such as the state of a second optimiser

NAME is the parameter's, never a worker's or a partition's: so a state that ZeRO-3 wrote on eight
workers can be read by plain torch on one.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from extpose.errors import CheckpointError

WEIGHTS, STEP, SCALER, EXTRA = "weights/", "step/", "scaler/", "extra/"
MOMENTS = ("exp_avg", "exp_avg_sq")


def to_cpu(tensor: Tensor) -> Tensor:
    """A copy in main memory, so that training may go on while it is written."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def section(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose names begin with `prefix`, without it."""
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


def adam_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights and AdamW's state of a network that this process holds as a whole."""
    state = {WEIGHTS + name: to_cpu(value) for name, value in model.state_dict().items()}
    for name, parameter in trained(model):
        if parameter in optimizer.state:
            own = optimizer.state[parameter]
            state |= {f"{key}/{name}": to_cpu(own[key]) for key in ("step", *MOMENTS)}
    return state


def load_adam_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]
) -> None:
    """Take what `adam_state` (or another engine) gave. Raises CheckpointError for another network.

    Hyperparameters are not part of a state; they are the config's.
    """
    check_state(model, state)
    model.load_state_dict(section(state, WEIGHTS))
    optimizer.state.clear()
    for name, parameter in trained(model):
        if STEP + name in state:
            optimizer.state[parameter] = {
                "step": state[STEP + name].clone(),
                **{key: state[f"{key}/{name}"].to(parameter.device, copy=True) for key in MOMENTS},
            }


def scaler_state(scaler: "torch.amp.GradScaler | None") -> dict[str, Tensor]:
    """Of a gradient scaler; empty where none is in use."""
    values = scaler.state_dict() if scaler is not None else {}
    return {SCALER + key: torch.tensor(float(value)) for key, value in values.items()}


def load_scaler_state(scaler: "torch.amp.GradScaler | None", state: Mapping[str, Tensor]) -> None:
    """The counterpart of `scaler_state`; a state without a scaler's leaves it as it is."""
    values = {key: value.item() for key, value in section(state, SCALER).items()}
    if scaler is not None and values and scaler.is_enabled():
        counts = {key: int(values[key]) for key in ("growth_interval", "_growth_tracker")}
        scaler.load_state_dict(values | counts)


def check_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError unless the weights' names are those of `model`."""
    own, stored = set(model.state_dict()), set(section(state, WEIGHTS))
    if own != stored:
        raise CheckpointError(
            f"the checkpoint is of another network: missing {sorted(own - stored)[:3]}, "
            f"unexpected {sorted(stored - own)[:3]}"
        )


def trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that are not frozen, by name."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, parameter
