"""All parts of the parity table: what `python -m tests.parity` prints and pytest asserts."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import get_args

import torch

from extpose.model.extpose import ExtPose
from extpose.model_config import Scope
from extpose.recipes import HUGE
from extpose.schema import BodyName
from extpose.training.discriminator import Discriminator
from tests.parity import network, objective
from tests.parity.rows import DATA, Row

IMAGE_PARAMETERS = 630_912_000
"""Of the backbone of HMR2.0 and HaMeR."""
KEY_FILES: dict[BodyName, str] = {"smpl": "hmr2", "mano": "hamer"}


def check_keys() -> Iterator[Row]:
    """Names and shapes of the full-size state dict; the difference is a number of keys."""
    for body, name in KEY_FILES.items():
        with torch.device("meta"):
            model, critic = ExtPose(replace(HUGE, body=body)), Discriminator(body)
        found = model.state_dict()
        found.pop("temporal_embed")
        expected = json.loads((DATA / f"{name}_keys.json").read_text())
        yield _compare_keys(f"{name}: backbone and head", found, expected)
        others = json.loads((DATA / f"{name}_other_keys.json").read_text())
        expected = {key: shape for key, shape in others.items() if key.startswith("discriminator")}
        found = {f"discriminator.{key}": value for key, value in critic.state_dict().items()}
        yield _compare_keys(f"{name}: discriminator", found, expected)


def check_parameters() -> Iterator[Row]:
    """The backbone at full size, two streams and 16 frames: the image ViT's parameters, no more."""
    for scope in get_args(Scope):
        with torch.device("meta"):
            model = ExtPose(replace(HUGE, scope=(scope,)))
        count = sum(p.numel() for p in model.backbone.parameters())
        item = f"{scope}: {count:,} in the backbone"
        yield Row(item=item, difference=float(abs(count - IMAGE_PARAMETERS)), tolerance=0.0)


def _compare_keys(item: str, found: dict[str, torch.Tensor], expected: dict[str, list[int]]) -> Row:
    shapes = {(key, tuple(value.shape)) for key, value in found.items()}
    wanted = {(key, tuple(shape)) for key, shape in expected.items()}
    different = len(shapes ^ wanted)
    return Row(item=f"{item}, {len(wanted)} keys", difference=float(different), tolerance=0.0)


CHECKS: dict[str, Callable[[], Iterator[Row]]] = {
    "backbone": network.check_backbone,
    "head": network.check_head,
    "head modes": network.check_head_modes,
    "network": network.check_network,
    "geometry": objective.check_geometry,
    "body": objective.check_body,
    "losses": objective.check_losses,
    "objective": objective.check_objective,
    "training": objective.check_training,
    "state dict": check_keys,
    "parameters": check_parameters,
}
