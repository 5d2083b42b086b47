"""Workers are lost and join, started and stopped as Ray Train does it, but without Ray.

Groups of processes around `run_worker`, each of another size, one after the other in one folder.
What Ray adds, finding room and nodes that are gone, is in `tests.chaos.elastic_faults`.
"""

import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch.distributed as dist

from extpose.config import TrainConfig
from extpose.training.run import run_worker
from extpose.training.saving import ask_to_save
from extpose.training.starts import Start, read_starts
from tests.chaos.local_faults import Bench
from tests.chaos.outcome import Outcome, largest_difference, last_step, rounding_differences
from tests.chaos.victim import FAST, PATIENCE, PRELOADED, Victim, slow_down, wait_for

STEPS, EVERY = 30, 8
SECONDS = 0.05
"""A micro-batch, until the last group."""


def changes(bench: Bench) -> Iterator[Outcome]:
    """1 worker, then 3 (batch 4: 2 of them), one of which is killed, then 1; against 1 alone."""
    config = bench.config("workers", backend="deepspeed")
    # Random depth is drawn by micro-batch: with workers of one micro-batch each it is the same.
    model = replace(config.model, drop_path=0.0)
    config = replace(config, steps=STEPS, checkpoint_every=EVERY, min_workers=1, model=model)
    straight = replace(config, out=bench.folder / "workers-straight", min_workers=0)
    victim = Victim(config=straight)
    assert victim.run() == 0, victim.told
    out = config.out
    out.mkdir()
    _join(config)
    codes = _lose(config)
    last = _start(config, 1)
    (out / FAST).touch()
    ended = _end(last)
    _, joined, left = read_starts(out)
    # The third has no share and ends; the first, alone, is told by the broken connection.
    is_right = joined.workers == 2 and joined.lost <= 2 and bool(codes[0]) and codes[2] == 0
    yield _row("two workers join one", joined, is_right)
    yield _row("one of two is killed", left, left.workers == 1 and 0 < left.lost <= EVERY + 2)
    yield Outcome(
        fault="both, against one worker left alone, ZeRO-2",
        moment=f"step {last_step(out)}",
        outcome=f"weights within {largest_difference(straight.out, out):.0e}",
        differences=rounding_differences(straight.out, out),
        is_good=ended == [0],
    )


def _join(config: TrainConfig) -> None:
    """One worker is stopped as soon as it has saved, as it is asked to before a resize."""
    (only,) = _start(config, 1)
    wait_for(lambda: last_step(config.out) >= 3, only)
    request = ask_to_save(config.out)
    wait_for(lambda: not request.exists(), only)
    only.kill()
    _end([only])


def _lose(config: TrainConfig) -> list[int | None]:
    """Of three, whom the batch is too small for, the second is killed; how they ended."""
    group = _start(config, 3)
    wait_for(lambda: last_step(config.out) >= EVERY + 3, group[0])
    group[1].kill()
    return _end(group)


def _row(what: str, start: Start, is_good: bool) -> Outcome:
    return Outcome(
        fault=f"{what}, ZeRO-2",
        moment=f"step {start.step + start.lost}",
        outcome=f"on from step {start.step}, workers: {start.workers}, done again: {start.lost}",
        differences=None,
        is_good=is_good,
    )


def _start(config: TrainConfig, count: int) -> list[BaseProcess]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    store = config.out / f"store-{len(read_starts(config.out))}"
    group = [
        context.Process(target=_work, args=(config, store, rank, count)) for rank in range(count)
    ]
    for process in group:
        process.start()
    return list(group)


def _end(group: list[BaseProcess]) -> list[int | None]:
    for process in group:
        process.join(PATIENCE)
    codes = [process.exitcode for process in group]
    for process in group:
        process.kill()
    return codes


def _work(config: TrainConfig, store: Path, rank: int, count: int) -> None:
    errors = os.open(config.out / "workers.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(errors, stream)
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    slow_down(config, SECONDS)
    dist.init_process_group(
        "gloo", store=dist.FileStore(str(store), count), rank=rank, world_size=count
    )
    run_worker(config)
