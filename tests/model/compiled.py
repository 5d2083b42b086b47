"""Attention under `torch.compile`: `python -m tests.model.compiled BACKEND ...`.

A process of its own, since PyTorch's compiler cannot trace the shape checks that tests run with.
"""

import sys

import torch

from extpose.model.attention import attend
from tests.model.dense import random_qkv


def check_attention(backend: str) -> None:
    """Outputs and gradients of a compiled union, in one graph, equal the plain ones."""
    compiled = torch.compile(lambda *x: attend(*x, scope="union"), backend=backend, fullgraph=True)
    qkv = random_qkv((2, 2, 3, 4, 2, 8), torch.float32, grad=True)
    found, expected = compiled(*qkv), attend(*qkv, scope="union")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    grads = [torch.autograd.grad(x.square().sum(), qkv) for x in (found, expected)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


if __name__ == "__main__":
    for backend in sys.argv[1:]:
        torch.compiler.reset()
        check_attention(backend)
