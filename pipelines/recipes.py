"""`extpose recipes`: the named starting points of `train`, the ablations, and their parameters.

    extpose recipes

Counts are of networks that are built without memory, so this takes a second at any size.
"""

from dataclasses import dataclass

import torch
import tyro

from extpose.config import TrainConfig
from extpose.model.ablations import build_network
from extpose.recipes import RECIPES
from extpose.training.trainable import ParameterCount, count_parameters, select_trainable

BASELINE = "body-video"


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """One comparison of the paper, as options of `extpose train`."""

    name: str
    source: str
    """Where in the paper."""
    options: str


ABLATIONS = (
    Ablation(name="the paper's method", source="4.4", options=""),
    Ablation(
        name="late fusion",
        source="Table 6",
        options="--model.fusion late --model.fusion-blocks 8",
    ),
    Ablation(name="channel concatenation", source="Table 6", options="--model.fusion channel"),
    Ablation(name="ControlNet", source="Table 6", options="--model.fusion controlnet"),
    Ablation(
        name="ControlNet, main encoder frozen",
        source="-",
        options="--model.fusion controlnet --engine.trainable added",
    ),
    Ablation(name="only Q and K", source="Table 6", options="--engine.trainable qk"),
    Ablation(
        name="first half of the blocks", source="Table 6", options="--engine.trainable first_half"
    ),
    Ablation(name="heatmaps", source="Table 5", options="--model.skeleton-input heatmap"),
    Ablation(name="coordinates", source="Table 5", options="--model.skeleton-input coordinates"),
    Ablation(
        name="skeleton alone",
        source="Table 5",
        options="--loader.mask-rgb 1 --loader.mask-skeleton 0",
    ),
    Ablation(
        name="image alone", source="Table 5", options="--loader.mask-rgb 0 --loader.mask-skeleton 1"
    ),
    Ablation(name="head reads both streams", source="-", options="--model.head-context both"),
)


def configure(ablation: Ablation) -> TrainConfig:
    """The baseline recipe with the options of one ablation."""
    return tyro.cli(TrainConfig, default=RECIPES[BASELINE], args=ablation.options.split())


def count(config: TrainConfig) -> ParameterCount:
    """Parameters of a recipe, without the memory for them."""
    with torch.device("meta"):
        model = build_network(config.model)
    select_trainable(model, config.engine.trainable)
    return count_parameters(model)


def recipe_table() -> str:
    """Markdown: every recipe with its size."""
    lines = [
        "| recipe | body | frames | width x depth | heads | parameters | learning rate | batch |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, config in RECIPES.items():
        model = config.model
        lines.append(
            f"| `{name}` | {model.body} | {config.loader.num_frames} "
            f"| {model.width} x {model.depth} | {model.num_heads} "
            f"| {count(config).total / 1e6:.1f} M | {config.engine.lr:g} | {config.batch} |"
        )
    return "\n".join(lines)


def ablation_table() -> str:
    """Markdown: every ablation with what it adds and trains at the size of the baseline."""
    lines = [
        "| ablation | paper | options | added parameters | trained |",
        "|---|---|---|---|---|",
    ]
    for ablation in ABLATIONS:
        counted = count(configure(ablation))
        added = sum(n for name, n in counted.extra.items() if name != "temporal_embed")
        options = f"`{ablation.options}`" if ablation.options else "none"
        lines.append(
            f"| {ablation.name} | {ablation.source} | {options} "
            f"| {added:,} | {counted.trained / 1e6:.1f} M |"
        )
    return "\n".join(lines)
