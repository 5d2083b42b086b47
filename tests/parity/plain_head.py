"""The decoder once more, in numpy and float64, written down from its description alone.

One query, from a zero or from the estimate so far; layers of self-attention (over one query: a
linear map), cross-attention and a two-layer perceptron, each with a layer norm before it (eps 1e-5)
and added to its input; three linear readouts, added to the estimate; repeated.
"""

import numpy as np
from scipy.special import erf


def run_head(
    state: dict[str, np.ndarray],
    context: np.ndarray,
    *,
    num_heads: int,
    num_iterations: int,
    starts_from_mean: bool,
) -> np.ndarray:
    """6D pose, betas and camera side by side; `state` has no prefix, `context` is (f, m, c)."""
    s = {key: value.astype(np.float64) for key, value in state.items()}
    pose = s["init_body_pose"] if "init_body_pose" in s else s["init_hand_pose"]
    estimate = np.concatenate([pose, s["init_betas"], s["init_cam"]], 1)
    estimate = estimate.repeat(len(context), 0)
    num_layers = 1 + max(int(key.split(".")[3]) for key in s if ".layers." in key)
    for _ in range(num_iterations):
        token = estimate if starts_from_mean else np.zeros((len(context), 1))
        x = _linear(s, "transformer.to_token_embedding", token)
        x = x + s["transformer.pos_embedding"][0]
        for i in range(num_layers):
            layer = f"transformer.transformer.layers.{i}."
            x = x + _self_attend(s, layer + "0.", x)
            x = x + _cross_attend(s, layer + "1.", x, context, num_heads)
            hidden = _linear(s, layer + "2.fn.net.0", _norm(s, layer + "2.", x))
            hidden = hidden * 0.5 * (1 + erf(hidden / np.sqrt(2)))
            x = x + _linear(s, layer + "2.fn.net.3", hidden)
        readouts = [_linear(s, name, x) for name in ("decpose", "decshape", "deccam")]
        estimate = estimate + np.concatenate(readouts, 1)
    return estimate


def _linear(s: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    return x @ s[f"{name}.weight"].T + s.get(f"{name}.bias", 0.0)


def _norm(s: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * s[f"{name}norm.weight"] + s[f"{name}norm.bias"]


def _self_attend(s: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    """A softmax over one key is 1: what is left is the value."""
    value = np.split(_linear(s, f"{name}fn.to_qkv", _norm(s, name, x)), 3, axis=-1)[2]
    return _linear(s, f"{name}fn.to_out.0", value)


def _cross_attend(
    s: dict[str, np.ndarray], name: str, x: np.ndarray, context: np.ndarray, num_heads: int
) -> np.ndarray:
    query = _linear(s, f"{name}fn.to_q", _norm(s, name, x))
    key, value = np.split(_linear(s, f"{name}fn.to_kv", context), 2, axis=-1)
    outs = []
    for h in range(num_heads):
        width = query.shape[-1] // num_heads
        part = slice(h * width, (h + 1) * width)
        scores = np.einsum("fc,fmc->fm", query[:, part], key[..., part]) / np.sqrt(width)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        outs.append(np.einsum("fm,fmc->fc", shares, value[..., part]))
    return _linear(s, f"{name}fn.to_out.0", np.concatenate(outs, -1))
