"""`report.html`: what a run made, as one page that a person can look at, offline.

Pictures and videos stay beside the page and are linked relatively; charts are inline SVG. The page
makes no request to anywhere.
"""

import html
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2em auto;padding:0 1em;color:#222}
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em;border-bottom:1px solid #ddd}
table{border-collapse:collapse;margin:.6em 0;display:block;overflow-x:auto}
td,th{padding:.2em .8em;border-bottom:1px solid #eee;text-align:right}
td:first-child,th:first-child{text-align:left}
img,video{max-width:100%;border:1px solid #ddd;background:#000}
figure{margin:1em 0}figcaption,.note{color:#666;font-size:.9em}
figure.chart{display:inline-block;width:49%;margin:.4em 0;vertical-align:top}
.chart b{color:#222}.chart span{margin-left:.7em;white-space:nowrap}
pre{background:#f6f6f6;padding:.8em;overflow:auto;font-size:.85em}
"""
_LEFT, _TOP, _WIDTH, _HEIGHT = 64, 10, 466, 190
"""Of a chart's frame, in units of its drawing."""
_FEW = 12
"""Points of a line up to which each is marked."""
_COLORS = ("#1667b7", "#c8501e", "#2a8f4e", "#7b3fa0", "#b58900", "#555", "#0a9396")


@dataclass
class Report:
    """Collects the parts of a page; `write` makes the file."""

    title: str
    folder: Path
    """The page's folder: links are made relative to it."""
    parts: list[str] = field(default_factory=list)

    def heading(self, text: str) -> None:
        """Start a chapter."""
        self.parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> None:
        """Add a paragraph."""
        self.parts.append(f"<p>{html.escape(text)}</p>")

    def code(self, text: str) -> None:
        """Add preformatted text."""
        self.parts.append(f"<pre>{html.escape(text)}</pre>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Add a table; numbers are printed as they are given."""
        head = "".join(f"<th>{html.escape(str(cell))}</th>" for cell in header)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
            for row in rows
        )
        self.parts.append(f"<table><tr>{head}</tr>{body}</table>")

    def picture(self, path: Path, caption: str) -> None:
        """Add a picture that lies in or below the folder."""
        self.parts.append(
            f'<figure><img src="{self._link(path)}" alt="{html.escape(caption)}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )

    def links(self, files: Mapping[Path, str]) -> None:
        """Add a list of files that lie in or below the folder, each with what is in it."""
        items = "".join(
            f'<li><a href="{self._link(path)}">{html.escape(path.name)}</a>: '
            f"{html.escape(text)}</li>"
            for path, text in files.items()
        )
        self.parts.append(f"<ul>{items}</ul>")

    def video(self, path: Path, caption: str) -> None:
        """Add a video that the browser plays."""
        self.parts.append(
            f'<figure><video src="{self._link(path)}" controls loop muted></video>'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )

    def chart(
        self,
        title: str,
        x: Sequence[float],
        series: Mapping[str, Sequence[float]],
        x_label: str,
        *,
        is_log: bool = False,
    ) -> None:
        """Add a line chart; two stand side by side. Several lines are named, with last values."""
        names = []
        for i, (name, line) in enumerate(series.items() if len(series) > 1 else ()):
            last = next((f" {v:.4g}" for v in reversed(line) if math.isfinite(v)), "")
            color = _COLORS[i % len(_COLORS)]
            names.append(f'<span style="color:{color}">{html.escape(name)}{last}</span>')
        self.parts.append(
            f"<figure class=chart><figcaption><b>{html.escape(title)}</b> {' '.join(names)}"
            f"</figcaption>{line_chart(x, series, x_label, is_log=is_log)}</figure>"
        )

    def write(self, name: str = "report.html") -> Path:
        """Write the page and return its path."""
        path = self.folder / name
        path.write_text(self.page(), encoding="utf-8")
        return path

    def page(self) -> str:
        """The page as text."""
        title = html.escape(self.title)
        return (
            f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
            f"<style>{_STYLE}</style><h1>{title}</h1>{''.join(self.parts)}</html>\n"
        )

    def _link(self, path: Path) -> str:
        return html.escape(quote(os.path.relpath(path, self.folder)))


def line_chart(
    x: Sequence[float], series: Mapping[str, Sequence[float]], x_label: str, *, is_log: bool = False
) -> str:
    """An SVG line chart with round numbers at its axes; few points are marked.

    `is_log`: the values' axis is logarithmic, and what is not above 0 is left out.
    """

    def place(value: float) -> float:
        return math.log10(value) if is_log else value

    lines = [[v if v > 0 or not is_log else math.nan for v in line] for line in series.values()]
    values = [place(v) for line in lines for v in line if math.isfinite(v)]
    if not x or not values:
        return "<p class=note>nothing to draw</p>"
    low, high = _widen(min(values), max(values))
    x_low, x_high = min(x), max(x)
    x_scale = _WIDTH / ((x_high - x_low) or 1)
    y_scale = _HEIGHT / (high - low)
    bottom, right = _TOP + _HEIGHT, _LEFT + _WIDTH
    parts = []
    for tick in _log_ticks(low, high) if is_log else _ticks(low, high):
        y = _TOP + (high - place(tick)) * y_scale
        parts.append(
            f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="#e4e4e4"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.4g}</text>'
        )
    parts.append(
        f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="#888"/>'
        f'<text x="{_LEFT}" y="{bottom + 18}">{x_low:.6g}</text>'
        f'<text x="{right}" y="{bottom + 18}" text-anchor="end">'
        f"{x_high:.6g} {html.escape(x_label)}</text>"
    )
    for i, line in enumerate(lines):
        points = [
            (_LEFT + (a - x_low) * x_scale, _TOP + (high - place(b)) * y_scale)
            for a, b in zip(x, line, strict=True)
            if math.isfinite(b)
        ]
        parts.append(_draw_line(points, _COLORS[i % len(_COLORS)]))
    return f'<svg viewBox="0 0 540 230" font-size="12">{"".join(parts)}</svg>'


def _draw_line(points: Sequence[tuple[float, float]], color: str) -> str:
    joined = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    line = f'<polyline points="{joined}" fill="none" stroke="{color}" stroke-width="1.5"/>'
    if len(points) > _FEW:
        return line
    return line + "".join(
        f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{color}"/>' for a, b in points
    )


def _widen(low: float, high: float) -> tuple[float, float]:
    """A flat line lies in the middle of its chart."""
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    room = abs(low) / 2 or 0.5
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """Three to seven multiples of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * 0.99)
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    return [number * step for number in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between two exponents, and, where these are few, what lies between them."""
    between = (1,) if high - low > 3 else (1, 3) if high - low > 1.5 else (1, 2, 5)
    powers = range(math.floor(low), math.ceil(high) + 1)
    found = [factor * 10.0**power for power in powers for factor in between]
    inside = [tick for tick in found if low - 1e-9 <= math.log10(tick) <= high + 1e-9]
    return inside if len(inside) > 1 else [10**low, 10**high]
