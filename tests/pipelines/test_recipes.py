"""Every recipe and every ablation of the tables is one that can be built and trained."""

import re
from pathlib import Path

import pytest
import torch

from extpose.model.ablations import build_network
from extpose.recipes import BASE, HUGE, RECIPES, SMALL, TINY
from pipelines.recipes import ABLATIONS, ablation_table, configure, count, recipe_table

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds(name: str) -> None:
    config = RECIPES[name]
    with torch.device("meta"):
        model = build_network(config.model)
    assert model.ablation is None
    assert config.loader.num_frames <= config.model.max_frames
    assert config.batch % config.num_workers == 0


def test_recipes_are_of_the_sizes_that_they_name() -> None:
    sizes = {"tiny": TINY, "small": SMALL, "base": BASE, "huge": HUGE}
    assert {name: RECIPES[name].model for name in sizes} == sizes
    assert RECIPES["huge"] == RECIPES["body-video"]
    totals = [count(RECIPES[name]).total for name in sizes]
    assert totals == sorted(totals)
    vit_s = sum(p.numel() for p in build_network(SMALL).backbone.parameters())
    assert vit_s == pytest.approx(21.6e6, rel=0.02)


@pytest.mark.parametrize("name", ["body-image", "body-video", "hand-image", "hand-video"])
def test_the_papers_values(name: str) -> None:
    config, frames = RECIPES[name], 1 if "image" in name else 16
    assert (config.steps, config.batch, config.num_workers) == (50_000, 32, 8)
    assert (config.engine.lr, config.engine.weight_decay) == (1e-5, 1e-3)
    assert not config.engine.decay
    assert config.engine.warmup_steps == 0
    assert (config.loader.mask_rgb, config.loader.mask_skeleton) == (0.5, 0.5)
    assert (config.model.max_frames, config.loader.num_frames) == (frames, frames)
    assert config.model.body == ("mano" if "hand" in name else "smpl")
    assert (config.model.width, config.model.depth) == (1280, 32)


def test_options_of_the_ablations_do_what_they_say() -> None:
    counts = {ablation.name: count(configure(ablation)) for ablation in ABLATIONS}
    whole = counts.pop("the paper's method")
    assert whole.total == whole.trained == count(RECIPES["body-video"]).total
    adds = {name: found.total - whole.total for name, found in counts.items()}
    assert {name for name, number in adds.items() if number} == {
        "channel concatenation",
        "ControlNet",
        "ControlNet, main encoder frozen",
        "heatmaps",
        "coordinates",
    }
    partly = {name for name, found in counts.items() if found.trained < found.total}
    assert partly == {
        "ControlNet, main encoder frozen",
        "only Q and K",
        "first half of the blocks",
    }
    configs = [configure(ablation) for ablation in ABLATIONS]
    assert len(set(map(repr, configs))) == len(configs)


@pytest.mark.parametrize(
    ("file", "table"), [("README.md", recipe_table), ("docs/ablations.md", ablation_table)]
)
def test_the_documents_show_the_tables(file: str, table) -> None:
    assert table() in re.sub(r"\n{2,}", "\n\n", (ROOT / file).read_text())
