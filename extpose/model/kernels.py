"""Fused attention of each device, with what merging needs: forward and backward by log-sum-exp.

A fused backward recovers the probabilities as `exp(score - lse)`. Given the output and the lse of a
softmax over *more* keys, it yields these keys' share of the gradient of the whole (`attention.py`).

Axes    b batch   heads   l tokens   c head width; the lse is "b heads l", fp32 (fp64 for fp64)
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

HALF = (torch.float16, torch.bfloat16)
QKV = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values "b heads l c" of any strides whose last is 1, or their gradients."""


@dataclass(frozen=True)
class Backend:
    """Two functions; `scale` is what scores are multiplied by."""

    name: str
    forward: Callable[[QKV, float], tuple[Tensor, Tensor]]
    """(q, k, v), scale -> output, lse."""
    backward: Callable[[Tensor, QKV, Tensor, Tensor, float], QKV]
    """Gradient of the output, (q, k, v), output, lse, scale -> gradients of q, k, v."""
    multiple: int = 1
    """Head widths are filled up with zeros to a multiple of this."""


def choose_backend(device: torch.device, dtype: torch.dtype, head_dim: int) -> Backend:
    """The fastest that is exact; whatever has no fused kernel gets `MATH`."""
    if device.type == "cpu":
        return CPU_FLASH
    if device.type == "cuda" and torch.version.hip is None and head_dim <= 256:
        is_ampere = torch.cuda.get_device_properties(device).major >= 8
        if dtype in HALF and is_ampere:
            return FLASH_ATTN if HAS_FLASH_ATTN else CUDA_FLASH
        if dtype in (torch.float32, torch.float16):
            return CUDA_EFFICIENT
    return MATH


def describe_backend(device: torch.device | str, dtype: torch.dtype, head_dim: int) -> str:
    """One line for people: which kernel, for what, and whether the head width is filled up."""
    device = torch.device(device)
    backend = choose_backend(device, dtype, head_dim)
    fill = -head_dim % backend.multiple
    filled = f" filled up to {head_dim + fill}" if fill else ""
    kind = str(dtype).removeprefix("torch.")
    return f"{backend.name} ({device.type}, {kind}, head width {head_dim}{filled})"


def _cpu_forward(qkv: QKV, scale: float) -> tuple[Tensor, Tensor]:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*qkv, scale=scale)


def _cpu_backward(grad: Tensor, qkv: QKV, out: Tensor, lse: Tensor, scale: float) -> QKV:
    function = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    return function(grad, *qkv, out, lse, 0.0, False, scale=scale)


def _flash_forward(qkv: QKV, scale: float) -> tuple[Tensor, Tensor]:
    return torch.ops.aten._scaled_dot_product_flash_attention(*qkv, scale=scale)[:2]


def _flash_backward(grad: Tensor, qkv: QKV, out: Tensor, lse: Tensor, scale: float) -> QKV:
    function = torch.ops.aten._scaled_dot_product_flash_attention_backward
    varlen, no_dropout = (None, None, qkv[0].shape[2], qkv[1].shape[2]), (0.0, False)
    return function(
        grad, *qkv, out, lse.contiguous(), *varlen, *no_dropout, *_seeds(out), scale=scale
    )


def _efficient_forward(qkv: QKV, scale: float) -> tuple[Tensor, Tensor]:
    function = torch.ops.aten._scaled_dot_product_efficient_attention
    out, lse, *_ = function(*qkv, None, True, scale=scale)
    return out, lse[..., : out.shape[2]]


def _efficient_backward(grad: Tensor, qkv: QKV, out: Tensor, lse: Tensor, scale: float) -> QKV:
    function = torch.ops.aten._scaled_dot_product_efficient_attention_backward
    lse = F.pad(lse, (0, -lse.shape[-1] % 32), value=torch.inf)  # as the forward returned it
    wanted = [True, True, True, False]
    return function(grad, *qkv, None, out, lse, *_seeds(out), 0.0, wanted, scale=scale)[:3]


def _seeds(like: Tensor) -> tuple[Tensor, Tensor]:
    """Of a dropout that does not happen."""
    seed = torch.zeros((), dtype=torch.int64, device=like.device)
    return seed, seed


def _package_forward(qkv: QKV, scale: float) -> tuple[Tensor, Tensor]:
    from flash_attn import flash_attn_func

    qkv_by_token = (x.transpose(1, 2) for x in qkv)
    out, lse, _ = flash_attn_func(*qkv_by_token, softmax_scale=scale, return_attn_probs=True)
    return out.transpose(1, 2), lse


def _package_backward(grad: Tensor, qkv: QKV, out: Tensor, lse: Tensor, scale: float) -> QKV:
    from flash_attn.flash_attn_interface import _flash_attn_backward

    grad, *rest = (x.transpose(1, 2).contiguous() for x in (grad, *qkv, out))
    dq, dk, dv = (torch.empty_like(x) for x in rest[:3])
    options: dict[str, Any] = {
        "dropout_p": 0.0,
        "softmax_scale": scale,
        "causal": False,
        "softcap": 0.0,
    }
    options |= {"window_size_left": -1, "window_size_right": -1, "alibi_slopes": None}
    options["deterministic"] = torch.are_deterministic_algorithms_enabled()
    _flash_attn_backward(grad, *rest, lse.contiguous(), dq, dk, dv, **options)
    return dq.transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2)


def _math_forward(qkv: QKV, scale: float) -> tuple[Tensor, Tensor]:
    q, k, v = (_wide(x) for x in qkv)
    scores = q @ k.mT * scale
    return (scores.softmax(-1) @ v).to(qkv[0].dtype), scores.logsumexp(-1)


def _math_backward(grad: Tensor, qkv: QKV, out: Tensor, lse: Tensor, scale: float) -> QKV:
    dtype = out.dtype
    grad, q, k, v, out = (_wide(x) for x in (grad, *qkv, out))
    weights = (q @ k.mT * scale - lse[..., None]).exp()
    scores = weights * (grad @ v.mT - (grad * out).sum(-1, keepdim=True)) * scale
    return (scores @ k).to(dtype), (scores.mT @ q).to(dtype), (weights.mT @ grad).to(dtype)


def _wide(x: Tensor) -> Tensor:
    """Half precisions are summed in fp32, as the fused kernels do."""
    return x.float() if x.dtype in HALF else x


HAS_FLASH_ATTN = find_spec("flash_attn") is not None
CPU_FLASH = Backend("PyTorch's CPU flash kernel", _cpu_forward, _cpu_backward)
CUDA_FLASH = Backend("PyTorch's CUDA flash kernel", _flash_forward, _flash_backward, 8)
CUDA_EFFICIENT = Backend(
    "PyTorch's CUDA memory-efficient kernel", _efficient_forward, _efficient_backward, 8
)
FLASH_ATTN = Backend("the flash-attn package", _package_forward, _package_backward, 8)
MATH = Backend("plain matrix products, no fused kernel", _math_forward, _math_backward)
