"""The network against HMR2.0's numbers, and what its extension must keep."""

import ast
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from torch.utils.checkpoint import checkpoint

from extpose.config import ModelConfig
from extpose.geometry import crop_cam_to_transl
from extpose.model.extpose import ExtPose
from extpose.model.head import HEAD_NAME
from extpose.model.vit import token_grid
from extpose.recipes import BASE, HUGE, SMALL, TINY
from extpose.rotations import rot6d_to_matrix
from tests.reference_recipe import reference_state, uniform

DATA = Path(__file__).parents[1] / "data"
MINI = ModelConfig(
    width=64,
    depth=3,
    num_heads=4,
    drop_path=0.0,
    max_frames=4,
    head_width=48,
    head_depth=2,
    head_num_heads=4,
    head_dim=16,
    head_mlp_width=96,
)
"""The size of the reference numbers."""
MICRO = replace(
    MINI, image_size=64, width=32, depth=2, num_heads=2, head_width=16, head_context="both"
)
ATOL = 5e-6


def reference_model(config: ModelConfig = MINI) -> ExtPose:
    model = ExtPose(config)
    model.load_state_dict(reference_state(model.state_dict()), strict=False)
    return model.eval()


def random_model(config: ModelConfig, seed: int = 0) -> ExtPose:
    """All weights random, so that nothing is hidden behind zeros."""
    torch.manual_seed(seed)
    model = ExtPose(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def crops(config: ModelConfig, b: int, t: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(b, t, 3, config.image_size, config.image_size, generator=generator)


def stored_image(numbers: dict[str, np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(numbers["image64"].astype(np.float32) / 64)[None, None]


@torch.no_grad()
def test_backbone_has_the_reference_features():
    numbers = dict(np.load(DATA / "vit_small.npz"))
    tokens = reference_model().backbone(stored_image(numbers)[:, None, ..., 32:-32])
    feat = rearrange(tokens[0, 0, 0], "(h w) d -> d h w", h=16)
    assert np.abs(feat[::4].numpy() - numbers["feat"]).max() < ATOL


@torch.no_grad()
def test_blocks_have_the_reference_numbers_on_longer_token_sequences():
    """384 tokens are the two streams of a frame; 768 two frames of them, all seeing all."""
    numbers = dict(np.load(DATA / "vit_small.npz"))
    backbone = reference_model().backbone
    tokens = torch.from_numpy(uniform("tok384", (1, 384, 64)))
    tokens = rearrange(tokens, "b (s n) d -> b s 1 n d", s=2)
    for block in backbone.blocks:
        tokens = block(tokens, None)
    stack = rearrange(backbone.last_norm(tokens), "b s t n d -> (b s t n) d")
    assert np.abs(stack[::16].numpy() - numbers["stack_tok384"]).max() < ATOL
    tokens = torch.from_numpy(uniform("tok768", (1, 768, 64)))
    tokens = rearrange(tokens, "b (s t n) d -> b s t n d", s=2, t=2)
    mixed = rearrange(backbone.blocks[0].attn(tokens, "full", None), "b s t n d -> (b s t n) d")
    assert np.abs(mixed[::32].numpy() - numbers["attn_tok768"]).max() < ATOL


@torch.no_grad()
def test_head_has_the_reference_outputs():
    numbers = dict(np.load(DATA / "hmr2_small.npz"))
    features = torch.from_numpy(uniform("feat.head", (2, 64, 16, 12)))
    pose, betas, cam = reference_model().head(rearrange(features, "b d h w -> b (h w) d"))
    rotations = rot6d_to_matrix(pose.unflatten(-1, (24, 6))).numpy()
    assert np.abs(rotations[:, :1] - numbers["head_global_orient"]).max() < ATOL
    assert np.abs(rotations[:, 1:] - numbers["head_body_pose"]).max() < ATOL
    assert np.abs(betas.numpy() - numbers["head_betas"]).max() < ATOL
    assert np.abs(cam.numpy() - numbers["head_cam"]).max() < ATOL


@torch.no_grad()
@pytest.mark.parametrize("scope", ["frame", "stream", "union", "full", "sequential"])
def test_one_frame_without_a_skeleton_is_the_image_model(scope):
    numbers = dict(np.load(DATA / "hmr2_small.npz"))
    prediction = reference_model(replace(MINI, scope=(scope,)))(stored_image(numbers))
    params = prediction.params
    assert np.abs(params.global_orient[0].numpy() - numbers["global_orient"]).max() < ATOL
    assert np.abs(params.pose[0, 0].numpy() - numbers["body_pose"]).max() < ATOL
    assert np.abs(params.betas[0].numpy() - numbers["betas"]).max() < ATOL
    assert np.abs(prediction.crop_cam[0, 0].numpy() - numbers["pred_cam"]).max() < ATOL
    transl = crop_cam_to_transl(prediction.crop_cam)[0, 0].numpy()
    assert np.allclose(transl, numbers["pred_cam_t"], rtol=1e-5)


@pytest.mark.parametrize(("body", "file"), [("smpl", "hmr2"), ("mano", "hamer")])
def test_full_size_has_every_reference_key_and_one_more(body, file):
    expected = {
        key: tuple(shape)
        for key, shape in json.loads((DATA / f"{file}_keys.json").read_text()).items()
    }
    with torch.device("meta"):
        model = ExtPose(replace(HUGE, body=body))
    found = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert found.pop("temporal_embed") == (16, 1280)
    assert found == expected


@pytest.mark.parametrize("config", [TINY, SMALL, BASE, HUGE])
def test_the_extension_has_no_parameters_of_its_own(config):
    with torch.device("meta"):
        image = ExtPose(replace(config, max_frames=1, temporal_positions=False, scope=("frame",)))
        video = ExtPose(config)
    counts = [sum(p.numel() for p in model.backbone.parameters()) for model in (image, video)]
    assert counts[0] == counts[1]
    extra = sum(p.numel() for p in video.parameters()) - sum(p.numel() for p in image.parameters())
    assert extra == config.max_frames * config.width
    if config is HUGE:
        assert counts[1] == 630_912_000


@torch.no_grad()
@pytest.mark.parametrize("scope", ["frame", "stream", "union", "full", "sequential"])
def test_an_untrained_extension_to_a_still_video_is_the_image_model(scope):
    """A softmax over copies of the same keys is the softmax over the keys."""
    model = random_model(replace(MICRO, scope=(scope,)))
    model.temporal_embed.zero_()
    image = crops(MICRO, b=2, t=1)
    one = model(image)
    many = model(image.expand(-1, 4, -1, -1, -1))
    for t in range(4):
        torch.testing.assert_close(many.params.pose[:, t], one.params.pose[:, 0])
        torch.testing.assert_close(many.crop_cam[:, t], one.crop_cam[:, 0])
    torch.testing.assert_close(many.params.betas, one.params.betas)


@torch.no_grad()
def test_the_fresh_temporal_table_changes_nothing():
    torch.manual_seed(0)
    model = ExtPose(MICRO).eval()
    rgb = crops(MICRO, b=1, t=3)
    before = model(rgb, rgb.flip(-1)).params.pose
    model.temporal_embed = None
    assert torch.equal(model(rgb, rgb.flip(-1)).params.pose, before)


@torch.no_grad()
@pytest.mark.parametrize(
    ("scope", "skeleton_moves"),
    [
        ("frame", {1}),
        ("stream", set()),
        ("union", {0, 1, 2}),
        ("full", {0, 1, 2}),
        ("sequential", {0, 1, 2}),
    ],
)
def test_what_a_changed_skeleton_frame_moves(scope, skeleton_moves):
    """With the image stream as context, frames move as two blocks of the scope let them."""
    model = random_model(replace(MICRO, scope=(scope,), head_context="image"))
    rgb, skeleton = crops(MICRO, b=1, t=3), crops(MICRO, b=1, t=3, seed=2)
    changed = skeleton.clone()
    changed[:, 1] += 1
    difference = model(rgb, skeleton).params.pose - model(rgb, changed).params.pose
    assert {t for t in range(3) if difference[0, t].abs().max() > 1e-6} == skeleton_moves


@torch.no_grad()
def test_scopes_of_blocks_may_differ():
    rgb, skeleton = crops(MICRO, b=1, t=2), crops(MICRO, b=1, t=2, seed=2)
    results = [
        random_model(replace(MICRO, scope=scope))(rgb, skeleton).params.pose
        for scope in (("frame", "stream"), ("stream", "frame"), ("frame", "frame"))
    ]
    assert not torch.allclose(results[0], results[1])
    assert not torch.allclose(results[0], results[2])


@torch.no_grad()
@pytest.mark.parametrize("scope", ["frame", "stream", "union", "full", "sequential"])
def test_padding_does_not_change_the_clip(scope):
    model = random_model(replace(MICRO, scope=(scope,)))
    rgb, skeleton = crops(MICRO, b=2, t=4), crops(MICRO, b=2, t=4, seed=2)
    valid = torch.tensor([[True, True, False, False], [True] * 4])
    padded = model(rgb, skeleton, valid)
    short, whole = model(rgb[:1, :2], skeleton[:1, :2]), model(rgb, skeleton)
    torch.testing.assert_close(padded.params.pose[:1, :2], short.params.pose)
    torch.testing.assert_close(padded.crop_cam[:1, :2], short.crop_cam)
    torch.testing.assert_close(padded.params.betas[:1], short.params.betas)
    torch.testing.assert_close(padded.params.betas[1], whole.params.betas[1])
    assert torch.isfinite(padded.params.pose).all()


@torch.no_grad()
def test_context_of_the_head_decides_whether_the_last_skeleton_tokens_matter():
    rgb, skeleton = crops(MICRO, b=1, t=1), crops(MICRO, b=1, t=1, seed=2)
    config = replace(MICRO, scope=("stream",))
    for context, is_seen in (("image", False), ("both", True)):
        model = random_model(replace(config, head_context=context, max_frames=2))
        rgb2, skeleton2 = rgb.expand(1, 2, -1, -1, -1), skeleton.expand(1, 2, -1, -1, -1)
        difference = model(rgb2, skeleton2).params.pose - model(rgb2, skeleton2 + 1).params.pose
        assert bool((difference.abs() > 1e-6).any()) == is_seen


def test_start_is_an_upright_person_in_front_of_the_camera():
    torch.manual_seed(0)
    prediction = ExtPose(MICRO).eval()(crops(MICRO, b=1, t=1))
    up, forward = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
    root = prediction.params.global_orient[0, 0]
    assert (root @ up)[1] < -0.98
    assert (root @ forward)[2] < -0.98
    left_arm = prediction.params.pose[0, 0, 15] @ torch.tensor([1.0, 0.0, 0.0])
    right_arm = prediction.params.pose[0, 0, 16] @ torch.tensor([-1.0, 0.0, 0.0])
    assert left_arm[1] < -0.7
    assert right_arm[1] < -0.7
    assert abs(prediction.crop_cam[0, 0, 0] - 0.9) < 0.1


def test_every_parameter_gets_a_gradient_with_and_without_recomputation():
    model = random_model(MICRO).train()
    rgb, skeleton = crops(MICRO, b=1, t=2), crops(MICRO, b=1, t=2, seed=2)
    gradients = []
    for recompute in (False, True):
        if recompute:
            for block in model.backbone.blocks:
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        model.zero_grad()
        prediction = model(rgb, skeleton)
        loss = prediction.params.pose.square().sum() + prediction.crop_cam.sum()
        (
            loss + prediction.params.betas.sum() + prediction.params.global_orient[..., 0].sum()
        ).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    assert gradients[0].keys() == dict(model.named_parameters()).keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name])


def test_stochastic_depth_draws_once_for_a_clip():
    torch.manual_seed(0)
    model = random_model(replace(MICRO, drop_path=0.5)).train()
    rgb = crops(MICRO, b=1, t=1).expand(16, 2, -1, -1, -1)
    with torch.no_grad():
        model.temporal_embed.zero_()
        pose = model(rgb).params.pose
    torch.testing.assert_close(pose[:, 0], pose[:, 1])
    assert len({round(float(p), 5) for p in pose[:, 0, 0, 0, 0]}) > 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 65}, ("65", "num_heads 4")),
        ({"scope": ("union", "frame")}, ("2 scopes", "3 blocks")),
        ({"scope": ("diagonal",)}, ("diagonal", "union")),
        ({"body": "flame"}, ("flame", "mano")),
        ({"max_frames": 0}, ("0",)),
    ],
)
def test_bad_configs_are_refused(change, words):
    config = replace(MINI)
    for name, value in change.items():
        object.__setattr__(config, name, value)  # past the type checks that tests run with
    with pytest.raises(ValueError) as error:  # noqa: PT011
        ExtPose(config)
    assert all(word in str(error.value) for word in words)


def test_bad_input_is_refused_with_both_values():
    model = ExtPose(MICRO)
    with pytest.raises(ValueError, match=r"5 frames.*4"):
        model(crops(MICRO, b=1, t=5))
    with pytest.raises(ValueError, match=r"\(64, 32\).*\(64, 64\)"):
        model(crops(MICRO, b=1, t=1)[..., :32])
    rgb = crops(MICRO, b=1, t=2)
    with pytest.raises(ValueError, match=r"float32 on cpu, skeleton torch.float64 on cpu"):
        model(rgb, rgb.double())
    with pytest.raises(ValueError, match=r"float32 on cpu, skeleton torch.float32 on meta"):
        model(rgb, rgb.to("meta"))
    images = torch.stack([rgb] * 3, dim=1)[..., 8:-8]
    with pytest.raises(ValueError, match=r"3 streams.*2"):
        model.backbone(images)


def test_shapes_that_differ_are_refused_with_both_values():
    """Behind the shape checks that tests run with."""
    model, rgb = ExtPose(MICRO), crops(MICRO, b=1, t=2)
    with pytest.raises(ValueError, match=r"\(1, 2, 3, 64, 64\).*\(1, 1, 3, 64, 64\)"):
        model._check_input(rgb, rgb[:, :1], None)
    with pytest.raises(ValueError, match=r"\(1, 3\).*\(1, 2\)"):
        model._check_input(rgb, None, torch.ones(1, 3, dtype=torch.bool))


@pytest.mark.parametrize(
    ("config", "grid"), [(HUGE, (16, 12)), (TINY, (4, 3)), (replace(TINY, patch_size=8), (8, 6))]
)
def test_token_grid(config, grid):
    assert token_grid(config) == grid


def test_body_and_hand_differ_by_config_only():
    model = ExtPose(replace(MICRO, body="mano"))
    assert model(crops(MICRO, b=1, t=1)).params.pose.shape == (1, 1, 15, 3, 3)
    assert {key.split(".")[0] for key in model.state_dict()} == {
        "backbone",
        HEAD_NAME["mano"],
        "temporal_embed",
    }


def test_the_network_is_readable_in_one_sitting():
    """At most 8 files and 1,000 lines of this project are reached from `model/extpose.py`."""
    root = Path(__file__).parents[2]
    reached: dict[Path, int] = {}
    pending = [root / "extpose/model/extpose.py"]
    while pending:
        path = pending.pop()
        if path in reached:
            continue
        text = path.read_text()
        reached[path] = len(text.splitlines())
        pending.extend(
            root / f"{node.module.replace('.', '/')}.py"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.ImportFrom) and node.module and node.module[:7] == "extpose"
        )
    assert len(reached) <= 8, sorted(reached)
    assert sum(reached.values()) <= 1000, reached
    forward = next(
        node
        for node in ast.walk(ast.parse((root / "extpose/model/extpose.py").read_text()))
        if isinstance(node, ast.FunctionDef) and node.name == "forward"
    )
    assert (forward.end_lineno or 0) - forward.lineno < 30
