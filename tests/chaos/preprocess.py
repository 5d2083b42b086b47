"""Harm to preprocessing, at random moments, and whether the same bytes come out in the end.

    python -m tests.chaos.preprocess                        # 24 kills in 12 runs, all other faults
    python -m tests.chaos.preprocess --runs 50 --kills 1    # longer: each kill on its own
    python -m tests.chaos.preprocess --runs 0 --real 3 --kills-only

Each row is one fault: a run is harmed, then it is run again (unless it finished by itself), and the
hash over all shards, the manifest and the quarantine list is compared with an unharmed run's.
`--runs` is the number of killed runs with a fake detector, `--kills` how often each is hit: workers
(actor, detector, task) and at last its driver or raylet; with `--kills 1` one of the five. The
other faults (a lost node, a full disk, two drivers, detectors, a store) are tried once each.
`--real` is the number of killed runs with the embedded detector on real footage. Exit code 1 when a
row fails.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from extpose.errors import ExtPoseError
from pipelines.preprocess import preprocess
from tests.chaos.detector_faults import DETECTOR_FAULTS, break_detector
from tests.chaos.lab import Lab, Row, laboratory
from tests.chaos.preprocess_run import fake_config, units_done
from tests.chaos.store_faults import store_faults
from tests.pipelines.fakes import box_detector
from tests.s3_server import S3Server, s3_server, use_s3

WORKERS, ENDS = ("actor", "detector", "task"), ("driver", "raylet")
TARGETS = (*ENDS, *WORKERS)
HEADER = "| fault | moment | outcome | after the next run | |\n|---|---|---|---|---|"
EXITS = {"driver": {-9}, "raylet": {1, 3, -6, -9, -15}}
"""Of a run that loses this process (3: what it could not do any more is quarantined, and told). One
that loses another process goes on, and ends as if unharmed."""
EARLY = 0.3
"""Share of the killed drivers that are killed while they plan or start Ray."""
LATE = "(all done)"


def kill(lab: Lab, targets: Sequence[str]) -> Row:
    """`kill -9` of processes of one run, each at a random moment after the one before."""
    own_ray = "raylet" in targets
    victim, began, moments = lab.start(lab.new_out(), own_ray=own_ray), time.monotonic(), []
    for number, target in enumerate(targets):
        if target == "driver" and not number and lab.random.random() < EARLY:
            delay = lab.random.uniform(0.0, 6.0)
        else:
            victim.wait_for("actor" if target == "driver" else target)
            delay = lab.random.uniform(0.0, 0.3 if target == "task" else 4.0)
        time.sleep(delay)
        # The one that was waited for may be gone by now.
        alive = victim.wait_for(target)[:1]
        moments.append(f"{time.monotonic() - began:.1f}" if alive else LATE)
        for pid in alive:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    expected = EXITS.get(targets[-1], {lab.code}) if alive else {lab.code}
    moment = f"after {', '.join(moments)} s"
    row = lab.finish(f"kill -9 {', '.join(targets)}", moment, victim, expected=expected)
    return replace(row, kills=len(targets) - moments.count(LATE))


def draw_targets(lab: Lab, runs: int, kills: int) -> Iterator[list[str]]:
    """What is killed in each run: all kinds equally often; a run ends with its driver or raylet."""
    if kills == 1:
        yield from ([TARGETS[number % len(TARGETS)]] for number in range(runs))
        return
    for number in range(runs):
        workers = [WORKERS[(number + i) % len(WORKERS)] for i in range(kills - 1)]
        lab.random.shuffle(workers)
        yield [*workers, ENDS[number % len(ENDS)]]


def lose_node(lab: Lab) -> Row:
    """One of three nodes of a cluster goes away while it works."""
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 3, "include_dashboard": False}
    )
    nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
    try:
        victim = lab.start(lab.new_out(), RAY_ADDRESS=cluster.address)
        began = time.monotonic()
        victim.wait_for_unit()
        time.sleep(lab.random.uniform(0.0, 1.0))
        moment = f"{time.monotonic() - began:.1f} s"
        cluster.remove_node(nodes[0], allow_graceful=False)
        return lab.finish("node of a cluster lost", moment, victim, expected={lab.code})
    finally:
        cluster.shutdown()


def fill_disk(lab: Lab) -> Row:
    """A file system with room for half of the shards; then with room for all."""
    out = lab.new_out()
    out.mkdir()
    size = sum(path.stat().st_size for path in lab.unharmed.glob("*.tar"))
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size // 2048}k", "tmpfs", out], capture_output=True
    ).returncode:
        return Row(fault="disk full", moment="-", outcome="not tried: cannot mount", after="-",
                   is_ok=True, is_tried=False)  # fmt: skip
    try:
        victim = lab.start(out, own_ray=False)
        code = victim.wait()
        victim.clear()
        told = "cannot be written" in victim.log.read_text()
        subprocess.run(["mount", "-o", "remount,size=256m", out], check=True)
        units = units_done(out)
        after, is_equal = lab.run_again(out)
    finally:
        subprocess.run(["umount", out], check=True)
    outcome = f"exit {code}, {'names the file' if told else 'NO MESSAGE'}, {units} units done"
    return Row(fault="disk full", moment="half-way", outcome=outcome, after=after,
               is_ok=is_equal and told and code == 1)  # fmt: skip


def two_drivers(lab: Lab) -> Row:
    """A second run on the folder of one that works."""
    victim = lab.start(lab.new_out(), own_ray=False)
    victim.wait_for_unit()
    try:
        preprocess(fake_config(lab.videos, victim.out), detector=box_detector("nothing"))
        refusal = "THE SECOND WAS LET IN"
    except ExtPoseError as error:
        refusal = "second refused" if "another run" in str(error) else f"second: {error}"
    row = lab.finish(f"two drivers ({refusal})", "first unit done", victim, expected={lab.code})
    return row if refusal == "second refused" else replace(row, is_ok=False)


def faults(folder: Path, store: S3Server, args: argparse.Namespace) -> Iterator["partial[Row]"]:
    """All of them, one after the other."""
    lab = Lab(folder, args.seed, store=store, pace=args.pace)
    for targets in draw_targets(lab, args.runs, args.kills):
        yield partial(kill, lab, targets)
    if not args.kills_only:
        yield partial(lose_node, lab)
        yield partial(fill_disk, lab)
        yield partial(two_drivers, lab)
        for fault, reason in DETECTOR_FAULTS.items():
            yield partial(break_detector, lab, fault, reason)
        yield from store_faults(lab)
    if args.real:
        real = Lab(folder, args.seed, store=store, is_real=True)
        for number in range(args.real):
            yield partial(kill, real, [("driver", "detector", "actor")[number % 3]])


def _try(fault: "partial[Row]") -> Row:
    """A run that ends before it could be harmed costs its row, not the table."""
    try:
        return fault()
    except (ExtPoseError, RuntimeError) as error:
        last = (str(error).strip().splitlines() or [""])[-1]
        name = " ".join(str(part) for part in (fault.func.__name__, *fault.args[1:]))
        return Row(fault=name, moment="-", outcome=last, after="-", is_ok=False)


def main() -> int:
    """Print the table; 1 when a row failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=12, help="killed, with the fake detector")
    parser.add_argument("--kills", type=int, default=2, help="in each of these runs")
    parser.add_argument("--pace", type=float, default=0.05, help="s/frame, fake detector")
    parser.add_argument("--real", type=int, default=1, help="killed, with the embedded detector")
    parser.add_argument("--kills-only", action="store_true", help="leave the other faults out")
    args = parser.parse_args()
    began, rows = time.monotonic(), []
    with s3_server() as store:
        use_s3(store.url)
        with laboratory() as folder:
            print(HEADER)
            for fault in faults(folder, store, args):
                rows.append(_try(fault))
                print(rows[-1], flush=True)
    failed = sum(not row.is_ok for row in rows)
    skipped = sum(not row.is_tried for row in rows)
    print(
        f"\n{len(rows) - skipped} harmed runs, {sum(row.kills for row in rows)} times kill -9, "
        f"seed {args.seed}: {len(rows) - failed - skipped} ended as they must, {failed} did not, "
        f"{skipped} not tried; {time.monotonic() - began:.0f} s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
