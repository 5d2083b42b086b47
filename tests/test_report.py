import math
import re
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest

from extpose.report import Report, line_chart

NASTY = "<script>alert(\"x\")</script> & 'more'"


def test_all_text_is_escaped(tmp_path: Path) -> None:
    report = Report(NASTY, tmp_path)
    report.heading(NASTY)
    report.text(NASTY)
    report.code(NASTY)
    report.table((NASTY,), [(NASTY,), (1.5,)])
    report.picture(tmp_path / "a.jpg", NASTY)
    report.video(tmp_path / "a.mp4", NASTY)
    report.chart(NASTY, [0.0, 1.0], {NASTY: [0.0, 1.0]}, NASTY)
    page = report.write().read_text(encoding="utf-8")
    assert "<script" not in page
    assert 'alert("' not in page
    assert page.count("&lt;script&gt;") == 12
    assert "<td>1.5</td>" in page
    assert "http" not in page


@pytest.mark.parametrize("name", ["a b.jpg", "a#1?.jpg", "100%.jpg", 'a"b&c.jpg', "ä.jpg"])
def test_links_are_relative_and_lead_to_the_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "below").mkdir()
    report = Report("links", tmp_path)
    report.picture(tmp_path / "below" / name, "a picture")
    link = re.search(r'src="([^"]*)"', report.write("page.html").read_text())
    assert link is not None
    assert not set(link[1]) & set("#?\"' ")
    assert unquote(link[1]) == f"below/{name}"


def points(svg: str) -> list[list[tuple[float, float]]]:
    lines = ElementTree.fromstring(svg).findall("polyline")
    return [[tuple(map(float, p.split(","))) for p in li.get("points", "").split()] for li in lines]


def test_a_chart_spans_its_frame() -> None:
    (line,) = points(line_chart([10.0, 20.0, 30.0], {"loss": [4.0, 2.0, 0.0]}, "step"))
    assert line == [(64, 10), (297, 105), (530, 200)]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_chart_leaves_out_what_is_no_number(bad: float) -> None:
    svg = line_chart([0.0, 1.0, 2.0], {"a": [1.0, bad, 3.0], "b": [bad, bad, bad]}, "step")
    assert points(svg) == [[(64, 200), (530, 10)], []]
    assert "nan" not in svg
    assert "inf" not in svg


def test_a_flat_line_and_a_single_point_are_drawn() -> None:
    for x, y in (([0.0, 1.0], [2.0, 2.0]), ([5.0], [1.0])):
        (line,) = points(line_chart(x, {"a": y}, "step"))
        assert len(line) == len(x)
        assert all(math.isfinite(value) for point in line for value in point)


@pytest.mark.parametrize("series", [{}, {"a": []}, {"a": [math.nan]}])
def test_nothing_to_draw_says_so(series: dict[str, list[float]]) -> None:
    x = [0.0] * max((len(line) for line in series.values()), default=0)
    assert "nothing to draw" in line_chart(x, series, "step")


def labels(svg: str) -> list[str]:
    return [text.text or "" for text in ElementTree.fromstring(svg).findall("text")]


def test_axes_have_round_numbers() -> None:
    assert labels(line_chart([0.0, 1.0], {"a": [0.0, 97.0]}, "step"))[:5] == [
        "0", "20", "40", "60", "80",
    ]  # fmt: skip
    assert labels(line_chart([0.0, 1.0], {"lr": [3e-5, 9.98e-4]}, "step"))[0] == "0.0002"


def test_a_logarithmic_axis_shows_small_terms_beside_large_ones() -> None:
    lines = {"large": [100.0, 100.0, 100.0], "small": [1.0, 0.0, 0.1]}
    svg = line_chart([0.0, 1.0, 2.0], lines, "step", is_log=True)
    large, small = points(svg)
    assert {y for _, y in large} == {10}
    # A term that is 0 has no place on it.
    assert small == [(64, pytest.approx(136.7, abs=0.1)), (530, 200)]
    assert {"1", "10", "100"} <= set(labels(svg))


def test_several_lines_are_named_with_their_last_values(tmp_path: Path) -> None:
    report = Report(title="run", folder=tmp_path)
    report.chart("terms", [0.0, 1.0], {"pose": [9.0, 8.5], "betas": [1.0, math.nan]}, "step")
    page = report.write().read_text()
    assert "pose 8.5</span>" in page
    assert "betas 1</span>" in page


def test_lines_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        line_chart([0.0, 1.0], {"a": [1.0]}, "step")


def test_links_to_files(tmp_path: Path) -> None:
    report = Report(title="run", folder=tmp_path)
    report.links({tmp_path / "a b.csv": "a <line> a step"})
    page = report.write().read_text()
    assert '<li><a href="a%20b.csv">a b.csv</a>: a &lt;line&gt; a step</li>' in page
