"""Faults under Ray Train with two workers: one of them, the driver, the raylet is killed."""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

from extpose.config import TrainConfig
from extpose.training.starts import read_starts
from tests.chaos.local_faults import Bench, finished
from tests.chaos.outcome import Outcome, last_step
from tests.chaos.victim import FAST, PATIENCE, REFUSED, Victim, wait_for


def faults(bench: Bench) -> Iterator[Outcome]:
    """Two workers with ZeRO-2, against the same two left alone."""
    straight = _on_ray(bench.config("ray-straight", backend="deepspeed"))
    victim = Victim(config=straight)
    assert victim.run() == 0, victim.told
    for harm, (kill, expected) in {
        "worker killed": (_kill_worker, {0}),
        "driver killed": (_kill_driver, {-signal.SIGKILL}),
        "raylet killed, with its object store": (_kill_raylet, {0, REFUSED}),
    }.items():
        config = _on_ray(bench.config(f"ray-{harm.split()[0]}", backend="deepspeed"))
        process = Victim(config=config, pace=0.3).start()
        at = bench.rng.randint(5, 15)
        wait_for(lambda out=config.out, at=at: last_step(out) >= at, process)
        kill(process, config.out)
        moment = f"step {last_step(config.out)}"
        (config.out / FAST).touch()
        process.join(PATIENCE)
        code = process.exitcode
        process.kill()
        outcome = finished(config, straight.out, f"{harm}, 2 workers, ZeRO-2", moment)
        yield replace(
            outcome,
            outcome=f"{_ended(code)}; {outcome.outcome}; {_last_start(config.out)}",
            is_good=outcome.is_good and code in expected,
        )


def _ended(code: int | None) -> str:
    if code == 0:
        return "went on by itself"
    return "hung" if code is None else f"ended ({code}); started again"


def _on_ray(config: TrainConfig) -> TrainConfig:
    return replace(config, launcher="ray", num_workers=2)


def _kill_worker(_process: BaseProcess, out: Path) -> None:
    pids = sorted(int(path.name) for path in (out / "pids").iterdir())
    os.kill(pids[-1], signal.SIGKILL)


def _kill_driver(process: BaseProcess, _out: Path) -> None:
    process.kill()


def _kill_raylet(process: BaseProcess, _out: Path) -> None:
    assert process.pid is not None
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
            is_raylet = (entry / "cmdline").read_bytes().split(b"\0")[0].endswith(b"raylet/raylet")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if is_raylet and int(parent) == process.pid:
            os.kill(int(entry.name), signal.SIGKILL)


def _last_start(out: Path) -> str:
    last = read_starts(out)[-1]
    return json.dumps({"steps done again": last.lost, "s idle": round(last.idle)})
