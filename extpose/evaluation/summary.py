"""From clips' scores to a table: pooled by the protocol's rule, with bootstrap intervals.

    result = summarise(scores, protocol)
    print(compare([result, other]))

Axes    s sequences (or pictures)   c columns (joints)   b bootstrap draws
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from extpose.evaluation.pooling import Sums, bootstrap_interval, draw_sequences, pooled_means
from extpose.evaluation.protocol import METRICS, Pooling, Protocol, Unit
from extpose.evaluation.scoring import ClipScores


@dataclass(frozen=True, kw_only=True)
class MetricResult:
    """One number of a table; None where there was nothing to average."""

    name: str
    label: str
    unit: str
    digits: int
    value: float | None
    low: float | None
    high: float | None
    """95 % percentile interval of the bootstrap; None with fewer than two sequences."""
    count: int
    """Frames (pairs, triples, quadruples) that were averaged."""

    def text(self) -> str:
        """Value and interval, or a dash."""
        if self.value is None:
            return "-"
        value = f"{self.value:.{self.digits}f}"
        if self.low is None or self.high is None:
            return value
        return f"{value} [{self.low:.{self.digits}f}, {self.high:.{self.digits}f}]"


@dataclass(frozen=True, kw_only=True)
class SequenceRow:
    """The same metrics for one sequence (or picture)."""

    sequence: str
    num_clips: int
    num_frames: int
    """Scored ones."""
    values: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class ProtocolResult:
    """A table with everything that is needed to read it."""

    protocol: Protocol
    stand_in: tuple[str, ...]
    """What stood in for what the protocol wants: then it is not the published number."""
    metrics: tuple[MetricResult, ...]
    per_joint: Mapping[str, Mapping[str, float | None]]
    """Metric, joint, value: of metrics that are known per joint of the protocol."""
    sequences: tuple[SequenceRow, ...]
    num_clips: int
    num_frames: int
    num_scored: int
    left_out: Mapping[str, int]
    bootstrap: int
    seed: int

    def to_json(self) -> dict[str, object]:
        """Plain values only; what is not a number is None."""
        return asdict(self)

    def table(self) -> str:
        """Text for a terminal: the choices, then value and interval, a line each."""
        width = max(len(_label(m)) for m in self.metrics)
        lines = [f"{_label(m):<{width}}  {m.text()}" for m in self.metrics]
        return "\n".join([describe(self), *lines])


@dataclass
class _Sequence:
    sums: dict[str, Sums]
    num_clips: int = 0
    num_frames: int = 0


def summarise(
    scores: Iterable[ClipScores], protocol: Protocol, *, bootstrap: int = 1000, seed: int = 0
) -> ProtocolResult:
    """Pool by the protocol's rule; intervals are over resampled sequences, drawn with `seed`.

    Clips are taken one by one and not kept.
    """
    sequences: dict[str, _Sequence] = {}
    left_out: dict[str, int] = {}
    stand_in: dict[str, None] = {}
    num_frames = 0
    for clip in scores:
        name = clip.sequence if protocol.resample == "sequence" else clip.key
        sequence = sequences.setdefault(name, _Sequence({n: Sums() for n in clip.values}))
        for metric, values in clip.values.items():
            sequence.sums[metric].add(values)
        sequence.num_clips += 1
        sequence.num_frames += clip.num_scored
        num_frames += clip.num_frames
        stand_in |= dict.fromkeys(clip.stand_in)
        for reason, count in clip.left_out.items():
            left_out[reason] = left_out.get(reason, 0) + count
    order = sorted(sequences)
    rows = [sequences[name] for name in order]
    draws = draw_sequences(len(rows), bootstrap, seed)
    return ProtocolResult(
        protocol=protocol,
        stand_in=tuple(stand_in),
        metrics=tuple(_result(name, rows, protocol.pooling, draws) for name in names(protocol)),
        per_joint=_per_joint(rows, protocol),
        sequences=tuple(_sequence_row(name, sequences[name], protocol) for name in order),
        num_clips=sum(row.num_clips for row in rows),
        num_frames=num_frames,
        num_scored=sum(row.num_frames for row in rows),
        left_out=left_out,
        bootstrap=bootstrap,
        seed=seed,
    )


def names(protocol: Protocol) -> list[str]:
    """The metrics of a protocol with one name for each threshold: `pck@0.05`."""
    out: list[str] = []
    for metric in protocol.metrics:
        thresholds = protocol.pck_thresholds if metric == "pck" else ()
        out += [f"pck@{t:g}" for t in thresholds] or [metric]
    return out


def describe(result: ProtocolResult) -> str:
    """One paragraph: the choices that move the numbers, and what was left out."""
    p = result.protocol
    source = {"chain": "of the kinematic chain", "regressor": f"by {p.needs}"}
    root = f"root {' + '.join(map(str, p.root))}" if p.root else "no root"
    mirror = "reflections allowed" if p.alignment == "reflection" else "no reflections"
    lines = [
        f"protocol {p.name}: {len(p.joints)} joints {source.get(p.joints_from, p.joints_from)}, "
        f"{root}, {mirror}, truth: {'gendered ' if p.gendered else ''}{p.truth}, "
        f"mean over {p.pooling}",
        f"{result.num_scored} of {result.num_frames} frames in {result.num_clips} clips, "
        f"{len(result.sequences)} {p.resample}s; 95 % intervals over {p.resample}s",
    ]
    if p.tips is not None:
        lines.append(f"finger tips: vertices {', '.join(map(str, p.tips))}")
    lines += [f"left out: {count} frames, {reason}" for reason, count in result.left_out.items()]
    lines += [f"NOT the published protocol: {text}" for text in result.stand_in]
    return "\n".join(lines)


def compare(results: Sequence[ProtocolResult]) -> str:
    """Several protocols side by side: a row a metric, a column a protocol."""
    labels = list(dict.fromkeys(_label(m) for result in results for m in result.metrics))
    columns = [
        [f"{result.protocol.name}{' *' if result.stand_in else ''}"]
        + [{_label(m): m.text() for m in result.metrics}.get(label, "") for label in labels]
        for result in results
    ]
    columns.insert(0, ["", *labels])
    widths = [max(map(len, column)) for column in columns]
    rows = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in zip(*columns, strict=True)
    ]
    notes = {f"* {text}" for result in results for text in result.stand_in}
    return "\n".join([*rows, *sorted(notes)])


def _unit(name: str) -> Unit:
    return METRICS["pck"] if name.startswith("pck@") else METRICS[name]  # type: ignore[index]


def _label(metric: MetricResult) -> str:
    return f"{metric.label}, {metric.unit}" if metric.unit else metric.label


def _result(name: str, rows: list[_Sequence], pooling: Pooling, draws: np.ndarray) -> MetricResult:
    unit = _unit(name)
    value, low, high, count = None, None, None, 0
    if rows:
        pairs = [row.sums[name].pooled(pooling) for row in rows]
        sums, counts = (np.stack(part).astype(float) for part in zip(*pairs, strict=True))
        count = sum(row.sums[name].num_rows for row in rows)
        value = _finite(pooled_means(np.ones((1, len(rows))), sums, counts)[0])
        if value is not None and len(draws):
            low, high = map(_finite, bootstrap_interval(draws, sums, counts))
    label = unit.label if not name.startswith("pck@") else name.upper()
    return MetricResult(
        name=name,
        label=label,
        unit=unit.unit,
        digits=unit.digits,
        value=value,
        low=low,
        high=high,
        count=count,
    )


def _sequence_row(name: str, sequence: _Sequence, protocol: Protocol) -> SequenceRow:
    values: dict[str, float | None] = {}
    for metric, sums in sequence.sums.items():
        pooled = [part[None].astype(float) for part in sums.pooled(protocol.pooling)]
        values[metric] = _finite(pooled_means(np.ones((1, 1)), *pooled)[0])
    return SequenceRow(
        sequence=name,
        num_clips=sequence.num_clips,
        num_frames=sequence.num_frames,
        values=values,
    )


def _per_joint(rows: list[_Sequence], protocol: Protocol) -> dict[str, dict[str, float | None]]:
    out: dict[str, dict[str, float | None]] = {}
    for metric in names(protocol):
        pooled = [row.sums[metric].pooled("keypoints") for row in rows]
        if not pooled or len(pooled[0][0]) != len(protocol.joint_names):
            continue
        sums, counts = (np.sum(part, axis=0) for part in zip(*pooled, strict=True))
        out[metric] = {
            name: _finite(total / count if count else np.nan)
            for name, total, count in zip(protocol.joint_names, sums, counts, strict=True)
        }
    return out


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
