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
table{border-collapse:collapse;margin:.6em 0}
td,th{padding:.2em .8em;border-bottom:1px solid #eee;text-align:right}
td:first-child,th:first-child{text-align:left}
img,video{max-width:100%;border:1px solid #ddd;background:#000}
figure{margin:1em 0}figcaption,.note{color:#666;font-size:.9em}
pre{background:#f6f6f6;padding:.8em;overflow:auto;font-size:.85em}
"""
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
        self, title: str, x: Sequence[float], series: Mapping[str, Sequence[float]], x_label: str
    ) -> None:
        """Add a line chart."""
        self.parts.append(
            f"<figure>{line_chart(x, series, x_label)}"
            f"<figcaption>{html.escape(title)}</figcaption></figure>"
        )

    def write(self, name: str = "report.html") -> Path:
        """Write the page and return its path."""
        path = self.folder / name
        title = html.escape(self.title)
        path.write_text(
            f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
            f"<style>{_STYLE}</style><h1>{title}</h1>{''.join(self.parts)}</html>\n",
            encoding="utf-8",
        )
        return path

    def _link(self, path: Path) -> str:
        return html.escape(quote(os.path.relpath(path, self.folder)))


def line_chart(x: Sequence[float], series: Mapping[str, Sequence[float]], x_label: str) -> str:
    """An SVG line chart, 720 x 260, with the extremes written at the axes."""
    values = [v for line in series.values() for v in line if math.isfinite(v)]
    if not x or not values:
        return "<p class=note>nothing to draw</p>"
    left, top, width, height = 60, 10, 640, 210
    low, high = min(values), max(values)
    x_low, x_high = min(x), max(x)
    x_scale = width / ((x_high - x_low) or 1)
    y_scale = height / ((high - low) or 1)

    def points(line: Sequence[float]) -> str:
        return " ".join(
            f"{left + (a - x_low) * x_scale:.1f},{top + (high - b) * y_scale:.1f}"
            for a, b in zip(x, line, strict=True)
            if math.isfinite(b)
        )

    bottom = top + height
    spacing = min(130, 540 / max(len(series), 1))
    parts = [
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#ccc"/>',
        f'<text x="{left - 6}" y="{top + 10}" text-anchor="end">{high:.4g}</text>',
        f'<text x="{left - 6}" y="{bottom}" text-anchor="end">{low:.4g}</text>',
        f'<text x="{left}" y="{bottom + 18}">{x_low:.4g}</text>',
        f'<text x="{left + width}" y="{bottom + 18}" text-anchor="end">'
        f"{x_high:.4g} {html.escape(x_label)}</text>",
    ]
    for i, (name, line) in enumerate(series.items()):
        color = _COLORS[i % len(_COLORS)]
        parts.append(
            f'<polyline points="{points(line)}" fill="none" stroke="{color}" stroke-width="1.5"/>'
            f'<text x="{left + 70 + spacing * i:.0f}" y="{bottom + 34}" fill="{color}">'
            f"{html.escape(name)}</text>"
        )
    body = "".join(parts)
    return f'<svg viewBox="0 0 720 260" width="720" font-size="12">{body}</svg>'
