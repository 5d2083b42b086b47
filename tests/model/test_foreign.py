"""What is read from the shapes and names of other people's checkpoints."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from extpose.config import ModelConfig
from extpose.errors import CheckpointError
from extpose.model.extpose import ExtPose
from extpose.model.foreign import (
    ForeignCheckpoint,
    infer_config,
    lightning_content,
    read_checkpoint,
)
from extpose.recipes import HUGE

DATA = Path(__file__).parents[1] / "data"
SMALL_HEADS = ModelConfig(
    image_size=128,
    patch_size=8,
    width=48,
    depth=3,
    num_heads=3,
    mlp_ratio=2.0,
    max_frames=5,
    head_width=24,
    head_depth=2,
    head_num_heads=2,
    head_dim=6,
    head_mlp_width=20,
)


def checkpoint(state: dict[str, Tensor]) -> ForeignCheckpoint:
    return ForeignCheckpoint(path=Path("x.ckpt"), network=state, others={})


def meta_state(config: ModelConfig) -> dict[str, Tensor]:
    with torch.device("meta"):
        return ExtPose(config).state_dict()


@pytest.mark.parametrize(("name", "body"), [("hmr2", "smpl"), ("hamer", "mano")])
def test_the_released_shapes_are_the_huge_recipe(name, body):
    keys = json.loads((DATA / f"{name}_keys.json").read_text())
    state = {key: torch.empty(shape, device="meta") for key, shape in keys.items()}
    assert infer_config(checkpoint(state)) == replace(HUGE, body=body)


@pytest.mark.parametrize("body", ["smpl", "mano"])
@pytest.mark.parametrize("token", ["zero", "mean_shape"])
def test_any_size_is_read_from_its_shapes(body, token):
    config = replace(SMALL_HEADS, body=body, head_token=token)
    found = infer_config(checkpoint(meta_state(config)), num_heads=3, head_num_heads=2)
    assert found == config


def test_a_backbone_alone_gets_the_released_head():
    keys = json.loads((DATA / "hmr2_keys.json").read_text())
    state = {
        key: torch.empty(shape, device="meta")
        for key, shape in keys.items()
        if key.startswith("backbone")
    }
    assert infer_config(checkpoint(state)) == HUGE
    assert not checkpoint(state).has_head


def test_heads_that_cannot_be_known_are_asked_for():
    state = meta_state(SMALL_HEADS)
    with pytest.raises(CheckpointError, match=r"width 48.*num_heads"):
        infer_config(checkpoint(state))
    with pytest.raises(CheckpointError, match=r"12 attention channels.*head_num_heads"):
        infer_config(checkpoint(state), num_heads=3)


@pytest.mark.parametrize(
    "lost", ["backbone.patch_embed.proj.weight", "backbone.blocks.0.mlp.fc1.weight"]
)
def test_what_decides_must_be_there(lost):
    state = meta_state(SMALL_HEADS)
    del state[lost]
    with pytest.raises(CheckpointError, match=lost):
        infer_config(checkpoint(state), num_heads=3, head_num_heads=2)


def test_positions_must_be_of_an_image():
    state = meta_state(SMALL_HEADS) | {"backbone.pos_embed": torch.empty(1, 198, 48)}
    with pytest.raises(CheckpointError, match="197 tokens"):
        infer_config(checkpoint(state), num_heads=3, head_num_heads=2)


def test_tensors_are_sorted_by_name(tmp_path: Path):
    path, zero = tmp_path / "a.ckpt", torch.zeros(2)
    names = ["patch_embed.proj.bias", "keypoint_head.final_layer.bias", "last_norm.bias"]
    names += ["associate_keypoint_heads.0.bias"]
    torch.save({"state_dict": dict.fromkeys(names, zero)}, path)
    found = read_checkpoint(path)
    assert set(found.network) == {"backbone.patch_embed.proj.bias", "backbone.last_norm.bias"}
    assert found.count_ignored() == {"associate_keypoint_heads.": 1, "keypoint_head.": 1}


def test_parameters_come_as_plain_tensors(tmp_path: Path):
    path = tmp_path / "x.ckpt"
    torch.save({"backbone.pos_embed": torch.nn.Parameter(torch.ones(2))}, path)
    (tensor,) = read_checkpoint(path).network.values()
    assert type(tensor) is Tensor
    assert not tensor.requires_grad


def test_what_is_there_instead_is_said(tmp_path: Path):
    path = tmp_path / "x.ckpt"
    torch.save({"model": {"backbone.pos_embed": torch.ones(2)}}, path)
    with pytest.raises(CheckpointError, match=r"no tensors .*\{'model': 'dict'\}"):
        read_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"no key .*patch_embed.* 1 keys are such as \['odd'"):
        infer_config(checkpoint({"odd": torch.ones(2)}))


def test_a_mixture_of_experts_is_refused_by_name(tmp_path: Path):
    path = tmp_path / "vitpose+.pth"
    names = ("blocks.0.mlp.fc1.bias", "blocks.0.mlp.experts.3.weight")
    torch.save({"state_dict": {f"backbone.{name}": torch.zeros(2) for name in names}}, path)
    with pytest.raises(CheckpointError, match=r"vitpose\+\.pth.*mlp\.experts\.3\.weight"):
        read_checkpoint(path)


def test_back_to_the_reference_layout_there_is_no_place_for_more():
    state = {"backbone.a": torch.zeros(1), "smpl_head.b": torch.zeros(1)}
    content = lightning_content(
        state | {"temporal_embed": torch.zeros(2)}, "smpl", discriminator={}
    )
    assert content["state_dict"] == state
    with pytest.raises(ValueError, match=r"\['fusion.weight'\] \(1 keys\)"):
        lightning_content(state | {"fusion.weight": torch.zeros(2)}, "smpl", discriminator={})
