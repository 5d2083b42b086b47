"""Faults under Ray Train: workers, driver and raylet killed; nodes lost, added, about to go."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from extpose.config import TrainConfig
from tests.chaos.local_faults import Bench, finished
from tests.chaos.outcome import (
    Outcome,
    largest_difference,
    last_step,
    rounding_differences,
    starts,
)
from tests.chaos.victim import FAST, Victim

STORE = 150 * 2**20
"""Bytes of each node's object store."""
PATIENCE = 240.0
ELASTIC_STEPS = 400


def faults(bench: Bench) -> Iterator[Outcome]:
    """Two workers with ZeRO-2, against the same two left alone."""
    straight = _on_ray(bench.config("ray-straight", backend="deepspeed"))
    victim = Victim(config=straight)
    assert victim.run() == 0, victim.told
    for harm, kill in {
        "worker killed": _kill_worker,
        "driver killed": _kill_driver,
        "raylet killed, with its object store": _kill_raylet,
    }.items():
        config = _on_ray(bench.config(f"ray-{harm.split()[0]}", backend="deepspeed"))
        process = Victim(config=config, pace=0.3).start()
        at = bench.rng.randint(5, 15)
        _wait(lambda out=config.out, at=at: last_step(out) >= at, process)
        kill(process, config.out)
        moment = f"step {last_step(config.out)}"
        (config.out / FAST).touch()
        process.join(PATIENCE)
        code = process.exitcode
        process.kill()
        outcome = finished(config, straight.out, f"{harm}, 2 workers, ZeRO-2", moment)
        yield replace(outcome, outcome=f"{_ended(code)}; {_last_start(config.out)}")


def _ended(code: int | None) -> str:
    if code == 0:
        return "went on by itself"
    return "hung" if code is None else "ended; started again, it went on"


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


def elastic(bench: Bench, *, is_short: bool = False) -> Iterator[Outcome]:
    """Nodes of a cluster on this machine come and go; compared with one worker left alone."""
    straight = _elastic_config(bench, "elastic-straight", "plain")
    victim = Victim(config=replace(straight, launcher="local", num_workers=1, min_workers=0))
    assert victim.run() == 0, victim.told
    for backend in ("deepspeed",) if is_short else ("deepspeed", "plain"):
        config = _elastic_config(bench, f"elastic-{backend}", backend)
        yield from _come_and_go(config, straight.out, is_short=is_short)


def _elastic_config(bench: Bench, name: str, backend: str) -> TrainConfig:
    config = bench.config(name, backend=backend)
    # Random depth is drawn by micro-batch: with workers of one micro-batch each it is the same.
    return replace(
        config,
        launcher="ray",
        steps=ELASTIC_STEPS,
        checkpoint_every=20,
        num_workers=3,
        min_workers=1,
        resize_seconds=3.0,
        model=replace(config.model, drop_path=0.0),
    )


def _come_and_go(config: TrainConfig, straight: Path, *, is_short: bool) -> Iterator[Outcome]:
    name, out = {"plain": "plain", "deepspeed": "ZeRO-2"}[config.engine.backend], config.out
    with _cluster() as (cluster, add_node):
        environment = {
            "RAY_ADDRESS": cluster.address,
            # Nothing else runs on these nodes: room is found in seconds or not at all.
            "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
        }
        victim = Victim(config=config, pace=0.15, environment=environment)
        process = victim.start()

        def settled(change: Callable[[], Any]) -> str:
            """Do it while steps are made, wait until steps are made with other workers."""
            before, step = len(starts(out)), last_step(out) + 3
            _wait(lambda: last_step(out) >= step, process)
            began, at = time.monotonic(), last_step(out)
            change()
            _wait(lambda: len(starts(out)) > before, process)
            last = starts(out)[-1]
            seconds = time.monotonic() - began
            return (
                f"step {at}: {last['workers']:.0f} workers {seconds:.0f} s later, "
                f"{last['lost']:.0f} steps done again, {last['idle']:.0f} s without a step"
            )

        _wait(lambda: last_step(out) >= 1, process)
        nodes: list[Any] = []
        told = {"a node joins": settled(lambda: nodes.append(add_node()))}
        if not is_short:
            told["a third joins, batch 4"] = settled(lambda: nodes.append(add_node()))
        told["a node is lost"] = settled(lambda: cluster.remove_node(nodes.pop(), False))
        if not is_short:
            told["notice of a node's end"] = settled(lambda: _drain(cluster, nodes[-1]))
        (out / FAST).touch()
        process.join(PATIENCE)
        code = process.exitcode
        process.kill()
    for fault, outcome in told.items():
        moment, _, rest = outcome.partition(": ")
        yield Outcome(fault=f"{fault}, {name}", moment=moment, outcome=rest, differences=None)
    yield Outcome(
        fault=f"all of these, against one worker left alone, {name}",
        moment=f"step {last_step(out)}",
        outcome=f"weights within {largest_difference(straight, out):.0e}" if not code else "ended",
        differences=rounding_differences(straight, out) if not code else None,
        is_good=code == 0,
    )


@contextmanager
def _cluster() -> Iterator[tuple[Any, Callable[[], Any]]]:
    """One node with room for one worker, and a function that adds another."""
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    settings = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=settings, connect=False)
    try:
        yield cluster, lambda: cluster.add_node(num_cpus=1, object_store_memory=STORE)
    finally:
        cluster.shutdown()


def _drain(cluster: Any, node: Any) -> None:
    """What a cloud does some time before it takes a machine back."""
    command = [str(Path(sys.executable).with_name("ray")), "drain-node"]
    command += ["--address", cluster.address, "--node-id", node.node_id]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "taken back"]
    command += ["--deadline-remaining-seconds", "15"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _last_start(out: Path) -> str:
    last = starts(out)[-1]
    return json.dumps({"steps done again": last["lost"], "s idle": round(last["idle"])})


def _wait(is_true: Callable[[], bool], process: BaseProcess) -> None:
    end = time.monotonic() + PATIENCE
    while not is_true():
        if not process.is_alive() or time.monotonic() > end:
            raise AssertionError(f"the driver ended (exit code {process.exitcode}), or hangs")
        time.sleep(0.1)
