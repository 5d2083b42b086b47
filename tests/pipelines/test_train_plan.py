"""`extpose plan`: what it counts, what it refuses, what it prints."""

from dataclasses import replace

import pytest

from extpose.errors import ExtPoseError
from extpose.recipes import RECIPES
from pipelines import cli
from pipelines.train_plan import GB, micro_batch_of, parse_cluster, plan

VIDEO = RECIPES["body-video"]


def test_clusters_by_name() -> None:
    cluster = parse_cluster("8xA100-80GB")
    assert (cluster.count, cluster.name, cluster.memory) == (8, "A100", 80 * GB)
    assert parse_cluster("2xh100").memory == 80 * GB
    assert cluster.peak("bf16") == 312e12
    refused = {
        "A100": "not of the form",
        "0xA100": "not of the form",
        "8xA999": "unknown GPU 'A999'",
        "8xA100-60GB": "80 or 40 GB",
    }
    for text, message in refused.items():
        with pytest.raises(ExtPoseError, match=message):
            parse_cluster(text)


def test_more_sharding_and_recomputation_need_less() -> None:
    needs = plan(VIDEO, parse_cluster("8xA100"), mfu=0.4)
    assert len(needs) == 8
    kept, recomputed = needs[:4], needs[4:]
    for row in (kept, recomputed):
        totals = [need.total for need in row]
        assert totals == sorted(totals, reverse=True)
        assert [need.largest for need in row] == sorted(need.largest for need in row)
    assert all(a.total > b.total for a, b in zip(kept, recomputed, strict=True))
    assert all(a.step_seconds < b.step_seconds for a, b in zip(kept, recomputed, strict=True))


def test_the_largest_micro_batch_is_what_fits() -> None:
    config = replace(VIDEO, batch=4096)
    cluster = parse_cluster("1xA100-40GB")
    for need in plan(config, cluster, mfu=0.4):
        for clips, fits in ((need.largest, True), (need.largest + 1, False)):
            engine = replace(config.engine, micro_batch=clips)
            wanted = replace(config, batch=clips * 2, engine=engine)
            again = plan(wanted, cluster, mfu=0.4)[need.zero_stage + 4 * need.checkpointing]
            assert (again.total <= cluster.memory) is fits


def test_what_is_not_counted_is_refused() -> None:
    offloaded = replace(VIDEO, engine=replace(VIDEO.engine, offload="optimizer"))
    with pytest.raises(ExtPoseError, match=r"engine\.offload is 'optimizer'"):
        plan(offloaded, parse_cluster("8xA100"), mfu=0.35)


def test_micro_batch_is_that_of_a_run() -> None:
    assert micro_batch_of(replace(VIDEO, batch=24), 8) == 3
    assert micro_batch_of(replace(VIDEO, batch=40), 8) == 1
    with pytest.raises(ExtPoseError, match="30 cannot be shared by 8"):
        micro_batch_of(replace(VIDEO, batch=30), 8)


def test_the_verb_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "body-video", "--engine.precision", "bf16", "--price", "3"]) == 0
    out = capsys.readouterr().out
    assert "670.5 M parameters" in out
    assert "MFU 35% (assumed)" in out
    assert "no GPU was measured" in out
    assert len([line for line in out.splitlines() if line[:1] in "0123" and " yes " in line]) >= 8


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--mfu", "1.5"], "mfu is 1.5"),
        (["--cluster", "7xA100"], "cannot be shared by 7"),
        (["--model.fusion", "controlnet"], "'controlnet'"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", "body-video", *args]) == 1
    assert message in capsys.readouterr().err
