"""The chart of README.md: the error of a training on held-out clips, from its run folder.

PYTHONPATH=. python docs/curve.py runs/tiny docs/curve.svg
"""

import sys
from pathlib import Path

from extpose.report import line_chart
from extpose.training.page import label_metric, read_table
from extpose.training.validation import TABLE

METRICS = ("mpjpe", "pa_mpjpe")
HEIGHT = 270


def main(run: Path, out: Path) -> None:
    """One chart a metric, side by side, on white."""
    table = read_table(run / TABLE)
    parts = []
    for place, name in enumerate(METRICS):
        chart = line_chart(table["step"], {name: table[name]}, "steps")
        left = 560 * place
        title = f"{label_metric(name)}, held-out clips"
        parts.append(
            f'<text x="{left + 64}" y="24" font-size="15">{title}</text>'
            + chart.replace("<svg ", f'<svg x="{left}" y="36" width="540" height="230" ', 1)
        )
    width = 560 * len(METRICS)
    out.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" '
        f'font-family="sans-serif" fill="#222"><rect width="{width}" height="{HEIGHT}" '
        f'fill="#fff"/>{"".join(parts)}</svg>\n'
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
