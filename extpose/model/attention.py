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
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from extpose.model.kernels import QKV, choose_backend

CallScope = Literal["frame", "stream", "union", "full"]
"""The scope of one attention call (`sequential` is two calls)."""

_AXES = "b s t n heads c"
_OWN, _OTHER = "(b s) heads (t n) c", "(b s t) heads n c"
_FOLDS = {
    "frame": ("(b t) heads (s n) c",),
    "stream": (_OWN,),
    "union": (_OWN, _OTHER),
    "full": ("b heads (s t n) c",),
}
"""The plain attentions that a scope consists of; in `_OTHER` the keys are the other stream's."""


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
        """One attention call; frames that are not `valid` are seen by nobody and see nothing.

        They are left out of the computation rather than masked, so the other frames of a padded
        clip get what they get in the clip without its padding. `valid` is read on the host: on the
        CPU it costs no synchronisation.
        """
        qkv = self.qkv(tokens)
        if valid is None:
            return self.proj(self._mix(qkv, scope))
        mixed = qkv.new_zeros(qkv.shape[:3].numel(), *tokens.shape[3:])
        if groups := same_length_clips(valid, qkv.shape[1]):
            order = torch.cat([places.flatten() for places in groups]).to(qkv.device)
            frames = qkv.flatten(0, 2).index_select(0, order).split([x.numel() for x in groups])
            parts = [
                self._mix(part.unflatten(0, places.shape), scope).flatten(0, 2)
                for part, places in zip(frames, groups, strict=True)
            ]
            mixed = mixed.index_copy(0, order, torch.cat(parts))
        return self.proj(mixed.unflatten(0, qkv.shape[:3]))

    def _mix(self, qkv: Tensor, scope: CallScope) -> Tensor:
        q, k, v = rearrange(
            qkv, f"b s t n (qkv heads c) -> qkv {_AXES}", qkv=3, heads=self.num_heads
        )
        return rearrange(attend(q, k, v, scope=scope), f"{_AXES} -> b s t n (heads c)")


def same_length_clips(valid: Bool[Tensor, "b t"], num_streams: int) -> list[Int64[Tensor, "g s u"]]:
    """Places in "(b s t)" of the u valid frames of g clips, for each u that there is but 0."""
    valid = valid.cpu()
    places = torch.arange(num_streams * valid.numel()).view(len(valid), num_streams, -1)
    lengths, groups = valid.sum(1), []
    for length in lengths[lengths > 0].unique().tolist():
        clips = lengths == length
        kept = valid[clips, None].expand(-1, num_streams, -1)
        groups.append(places[clips][kept].view(-1, num_streams, length))
    return groups


def attend(
    q: Float[Tensor, "b s t n heads c"],
    k: Float[Tensor, "b s t n heads c"],
    v: Float[Tensor, "b s t n heads c"],
    *,
    scope: CallScope,
) -> Float[Tensor, "b s t n heads c"]:
    """Attention within `scope`, by the kernels of `choose_backend`; differentiable once."""
    num_streams, num_frames, width = q.shape[1], q.shape[2], q.shape[-1]
    if num_streams > 2:
        raise ValueError(f"{num_streams} streams, at most 2: image and skeleton")
    if scope == "union" and (num_streams == 1 or num_frames == 1):
        scope = "frame" if num_frames == 1 else "stream"
    fill = -width % choose_backend(q.device, q.dtype, width).multiple
    if fill:
        q, k, v = (F.pad(x, (0, fill)) for x in (q, k, v))
    out = _FusedAttention.apply(q, k, v, scope, width**-0.5)
    return out[..., :width]


class _FusedAttention(torch.autograd.Function):
    """One softmax over one or two disjoint key sets, by fused calls and no mask in memory.

    In a union, a token's keys are its own stream in all frames and the other stream in its own
    frame. Each part gives an output and the logarithm of its softmax's denominator (lse), and the
    whole is `w * own + (1 - w) * other` with `w = sigmoid(lse_own - lse_other)`. The backward is
    exact: each part is run with the *merged* output and lse, and the gradients add up.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, scope: CallScope, scale: float
    ) -> Tensor:
        """Run the parts and merge them."""
        backend, outs, lses = choose_backend(q.device, q.dtype, q.shape[-1]), [], []
        for fold in _FOLDS[scope]:
            out, lse = backend.forward(_fold(q, k, v, fold), scale)
            outs.append(_unfold(out, fold, q))
            lses.append(_unfold(lse[..., None], fold, q))
        out, lse = outs[0], lses[0]
        if len(outs) == 2:
            out = torch.lerp(outs[1], out, torch.sigmoid(lse - lses[1]).to(out.dtype))
            lse = torch.logaddexp(lse, lses[1])
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.scope, ctx.scale = scope, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        """Add up the gradients of the parts."""
        q, k, v, out, lse = ctx.saved_tensors
        backend = choose_backend(q.device, q.dtype, q.shape[-1])
        total: list[Tensor] = []
        for fold in _FOLDS[ctx.scope]:
            grad1, out1, lse1 = (rearrange(x, f"{_AXES} -> {fold}") for x in (grads[0], out, lse))
            parts = backend.backward(grad1, _fold(q, k, v, fold), out1, lse1[..., 0], ctx.scale)
            found = [_unfold(x, fold, q) for x in parts]
            if fold == _OTHER:
                found[1:] = [x.flip(1) for x in found[1:]]
            total = [x.add_(y) for x, y in zip(total, found, strict=True)] if total else found
        return total[0], total[1], total[2], None, None


def _fold(q: Tensor, k: Tensor, v: Tensor, fold: str) -> QKV:
    if fold == _OTHER:
        k, v = k.flip(1), v.flip(1)
    q, k, v = (rearrange(x, f"{_AXES} -> {fold}") for x in (q, k, v))
    return q, k, v


def _unfold(x: Tensor, fold: str, like: Tensor) -> Tensor:
    sizes = dict(zip(("b", "s", "t", "n"), like.shape[:4], strict=True))
    return rearrange(x, f"{fold} -> {_AXES}", **sizes)
