"""The parity table: `python -m tests.parity`. Exit code 1 where anything differs too much."""

import sys
from collections.abc import Iterator

import torch

from tests.parity.checks import CHECKS
from tests.parity.rows import Row


def line(part: str, row: Row) -> str:
    """One row of the table."""
    kind = "relative" if row.is_relative else "absolute"
    verdict = "pass" if row.passed else "FAIL"
    return (
        f"{part:11s} {row.item:42s} {row.difference:10.2g} {row.tolerance:9.0e}  {kind}  {verdict}"
    )


def main() -> int:
    """Print every item; the number of failures decides the exit code."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), fp32, CPU\n")
    print(f"{'part':11s} {'item':42s} {'difference':>10s} {'tolerance':>9s}  kind      result")
    rows = [row for part, check in CHECKS.items() for row in _show(part, check())]
    failed = [row for row in rows if not row.passed]
    print(f"\n{len(rows) - len(failed)} of {len(rows)} pass")
    return 1 if failed else 0


def _show(part: str, rows: Iterator[Row]) -> Iterator[Row]:
    for row in rows:
        print(line(part, row), flush=True)
        yield row


if __name__ == "__main__":
    sys.exit(main())
