"""`union` attention by two fused calls against one dense-mask call: `python FILE [--frames 16]`.

Axes    b clips   s streams   t frames   n tokens per frame and stream   heads   c head width
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from extpose.model.attention import attend

STREAMS, TOKENS, HEAD_WIDTH = 2, 192, 80


def masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """PyTorch's fused attention with the mask of the union."""
    b, s, t, n, heads, c = q.shape
    stream = torch.arange(s, device=q.device).repeat_interleave(t * n)
    frame = torch.arange(t, device=q.device).repeat_interleave(n).repeat(s)
    mask = (stream[:, None] == stream) | (frame[:, None] == frame)
    flat = [x.permute(0, 4, 1, 2, 3, 5).reshape(b, heads, s * t * n, c) for x in (q, k, v)]
    out = F.scaled_dot_product_attention(*flat, attn_mask=mask)
    return out.reshape(b, heads, s, t, n, c).permute(0, 2, 3, 4, 1, 5)


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The network's path."""
    return attend(q, k, v, scope="union")


def measure(
    function: Callable[[Tensor, Tensor, Tensor], Tensor], qkv: list[Tensor], repeats: int
) -> tuple[float, float]:
    """Best seconds of forward and of backward: CPU time on a CPU, where neighbours matter less."""
    clock = time.perf_counter if qkv[0].is_cuda else time.process_time
    forward, backward = [], []
    for _ in range(repeats):
        _wait(qkv[0])
        start = clock()
        out = function(*qkv)
        _wait(out)
        middle = clock()
        torch.autograd.grad(out, qkv, torch.ones_like(out))
        _wait(out)
        forward.append(middle - start)
        backward.append(clock() - middle)
    return min(forward), min(backward)


def _wait(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    print(
        f"{options.device}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"{options.dtype}: {TOKENS} tokens, {options.heads} heads of {HEAD_WIDTH}"
    )
    print("frames  pass      dense ms  union ms  ratio  largest difference")
    for t in options.frames:
        shape = (1, STREAMS, t, TOKENS, options.heads, HEAD_WIDTH)
        qkv = [
            torch.randn(shape, dtype=getattr(torch, options.dtype), device=options.device)
            for _ in range(3)
        ]
        qkv = [x.requires_grad_() for x in qkv]
        difference = (masked(*qkv) - fused(*qkv)).abs().max().item()
        dense_times, union_times = (measure(f, qkv, options.repeats) for f in (masked, fused))
        for name, a, b in zip(("forward", "backward"), dense_times, union_times, strict=True):
            times = f"{1000 * a:8.1f}  {1000 * b:8.1f}  {a / b:5.2f}"
            print(f"{t:6d}  {name:8s}  {times}  {difference:.1e}")


if __name__ == "__main__":
    main()
