"""State goes from any engine with any number of workers to any other."""

from pathlib import Path

import pytest
import torch
from torch import nn

from extpose.errors import CheckpointError
from extpose.training.state import (
    adam_state,
    load_adam_state,
    load_scaler_state,
    scaler_state,
    section,
)
from tests.processes import run_together

SCRIPT = Path(__file__).parent / "reshard_steps.py"


def trained_layer(seed: int) -> tuple[nn.Linear, torch.optim.AdamW]:
    torch.manual_seed(seed)
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    optimizer = torch.optim.AdamW([layer.weight])
    for _ in range(2):
        layer(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return layer, optimizer


def test_names_and_round_trip() -> None:
    layer, optimizer = trained_layer(0)
    state = adam_state(layer, optimizer)
    names = ["exp_avg/weight", "exp_avg_sq/weight", "step/weight", "weights/bias", "weights/weight"]
    assert sorted(state) == names
    assert state["step/weight"] == 2
    other, its = trained_layer(1)
    load_adam_state(other, its, state)
    for both in ((layer, optimizer), (other, its)):
        torch.manual_seed(5)
        both[0](torch.randn(4, 3)).square().sum().backward()
        both[1].step()
    assert torch.equal(other.weight, layer.weight)
    # The state was a copy: the step changed nothing in it.
    assert not torch.equal(state["weights/weight"], layer.weight)
    assert state["step/weight"] == 2


def test_another_network_is_refused() -> None:
    layer, optimizer = trained_layer(0)
    state = adam_state(layer, optimizer)
    state["weights/more"] = state.pop("weights/bias")
    with pytest.raises(CheckpointError, match=r"missing \['bias'\], unexpected \['more'\]"):
        load_adam_state(layer, optimizer, state)


@pytest.mark.filterwarnings("ignore:.*GradScaler.*:UserWarning")
def test_scaler_round_trip() -> None:
    one, two = torch.amp.GradScaler("cpu", init_scale=8.0), torch.amp.GradScaler("cpu")
    one.scale(torch.ones(()))
    state = scaler_state(one)
    assert section(state, "scaler/")["scale"] == 8
    load_scaler_state(two, state)
    assert two.state_dict() == one.state_dict()
    load_scaler_state(None, state)
    assert scaler_state(None) == {}


@pytest.mark.slow
def test_two_workers_go_on_from_one_and_one_from_two(tmp_path: Path) -> None:
    """Plain torch and ZeRO 1 to 3; straight runs, same size, other size, other engine."""
    workers = (("0", "2"), ("1", "2"), ("0", "1"))
    runs = run_together(*([str(SCRIPT), str(tmp_path), *both] for both in workers))
    for run in runs:
        assert run.returncode == 0, run.stderr[-3000:]
    lines = [line.split() for run in runs for line in run.stdout.splitlines()]
    found = [line for line in lines if line[:1] in (["STRAIGHT"], ["RESUMED"])]
    assert len(found) == 20
    expected = [float(value) for value in found[0][3:]]
    assert expected[-1] < expected[0]
    for kind, name, exact, *losses in found:
        assert exact == "True", (kind, name)
        assert [float(value) for value in losses] == pytest.approx(
            expected[-len(losses) :], rel=1e-5
        ), (kind, name)
