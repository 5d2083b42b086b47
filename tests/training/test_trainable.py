"""Which parameters move in training, to the bit, and that checkpoints do not show it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from extpose.config import EngineConfig, Trainable
from extpose.model.ablations import build_network
from extpose.model.extpose import ExtPose
from extpose.model.weights import load_model, save_model
from extpose.recipes import TINY
from extpose.training.parts import create_model
from extpose.training.plain import create_optimizer
from extpose.training.run import run_worker
from extpose.training.trainable import QueryKeyLinear, count_parameters, select_trainable
from tests.pipelines.train_runs import config_for, write_data
from tests.processes import run_together

CONFIG = replace(
    TINY, image_size=32, width=24, depth=4, num_heads=2, max_frames=2, head_width=24, head_depth=1,
    head_num_heads=2, head_dim=12, head_mlp_width=24,
)  # fmt: skip
QKV = ("attn.qkv.weight", "attn.qkv.bias")


def is_trained(key: str, trainable: Trainable) -> bool | None:
    """What the rule says of a state-dict entry; None: only its first two thirds."""
    if not key.startswith("backbone.") or trainable == "all":
        return True
    if trainable == "qk" and key.endswith(QKV):
        return None
    if trainable == "first_half" and key.startswith("backbone.blocks."):
        return int(key.split(".")[2]) < 2
    return False


def check_moved(before: dict[str, Tensor], after: dict[str, Tensor], trainable: Trainable) -> None:
    """Every trained row has moved, and no bit of any other."""
    assert before.keys() == after.keys()
    for key, old in before.items():
        moved = old != after[key]
        expected = is_trained(key, trainable)
        if key.endswith(("init_body_pose", "init_betas", "init_cam")):
            expected = False  # a buffer
        if expected is None:
            rows = len(old) // 3 * 2
            assert moved[:rows].any(), key
            assert not moved[rows:].any(), key
        elif key.endswith("to_token_embedding.weight"):
            continue  # it is multiplied by zero
        else:
            assert bool(moved.any()) == expected, key


def make(trainable: Trainable, **changes: object) -> ExtPose:
    """All values away from zero, so that weight decay moves every one that it reaches."""
    torch.manual_seed(0)
    model = build_network(replace(CONFIG, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    select_trainable(model, trainable)
    return model


def steps(model: ExtPose, count: int = 3) -> list[float]:
    """A few of AdamW with a decay that would show."""
    optimizer = create_optimizer(model, EngineConfig(lr=1e-2, weight_decay=0.1))
    rgb, skeleton = torch.randn(2, 2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    losses = []
    for _ in range(count):
        found = model(rgb, skeleton)
        loss = (found.params.pose - torch.eye(3)).square().mean() + found.crop_cam.square().mean()
        loss = loss + found.params.betas.square().mean() + found.params.global_orient[..., 0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def clone(model: ExtPose) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


@pytest.mark.parametrize("trainable", ["all", "qk", "first_half", "added"])
def test_exactly_the_chosen_parameters_move(trainable: Trainable) -> None:
    model = make(trainable)
    before = clone(model)
    losses = steps(model)
    assert losses[-1] < losses[0]
    check_moved(before, clone(model), trainable)


def test_the_values_of_a_frozen_network_do_not_change_its_output_or_its_gradient() -> None:
    whole, part = make("all"), make("qk")
    images = torch.randn(1, 2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for model in (whole, part):
        model(images, images).params.pose.square().sum().backward()
    qkv, split = whole.backbone.blocks[1].attn.qkv, part.backbone.blocks[1].attn.qkv
    assert isinstance(split, QueryKeyLinear)
    torch.testing.assert_close(split.weight_qk.grad, qkv.weight.grad[:48])
    torch.testing.assert_close(split.bias_qk.grad, qkv.bias.grad[:48])
    assert split.weight_v.grad is None
    assert torch.equal(whole(images).params.pose, part(images).params.pose)


def test_keys_are_those_of_the_whole_network(tmp_path: Path) -> None:
    whole, part = make("all"), make("qk")
    assert list(whole.state_dict()) == list(part.state_dict())
    assert all(torch.equal(part.state_dict()[key], v) for key, v in whole.state_dict().items())
    steps(part)
    save_model(tmp_path / "model.safetensors", part)
    loaded = load_model(tmp_path / "model.safetensors").state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in part.state_dict().items())
    other = make("qk")
    other.load_state_dict(part.state_dict())
    assert all(torch.equal(other.state_dict()[k], v) for k, v in part.state_dict().items())


def test_what_an_ablation_adds_is_trained_beside_a_frozen_encoder() -> None:
    model = make("added", fusion="controlnet", head_context="image")
    before = clone(model)
    steps(model)
    check_moved(before, clone(model), "added")
    counted = count_parameters(model)
    frozen = sum(p.numel() for p in model.backbone.parameters())
    assert counted.total - counted.trained == frozen
    assert counted.extra.keys() == {
        "temporal_embed",
        "ablation.encoder",
        "ablation.enter",
        "ablation.leave",
    }


def test_half_of_one_block_is_refused() -> None:
    with pytest.raises(ValueError, match=r"first_half.* 1 "):
        make("first_half", depth=1)


@pytest.mark.parametrize(
    ("model", "trainable"),
    [
        ({"skeleton_input": "coordinates", "head_context": "image"}, "all"),
        ({"fusion": "controlnet", "head_context": "image"}, "added"),
        ({}, "qk"),
    ],
)
def test_a_run_trains_and_tells_what_it_has(
    tmp_path: Path, model: dict[str, str], trainable: Trainable
) -> None:
    config = config_for(write_data(tmp_path / "data"), tmp_path / "run")
    config = replace(
        config,
        model=replace(config.model, **model),
        engine=replace(config.engine, trainable=trainable),
    )
    run_worker(config)
    told = json.loads((config.out / "parameters.json").read_text())
    assert (told["trained"] < told["total"]) == (trainable != "all")
    assert ("ablation." in "".join(told["extra"])) == bool(model)
    trained = load_model(config.out / "model.safetensors")
    assert trained.config == config.model
    check_moved(clone(create_model(config)), clone(trained), trainable)


SCRIPT = Path(__file__).parent / "trainable_steps.py"


@pytest.mark.slow
def test_the_engines_move_the_same_parameters() -> None:
    """Plain torch and ZeRO 0 to 3, whole ablations too; DeepSpeed in a process of its own."""
    (done,) = run_together([str(SCRIPT)])
    assert done.returncode == 0, done.stderr[-3000:]
    sums: dict[str, dict[str, float]] = {}
    for line in done.stdout.splitlines():
        if line.startswith("STEPS"):
            _, case, engine, total = line.split()
            sums.setdefault(case, {})[engine] = float(total)
    assert sums.keys() == {"qk", "first_half", "controlnet", "coordinates", "heatmap"}
    for case, found in sums.items():
        assert found.keys() >= {"plain-0", "deepspeed-2"}
        assert list(found.values()) == pytest.approx([found["plain-0"]] * len(found), rel=1e-5), (
            case
        )
