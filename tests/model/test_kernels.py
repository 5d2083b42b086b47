"""Every backend against a plain softmax, who gets which, and the calls to what is not here."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor

from extpose.model import kernels as module
from extpose.model.kernels import (
    CPU_FLASH,
    CUDA_EFFICIENT,
    CUDA_FLASH,
    FLASH_ATTN,
    MATH,
    Backend,
    choose_backend,
    describe_backend,
)

CUDA = torch.device("cuda")
HALF, BF16, SINGLE, DOUBLE = torch.float16, torch.bfloat16, torch.float32, torch.float64


def make(l_q: int, dtype: torch.dtype, *, l_k: int = 7, device: str = "cpu") -> tuple[Tensor, ...]:
    """q, k, v and the gradient of the output: "b heads l c", not contiguous, as the model's."""
    torch.manual_seed(0)
    sizes = (l_q, l_k, l_k, l_q)
    drawn = [torch.randn(2, size, 3, 16, dtype=torch.float64).transpose(1, 2) for size in sizes]
    return tuple(x.to(device, dtype) for x in drawn)


def assert_exact(backend: Backend, dtype: torch.dtype, atol: float, device: str = "cpu") -> None:
    """Output, lse and gradients; then the share of some keys in a softmax over more of them."""
    q, k, v, grad = (x.requires_grad_() for x in make(7, dtype, device=device))
    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    scores = wide[0] @ wide[1].mT * 0.3
    expected = scores.softmax(-1) @ wide[2]
    with torch.no_grad():
        out, lse = backend.forward((q, k, v), 0.3)
        parts = [((q, k[..., i:j, :], v[..., i:j, :])) for i, j in ((0, 5), (5, 7))]
        found = [backend.backward(grad, part, out, lse, 0.3) for part in parts]
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=atol)
    torch.testing.assert_close(lse.double(), scores.logsumexp(-1), rtol=0, atol=atol)
    assert out.dtype == dtype
    summed = (
        found[0][0] + found[1][0],
        *(torch.cat([found[0][i], found[1][i]], 2) for i in (1, 2)),
    )
    for a, b in zip(
        summed, torch.autograd.grad(expected, wide, grad.detach().double()), strict=True
    ):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=2 * atol)


TOLERANCE = {DOUBLE: 1e-12, SINGLE: 2e-6, HALF: 5e-3, BF16: 4e-2}


@pytest.mark.parametrize("backend", [CPU_FLASH, MATH])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_backends_of_every_machine(backend, dtype):
    assert_exact(backend, dtype, TOLERANCE[dtype])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(
    ("backend", "dtype"),
    [
        (CUDA_FLASH, HALF),
        (CUDA_FLASH, BF16),
        (FLASH_ATTN, HALF),
        (FLASH_ATTN, BF16),
        (CUDA_EFFICIENT, SINGLE),
        (CUDA_EFFICIENT, HALF),
        (MATH, DOUBLE),
    ],
)
def test_backends_of_cuda(backend, dtype):
    if backend is FLASH_ATTN:
        pytest.importorskip("flash_attn", reason="flash-attn is not installed")
    assert_exact(backend, dtype, TOLERANCE[dtype], device="cuda")


@pytest.mark.parametrize(
    ("major", "has_package", "dtype", "width", "expected"),
    [
        (9, False, BF16, 80, CUDA_FLASH),
        (9, True, BF16, 80, FLASH_ATTN),
        (8, False, HALF, 256, CUDA_FLASH),
        (9, True, BF16, 264, MATH),
        (9, True, SINGLE, 80, CUDA_EFFICIENT),
        (9, True, DOUBLE, 80, MATH),
        (7, True, HALF, 80, CUDA_EFFICIENT),
        (7, True, BF16, 80, MATH),
    ],
)
def test_who_gets_which_on_cuda(monkeypatch, major, has_package, dtype, width, expected):
    monkeypatch.setattr(module, "HAS_FLASH_ATTN", has_package)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _device: SimpleNamespace(major=major)
    )
    assert choose_backend(CUDA, dtype, width) is expected
    assert expected.name in describe_backend("cuda", dtype, width)


@pytest.mark.parametrize("device", ["mps", "meta", "xpu"])
def test_devices_without_a_fused_kernel_say_so(device):
    assert choose_backend(torch.device(device), SINGLE, 80) is MATH
    assert "no fused kernel" in describe_backend(device, SINGLE, 80)


def test_another_maker_of_gpus_gets_plain_products(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert choose_backend(CUDA, BF16, 80) is MATH


def test_descriptions_name_kernel_device_precision_and_width(monkeypatch):
    words = describe_backend("cpu", BF16, 80)
    assert words == "PyTorch's CPU flash kernel (cpu, bfloat16, head width 80)"
    monkeypatch.setattr(module, "choose_backend", lambda *_: CUDA_FLASH)
    assert "head width 20 filled up to 24" in describe_backend("cuda", BF16, 20)


@pytest.mark.parametrize("backend", [CUDA_FLASH, CUDA_EFFICIENT])
def test_calls_of_the_cuda_kernels_fit_their_schema(backend):
    """The meta device checks arguments and shapes where no GPU is."""
    q, k, v, grad = make(5, BF16, device="meta")
    out, lse = backend.forward((q, k, v), 0.3)
    assert (out.shape, lse.shape) == (q.shape, q.shape[:3])
    found = backend.backward(grad, (q, k, v), out, lse, 0.3)
    assert [x.shape for x in found] == [q.shape, k.shape, v.shape]


def test_calls_of_the_package_fit_its_interface(monkeypatch):
    """flash-attn 2.7 and 2.8: tokens before heads, gradients written into given tensors."""

    def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, *, return_attn_probs=False):
        assert return_attn_probs
        out, lse = MATH.forward(tuple(x.transpose(1, 2) for x in (q, k, v)), softmax_scale)
        return out.transpose(1, 2), lse, None

    def backward(
        dout, q, k, v, out, softmax_lse, dq, dk, dv, dropout_p, softmax_scale, causal,
        window_size_left, window_size_right, softcap, alibi_slopes, deterministic, rng_state=None,
    ):  # fmt: skip
        off = (dropout_p, causal, window_size_left, window_size_right, softcap, alibi_slopes)
        assert off == (0.0, False, -1, -1, 0.0, None)
        assert all(x.is_contiguous() for x in (dout, q, k, v, out, softmax_lse, dq, dk, dv))
        grad, q, k, v, out = (x.transpose(1, 2) for x in (dout, q, k, v, out))
        found = MATH.backward(grad, (q, k, v), out, softmax_lse, softmax_scale)
        for place, value in zip((dq, dk, dv), found, strict=True):
            place.copy_(value.transpose(1, 2))

    package, interface = ModuleType("flash_attn"), ModuleType("flash_attn.flash_attn_interface")
    package.flash_attn_func, interface._flash_attn_backward = flash_attn_func, backward
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    assert_exact(FLASH_ATTN, DOUBLE, 1e-12)
