"""Scopes against a dense mask, by what moves what, with padding, compiled and recomputed."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from extpose.model import attention as module
from extpose.model.attention import Attention, attend
from extpose.model.extpose import ExtPose
from extpose.model.kernels import CPU_FLASH, MATH
from extpose.model.vit import ViT, call_scopes
from extpose.recipes import TINY
from extpose.training.engine import checkpoint_blocks
from tests.model.dense import SCOPES, dense, may_attend, random_qkv

DTYPES = [(torch.float32, 2e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)]
"""With the largest difference, at standard normal input, from float64 on the same numbers."""
VIT = replace(TINY, image_size=32, patch_size=16, width=16, num_heads=2, drop_path=0.0)


def gradients(out: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """Of a weighted sum whose weights are all different."""
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    return torch.autograd.grad((out * weight).sum(), inputs, materialize_grads=True)


def assert_equal(found, expected, atol: float) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b.to(a.dtype), rtol=0, atol=atol)


@pytest.mark.parametrize("backend", [CPU_FLASH, MATH, replace(MATH, multiple=8)])
@pytest.mark.parametrize("scope", SCOPES)
@settings(max_examples=10)
@given(
    s=st.integers(1, 2), t=st.integers(1, 4), n=st.integers(1, 6), c=st.sampled_from([5, 16, 80])
)
def test_scopes_and_their_gradients_equal_the_dense_mask(backend, scope, s, t, n, c):
    """With the kernels of this machine, with plain products, and with head widths filled up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "choose_backend", lambda *_: backend)
        qkv = random_qkv((2, s, t, n, 2, c), torch.float64, grad=True)
        found, expected = attend(*qkv, scope=scope), dense(*qkv, scope)
        assert_equal([found], [expected], atol=1e-12)
        assert_equal(gradients(found, qkv), gradients(expected, qkv), atol=1e-12)


@pytest.mark.parametrize("scope", SCOPES)
def test_gradcheck(scope):
    inputs = random_qkv((1, 2, 2, 2, 1, 4), torch.float64, grad=True)
    assert torch.autograd.gradcheck(lambda q, k, v: attend(q, k, v, scope=scope), inputs)


def test_a_second_derivative_is_refused():
    qkv = random_qkv((1, 2, 2, 2, 1, 4), torch.float64, grad=True)
    out = attend(*qkv, scope="union")
    (first,) = torch.autograd.grad(out.square().sum(), qkv[0], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        first.sum().backward()


def test_union_with_scores_of_any_size():
    """The merge must not overflow where one part has all the weight."""
    q, k, v = random_qkv((1, 2, 3, 4, 1, 8), torch.float32)
    found, expected = attend(100 * q, k, v, scope="union"), dense(100 * q, k, v, "union")
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(("dtype", "atol"), DTYPES)
def test_precisions_at_the_head_width_of_vit_h(scope, dtype, atol):
    qkv = random_qkv((1, 2, 4, 12, 3, 80), dtype, grad=True)
    exact = [x.detach().double().requires_grad_() for x in qkv]
    found, expected = attend(*qkv, scope=scope), dense(*exact, scope)
    assert found.dtype == dtype
    assert_equal([found], [expected], atol=atol)
    assert_equal(gradients(found, qkv), gradients(expected, exact), atol=2 * atol)


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


@pytest.mark.parametrize(
    ("scopes", "reach"),
    [
        (("frame", "frame"), "frame"),
        (("stream", "stream"), "stream"),
        (("union",), "union"),
        (("frame", "stream"), "full"),
        (("stream", "frame", "frame"), "full"),
        (("union", "union"), "full"),
        (("sequential",), "full"),
        (("stream", "full"), "full"),
    ],
)
def test_a_list_of_scopes_reaches_as_far_as_their_composition(scopes, reach):
    """One changed image of 2 streams and 3 frames moves what chains of single steps reach."""
    torch.manual_seed(0)
    vit = ViT(replace(VIT, depth=len(scopes), scope=scopes)).double().eval()
    images = torch.randn(1, 2, 3, 3, 32, 24, dtype=torch.float64)
    places = [(s, t) for s in range(2) for t in range(3)]
    step = torch.eye(6)
    for scope in scopes:
        for call in call_scopes(scope, num_streams=2, num_frames=3):
            seen = torch.tensor([[float(may_attend(call, x, y)) for y in places] for x in places])
            step = (seen @ step).clamp(max=1)
    assert step.bool().tolist() == [[may_attend(reach, x, y) for y in places] for x in places]
    with torch.no_grad():
        before = vit(images)
        for column, (s, t) in enumerate(places):
            changed = images.clone()
            changed[:, s, t] += torch.randn(3, 32, 24, dtype=torch.float64)
            difference = (vit(changed) - before)[0].abs().amax((-1, -2)).flatten()
            assert (difference > 1e-9).tolist() == step[:, column].bool().tolist()
            assert (difference[step[:, column] == 0] == 0).all()


@pytest.mark.parametrize("scope", SCOPES)
@settings(max_examples=15)
@given(data=st.data(), s=st.integers(1, 2), b=st.integers(1, 4))
def test_padding_equals_the_dense_mask(scope, data, s, b):
    """Any mask, also of clips that are nothing but padding; gradients too."""
    t, n = 4, 3
    rows = st.lists(st.booleans(), min_size=t, max_size=t)
    valid = torch.tensor(data.draw(st.lists(rows, min_size=b, max_size=b)))
    torch.manual_seed(0)
    attention = Attention(16, 2).double()
    tokens = torch.randn(b, s, t, n, 16, dtype=torch.float64, requires_grad=True)
    q, k, v = attention.qkv(tokens).unflatten(-1, (3, 2, 8)).unbind(-3)
    expected = attention.proj(dense(q, k, v, scope, valid).flatten(-2))
    found = attention(tokens, scope, valid)
    assert_equal([found], [expected], atol=1e-12)
    inputs = [tokens, *attention.parameters()]
    assert_equal(gradients(found, inputs), gradients(expected, inputs), atol=1e-11)
    seen = attention.proj.weight.new_tensor(valid.tolist())[:, None, :, None, None]
    (gradient,) = gradients(attention(tokens, scope, valid) * seen, [tokens])
    assert (gradient[(seen == 0).expand_as(tokens)] == 0).all()


def test_a_third_stream_is_refused():
    with pytest.raises(ValueError, match=r"3 streams.*2"):
        attend(*random_qkv((1, 3, 2, 4, 1, 8), torch.float32), scope="union")


def test_recomputed_activations_give_the_same_gradients():
    """Also with stochastic depth, whose draws must be repeated, and padding."""
    config = replace(VIT, depth=3, scope=("union",), drop_path=0.5, max_frames=3)
    rgb, skeleton = torch.randn(2, 6, 3, 3, 32, 32)
    valid = torch.tensor([[True, True, False]] * 2 + [[True] * 3] * 4)
    found = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = ExtPose(config).train()
        if recompute:
            checkpoint_blocks(model)
        prediction = model(rgb, skeleton, valid)
        (prediction.params.pose.square().sum() + prediction.crop_cam.square().sum()).backward()
        found.append({k: p.grad for k, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(gradient, found[1][name]) for name, gradient in found[0].items())


@pytest.mark.slow
def test_torch_compile_takes_it_as_one_graph(tmp_path: Path):
    """Inductor traces as `aot_eager` does, then generates C++ code, where there is a compiler."""
    backend = "inductor" if shutil.which("g++") else "aot_eager"
    command = [sys.executable, "-m", "tests.model.compiled", backend]
    root = Path(__file__).parents[2]
    env = os.environ | {
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",  # two kernels are not worth it
    }
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("c", [20, 64, 80])
def test_scopes_on_cuda(scope, dtype, c):
    atol = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    qkv = random_qkv((1, 2, 4, 48, 2, c), dtype, grad=True, device="cuda")
    exact = [x.detach().double().requires_grad_() for x in qkv]
    found, expected = attend(*qkv, scope=scope), dense(*exact, scope)
    assert_equal([found], [expected], atol=atol)
    assert_equal(
        torch.autograd.grad(found.square().sum(), qkv),
        torch.autograd.grad(expected.square().sum(), exact),
        atol=5 * atol,
    )
