"""Self-attention over two streams and time: the paper's Eq. 5-11, no parameter of its own.

Which keys a token attends to is its *scope* (`model_config.Scope`):

frame   both streams of its frame           (Eq. 5-9: the two streams are concatenated)
stream  its stream in all frames            (Eq. 10-11: the stream axis joins the batch)
union   one softmax over both sets; equal to `frame` for one frame, to `stream` for one stream
full    both streams in all frames

Axes    b clips   s streams (image, skeleton)   t frames   n tokens per frame and stream
        heads c: the d channels of a token, split
"""

from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

CallScope = Literal["frame", "stream", "union", "full"]
"""The scope of one attention call (`sequential` is two calls)."""

_FOLDS: dict[str, str] = {
    "frame": "(b t) heads (s n) c",
    "stream": "(b s) heads (t n) c",
    "full": "b heads (s t n) c",
}
_OWN, _OTHER = _FOLDS["stream"], "(b s t) heads n c"
_AXES = "b s t n heads c"


class Attention(nn.Module):
    """Multi-head self-attention with the parameters of one image ViT block."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self,
        tokens: Float[Tensor, "b s t n d"],
        scope: CallScope,
        valid: Bool[Tensor, "b t"] | None,
    ) -> Float[Tensor, "b s t n d"]:
        """One attention call; frames that are not `valid` are seen by nobody."""
        q, k, v = rearrange(
            self.qkv(tokens), f"b s t n (qkv heads c) -> qkv {_AXES}", qkv=3, heads=self.num_heads
        )
        mixed = attend(q, k, v, scope=scope, valid=valid)
        return self.proj(rearrange(mixed, f"{_AXES} -> b s t n (heads c)"))


def attend(
    q: Float[Tensor, "b s t n heads c"],
    k: Float[Tensor, "b s t n heads c"],
    v: Float[Tensor, "b s t n heads c"],
    *,
    scope: CallScope,
    valid: Bool[Tensor, "b t"] | None = None,
) -> Float[Tensor, "b s t n heads c"]:
    """Attention within `scope`; where a frame is not `valid` the result is 0.

    Padding is left out of the computation rather than masked, so the other frames of a padded clip
    get what they get in the clip without its padding.
    """
    if valid is not None:
        return _attend_valid(q, k, v, scope, valid)
    num_streams, num_frames = q.shape[1:3]
    if scope == "union":
        if num_streams == 2 and num_frames > 1:
            return _attend_union(q, k, v)
        scope = "frame" if num_frames == 1 else "stream"
    fold, sizes = _FOLDS[scope], _sizes(q)
    folded = [rearrange(x, f"{_AXES} -> {fold}") for x in (q, k, v)]
    return rearrange(F.scaled_dot_product_attention(*folded), f"{fold} -> {_AXES}", **sizes)


def _attend_valid(q: Tensor, k: Tensor, v: Tensor, scope: CallScope, valid: Tensor) -> Tensor:
    mixed = []
    for q1, k1, v1, keep in zip(q.split(1), k.split(1), v.split(1), valid, strict=True):
        frames = keep.nonzero().squeeze(1)
        kept = [x.index_select(2, frames) for x in (q1, k1, v1)]
        out = attend(kept[0], kept[1], kept[2], scope=scope) if len(frames) else kept[0]
        mixed.append(torch.zeros_like(q1).index_copy(2, frames, out))
    return torch.cat(mixed)


def _attend_union(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if q.device.type not in ("cpu", "cuda"):
        raise ValueError(
            f"scope 'union' has kernels for cpu and cuda, the tokens are on {q.device}"
        )
    return _UnionAttention.apply(q, k, v)


class _UnionAttention(torch.autograd.Function):
    """One softmax over two disjoint key sets, by two fused calls and no mask in memory.

    A token's keys are its own stream in all frames and the other stream in its own frame. Each part
    gives an output and the logarithm of its softmax's denominator (lse), and the whole is
    `w * own + (1 - w) * other` with `w = sigmoid(lse_own - lse_other)`. The backward is exact: a
    fused backward recovers the probabilities as `exp(score - lse)`, so each part is run with the
    *merged* output and lse, and the gradients add up.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Merge the two parts."""
        sizes = _sizes(q)
        (own, own_lse), (other, other_lse) = (_fused(*part) for part in _fold_parts(q, k, v))
        own, other = _unfold(own, _OWN, sizes), _unfold(other, _OTHER, sizes)
        own_lse = _unfold(own_lse[..., None], _OWN, sizes)
        other_lse = _unfold(other_lse[..., None], _OTHER, sizes)
        out = torch.lerp(other, own, torch.sigmoid(own_lse - other_lse).to(own.dtype))
        ctx.save_for_backward(q, k, v, out, torch.logaddexp(own_lse, other_lse))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Add up the gradients of the two parts."""
        q, k, v, out, lse = ctx.saved_tensors
        sizes, grad = _sizes(q), grads[0].contiguous()
        total: list[Tensor] = []
        for fold, part in zip((_OWN, _OTHER), _fold_parts(q, k, v), strict=True):
            grad_part, out_part, lse_part = (
                rearrange(x, f"{_AXES} -> {fold}") for x in (grad, out, lse)
            )
            dq, dk, dv = _fused_backward(grad_part, part, out_part, lse_part[..., 0].contiguous())
            parts = [_unfold(x, fold, sizes) for x in (dq, dk, dv)]
            if fold == _OTHER:
                parts[1:] = [x.flip(1) for x in parts[1:]]
            total = [x + y for x, y in zip(total, parts, strict=True)] if total else parts
        return total[0], total[1], total[2]


def _sizes(x: Tensor) -> dict[str, int]:
    return dict(zip(("b", "s", "t", "n"), x.shape[:4], strict=True))


def _unfold(x: Tensor, fold: str, sizes: dict[str, int]) -> Tensor:
    return rearrange(x, f"{fold} -> {_AXES}", **sizes)


def _fold_parts(q: Tensor, k: Tensor, v: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """q, k, v of the two parts; the other stream's keys and values are the flipped ones."""
    own = [rearrange(x, f"{_AXES} -> {_OWN}") for x in (q, k, v)]
    other = [rearrange(x, f"{_AXES} -> {_OTHER}") for x in (q, k.flip(1), v.flip(1))]
    return own, other


_ALIGN_LSE = 32
"""The CUDA kernel wants the log-sum-exp padded to a multiple of this."""


def _fused(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Attention output "b heads l c" and log-sum-exp "b heads l" of PyTorch's fused kernels."""
    if q.is_cuda:
        out, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, True)
        return out, lse[..., : q.shape[2]]
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)


def _fused_backward(
    grad: Tensor, qkv: list[Tensor], out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, given the output and log-sum-exp of the *whole* softmax."""
    q, k, v = qkv
    if not q.is_cuda:
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out, lse, 0.0, False
        )
    lse = F.pad(lse, (0, -lse.shape[-1] % _ALIGN_LSE), value=float("inf"))
    unused = torch.zeros((), dtype=torch.int64, device=q.device)
    dq, dk, dv, _ = torch.ops.aten._scaled_dot_product_efficient_attention_backward(
        grad, q, k, v, None, out, lse, unused, unused, 0.0, [True, True, True, False]
    )
    return dq, dk, dv
