"""The one reference of attention: explicit softmax over all tokens, a mask made pair by pair.

Axes    b clips   s streams   t frames   n tokens   heads   c head width
"""

import torch
from torch import Tensor

SCOPES = ("frame", "stream", "union", "full")


def may_attend(scope: str, query: tuple[int, int], key: tuple[int, int]) -> bool:
    """Whether a token of (stream, frame) `query` sees one of (stream, frame) `key`."""
    same_stream, same_frame = query[0] == key[0], query[1] == key[1]
    return {
        "frame": same_frame,
        "stream": same_stream,
        "union": same_stream or same_frame,
        "full": True,
    }[scope]


def dense(q: Tensor, k: Tensor, v: Tensor, scope: str, valid: Tensor | None = None) -> Tensor:
    """Attention of "b s t n heads c" tensors with the mask of the scope; 0 in padded frames."""
    b, s, t, n, heads, c = q.shape
    place = [(i, j) for i in range(s) for j in range(t) for _ in range(n)]
    allowed = [[may_attend(scope, x, y) for y in place] for x in place]
    mask = torch.tensor(allowed, device=q.device).expand(b, 1, -1, -1)
    if valid is not None:
        seen = valid[:, torch.tensor([frame for _, frame in place])]
        mask = mask & seen[:, None, None, :] & seen[:, None, :, None]
    q, k, v = (x.permute(0, 4, 1, 2, 3, 5).reshape(b, heads, s * t * n, c) for x in (q, k, v))
    scores = ((q @ k.mT) * c**-0.5).masked_fill(~mask, -torch.inf)
    weights = scores.softmax(-1).masked_fill(~mask, 0)
    return (weights @ v).reshape(b, heads, s, t, n, c).permute(0, 2, 3, 4, 1, 5)


def random_qkv(
    shape: tuple[int, ...], dtype: torch.dtype, *, grad: bool = False, device: str = "cpu"
) -> list[Tensor]:
    """Three standard normal tensors."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(3)]
    return [x.to(device, dtype).requires_grad_(grad) for x in drawn]
