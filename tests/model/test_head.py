"""The decoder's modes; its numbers are in `tests/parity`."""

from dataclasses import replace

import pytest
import torch

from extpose.config import ModelConfig
from extpose.model.extpose import ExtPose
from extpose.model.head import PoseHead

CONFIG = ModelConfig(
    image_size=64,
    width=16,
    depth=1,
    num_heads=2,
    max_frames=2,
    head_width=8,
    head_depth=1,
    head_num_heads=2,
    head_dim=4,
    head_mlp_width=8,
)


def head(**changes: object) -> PoseHead:
    torch.manual_seed(0)
    made = PoseHead(replace(CONFIG, **changes))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return made


@pytest.mark.parametrize(("body", "size"), [("smpl", 157), ("mano", 109)])
def test_the_token_is_a_zero_or_the_estimate(body, size):
    widths = [
        head(body=body, head_token=token).transformer.to_token_embedding.in_features
        for token in ("zero", "mean_shape")
    ]
    assert widths == [1, size]


@torch.no_grad()
def test_iterations_with_a_zero_token_add_the_same_step():
    context = torch.randn(2, 12, 16)
    one, three = (head(head_ief_iters=n) for n in (1, 3))
    start = torch.cat([one.init_body_pose, one.init_betas, one.init_cam], 1)
    steps = [torch.cat(made(context), 1) - start for made in (one, three)]
    torch.testing.assert_close(3 * steps[0], steps[1])


@torch.no_grad()
def test_iterations_with_the_estimate_feed_it_back():
    context = torch.randn(2, 12, 16)
    one = head(head_token="mean_shape")
    two = head(head_token="mean_shape", head_ief_iters=2)
    pose, betas, cam = one(context)
    results = []
    for i in range(2):  # each frame has its own estimate to start the second iteration from
        one.init_body_pose, one.init_betas, one.init_cam = pose[i : i + 1], betas[i], cam[i]
        one.init_betas, one.init_cam = one.init_betas[None], one.init_cam[None]
        results.append(torch.cat(one(context[i : i + 1]), 1))
    torch.testing.assert_close(torch.cat(two(context), 1), torch.cat(results))


def test_every_iteration_has_a_gradient():
    made = head(head_token="mean_shape", head_ief_iters=3)
    torch.cat(made(torch.randn(2, 12, 16)), 1).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in made.parameters())


@pytest.mark.parametrize(
    ("change", "words"), [({"head_ief_iters": 0}, "0"), ({"head_token": "one"}, "'one'")]
)
def test_unknown_modes_are_refused(change, words):
    config = replace(CONFIG)
    for name, value in change.items():
        object.__setattr__(config, name, value)  # past the type checks that tests run with
    with pytest.raises(ValueError, match=words):
        ExtPose(config)
