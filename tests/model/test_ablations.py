"""What the paper compares with: what each switch adds, where it starts, and what trains."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from extpose.config import ModelConfig
from extpose.model.ablations import (
    HEATMAP_SIGMA,
    build_network,
    copy_backbone,
    draw_heatmaps,
    extra_parameters,
)
from extpose.model.extpose import ExtPose
from extpose.model.weights import load_model, load_pretrained, save_model
from extpose.recipes import HUGE, TINY

MICRO = replace(
    TINY, image_size=64, width=32, depth=4, num_heads=2, max_frames=2, head_width=16, head_depth=1,
    head_num_heads=2, head_dim=8, head_mlp_width=24, head_context="image",
)  # fmt: skip
JOINT = MICRO
LATE = replace(MICRO, fusion="late", fusion_blocks=1)
CHANNEL = replace(MICRO, fusion="channel")
CONTROLNET = replace(MICRO, fusion="controlnet")
HEATMAP = replace(MICRO, skeleton_input="heatmap")
COORDINATES = replace(MICRO, skeleton_input="coordinates")
ALL = {
    "joint": JOINT,
    "late": LATE,
    "channel": CHANNEL,
    "controlnet": CONTROLNET,
    "heatmap": HEATMAP,
    "coordinates": COORDINATES,
}
ADDING = ("channel", "controlnet", "heatmap", "coordinates")


def inputs(config: ModelConfig, *, b: int = 2, t: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random crops, and random drawings or keypoints."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, b, t, 3, 64, 64, generator=generator)
    if config.skeleton_input == "drawing":
        return images[0], images[1]
    count = 17 if config.body == "smpl" else 21
    points = torch.rand(b, t, count, 3, generator=generator) - torch.tensor([0.5, 0.5, 0.0])
    return images[0], points


def network(config: ModelConfig, seed: int = 0) -> ExtPose:
    torch.manual_seed(seed)
    return build_network(config).eval()


def shaken(config: ModelConfig) -> ExtPose:
    """No zeros that hide something."""
    model = network(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def output(model: ExtPose, *given: Tensor | None) -> Tensor:
    with torch.no_grad():
        found = model(*given)
    parts = (found.params.global_orient, found.params.pose, found.crop_cam)
    return torch.cat([part.flatten(2) for part in parts], dim=-1)


def test_the_default_is_the_papers_method_and_nothing_else() -> None:
    model = network(JOINT)
    assert type(model) is ExtPose
    assert model.ablation is None
    assert not [key for key in model.state_dict() if "ablation" in key]
    assert extra_parameters(model) == {"temporal_embed": 2 * 32}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (replace(HUGE, fusion="late", fusion_blocks=8), {}),
        (replace(HUGE, fusion="channel"), {"ablation.patch_embed": 3 * 16 * 16 * 1280}),
        (
            replace(HUGE, fusion="controlnet"),
            {
                "ablation.encoder": 630_912_000 - 2 * 1280,
                "ablation.enter": 1280 * 1281,
                "ablation.leave": 32 * 1280 * 1281,
            },
        ),
        (
            replace(HUGE, skeleton_input="heatmap"),
            {"ablation.patch_embed": (17 * 16 * 16 + 1) * 1280},
        ),
        (
            replace(HUGE, skeleton_input="heatmap", body="mano"),
            {"ablation.patch_embed": (21 * 16 * 16 + 1) * 1280},
        ),
    ],
)
def test_added_parameters_at_full_size(config: ModelConfig, expected: dict[str, int]) -> None:
    with torch.device("meta"):
        model = build_network(config)
    assert extra_parameters(model) == {"temporal_embed": 16 * 1280} | expected
    total = sum(p.numel() for p in model.parameters())
    with torch.device("meta"):
        image = ExtPose(replace(HUGE, body=config.body, max_frames=1))
    assert total - sum(p.numel() for p in image.parameters()) == sum(
        extra_parameters(model).values()
    )


def test_late_fusion_is_joint_in_the_last_blocks_only() -> None:
    assert LATE.block_scopes == ("stream", "stream", "stream", "union")
    assert network(LATE).state_dict().keys() == network(JOINT).state_dict().keys()
    assert [b.scope for b in network(LATE).backbone.blocks] == list(LATE.block_scopes)
    model, (rgb, skeleton) = shaken(LATE), inputs(LATE)
    seen: list[Tensor] = []
    for block in model.backbone.blocks:
        block.register_forward_hook(lambda _m, _i, tokens: seen.append(tokens))
    for drawing in (skeleton, skeleton + 1):
        output(model, rgb, drawing)
    moved = [
        [(seen[i][:, s] - seen[i + 4][:, s]).abs().max() > 1e-6 for s in (0, 1)] for i in range(4)
    ]
    assert moved == [[False, True]] * 3 + [[True, True]]


@pytest.mark.parametrize("name", ["channel", "controlnet", "coordinates"])
def test_what_was_just_added_changes_nothing(name: str) -> None:
    """The output starts as that of the image model, whatever the skeleton."""
    model = network(ALL[name])
    image = ExtPose(JOINT).eval()
    image.load_state_dict(model.state_dict(), strict=False)
    rgb, skeleton = inputs(ALL[name])
    torch.testing.assert_close(output(model, rgb, skeleton), output(image, rgb), rtol=0, atol=1e-6)
    assert torch.equal(output(model, rgb), output(image, rgb))


@pytest.mark.parametrize("name", ALL)
def test_the_skeleton_is_seen(name: str) -> None:
    model, (rgb, skeleton) = shaken(ALL[name]), inputs(ALL[name])
    difference = output(model, rgb, skeleton) - output(model, rgb, skeleton * 0.5)
    assert (difference.abs().amax(-1) > 1e-6).all()


@pytest.mark.parametrize("name", ALL)
def test_padding_changes_nothing(name: str) -> None:
    model, (rgb, skeleton) = shaken(ALL[name]), inputs(ALL[name], b=1)
    valid = torch.tensor([[True, False]])
    padded = output(model, rgb, skeleton, valid)[:, :1]
    torch.testing.assert_close(padded, output(model, rgb[:, :1], skeleton[:, :1]))


def test_channel_fusion_is_one_convolution_of_six_channels() -> None:
    model, (rgb, skeleton) = shaken(CHANNEL), inputs(CHANNEL, b=1, t=1)
    first, second = model.backbone.patch_embed.proj, model.ablation.patch_embed.proj
    six = torch.nn.Conv2d(6, 32, 16, stride=16, padding=2)
    six.weight.data, six.bias.data = torch.cat([first.weight, second.weight], 1), first.bias.data
    both = torch.cat([rgb, skeleton], 2)[0, 0, :, :, 8:-8]
    seen: list[Tensor] = []
    model.backbone.blocks[0].register_forward_pre_hook(lambda _m, given: seen.append(given[0]))
    output(model, rgb, skeleton)
    patches = six(both[None]).flatten(2).mT
    expected = model.backbone.place(patches[None, None], model.temporal_embed[:1])
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-5)


def test_controlnet_copies_the_encoder_that_was_loaded(tmp_path: Path) -> None:
    image = shaken(replace(JOINT, max_frames=1))
    path = tmp_path / "image.safetensors"
    save_file(image.state_dict(), path)
    for name in ADDING:
        model = network(ALL[name], seed=1)
        before = {k: v.clone() for k, v in model.state_dict().items() if k.startswith("ablation.")}
        load_pretrained(model, path)
        rgb, skeleton = inputs(ALL[name], t=1)
        if name != "heatmap":
            torch.testing.assert_close(
                output(model, rgb, skeleton), output(image, rgb), rtol=0, atol=1e-5
            )
        for key, value in model.state_dict().items():
            if key.startswith("ablation.encoder.") and name == "controlnet":
                source = "backbone." + key.removeprefix("ablation.encoder.")
                assert torch.equal(value, model.state_dict()[source]), key
            elif key.startswith("ablation."):
                assert torch.equal(value, before[key]), key
    copied = dict(network(CONTROLNET).named_parameters())
    assert all(
        copied[name].data_ptr() != copied[name.replace("ablation.encoder", "backbone")].data_ptr()
        for name in copied
        if name.startswith("ablation.encoder.")
    )


def test_copying_means_nothing_to_other_networks() -> None:
    model = network(HEATMAP)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    copy_backbone(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ALL)
def test_files_carry_what_was_added(name: str, tmp_path: Path) -> None:
    model = shaken(ALL[name])
    save_model(tmp_path / "model.safetensors", model)
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.config == ALL[name]
    given = inputs(ALL[name])
    assert torch.equal(output(loaded, *given), output(model, *given))


@pytest.mark.parametrize("name", ALL)
def test_training_reaches_every_parameter_and_the_loss_falls(name: str) -> None:
    model, given = network(ALL[name]).train(), inputs(ALL[name])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(9)
    goal = torch.randn(2, 2, 23, 3, 3, generator=generator) * 0.1 + torch.eye(3)
    losses, reached = [], set[str]()
    for _ in range(12):
        found = model(*given)
        loss = (found.params.pose - goal).square().mean() + found.crop_cam.square().mean()
        loss = loss + found.params.betas.square().mean() + found.params.global_orient[..., 0].mean()
        optimizer.zero_grad()
        loss.backward()
        reached |= {
            key
            for key, parameter in model.named_parameters()
            if parameter.grad is not None and parameter.grad.any()
        }
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0], losses
    zero_query = {
        key for key in dict(model.named_parameters()) if "to_token_embedding.weight" in key
    }
    assert dict(model.named_parameters()).keys() - reached == zero_query


def test_heatmaps_are_gaussians_as_high_as_the_confidence() -> None:
    points = torch.tensor([[[[0.25, -0.125, 0.8], [0.0, 0.0, 0.0]]]])
    maps = draw_heatmaps(points, size=64)[0, 0]
    assert maps[1].abs().max() == 0
    top = maps[0].flatten().argmax()
    assert divmod(int(top), 64) == (24, 48)  # row, column: (y + 0.5, x + 0.5) * 64
    assert maps[0, 24, 48] == pytest.approx(0.8)
    sigma = int(64 * HEATMAP_SIGMA)
    for row, column in ((24 + sigma, 48), (24, 48 - sigma)):
        assert maps[0, row, column] == pytest.approx(0.8 * 0.60653, rel=1e-4)


def refuse(config: ModelConfig, *words: str, build: Callable[..., ExtPose] = build_network) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        build(config)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (replace(LATE, fusion_blocks=0), ("late", "fusion_blocks 0")),
        (replace(LATE, fusion_blocks=4), ("late", "fusion_blocks 4", "3")),
        (replace(JOINT, fusion_blocks=2), ("joint", "fusion_blocks 2")),
        (replace(LATE, scope=("union",) * 4), ("late", "union")),
        (replace(LATE, scope=("stream",)), ("late", "stream")),
        (replace(CHANNEL, scope=("full",)), ("channel", "full", "union")),
        (replace(CONTROLNET, scope=("frame", "sequential") * 2), ("controlnet", "sequential")),
        (replace(COORDINATES, scope=("full",)), ("coordinates", "full")),
        (replace(CHANNEL, head_context="both"), ("channel", "both")),
        (replace(COORDINATES, head_context="both"), ("coordinates", "both")),
        (replace(CHANNEL, skeleton_input="heatmap"), ("channel", "heatmap")),
        (replace(CONTROLNET, skeleton_input="coordinates"), ("controlnet", "coordinates")),
        (replace(LATE, skeleton_input="coordinates"), ("late", "coordinates")),
    ],
)
def test_switches_that_exclude_each_other(config: ModelConfig, words: tuple[str, ...]) -> None:
    refuse(config, *words)


def test_a_network_without_its_modules_is_refused() -> None:
    refuse(CHANNEL, "channel", "build_network", build=ExtPose)
    refuse(COORDINATES, "coordinates", "build_network", build=ExtPose)


def test_wrong_evidence_is_refused_with_both_values() -> None:
    rgb, points = inputs(HEATMAP)
    with pytest.raises(ValueError, match=r"\(2, 2, 3, 64, 64\).*\(2, 2, 17, 3\).*drawing"):
        network(JOINT)(rgb, points)
    with pytest.raises(ValueError, match=r"\(2, 2, 3, 64, 64\).*heatmap"):
        network(HEATMAP)(rgb, rgb)
    with pytest.raises(ValueError, match=r"21 keypoints.*17"):
        network(HEATMAP)(rgb, torch.zeros(2, 2, 21, 3))
