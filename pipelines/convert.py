"""`extpose convert`: checkpoints of HMR2.0, HaMeR and ViTPose to this project's, and back.

Nothing is copied in memory: tensors are mapped from the one file and written to the other.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from extpose.errors import CheckpointError
from extpose.model.extpose import ExtPose
from extpose.model.foreign import (
    DISCRIMINATOR,
    NUM_HEADS,
    infer_config,
    lightning_content,
    read_checkpoint,
)
from extpose.model.head import HEAD_NAME, PoseHead
from extpose.model.weights import (
    LoadReport,
    build_empty,
    is_own,
    load_pretrained,
    read_config,
    replaced,
    save_model,
    save_tensors,
)
from extpose.model_config import ModelConfig

Layout = Literal["extpose", "hmr2"]


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What was done."""

    out: Path
    config: ModelConfig
    report: LoadReport
    num_parameters: int
    notes: tuple[str, ...]

    def table(self) -> str:
        """A few lines for people."""
        report = self.report
        config = ", ".join(f"{key} {value}" for key, value in asdict(self.config).items())
        rows = [
            ("taken", _count(report.taken)),
            ("ignored", _count(report.ignored)),
            ("added", _count(_by_part(report.kept))),
            ("missing", "0"),
            ("unexpected", "0"),
            ("parameters", f"{self.num_parameters:,}"),
            ("config", config),
            *(("note", note) for note in self.notes),
            ("written", f"{self.out} ({self.out.stat().st_size:,} bytes)"),
        ]
        return "\n".join(f"{name:10s}  {value}" for name, value in rows)


def find_config(path: Path, *, num_heads: int = 0, head_num_heads: int = 0) -> ModelConfig:
    """The config that an own file carries, or that the shapes of another one show."""
    if is_own(path):
        return read_config(path)
    checkpoint = read_checkpoint(path)
    return infer_config(checkpoint, num_heads=num_heads, head_num_heads=head_num_heads)


def convert(
    path: Path, out: Path, *, config: ModelConfig, to: Layout, keep_discriminator: bool
) -> Conversion:
    """Read `path` as a network of `config` and write `out` in the layout `to`.

    With `keep_discriminator`, its weights go into `out` (`hmr2`) or beside it, as
    `OUT.discriminator.safetensors` (`extpose`).

    Raises:
        CheckpointError: The file does not fit `config`, has no discriminator to keep, or the name
            of `out` does not fit the layout.
    """
    _check_name(out, to)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{out}: cannot be written ({error})") from error
    source = read_checkpoint(path)
    critic = {key: value for key, value in source.others.items() if key.startswith(DISCRIMINATOR)}
    if keep_discriminator and not critic:
        raise CheckpointError(f"{path}: no {DISCRIMINATOR}* in it to keep")
    model = build_empty(config, path)
    notes = []
    if not source.has_head:
        _add_head(model)
        notes.append("a backbone alone: its head is untrained")
    report = load_pretrained(model, path)
    if to == "extpose":
        save_model(out, model)
        if keep_discriminator:
            beside = out.with_suffix(f".{DISCRIMINATOR}safetensors")
            save_tensors(beside, critic, {})
            notes.append(f"{len(critic)} tensors of the discriminator are in {beside}")
    else:
        notes += _write_lightning(out, model, critic if keep_discriminator else {})
    return Conversion(
        out=out,
        config=config,
        report=report,
        num_parameters=sum(p.numel() for p in model.parameters()),
        notes=tuple(notes),
    )


def _write_lightning(
    out: Path, model: ExtPose, discriminator: dict[str, torch.Tensor]
) -> list[str]:
    """Write HMR2.0's or HaMeR's layout; what a user of the file must know."""
    config = model.config
    state = {key: value.detach() for key, value in model.state_dict().items()}
    try:
        content = lightning_content(state, config.body, discriminator=discriminator)
    except ValueError as error:
        raise CheckpointError(f"{out}: {error}") from error
    with replaced(out) as partial:
        torch.save(content, partial)
    names = ["initialized", f"{config.body}.* (the body model)"]
    names += [] if discriminator else ["discriminator.*"]
    notes = [f"left out, and loaded by the reference without: {', '.join(names)}"]
    table = state.get("temporal_embed")
    if table is not None:
        moved = "it is zero" if not table.any() else "IT IS NOT ZERO: single images differ"
        notes.append(f"left out: temporal_embed {tuple(table.shape)}; {moved}")
    if config.head_ief_iters != 1 or config.head_token != "zero":
        notes.append(
            f"its config must say IEF_ITERS {config.head_ief_iters} and TRANSFORMER_INPUT "
            f"{config.head_token}"
        )
    if NUM_HEADS.get(config.width) != config.num_heads:
        notes.append(f"the file does not show its {config.num_heads} attention heads")
    return notes


def _add_head(model: ExtPose) -> None:
    """A head with memory and fresh weights, always the same ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.add_module(HEAD_NAME[model.config.body], PoseHead(model.config))


def _check_name(out: Path, to: Layout) -> None:
    if (out.suffix == ".safetensors") != (to == "extpose"):
        expected = (
            "a name that ends in .safetensors" if to == "extpose" else "a name such as NAME.ckpt"
        )
        raise CheckpointError(f"{out}: a file of layout {to} needs {expected}")


def _by_part(keys: tuple[str, ...]) -> dict[str, int]:
    parts = [key.split(".")[0] for key in keys]
    return {part: parts.count(part) for part in dict.fromkeys(parts)}


def _count(numbers: dict[str, int]) -> str:
    total = str(sum(numbers.values()))
    details = ", ".join(f"{name} {number}" for name, number in numbers.items())
    return f"{total} ({details})" if numbers else total
