"""Engines against plain torch, step by step: `python -m tests.engines`.

The same six steps (two streams, adversarial term, clipping, a learning rate that rises) by every
way to run them. Exit code 1 where one differs by more than rounding.
"""

import sys

import torch

from tests.engines.rows import LIMITS, Row, run_cases
from tests.engines.steps import CLIPS, STEPS


def table(rows: list[Row]) -> str:
    """For each way three lines of differences."""
    steps = "".join(f"{f'step {i + 1}':>9}" for i in range(STEPS))
    lines = [f"{'':49}{steps}  allowed"]
    for row in rows:
        for line in ("loss", "typical", "largest"):
            title = row.name if line == "loss" else ""
            values = "".join(f"{value:9.1e}" for value in getattr(row, line))
            limit = LIMITS[row.precision].get(line)
            allowed = "-" if limit is None else f"{limit:.0e}"
            verdict = "" if line != "largest" else "pass" if row.passed else "FAIL"
            lines.append(f"{title:41}{line:8}{values}{allowed:>9}  {verdict}".rstrip())
    return "\n".join(lines)


def main() -> int:
    """Print every line; the number of failures decides the exit code."""
    print(
        f"torch {torch.__version__}, CPU; {CLIPS} clips a step; differences from plain torch, one "
        "worker\n  loss     relative, the largest of loss, gradient's norm, discriminator's loss\n"
        "  typical  root mean square over all weights, as a share of the way that Adam can have "
        "moved one\n  largest  of a single weight, as a share of the same way\n"
    )
    rows = run_cases()
    print(table(rows))
    failed = [row for row in rows if not row.passed]
    print(f"\n{len(rows) - len(failed)} of {len(rows)} pass")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
