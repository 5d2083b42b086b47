"""`docs/protocols.md`, made from the protocols themselves: `python -m tests.protocol_page --write`.

Without `--write` the page is printed. A test compares the file with it.
"""

import argparse
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from extpose.evaluation.protocol import METRICS, Protocol
from extpose.evaluation.protocols import PROTOCOLS

PAGE = Path(__file__).parents[1] / "docs" / "protocols.md"
HEAD = """# Evaluation protocols

Made by `python -m tests.protocol_page --write` from `extpose/evaluation/protocols.py`: edit that.
The same predictions under several protocols: `python -m tests.conventions`. Each metric against an
independent implementation: `python -m tests.agreement`.

A protocol names every choice behind a number. Rows of joints are indices into their source:
`regressor` (17 rows of Human3.6M on posed vertices), `body44` (HMR2.0's 44 keypoints), `chain`
(the posed joints: 24 of SMPL, 16 of MANO), `coco17` (read off the surface), `hand21` (OpenPose's).

- **PA** metrics are after the best similarity of each frame. *Rotation*: determinant +1.
  *Reflection*: a mirror is allowed, as in the scripts of FreiHAND and HO3D.
- **MPJPE, MPVPE, acceleration, jitter** are relative to the root: the mean of its rows.
- **Truth.** *mesh*: the body posed by the labelled parameters, of the labelled gender where it says
  so (predictions are always of the neutral body). *keypoints*: labelled points. *stored*: labelled
  points and vertices.
- **Mean over** *frames*: all frames of all clips are pooled. *keypoints*: each keypoint over the
  set, then over keypoints. *points*: all labelled points are pooled.
- **Intervals** are 95 % percentile bootstraps over *sequences* (the stretches of one
  person or hand that the source cut: several of a video count as independent), or over pictures
  (*sample*).
- **Acceleration** is given in m/s^2 (WHAM) and mm/frame^2 (VIBE), and never taken across a gap, a
  left-out frame, or the end of a clip. Jitter is in 10 m/s^3, beside the truth's own.
- **PCK** is relative to the longer side of the labelled box (*box*) or of the tight box of the
  labelled 2D points (*joints_box*); distances must be smaller, labels have a confidence above 0.5.
- **Files.** J_regressor_h36m.npy is 17 x 6890, SMPL_to_J19.pkl 19 x 6890; both come with published
  evaluation code. A mesh that is not SMPL's (the free body) uses its own regressor rows of the
  same joints; a hand that is not MANO's its own finger tips. The result then says so.
"""


def _show_frames(protocol: Protocol) -> str:
    text = protocol.frames
    if protocol.only_detected:
        text += " (`is_detected`)"
    return text if protocol.min_joints is None else f"{text} (of {len(protocol.joints)})"


Cell = Callable[[Protocol], str]
TABLES: dict[str, dict[str, tuple[tuple[str, ...], Cell]]] = {
    "What is scored": {
        "body": (("body",), lambda p: p.body),
        "joints": (("joints_from", "joints"), lambda p: f"{p.joints_from}: {_rows(p.joints)}"),
        "root": (("root",), lambda p: _rows(p.root)),
        "PA": (("alignment",), lambda p: p.alignment),
        "PA of vertices": (("pa_vertices",), lambda p: _if_scored(p, "pa_mpvpe", p.pa_vertices)),
        "finger tips": (("tips",), lambda p: _rows(p.tips or ())),
        "feet": (("feet",), lambda p: _rows(p.feet)),
        "needs": (("needs",), lambda p: p.needs or "-"),
    },
    "Against what, over what": {
        "truth": (("truth", "gendered"), lambda p: f"{'gendered ' * p.gendered}{p.truth}"),
        "frames": (("frames", "only_detected", "min_joints"), _show_frames),
        "mean over": (("pooling",), lambda p: p.pooling),
        "intervals over": (("resample",), lambda p: f"{p.resample}s"),
        "PCK": (
            ("pck_thresholds", "pck_normaliser"),
            lambda p: (
                f"{_rows(p.pck_thresholds)} of {p.pck_normaliser}" if p.pck_normaliser else "-"
            ),
        ),
        "points": (("subset",), lambda p: p.subset),
    },
    "What the network is given": {
        "box": (("box",), lambda p: p.box),
        "times": (("box_scale",), lambda p: f"{p.box_scale:g}"),
        "2D evidence": (("evidence",), lambda p: p.evidence),
        "flip test": (("flip_test",), lambda p: "yes" if p.flip_test else "no"),
    },
    "What is printed": {
        "metrics": (("metrics",), lambda p: ", ".join(_labels(p))),
        "server's joint order": (("submission_order",), lambda p: _rows(p.submission_order or ())),
    },
    "Which published number, and from where": {
        "reproduces": (("reproduces",), lambda p: p.reproduces),
        "rule from": (("rule_from",), lambda p: p.rule_from),
    },
}


def page() -> str:
    """The whole file."""
    parts = [HEAD]
    for title, columns in TABLES.items():
        parts.append(f"## {title}\n")
        parts.append(f"| protocol | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
        for name, protocol in PROTOCOLS.items():
            cells = [cell(protocol) for _, cell in columns.values()]
            parts.append(f"| `{name}` | {' | '.join(cells)} |")
        parts.append("")
    return "\n".join(parts)


def _rows(rows: tuple[float, ...]) -> str:
    """Indices, runs shortened: 25-37, 43."""
    if not rows:
        return "-"
    if len(rows) > 3 and all(b == a + 1 for a, b in pairwise(rows)):
        return f"{rows[0]}-{rows[-1]}"
    return ", ".join(f"{row:g}" for row in rows)


def _if_scored(protocol: Protocol, metric: str, text: str) -> str:
    return text if metric in protocol.metrics else "-"


def _labels(protocol: Protocol) -> list[str]:
    units = [METRICS[name] for name in protocol.metrics]
    return [f"{u.label} ({u.unit})" if u.unit else u.label for u in units]


def main() -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        PAGE.write_text(page())
    else:
        print(page())


if __name__ == "__main__":
    main()
