"""The parity table as tests: one test a part, every row within its tolerance."""

from dataclasses import replace

import pytest
import torch

from tests.parity import __main__ as command
from tests.parity.checks import CHECKS
from tests.parity.rows import Row


@pytest.mark.parametrize("part", CHECKS)
def test_part_equals_the_reference(part: str):
    rows = list(CHECKS[part]())
    assert rows
    assert all(row.passed for row in rows), [command.line(part, r) for r in rows if not r.passed]


def test_the_command_fails_where_a_row_does(monkeypatch: pytest.MonkeyPatch, capsys):
    good = Row(item="same", difference=0.0, tolerance=1e-6)
    bad = replace(good, item="other", difference=float("nan"))
    monkeypatch.setattr(command, "CHECKS", {"part": lambda: iter([good])})
    assert command.main() == 0
    monkeypatch.setattr(command, "CHECKS", {"part": lambda: iter([good, bad])})
    assert command.main() == 1
    out = capsys.readouterr().out
    assert "other" in out
    assert "1 of 2 pass" in out


def test_a_wrong_weight_is_seen(monkeypatch: pytest.MonkeyPatch):
    """The table can fail: a hundredth in one bias is enough."""
    from tests.parity import network

    model = network.small_model()
    with torch.no_grad():
        model.backbone.blocks[1].mlp.fc2.bias[3] += 1e-2
    monkeypatch.setattr(network, "small_model", lambda: model)
    verdicts = {row.item: row.passed for row in network.check_backbone()}
    assert verdicts["block0"]
    assert not verdicts["block1"]
    assert not verdicts["feat"]
