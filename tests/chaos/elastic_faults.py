"""Nodes of a Ray cluster on this machine join, are lost, and are about to be taken away."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from extpose.config import TrainConfig
from extpose.training.starts import read_starts
from tests.chaos.local_faults import Bench
from tests.chaos.outcome import (
    Outcome,
    largest_difference,
    last_step,
    rounding_differences,
)
from tests.chaos.victim import FAST, PATIENCE, Victim, wait_for

STORE = 150 * 2**20
"""Bytes of each node's object store."""
AGENT_PORTS = (
    "metrics_agent_port",
    "metrics_export_port",
    "runtime_env_agent_port",
    "dashboard_agent_listen_port",
)
STEPS, SHORT_STEPS, PACE = 240, 180, 1.0
"""So slow until all has happened, then at full speed."""


def elastic(bench: Bench, *, is_short: bool = False) -> Iterator[Outcome]:
    """Nodes of a cluster on this machine come and go; compared with one worker left alone."""
    steps = SHORT_STEPS if is_short else STEPS
    straight = _elastic_config(bench, "elastic-straight", "plain", steps)
    straight = replace(straight, launcher="local", num_workers=1, min_workers=0)
    control = replace(straight, out=straight.out.with_name("elastic-control"))
    # Other micro-batches, other sums: as far as this one ends from the first, rounding goes.
    control = replace(control, engine=replace(control.engine, micro_batch=1))
    for config in (straight, control):
        victim = Victim(config=config)
        assert victim.run() == 0, victim.told
    for backend in ("deepspeed",) if is_short else ("deepspeed", "plain"):
        config = _elastic_config(bench, f"elastic-{backend}", backend, steps)
        yield from _come_and_go(config, straight.out, control.out, is_short=is_short)


def _elastic_config(bench: Bench, name: str, backend: str, steps: int) -> TrainConfig:
    config = bench.config(name, backend=backend)
    # Random depth is drawn by micro-batch: with workers of one micro-batch each it is the same.
    return replace(
        config,
        launcher="ray",
        steps=steps,
        checkpoint_every=10,
        num_workers=3,
        min_workers=1,
        resize_seconds=3.0,
        model=replace(config.model, drop_path=0.0),
    )


def _come_and_go(
    config: TrainConfig, straight: Path, control: Path, *, is_short: bool
) -> Iterator[Outcome]:
    name, out = {"plain": "plain", "deepspeed": "ZeRO-2"}[config.engine.backend], config.out
    with _cluster() as (cluster, add_node):
        environment = {
            "RAY_ADDRESS": cluster.address,
            # Nothing else runs on these nodes: room is found in seconds or not at all.
            "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
        }
        victim = Victim(config=config, pace=PACE, environment=environment)
        process = victim.start()

        def settled(fault: str, change: Callable[[], Any], *, workers: int) -> Outcome:
            """Do it while steps are made, wait until steps are made with so many workers."""
            before, step = len(read_starts(out)), last_step(out) + 3
            wait_for(lambda: last_step(out) >= step, process)
            began, at = time.monotonic(), last_step(out)
            change()
            wait_for(lambda: len(read_starts(out)) > before, process)
            last = read_starts(out)[-1]
            seconds = time.monotonic() - began
            return Outcome(
                fault=f"{fault}, {name}",
                moment=f"step {at}",
                outcome=f"{last.workers} workers {seconds:.0f} s later, "
                f"{last.lost} steps done again, {last.idle:.0f} s without a step",
                differences=None,
                is_good=last.workers == workers,
            )

        wait_for(lambda: last_step(out) >= 1, process)
        nodes: list[Any] = []
        yield settled("a node joins", lambda: nodes.append(add_node()), workers=2)
        if not is_short:
            # Three cannot share a batch of 4.
            yield settled("a third joins, batch 4", lambda: nodes.append(add_node()), workers=2)
        left = 1 if is_short else 2
        yield settled(
            "a node is lost", lambda: cluster.remove_node(nodes.pop(), False), workers=left
        )
        if not is_short:
            yield settled("notice of a node's end", lambda: _drain(cluster, nodes[-1]), workers=1)
        (out / FAST).touch()
        process.join(PATIENCE)
        code = process.exitcode
        process.kill()
    yield Outcome(
        fault=f"all of these, against one worker left alone, {name}",
        moment=f"step {last_step(out)}",
        outcome=(
            f"weights within {largest_difference(straight, out):.1e}, another such run alone: "
            f"{largest_difference(straight, control):.1e}"
            if not code
            else "ended"
        ),
        differences=rounding_differences(straight, out, control) if not code else None,
        is_good=code == 0,
    )


@contextmanager
def _cluster() -> Iterator[tuple[Any, Callable[[], Any]]]:
    """One node with room for one worker, and a function that adds another."""
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    head = {"include_dashboard": False, **_node_settings()}
    cluster = Cluster(initialize_head=True, head_node_args=head, connect=False)
    try:
        yield cluster, lambda: cluster.add_node(**_node_settings())
    finally:
        cluster.shutdown()


def _node_settings() -> dict[str, int]:
    """With ports: for those that its agents choose a raylet waits 15 s, and then aborts."""
    sockets = [socket.create_server(("", 0)) for _ in AGENT_PORTS]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return {
        "num_cpus": 1,
        "object_store_memory": STORE,
        **dict(zip(AGENT_PORTS, ports, strict=True)),
    }


def _drain(cluster: Any, node: Any) -> None:
    """What a cloud does some time before it takes a machine back."""
    command = [str(Path(sys.executable).with_name("ray")), "drain-node"]
    command += ["--address", cluster.address, "--node-id", node.node_id]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "taken back"]
    command += ["--deadline-remaining-seconds", "15"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
