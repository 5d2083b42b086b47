"""Which parameters are trained: everything (the paper's choice), or a part (its Table 6).

The choice is about the image backbone. The head, the temporal positions and what an ablation adds
are always trained: "learnable layers" in the paper are those of the backbone, and without its head
no backbone could show what it has learned.

    all         every parameter
    qk          of the backbone only W_Q and W_K (with their biases) of each attention
    first_half  of the backbone only the first half of its blocks
    added       nothing of the backbone: ControlNet's own rule
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from extpose.config import Trainable
from extpose.model.ablations import extra_parameters
from extpose.model.extpose import ExtPose


def select_trainable(model: ExtPose, trainable: Trainable) -> None:
    """Freeze, in place, what is not to be trained; to be called after weights were loaded.

    State-dict keys stay the same. With `qk` the attention's `qkv` become modules that keep what is
    trained and what is not in two parameters: the rows of one parameter cannot be told apart by an
    optimiser, whose weight decay would move them even without a gradient.
    """
    if trainable == "all":
        return
    backbone = model.backbone.requires_grad_(False)
    if trainable == "qk":
        for block in backbone.blocks:
            block.attn.qkv = QueryKeyLinear(block.attn.qkv)  # type: ignore[union-attr, arg-type]
    elif trainable == "first_half":
        if len(backbone.blocks) < 2:
            raise ValueError(f"trainable 'first_half' of {len(backbone.blocks)} blocks")
        backbone.blocks[: len(backbone.blocks) // 2].requires_grad_(True)


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """How many numbers a network has."""

    total: int
    trained: int
    extra: dict[str, int]
    """Beside the image model's, by module."""


def count_parameters(model: ExtPose) -> ParameterCount:
    """Of a network as `select_trainable` left it."""
    return ParameterCount(
        total=sum(p.numel() for p in model.parameters()),
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        extra=extra_parameters(model),
    )


class QueryKeyLinear(nn.Module):
    """The linear map to queries, keys and values, the values' part frozen.

    Same numbers and same state-dict keys (`weight`, `bias`) as the `nn.Linear` it is made from.
    """

    weight_qk: nn.Parameter
    weight_v: nn.Parameter
    bias_qk: nn.Parameter
    bias_v: nn.Parameter

    def __init__(self, qkv: nn.Linear) -> None:
        super().__init__()
        rows = qkv.out_features // 3 * 2
        for name, tensor in (("weight", qkv.weight), ("bias", qkv.bias)):
            part = tensor.detach().clone()
            self.register_parameter(f"{name}_qk", nn.Parameter(part[:rows]))
            self.register_parameter(f"{name}_v", nn.Parameter(part[rows:], requires_grad=False))
        self.register_state_dict_post_hook(_join_parts)
        self.register_load_state_dict_pre_hook(_split_parts)

    def forward(self, tokens: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch qkv"]:
        """Queries, keys, values."""
        weight = torch.cat([self.weight_qk, self.weight_v])
        return F.linear(tokens, weight, torch.cat([self.bias_qk, self.bias_v]))


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and stored buffers as the modules have them, a map in parts as its parts."""
    stored = model.state_dict(keep_vars=True).keys()
    buffers = {name: value for name, value in model.named_buffers() if name in stored}
    return {**dict(model.named_parameters()), **buffers}


def join_parts(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Values by the names of `own_tensors` to those of the state dict."""
    joined = dict(state)
    for name in state:
        if name.endswith("_qk"):
            whole = name.removesuffix("_qk")
            joined[whole] = torch.cat([joined.pop(name), joined.pop(f"{whole}_v")])
    return joined


def find_part(state: Mapping[str, Tensor], name: str) -> Tensor:
    """Of a state dict, what `own_tensors` calls `name`."""
    if name in state:
        return state[name]
    whole, _, part = name.rpartition("_")
    rows = len(state[whole]) // 3 * 2
    return state[whole][:rows] if part == "qk" else state[whole][rows:]


def _join_parts(_module: nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    for name in ("weight", "bias"):
        parts = [state.pop(f"{prefix}{name}_{part}") for part in ("qk", "v")]
        state[prefix + name] = torch.cat(parts)


def _split_parts(module: nn.Module, state: dict[str, Any], prefix: str, *_rest: Any) -> None:
    for name in ("weight", "bias"):
        if prefix + name in state:
            whole = state.pop(prefix + name)
            rows = len(whole) // 3 * 2
            state[f"{prefix}{name}_qk"], state[f"{prefix}{name}_v"] = whole[:rows], whole[rows:]
