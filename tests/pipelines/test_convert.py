"""`extpose convert`: every layout in, both layouts out, and what it says."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from extpose.config import ModelConfig
from extpose.model.extpose import ExtPose
from extpose.model.foreign import read_checkpoint
from extpose.model.head import HEAD_NAME
from extpose.model.weights import load_model, read_metadata, save_model
from extpose.training.discriminator import Discriminator, load_discriminator
from pipelines.cli import main

CONFIG = ModelConfig(
    image_size=64,
    width=32,
    depth=2,
    num_heads=2,
    head_width=16,
    head_depth=1,
    head_num_heads=2,
    head_dim=4,
    head_mlp_width=8,
)
HEADS = ["--model.num-heads", "2", "--model.head-num-heads", "2"]


def network(config: ModelConfig = CONFIG, seed: int = 0) -> ExtPose:
    torch.manual_seed(seed)
    return ExtPose(config).eval()


def released(path: Path, model: ExtPose, *, others: bool = True) -> dict[str, torch.Tensor]:
    """A file with the reference's layout, and its network's part."""
    state = {key: value for key, value in model.state_dict().items() if key != "temporal_embed"}
    body = model.config.body
    more = {"initialized": torch.tensor(True), f"{body}.faces_tensor": torch.zeros(2, 3)}
    more |= {f"discriminator.{k}": v for k, v in Discriminator(body).state_dict().items()}
    torch.save({"epoch": 35, "state_dict": state | (more if others else {})}, path)
    return state


def convert(path: Path, out: Path, *options: str) -> int:
    return main(["convert", str(path), str(out), *options])


def assert_same_files(first: Path, second: Path) -> None:
    """Same config, same tensors."""
    assert read_metadata(first) == read_metadata(second)
    tensors, others = load_file(first), load_file(second)
    assert tensors.keys() == others.keys()
    assert all(torch.equal(value, others[key]) for key, value in tensors.items())


@pytest.mark.parametrize("body", ["smpl", "mano"])
@torch.no_grad()
def test_there_and_back(tmp_path: Path, body, capsys):
    model = network(replace(CONFIG, body=body))
    path, own, back = (tmp_path / name for name in ("a.ckpt", "a.safetensors", "b.ckpt"))
    state = released(path, model)
    assert convert(path, own, *HEADS) == 0
    out = capsys.readouterr().out
    head = HEAD_NAME[body]
    taken = [sum(key.startswith(part) for key in state) for part in ("backbone.", f"{head}.")]
    assert f"taken       {len(state)} (backbone {taken[0]}, {head} {taken[1]})" in out
    assert "discriminator. " in out
    assert "added       1 (temporal_embed 1)" in out
    assert "missing     0" in out
    loaded = load_model(own)
    assert loaded.config == replace(CONFIG, body=body, drop_path=ModelConfig().drop_path)
    image = torch.randn(1, 1, 3, 64, 64)
    torch.testing.assert_close(loaded(image).params.pose, model(image).params.pose)

    assert convert(own, back, "--to", "hmr2") == 0
    out = capsys.readouterr().out
    assert f"left out, and loaded by the reference without: initialized, {body}.*" in out
    assert "temporal_embed (16, 32); it is zero" in out
    content = torch.load(back, weights_only=True)
    assert {"state_dict", "epoch", "global_step", "pytorch-lightning_version"} == set(content)
    assert content["state_dict"].keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in content["state_dict"].items())
    assert convert(back, tmp_path / "c.safetensors", *HEADS) == 0
    assert_same_files(tmp_path / "c.safetensors", own)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "a.ckpt", "a.safetensors", "b.ckpt", "c.safetensors",
    ]  # fmt: skip


def test_a_trained_temporal_table_is_not_lost_silently(tmp_path: Path, capsys):
    model = network()
    with torch.no_grad():
        model.temporal_embed[3] = 1
    save_model(tmp_path / "a.safetensors", model)
    assert convert(tmp_path / "a.safetensors", tmp_path / "b.ckpt", "--to", "hmr2") == 0
    assert "IT IS NOT ZERO" in capsys.readouterr().out


def test_the_discriminator_is_kept_on_request(tmp_path: Path, capsys):
    path = tmp_path / "a.ckpt"
    released(path, network())
    wanted = read_checkpoint(path).others
    assert convert(path, tmp_path / "b.safetensors", *HEADS, "--keep-discriminator") == 0
    beside = tmp_path / "b.discriminator.safetensors"
    assert str(beside) in capsys.readouterr().out
    load_discriminator(Discriminator("smpl"), read_checkpoint(beside))
    assert all(torch.equal(value, wanted[key]) for key, value in load_file(beside).items())
    args = [*HEADS, "--to", "hmr2", "--keep-discriminator"]
    assert convert(path, tmp_path / "c.ckpt", *args) == 0
    load_discriminator(Discriminator("smpl"), read_checkpoint(tmp_path / "c.ckpt"))
    released(path, network(), others=False)
    assert convert(path, tmp_path / "d.safetensors", *HEADS, "--keep-discriminator") == 1
    assert "a.ckpt: no discriminator.* in it" in capsys.readouterr().err


def test_a_backbone_alone_gets_an_untrained_head(tmp_path: Path, capsys):
    path, model = tmp_path / "vitpose.pth", network()
    state = {
        key.removeprefix("backbone."): value
        for key, value in model.state_dict().items()
        if key.startswith("backbone.")
    }
    torch.save({"state_dict": state | {"keypoint_head.final_layer.bias": torch.zeros(17)}}, path)
    sizes = ["--model.head-width", "16", "--model.head-depth", "1", "--model.body", "mano"]
    outs = [tmp_path / f"{i}.safetensors" for i in range(2)]
    for i, out in enumerate(outs):
        torch.manual_seed(i)
        assert convert(path, out, "--model.num-heads", "2", *sizes) == 0
    printed = capsys.readouterr().out
    assert "its head is untrained" in printed
    assert "ignored     1 (keypoint_head. 1)" in printed
    assert_same_files(*outs)
    loaded = load_model(outs[0])
    assert loaded.config.body == "mano"
    assert torch.equal(loaded.backbone.pos_embed, model.backbone.pos_embed)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "width 32: the number of attention heads"),
        (HEADS[:2], "8 attention channels"),
        ([*HEADS, "--model.width", "64"], "width: 32 in the file, 64 in the model"),
        ([*HEADS, "--model.depth", "3"], "depth: 2 in the file, 3 in the model"),
        ([*HEADS, "--to", "hmr2"], "a file of layout hmr2 needs a name such as NAME.ckpt"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line_and_nothing_is_written(
    tmp_path: Path, capsys, options, words
):
    path, out = tmp_path / "a.ckpt", tmp_path / "b.safetensors"
    config = replace(CONFIG, head_num_heads=1, head_dim=8)
    released(path, network(config))
    assert convert(path, out, *options) == 1
    assert words in capsys.readouterr().err
    assert not out.exists()


def test_a_missing_file_is_named(tmp_path: Path, capsys):
    for name in ("none.ckpt", "none.safetensors"):
        assert convert(tmp_path / name, tmp_path / "b.safetensors") == 1
        assert name in capsys.readouterr().err


def test_iterations_are_written_down_for_the_reference(tmp_path: Path, capsys):
    model = network(replace(CONFIG, head_token="mean_shape", head_ief_iters=3))
    save_model(tmp_path / "a.safetensors", model)
    assert convert(tmp_path / "a.safetensors", tmp_path / "b.ckpt", "--to", "hmr2") == 0
    assert "IEF_ITERS 3 and TRANSFORMER_INPUT mean_shape" in capsys.readouterr().out
    args = [*HEADS, "--model.head-ief-iters", "3"]
    assert convert(tmp_path / "b.ckpt", tmp_path / "c.safetensors", *args) == 0
    assert load_model(tmp_path / "c.safetensors").config.head_ief_iters == 3


def test_an_output_that_cannot_be_written_is_said_in_one_line(tmp_path: Path, capsys):
    released(tmp_path / "a.ckpt", network())
    (tmp_path / "file").touch()
    assert convert(tmp_path / "a.ckpt", tmp_path / "file" / "b.safetensors", *HEADS) == 1
    assert "b.safetensors: cannot be written" in capsys.readouterr().err
