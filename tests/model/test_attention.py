"""Scopes against a dense mask, by what moves what, and with padding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from extpose.model.attention import Attention, attend

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
    """The reference: explicit softmax over all tokens with a mask made pair by pair."""
    b, s, t, n, heads, c = q.shape
    place = [(i, j) for i in range(s) for j in range(t) for _ in range(n)]
    mask = torch.tensor([[may_attend(scope, x, y) for y in place] for x in place])
    if valid is not None:
        seen = valid[:, torch.tensor([frame for _, frame in place])]
        mask = mask & seen[:, None, None, :]
    q, k, v = (x.permute(0, 4, 1, 2, 3, 5).reshape(b, heads, s * t * n, c) for x in (q, k, v))
    scores = (q @ k.mT) * c**-0.5
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    return (weights @ v).reshape(b, heads, s, t, n, c).permute(0, 2, 3, 4, 1, 5)


def qkv(shape: tuple[int, ...], dtype: torch.dtype, *, grad: bool = False) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(shape, dtype=dtype, generator=generator).requires_grad_(grad) for _ in range(3)
    ]


@pytest.mark.parametrize("scope", SCOPES)
@settings(max_examples=15, deadline=None)
@given(
    s=st.integers(1, 2), t=st.integers(1, 4), n=st.integers(1, 6), c=st.sampled_from([4, 16, 80])
)
def test_scopes_equal_the_dense_mask(scope, s, t, n, c):
    q, k, v = qkv((2, s, t, n, 2, c), torch.float64)
    torch.testing.assert_close(
        attend(q, k, v, scope=scope), dense(q, k, v, scope), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("scope", SCOPES)
def test_gradients_equal_the_dense_mask_in_float64(scope):
    q, k, v = qkv((2, 2, 3, 5, 2, 8), torch.float64, grad=True)
    (weight,) = torch.randn(1, *q.shape, dtype=torch.float64)
    expected = torch.autograd.grad((dense(q, k, v, scope) * weight).sum(), (q, k, v))
    found = torch.autograd.grad((attend(q, k, v, scope=scope) * weight).sum(), (q, k, v))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_union_gradcheck():
    inputs = qkv((1, 2, 2, 2, 1, 4), torch.float64, grad=True)
    assert torch.autograd.gradcheck(lambda q, k, v: attend(q, k, v, scope="union"), inputs)


def test_union_with_scores_of_any_size():
    """The merge must not overflow where one part has all the weight."""
    q, k, v = qkv((1, 2, 3, 4, 1, 8), torch.float32)
    found, expected = attend(100 * q, k, v, scope="union"), dense(100 * q, k, v, "union")
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
def test_union_at_the_head_width_of_vit_h(dtype, atol):
    q, k, v = qkv((1, 2, 4, 12, 3, 80), dtype, grad=True)
    found, expected = attend(q, k, v, scope="union"), dense(q, k, v, "union")
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)
    for a, b in zip(
        torch.autograd.grad(found.square().sum(), (q, k, v)),
        torch.autograd.grad(expected.square().sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=5 * atol)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("moved", [(0, 1), (1, 2)])
def test_exactly_the_tokens_that_may_move_do(scope, moved):
    torch.manual_seed(0)
    attention = Attention(16, 2)
    tokens = torch.randn(1, 2, 3, 4, 16)
    changed = tokens.clone()
    changed[:, moved[0], moved[1]] += 1
    with torch.no_grad():
        difference = attention(tokens, scope, None) - attention(changed, scope, None)
    for s in range(2):
        for t in range(3):
            is_moved = bool((difference[0, s, t].abs() > 1e-6).any())
            assert is_moved == may_attend(scope, (s, t), moved), (s, t)


@pytest.mark.parametrize("scope", SCOPES)
def test_padding_is_as_if_it_were_not_there(scope):
    q, k, v = qkv((2, 2, 4, 3, 2, 8), torch.float64, grad=True)
    valid = torch.tensor([[True, True, False, False], [True, False, True, True]])
    found = attend(q, k, v, scope=scope, valid=valid)
    expected = dense(q, k, v, scope, valid)
    for clip, keep in enumerate(valid):
        torch.testing.assert_close(
            found[clip][:, keep], expected[clip][:, keep], rtol=0, atol=1e-12
        )
        assert (found[clip][:, ~keep] == 0).all()
    gradient = torch.autograd.grad(found.square().sum(), k)[0]
    assert (gradient[0, :, 2:] == 0).all()
    assert (gradient[0, :, :2] != 0).any()


def test_a_clip_of_nothing_but_padding_stays_finite():
    q, k, v = qkv((2, 2, 3, 4, 1, 8), torch.float32)
    valid = torch.tensor([[False] * 3, [True] * 3])
    assert torch.isfinite(attend(q, k, v, scope="union", valid=valid)).all()


def test_union_on_a_device_without_kernels_is_refused():
    x = torch.zeros(1, 2, 2, 4, 1, 8, device="meta")
    with pytest.raises(ValueError, match="meta"):
        attend(x, x, x, scope="union")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("n", [48, 192])
def test_union_on_cuda(dtype, atol, n):
    q, k, v = (x.detach().cuda().requires_grad_() for x in qkv((1, 2, 4, n, 2, 80), dtype))
    b, s, t, n, heads, c = q.shape
    frame = torch.arange(t, device="cuda").repeat(s).repeat_interleave(n)
    stream = torch.arange(s, device="cuda").repeat_interleave(t * n)
    mask = (frame[:, None] == frame) | (stream[:, None] == stream)
    flat = [x.permute(0, 4, 1, 2, 3, 5).reshape(b, heads, s * t * n, c) for x in (q, k, v)]
    expected = F.scaled_dot_product_attention(*flat, attn_mask=mask)
    expected = expected.reshape(b, heads, s, t, n, c).permute(0, 2, 3, 4, 1, 5)
    found = attend(q, k, v, scope="union")
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)
    for a, b in zip(
        torch.autograd.grad(found.square().sum(), (q, k, v)),
        torch.autograd.grad(expected.square().sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=5 * atol)
