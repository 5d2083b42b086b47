"""Hurts trainings on purpose, and prints a table: `python -m tests.chaos.train --seed 1`.

Kills by SIGKILL at seeded moments; a run that was hurt is started again and compared, as bytes,
with one that was left alone. `--only` picks parts: `local` (one process), `zero` (the same with
ZeRO-2), `workers` (their number changes), `ray` (two workers of Ray), `elastic` (nodes come and
go); `short` and `join` are small pieces of the first and the last. The tests run `short` and
`workers`. Exit code 1 where something was lost.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.chaos import elastic_faults, local_faults, ray_faults, worker_faults
from tests.chaos.outcome import HEADER, Outcome
from tests.chaos.victim import PLACES, Place
from tests.pipelines.train_runs import write_data

PARTS = ("local", "zero", "workers", "ray", "elastic")
PIECES = ("short", "join")


def main(words: list[str] | None = None) -> int:
    """The table, row by row as they come, and a summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3, help="kills of each kind")
    parser.add_argument("--only", nargs="+", choices=PARTS + PIECES, default=PARTS)
    options = parser.parse_args(words)
    began, outcomes = time.monotonic(), list[Outcome]()
    print(HEADER, flush=True)
    with tempfile.TemporaryDirectory(prefix="extpose-chaos-") as folder:
        bench = local_faults.Bench(
            folder=Path(folder),
            data=write_data(Path(folder) / "data"),
            rng=random.Random(options.seed),
        )
        for part in options.only:
            for outcome in _run_part(bench, part, options.runs):
                outcomes.append(outcome)
                print(outcome.row(), flush=True)
    failed = sum(not outcome.is_ok for outcome in outcomes)
    equal = sum(outcome.differences == [] for outcome in outcomes)
    seconds = time.monotonic() - began
    print(
        f"\nseed {options.seed}: {len(outcomes)} faults, {failed} failed, {equal} runs compared "
        f"and found the same, {seconds:.0f} s"
    )
    return 1 if failed or not outcomes else 0


def _run_part(bench: local_faults.Bench, part: str, runs: int) -> Iterator[Outcome]:
    if part in ("local", "short"):
        places: tuple[Place, ...] = ("row", "sync") if part == "short" else tuple(PLACES)
        yield from local_faults.kills(bench, "plain", runs, places=places)
        if part == "local":
            yield from local_faults.others(bench, bench.folder / "plain-straight")
    elif part == "zero":
        yield from local_faults.kills(bench, "deepspeed", runs)
    elif part == "workers":
        yield from worker_faults.changes(bench)
    elif part == "ray":
        yield from ray_faults.faults(bench)
    else:
        yield from elastic_faults.elastic(bench, is_short=part == "join")


if __name__ == "__main__":
    sys.exit(main())
