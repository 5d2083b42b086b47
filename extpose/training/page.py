"""`report.html` of a training run: its curves, its first batch, its files. Read from its tables.

Made anew at each checkpoint and at the end; it can be opened while the run goes on.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from extpose.evaluation.protocol import METRICS
from extpose.report import Report
from extpose.training.validation import BEST, TABLE, read_best

MAX_POINTS = 500
"""Of a curve; more steps are averaged."""
NOT_TERMS = frozenset((
    "step", "seconds", "loss", "lr", "grad_norm", "frames_per_second", "clips_per_second",
    "data_wait", "data_wait_share", "mfu", "skipped",
))  # fmt: skip
TERMS = "terms of the loss, weighted (log)"
GRADIENT = "gradient norm before clipping (log)"
FILES = {
    "config.json": "every setting",
    "data.json": "a hash of each data set",
    "index.bin": "where each clip is; a run that goes on takes it",
    "versions.json": "libraries, commit, attention kernel, peak rate",
    "code.diff": "local edits of the code",
    "parameters.json": "numbers of parameters",
    "log.csv": "a line a step",
    TABLE: "a line a validation",
    "model.safetensors": "the weights at the end",
    BEST: "the best weights on held-out clips",
}


def write_page(out: Path, *, steps: int) -> Path:
    """Write the report of the run in `out`, which is to have `steps` steps."""
    log = read_table(out / "log.csv")
    report = Report(title=f"Training run {out.name}", folder=out)
    if not log:
        report.text("No step is done yet.")
        return report.write()
    _add_summary(report, log, steps=steps)
    _add_curves(report, log)
    _add_validation(report, out)
    if (out / "first_batch.png").exists():
        report.heading("First batch")
        caption = (
            "each clip: pictures with the labelled points, below them skeletons; grey is masked, "
            "dark is padding"
        )
        report.picture(out / "first_batch.png", caption)
    report.heading("Files")
    report.links({out / name: text for name, text in FILES.items() if (out / name).exists()})
    return report.write()


def read_table(path: Path) -> dict[str, list[float]]:
    """The columns of a CSV of numbers; empty where there is no file. Lines cut off are left out."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if None not in row.values()]
    return {name: [float(row[name]) for row in rows] for name in rows[0]} if rows else {}


def thin(values: Sequence[float], most: int = MAX_POINTS) -> list[float]:
    """Means of neighbours, so that at most `most` are left; what is not finite is left out."""
    size = math.ceil(len(values) / most) if values else 1
    groups = (values[first : first + size] for first in range(0, len(values), size))
    finite = ([v for v in group if math.isfinite(v)] for group in groups)
    return [sum(group) / len(group) if group else math.nan for group in finite]


def _add_summary(report: Report, log: Mapping[str, Sequence[float]], *, steps: int) -> None:
    last = log["seconds"][-1]
    rows = [
        ("steps", f"{log['step'][-1]:.0f} of {steps}"),
        ("time", f"{last / 3600:.2f} h"),
        ("loss, mean of the last tenth", f"{_late_mean(log['loss']):.4g}"),
        ("frames/s, same", f"{_late_mean(log['frames_per_second']):.4g}"),
        ("clips/s, same", f"{_late_mean(log['clips_per_second']):.4g}"),
        ("MFU, same", _percent(_late_mean(log["mfu"]))),
        ("waiting for data, share of the time", _percent(_late_mean(log["data_wait_share"]))),
    ]
    report.table(("", ""), rows)


def _add_curves(report: Report, log: Mapping[str, Sequence[float]]) -> None:
    curves: dict[str, tuple[str, ...]] = {
        "loss, their sum": ("loss",),
        TERMS: tuple(name for name in log if name not in NOT_TERMS),
        "learning rate": ("lr",),
        GRADIENT: ("grad_norm",),
        "frames a second, all workers": ("frames_per_second",),
        "share of the time that a step waits for data": ("data_wait_share",),
        "model FLOPs utilisation, share of the peak": ("mfu",),
    }
    report.heading("Curves")
    x = thin(log["step"])
    for title, names in curves.items():
        if names:
            lines = {name: thin(log[name]) for name in names}
            report.chart(title, x, lines, "step", is_log=title in (TERMS, GRADIENT))


def _add_validation(report: Report, out: Path) -> None:
    table = read_table(out / TABLE)
    if not table:
        return
    report.heading("Held-out clips")
    if (best := read_best(out / BEST)) is not None:
        report.text(f"Best {label_metric(best.metric)}: {best.value:.4g}; its weights are {BEST}.")
    labels = {name: label_metric(name) for name in table if name != "step"}
    for name, label in labels.items():
        if not name.startswith("target_"):
            lines = {label: table[name]}
            if (truth := f"target_{name}") in table:
                lines[labels[truth]] = table[truth]
            report.chart(label, table["step"], lines, "step")
    last = list(zip(*table.values(), strict=True))[-10:]
    report.table(
        ("step", *labels.values()),
        [(f"{step:.0f}", *(f"{value:.4g}" for value in values)) for step, *values in last],
    )


def label_metric(name: str) -> str:
    """A column of the validations' table, for people: with its unit."""
    for metric, unit in METRICS.items():
        if metric == name:
            return f"{unit.label}, {unit.unit}" if unit.unit else unit.label
    return name


def _late_mean(values: Sequence[float]) -> float:
    late = [v for v in values[-max(len(values) // 10, 1) :] if math.isfinite(v)]
    return sum(late) / len(late) if late else math.nan


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %" if math.isfinite(share) else "not counted"
