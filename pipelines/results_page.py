"""What `extpose evaluate` leaves: `results.json`, `results.md`, and `report.html` with pictures."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64, UInt8

from extpose.data.clip import decode_image, encode_png
from extpose.data.shards import ShardIndex
from extpose.evaluation.protocol import METRICS
from extpose.evaluation.scoring import ClipScores
from extpose.evaluation.summary import MetricResult, ProtocolResult, compare, describe
from extpose.predictions import ClipPrediction
from extpose.report import Report
from extpose.schema import Clip
from extpose.storage import Location
from extpose.visualize import draw_keypoints, overlay_mesh
from pipelines.benchmark import COLUMNS as BENCHMARK_COLUMNS
from pipelines.benchmark import benchmark_rows, benchmark_table
from pipelines.scorer import ShardScorer, ShardScores

if TYPE_CHECKING:
    from pipelines.evaluate import Evaluation

COLUMNS = 4
"""Frames of a clip that are drawn."""


def write_results(
    evaluation: "Evaluation", total: ShardScores, scorer: ShardScorer, shards: list[Location]
) -> Path:
    """Write all files; the page's path."""
    out = scorer.config.out
    out.mkdir(parents=True, exist_ok=True)
    content = {
        "facts": evaluation.facts,
        "unlabelled_clips": evaluation.unlabelled,
        "results": [result.to_json() for result in evaluation.results],
    }
    text = json.dumps(content, indent=1, allow_nan=False, sort_keys=True)
    (out / "results.json").write_text(text + "\n")
    (out / "results.md").write_text(to_markdown(evaluation))
    report = Report("ExtPose: evaluation", out)
    report.table(("", ""), [(name, _text(value)) for name, value in evaluation.facts.items()])
    if len(evaluation.results) > 1:
        report.heading("The same predictions under several protocols")
        report.code(compare(evaluation.results))
    _add_benchmark(report, evaluation)
    for result in evaluation.results:
        _add_result(report, result)
    _add_samples(report, evaluation.results[0], total, scorer, shards)
    return report.write()


def to_markdown(evaluation: "Evaluation") -> str:
    """The tables, to be pasted into an issue or a paper's supplement."""
    lines = ["# Evaluation", ""]
    lines += [f"- {name}: {_text(value)}" for name, value in evaluation.facts.items()]
    if (name := evaluation.facts["benchmark"]) is not None:
        lines += ["", f"## Benchmark {name}", "", benchmark_table(name, evaluation.results[0])]
    for result in evaluation.results:
        lines += ["", f"## {result.protocol.name}", ""]
        lines += [f"- {note}" for note in _notes(result)] + [""]
        lines += ["| metric | value | 95 % interval | averaged over |", "|---|---|---|---|"]
        lines += ["| " + " | ".join(_row(metric)) + " |" for metric in result.metrics]
    return "\n".join(lines) + "\n"


def _add_benchmark(report: Report, evaluation: "Evaluation") -> None:
    """Each camera, and what simple methods reach."""
    name = evaluation.facts["benchmark"]
    if name is not None:
        report.heading(f"Benchmark {name}: every camera, and simple methods beside")
        rows = benchmark_rows(name, evaluation.results[0])
        report.table(("", *BENCHMARK_COLUMNS.values()), [row.cells() for row in rows])


def _notes(result: ProtocolResult) -> list[str]:
    return [*describe(result).splitlines(), f"rule: {result.protocol.rule_from}"]


def _row(metric: MetricResult) -> tuple[str, str, str, str]:
    unit = f", {metric.unit}" if metric.unit else ""
    interval = f"{_number(metric.low, metric)} to {_number(metric.high, metric)}"
    return (
        f"{metric.label}{unit}", _number(metric.value, metric), interval, f"{metric.count}"
    )  # fmt: skip


def _number(value: float | None, metric: MetricResult) -> str:
    return "-" if value is None else f"{value:.{metric.digits}f}"


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _add_result(report: Report, result: ProtocolResult) -> None:
    report.heading(f"Protocol {result.protocol.name}")
    for note in _notes(result):
        report.text(note)
    report.table(
        ("metric", "value", "95 % interval", "averaged over"), [_row(m) for m in result.metrics]
    )
    if result.per_joint:
        report.table(("joint", *result.per_joint), _joint_rows(result))
    names = [metric.name for metric in result.metrics]
    report.table(
        ("sequence", "clips", "frames", *names),
        [
            (
                row.sequence,
                row.num_clips,
                row.num_frames,
                *("-" if (v := row.values.get(n)) is None else f"{v:.2f}" for n in names),
            )
            for row in result.sequences[:200]
        ],
    )


def _joint_rows(result: ProtocolResult) -> list[tuple[str, ...]]:
    """One joint a row, one metric a column."""
    digits = {metric.name: metric.digits for metric in result.metrics}
    return [
        (
            joint,
            *(
                "-" if (v := values.get(joint)) is None else f"{v:.{digits[name]}f}"
                for name, values in result.per_joint.items()
            ),
        )
        for joint in result.protocol.joint_names
    ]


def _add_samples(
    report: Report,
    result: ProtocolResult,
    total: ShardScores,
    scorer: ShardScorer,
    shards: list[Location],
) -> None:
    """The worst and the median clips by the first metric: drawn, and their error over time."""
    metric = result.metrics[0]
    scores = total.scores[result.protocol.name]
    sign = -1.0 if METRICS[result.protocol.metrics[0]].larger_is_better else 1.0
    ranked = [(sign * mean, s) for s in scores if math.isfinite(mean := clip_mean(s, metric.name))]
    ranked.sort(key=lambda pair: (-pair[0], pair[1].key))
    count = min(scorer.config.pictures, len(ranked))
    middle = max((len(ranked) - count) // 2, 0)
    chosen = {"worst": ranked[:count], "median": ranked[middle : middle + count]}
    folder = report.folder / "pictures"
    index = ShardIndex(shards)
    places = {key: i for i, key in enumerate(index.keys)}
    for title, group in chosen.items():
        if group:
            report.heading(f"The {title} clips by {metric.label}")
        for _, score in group:
            clip = index.read_clip(places[score.key])
            folder.mkdir(exist_ok=True)
            path = folder / f"{score.key}.png"
            path.write_bytes(encode_png(draw_clip(clip, total.predictions[score.key], scorer)))
            value = clip_mean(score, metric.name)
            report.picture(
                path, f"{score.key}: {metric.label} {value:.1f} {metric.unit}; above the "
                "predicted mesh, below the labelled (white) and predicted keypoints",
            )  # fmt: skip
            errors = frame_means(score, metric.name)
            if len(errors) > 1:
                frames = [float(i) for i in range(len(errors))]
                report.chart(score.key, frames, {metric.label: errors.tolist()}, "frame")
    index.close()


def frame_means(score: ClipScores, name: str) -> Float64[np.ndarray, " n"]:
    """A metric of each frame: the mean over its columns; not a number where nothing counts."""
    values = score.values[name].numpy()
    known = np.isfinite(values)
    sums = np.where(known, values, 0).sum(1)
    return np.where(known.any(1), sums / np.maximum(known.sum(1), 1), np.nan)


def clip_mean(score: ClipScores, name: str) -> float:
    """A metric of a clip; not a number where nothing counts."""
    errors = frame_means(score, name)
    known = errors[np.isfinite(errors)]
    return float(known.mean()) if len(known) else math.nan


def draw_clip(clip: Clip, found: ClipPrediction, scorer: ShardScorer) -> UInt8[np.ndarray, "h w 3"]:
    """Frames spread over a clip: mesh above, labelled and predicted keypoints below."""
    body = scorer.body_of("neutral")
    posed = found.posed(body, is_right=clip.meta.is_right)
    faces = body.faces.numpy()
    if clip.meta.is_right is False:
        faces = np.ascontiguousarray(faces[:, ::-1])
    height, width = clip.meta.image_size
    K = np.array([[found.focal_length, 0, width / 2], [0, found.focal_length, height / 2],
                  [0, 0, 1]])  # fmt: skip
    columns = []
    for frame in np.linspace(0, clip.num_frames - 1, min(COLUMNS, clip.num_frames)).round():
        i = int(frame)
        crop = decode_image(clip.rgb[i])
        to_crop = np.linalg.inv(np.vstack([clip.crop_to_img[i], [0, 0, 1]]).astype(np.float64))
        K_crop = to_crop @ K
        mesh = overlay_mesh(crop, [posed.vertices[i].numpy()], faces, K=K_crop)
        points = posed.keypoints[i].double().numpy() @ K_crop.T
        pixels = np.column_stack([points[:, :2] / points[:, 2:], np.ones(len(points))])
        drawn = draw_keypoints(crop, _labels(clip, i, to_crop), radius=4.0, color=(255, 255, 255))
        columns.append(np.concatenate([mesh, draw_keypoints(drawn, pixels, radius=2.5)], 0))
    return np.concatenate(columns, 1)


def _labels(
    clip: Clip, frame: int, to_crop: Float64[np.ndarray, "3 3"]
) -> Float64[np.ndarray, "k 3"]:
    """The labelled 2D keypoints in pixels of the stored crop."""
    assert clip.targets is not None
    labels = clip.targets.keypoints_2d[frame].astype(np.float64)
    return np.column_stack([labels[:, :2] @ to_crop[:2, :2].T + to_crop[:2, 2], labels[:, 2]])
