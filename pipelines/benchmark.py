"""Benchmarks that need nothing but a name: `extpose evaluate --benchmark pose2sim`.

Its crops are cut around the reference's projected joints, those of `pose2sim-detected` around whom
the detector finds.

The videos are fetched and made into shards once, in the cache; the numbers of simple methods stand
beside those of the network. docs/benchmark-pose2sim.md says what they can not tell.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from extpose.assets import cache_dir
from extpose.config import EvaluateConfig, IngestConfig
from extpose.errors import ExtPoseError
from extpose.evaluation.summary import ProtocolResult
from pipelines.datasets import SOURCES

BASELINES = {"pose2sim": Path(__file__).parent / "sources" / "data" / "pose2sim_baselines.json"}
"""By source, which is scored by the protocol of that name."""
BENCHMARKS: dict[str, tuple[str, Literal["source", "detector"]]] = {
    "pose2sim": ("pose2sim", "source"),
    "pose2sim-detected": ("pose2sim", "detector"),
}
"""Source, and the boxes that the network's crops are made by: the labelled ones know the truth."""
COLUMNS = {
    "pa_mpjpe": "PA-MPJPE, mm",
    "mpjpe": "MPJPE, mm",
    "pck@0.05": "PCK@0.05, %",
    "pck@0.1": "PCK@0.1, %",
    "accel": "acceleration error, m/s^2",
    "jitter": "jitter, 10 m/s^3",
}


@dataclass(frozen=True, kw_only=True)
class BenchmarkRow:
    """A camera, the mean, or a baseline."""

    name: str
    values: tuple[float | None, ...]
    """In the order of `COLUMNS`."""

    def cells(self) -> tuple[str, ...]:
        """Name and numbers as text."""
        return (self.name, *("-" if v is None else f"{v:.1f}" for v in self.values))


@contextmanager
def _telling(name: str) -> Iterator[None]:
    try:
        yield
    except ExtPoseError as error:
        raise ExtPoseError(f"benchmark {name}: {error}") from error


def open_benchmark(config: EvaluateConfig) -> EvaluateConfig:
    """The config with the benchmark's data and protocol; the same config where none is named.

    Raises ExtPoseError for an unknown name, other data or protocols beside it, neither data nor
    benchmark, and videos that cannot be had.
    """
    name = config.benchmark
    if name is None:
        if config.data == Path():
            raise ExtPoseError("data is not given: a folder of labelled shards, or --benchmark")
        return config
    if name not in BENCHMARKS:
        raise ExtPoseError(f"unknown benchmark {name!r}, known: {', '.join(BENCHMARKS)}")
    protocol, boxes = BENCHMARKS[name]
    if config.data != Path() or config.protocol not in ((), (protocol,)):
        raise ExtPoseError(
            f"benchmark {name} brings its own data and protocol; data is {config.data}, protocol "
            f"is {config.protocol}"
        )
    # Only here, so that evaluation without a benchmark needs no Ray.
    from pipelines.ingest import identity_of, ingest, settings_of

    source = SOURCES[protocol]
    plan = IngestConfig(
        out=Path(), evidence="detector", boxes=boxes, workers=0, skeleton=config.skeleton
    )
    identity = identity_of(name, settings_of(plan, source))
    folder = cache_dir() / "benchmarks" / f"{name}-{identity[:12]}"
    with _telling(name):
        if ingest(replace(plan, out=folder), source) != 0:
            raise ExtPoseError(f"{folder}: something was quarantined, see its manifest")
    return replace(config, data=folder, protocol=(protocol,), static_camera=True)


def benchmark_rows(name: str, result: ProtocolResult) -> list[BenchmarkRow]:
    """Each camera, all of them, then the baselines."""
    rows = [
        BenchmarkRow(
            name=row.sequence.removeprefix(f"{BENCHMARKS[name][0]}-"),
            values=tuple(row.values.get(column) for column in COLUMNS),
        )
        for row in result.sequences
    ]
    total = {metric.name: metric.value for metric in result.metrics}
    rows.append(BenchmarkRow(name="all", values=tuple(total.get(column) for column in COLUMNS)))
    return rows + baseline_rows(name)


def baseline_rows(name: str) -> list[BenchmarkRow]:
    """What simple methods reach."""
    stored = json.loads(BASELINES[BENCHMARKS[name][0]].read_text())["rows"]
    return [
        BenchmarkRow(name=row["name"], values=tuple(row[column] for column in COLUMNS))
        for row in stored
    ]


def benchmark_table(name: str, result: ProtocolResult) -> str:
    """Text for a terminal, and for Markdown."""
    table = [("", *COLUMNS.values()), *(row.cells() for row in benchmark_rows(name, result))]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in table
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
