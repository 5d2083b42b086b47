"""Checkpoints: own and foreign, broken and hostile."""

import contextlib
import enum
import json
import os
import re
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from extpose.config import ModelConfig
from extpose.errors import CheckpointError
from extpose.model.extpose import ExtPose
from extpose.model.weights import (
    build_pretrained,
    load_model,
    load_pretrained,
    read_metadata,
    save_model,
)

CONFIG = ModelConfig(
    image_size=64,
    width=16,
    depth=2,
    num_heads=2,
    max_frames=3,
    scope=("union", "frame"),
    head_width=8,
    head_depth=1,
    head_num_heads=2,
    head_dim=4,
    head_mlp_width=8,
)


@pytest.fixture
def model() -> ExtPose:
    torch.manual_seed(0)
    return ExtPose(CONFIG)


def other_model() -> ExtPose:
    torch.manual_seed(1)
    return ExtPose(CONFIG)


def lightning(model: ExtPose, **extra: object) -> dict[str, object]:
    """Shaped like HMR2.0's released file."""
    state = OrderedDict(initialized=torch.tensor(True))
    state |= {k: v for k, v in model.state_dict().items() if k != "temporal_embed"}
    state |= {"smpl.v_template": torch.zeros(5, 3), "discriminator.D_conv1.bias": torch.zeros(2)}
    return {"epoch": 35, "pytorch-lightning_version": "1.8.1", "state_dict": state} | extra


def assert_same(found: ExtPose, expected: ExtPose, prefix: str = "") -> None:
    expected_state = expected.state_dict()
    for key, value in found.state_dict().items():
        if key.startswith(prefix):
            assert torch.equal(value, expected_state[key]), key


class YacsLike(dict[str, Any]):
    """A dict with attributes, as yacs' configs are."""

    def __init__(self, **values: Any) -> None:
        super().__init__(values)
        self.__dict__["_immutable"] = True


class Flavour(enum.Enum):
    """A value that is pickled by a call."""

    PLAIN = 1


class OmegaLike:
    """A container with a state of its own classes, as OmegaConf's are; counts who wakes it up."""

    woken = 0

    def __init__(self, content: object) -> None:
        self.content, self.flavour, self.kind = content, Flavour.PLAIN, dict[str, Any]
        self.path, self.missing = Path("a/b"), defaultdict(list, a=[1])

    def __setstate__(self, state: dict[str, object]) -> None:
        type(self).woken += 1
        self.__dict__.update(state)


CONFIGS = {
    "yacs": YacsLike(MODEL=YacsLike(TYPE="vit", SIZES=[1, 2])),
    "omegaconf": OmegaLike({"cfg": OmegaLike([1, 2, None])}),
    "others": {"when": {1, 2}, "rate": np.float32(0.5), "table": np.arange(3), "size": (1, (2,))},
}


class Hostile:
    """Runs a command when it is unpickled by a plain unpickler."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


def test_own_files_round_trip(tmp_path: Path, model: ExtPose):
    path = tmp_path / "new" / "model.safetensors"
    save_model(path, model, {"step": "7"})
    loaded = load_model(path)
    assert loaded.config == CONFIG
    assert not loaded.training
    assert all(p.requires_grad for p in loaded.parameters())
    assert_same(loaded, model)
    assert read_metadata(path)["step"] == "7"
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_own_files_are_replaced_as_a_whole(tmp_path: Path, model: ExtPose, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_model(path, model)
    before = path.read_bytes()

    def full_disk(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("extpose.model.weights.save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_model(path, other_model())
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_loaded_file_may_be_overwritten(tmp_path: Path, model: ExtPose):
    """The tensors of a loaded model are views of the file: training must not write into it."""
    path = tmp_path / "model.safetensors"
    save_model(path, model)
    loaded = load_model(path)
    with torch.no_grad():
        loaded.backbone.pos_embed.add_(1)
    assert_same(load_model(path), model)
    save_model(path, loaded)
    assert_same(load_model(path), loaded)


def test_reserved_metadata_is_refused(tmp_path: Path, model: ExtPose):
    with pytest.raises(ValueError, match="model_config"):
        save_model(tmp_path / "a.safetensors", model, {"model_config": "{}"})


def test_hmr2_checkpoint_loads_by_its_keys(tmp_path: Path, model: ExtPose):
    path = tmp_path / "epoch=35.ckpt"
    torch.save(lightning(model), path)
    target = other_model()
    load_pretrained(target, path)
    assert_same(target, model)


def test_hmr2_checkpoint_loads_into_a_model_without_memory(tmp_path: Path, model: ExtPose):
    path = tmp_path / "a.ckpt"
    torch.save(lightning(model), path)
    with torch.device("meta"):
        target = ExtPose(CONFIG)
    load_pretrained(target, path)
    assert_same(target, model)


@pytest.mark.parametrize("kind", CONFIGS)
def test_config_objects_inside_do_not_matter(tmp_path: Path, model: ExtPose, kind: str):
    path = tmp_path / "a.ckpt"
    torch.save(lightning(model, hyper_parameters={"cfg": CONFIGS[kind]}, loops=Flavour), path)
    target = other_model()
    load_pretrained(target, path)
    assert_same(target, model)
    assert OmegaLike.woken == 0


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path, model: ExtPose):
    path, proof = tmp_path / "a.ckpt", tmp_path / "proof"
    torch.save(lightning(model, hyper_parameters=Hostile(f"touch {proof}")), path)
    target = other_model()
    load_pretrained(target, path)
    assert not proof.exists()
    assert_same(target, model)
    torch.save({"state_dict": Hostile(f"touch {proof}")}, path)
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        load_pretrained(target, path)
    assert not proof.exists()


def test_vitpose_backbone_leaves_the_head(tmp_path: Path, model: ExtPose):
    bare = {
        key.removeprefix("backbone."): value
        for key, value in model.state_dict().items()
        if key.startswith("backbone.")
    }
    prefixed = {f"backbone.{key}": value for key, value in bare.items()}
    for name, state in (
        ("bare.pth", bare),
        ("full.pth", prefixed | {"keypoint_head.final_layer.bias": torch.zeros(17)}),
    ):
        torch.save({"state_dict": state}, tmp_path / name)
        target = other_model()
        load_pretrained(target, tmp_path / name)
        assert_same(target, model, "backbone.")
        assert_same(target, other_model(), "smpl_head.")


def test_half_precision_checkpoint_keeps_the_models_dtype(tmp_path: Path, model: ExtPose):
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": {k: v.half() for k, v in model.state_dict().items()}}, path)
    target = other_model()
    load_pretrained(target, path)
    assert {p.dtype for p in target.parameters()} == {torch.float32}


def test_everything_that_does_not_fit_is_listed(tmp_path: Path, model: ExtPose):
    path = tmp_path / "a.ckpt"
    content = lightning(model)
    state = content["state_dict"]
    assert isinstance(state, OrderedDict)
    del state["smpl_head.deccam.bias"]
    state["backbone.blocks.7.attn.proj.bias"] = torch.zeros(4)
    state["backbone.pos_embed"] = torch.zeros(1, 193, 16)
    torch.save(content, path)
    target = other_model()
    with pytest.raises(CheckpointError) as error:
        load_pretrained(target, path)
    message = str(error.value)
    assert str(path) in message
    assert "missing smpl_head.deccam.bias (3,)" in message
    assert "unexpected backbone.blocks.7.attn.proj.bias (4,)" in message
    assert "backbone.pos_embed: (1, 193, 16) in the file, (1, 13, 16) in the model" in message
    assert_same(target, other_model())


def test_a_hand_checkpoint_does_not_fit_a_body(tmp_path: Path):
    path = tmp_path / "hamer.ckpt"
    torch.save(lightning(ExtPose(replace(CONFIG, body="mano"))), path)
    with pytest.raises(CheckpointError, match=r"missing smpl_head[\s\S]*and \d+ more"):
        load_pretrained(other_model(), path)


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "text", "folder"])
def test_broken_files_are_named(tmp_path: Path, model: ExtPose, suffix: str, damage: str):
    path = tmp_path / f"broken{suffix}"
    if suffix == ".ckpt":
        torch.save(lightning(model), path)
    else:
        save_model(path, model)
    whole = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        content = {"empty": b"", "truncated": whole[: len(whole) // 2], "text": b"version https://"}
        path.write_bytes(content[damage])
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        load_pretrained(other_model(), path)
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        load_model(path)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"extpose_version": None}, "not an ExtPose checkpoint"),
        ({"extpose_version": "99"}, "'99'"),
        ({"model_config": "{"}, "cannot be read"),
        ({"model_config": '{"colour": 16}'}, "['colour'], which this version does not know"),
        ({"model_config": "[]"}, "cannot be read"),
        ({"model_config": "width"}, "cannot be read"),
        ({"num_heads": 3}, "num_heads 3"),
        ({"width": 32}, "(16,) in the file, (32,) in the model"),
    ],
)
def test_wrong_metadata_is_refused(tmp_path: Path, model: ExtPose, metadata, words):
    path = tmp_path / "model.safetensors"
    save_model(path, model)
    own = read_metadata(path)
    config = json.loads(own["model_config"])
    if changed := {k: v for k, v in metadata.items() if k in config}:
        own["model_config"] = json.dumps(config | changed)
    own |= {k: v for k, v in metadata.items() if k not in config}
    save_file(load_file(path), path, metadata={k: v for k, v in own.items() if v})
    with pytest.raises(CheckpointError, match=re.escape(words)):
        load_model(path)


def test_a_report_says_what_became_of_the_tensors(tmp_path: Path, model: ExtPose):
    path = tmp_path / "a.ckpt"
    torch.save(lightning(model), path)
    report = load_pretrained(other_model(), path)
    state = model.state_dict()
    assert report.taken == {
        part: sum(key.startswith(part) for key in state) for part in ("backbone", "smpl_head")
    }
    assert report.ignored == {"initialized": 1, "smpl.": 1, "discriminator.": 1}
    assert report.kept == ("temporal_embed",)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 32}, "width: 16 in the file, 32 in the model"),
        ({"depth": 1, "scope": ("union",)}, "depth: 2 in the file, 1 in the model"),
        ({"patch_size": 8}, "patch_size: 16 in the file, 8 in the model"),
        ({"head_width": 16}, "head_width: 8 in the file, 16 in the model"),
        ({"head_token": "mean_shape"}, "head_token: zero in the file, mean_shape in the model"),
        ({"body": "mano"}, "body: smpl in the file, mano in the model"),
    ],
)
def test_a_network_of_another_shape_is_told_first(tmp_path: Path, model: ExtPose, changes, words):
    path = tmp_path / "a.ckpt"
    torch.save(lightning(model), path)
    with pytest.raises(CheckpointError, match=re.escape(words)):
        load_pretrained(ExtPose(replace(CONFIG, **changes)), path)


@pytest.mark.parametrize("name", ["num_heads", "head_num_heads"])
def test_heads_of_own_files_must_agree(tmp_path: Path, model: ExtPose, name: str):
    """Shapes would fit, numbers would not."""
    path = tmp_path / "model.safetensors"
    save_model(path, model)
    other = ExtPose(replace(CONFIG, **{name: 1, "head_dim": 8 if "head" in name[:4] else 4}))
    with pytest.raises(CheckpointError, match=f"{name}: 2 in the file, 1 in the model"):
        load_pretrained(other, path)


def test_a_config_of_an_older_version_loads_with_the_defaults(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    config = replace(CONFIG, head_ief_iters=1, head_token="zero")
    torch.manual_seed(0)
    save_model(path, ExtPose(config))
    metadata = read_metadata(path)
    values = json.loads(metadata["model_config"])
    del values["head_ief_iters"], values["head_token"]
    save_file(load_file(path), path, metadata=metadata | {"model_config": json.dumps(values)})
    assert load_model(path).config == config


def test_foreign_files_load_without_a_config(tmp_path: Path):
    """ViT-B is the smallest width whose heads are known."""
    config = replace(CONFIG, width=768, num_heads=12, depth=1, scope=("union",), max_frames=16)
    config = replace(config, head_num_heads=8, head_dim=64)
    torch.manual_seed(0)
    model, path = ExtPose(config), tmp_path / "vit-b.ckpt"
    torch.save(lightning(model), path)
    loaded = load_model(path)
    assert loaded.config == replace(config, drop_path=ModelConfig().drop_path)
    assert not loaded.training
    assert_same(loaded, model)
    backbone = {k: v for k, v in model.state_dict().items() if k.startswith("backbone")}
    torch.save({"state_dict": backbone}, path)
    with pytest.raises(CheckpointError, match="a backbone without a head"):
        load_model(path)


def test_loading_does_not_import_the_compiler(tmp_path: Path, model: ExtPose):
    """Arithmetic on meta tensors would: seconds and 80 MB more than the file."""
    path = tmp_path / "model.safetensors"
    save_model(path, model)
    code = (
        "import sys; from pathlib import Path; from extpose.model.weights import load_model\n"
        f"load_model(Path({str(path)!r}))\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_tensors_are_mapped_from_the_file(tmp_path: Path, model: ExtPose):
    """Not read: what the file says later is what the model has."""
    path = tmp_path / "a.ckpt"
    torch.save(lightning(model), path)
    with torch.device("meta"):
        target = ExtPose(CONFIG)
    load_pretrained(target, path)
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc on this system")
    assert str(path) in maps.read_text()


def test_a_training_starts_from_a_file_with_or_without_a_head(tmp_path: Path, model: ExtPose):
    path = tmp_path / "a.ckpt"
    torch.save(lightning(model), path)
    whole = build_pretrained(CONFIG, path)
    assert whole.training
    assert_same(whole, model)
    assert not whole.temporal_embed.any()
    assert all(p.requires_grad and not p.is_meta for p in whole.parameters())
    backbone = {k: v for k, v in model.state_dict().items() if k.startswith("backbone")}
    torch.save({"state_dict": backbone}, path)
    torch.manual_seed(1)
    half = build_pretrained(CONFIG, path)
    assert_same(half, model, "backbone")
    assert_same(half, other_model(), "smpl_head")
    with pytest.raises(CheckpointError, match="depth: 2 in the file, 1 in the model"):
        build_pretrained(replace(CONFIG, depth=1, scope=("union",)), path)


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_pickle_is_an_error_or_harmless(tmp_path: Path, model: ExtPose, seed: int):
    path = tmp_path / "a.ckpt"
    torch.save(lightning(model, hyper_parameters=CONFIGS["omegaconf"]), path)
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in content if name.endswith("data.pkl"))
    damaged, random = bytearray(content[name]), np.random.default_rng(seed)
    for place in random.integers(0, len(damaged), 3):
        damaged[place] = random.integers(256)
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in (content | {name: bytes(damaged)}).items():
            archive.writestr(member, data)
    with contextlib.suppress(CheckpointError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load_pretrained(other_model(), path)


def test_a_program_is_not_a_checkpoint(tmp_path: Path):
    path = tmp_path / "model.ckpt"
    torch.save({}, path)
    with pytest.raises(CheckpointError, match="no tensors"):
        load_pretrained(other_model(), path)


def test_whole_numbers_are_not_weights(model: ExtPose, tmp_path: Path):
    """Of a quantised file the scales would be lost."""
    state = model.state_dict()
    state["backbone.last_norm.weight"] = state["backbone.last_norm.weight"].to(torch.int8)
    torch.save(state, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=r"last_norm.weight: torch.int8 in the file"):
        load_pretrained(model, tmp_path / "x.ckpt")
