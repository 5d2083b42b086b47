"""A discrete-event model of preprocessing on a cluster: what `pipelines.estimate` runs.

    plan (serial, driver) -> hand out (serial, driver) -> detect (a detector of a node) -> pack
    (a core of a node) -> done;  reading and writing share one storage, first come, first served

Times are seconds, sizes bytes. A node that fails loses what it was doing, comes back after
`Cluster.start_seconds`, and its units are begun again. The same arguments give the same answer.
"""

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Work:
    """One unit."""

    detect_seconds: float
    pack_seconds: float
    """With tracking."""
    bytes_read: float = 0.0
    """By each of the two stages: both decode."""
    bytes_written: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Nodes of one kind, and what they share."""

    nodes: int
    detectors: int
    """Of each node."""
    pack_cores: int
    """Of each node: those that detectors leave free."""
    plan_seconds: float = 0.0
    """On the driver, before the first unit."""
    start_seconds: float = 0.0
    """Of a node, its detectors included."""
    hand_out_seconds: float = 0.0
    """Of the driver for each unit: nothing else is handed out meanwhile."""
    storage_bandwidth: float = float("inf")
    """Bytes a second of all nodes together."""
    mean_seconds_to_failure: float = float("inf")
    """Of each node, exponentially distributed."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the model says."""

    seconds: float
    """From the command to the last unit."""
    detector_share: float
    """Of the detectors' time after the start: busy with units that they finished."""
    failures: int
    repeated: int
    """Stages that were begun again."""


DETECT, PACK, FAIL, JOIN = range(4)


class _Model:
    """The state between events: free slots by node, queues, and two servers (driver, storage)."""

    def __init__(self, work: Sequence[Work], cluster: Cluster) -> None:
        self.work, self.cluster = work, cluster
        self.random = np.random.default_rng(cluster.seed)
        self.events: list[tuple[float, int, int, int, int, int]] = []
        self.count = 0
        self.slots = {DETECT: cluster.detectors, PACK: cluster.pack_cores}
        self.free = {stage: deque[int]() for stage in (DETECT, PACK)}
        self.waiting = {DETECT: deque(range(len(work))), PACK: deque[int]()}
        self.running: list[dict[tuple[int, int], float]] = [{} for _ in range(cluster.nodes)]
        self.epoch = [0] * cluster.nodes
        self.driver_free = self.storage_free = 0.0
        self.done = self.failures = self.repeated = 0
        self.detect_busy = 0.0

    def push(self, time: float, kind: int, node: int, unit: int = -1) -> None:
        """Events of equal time happen in the order in which they were made."""
        self.count += 1
        heapq.heappush(self.events, (time, self.count, kind, node, unit, self.epoch[node]))

    def run(self) -> Estimate:
        """Event after event until all units are done."""
        now, start = 0.0, self.cluster.plan_seconds + self.cluster.start_seconds
        self.driver_free = start
        for node in range(self.cluster.nodes):
            self.push(start, JOIN, node)
        while self.done < len(self.work):
            now, _, kind, node, unit, epoch = heapq.heappop(self.events)
            if epoch == self.epoch[node]:
                self.happen(now, kind, node, unit)
        whole = max((now - start) * self.cluster.nodes * self.cluster.detectors, 1e-12)
        return Estimate(
            seconds=now,
            detector_share=self.detect_busy / whole,
            failures=self.failures,
            repeated=self.repeated,
        )

    def happen(self, now: float, kind: int, node: int, unit: int) -> None:
        """One event."""
        if kind == JOIN:
            for stage, slots in self.slots.items():
                self.free[stage].extend([node] * slots)
            if np.isfinite(self.cluster.mean_seconds_to_failure):
                lifetime = self.random.exponential(self.cluster.mean_seconds_to_failure)
                self.push(now + lifetime, FAIL, node)
        elif kind == FAIL:
            self.fail(now, node)
        else:
            began = self.running[node].pop((kind, unit))
            self.free[kind].append(node)
            if kind == DETECT:
                self.detect_busy += now - began
                self.waiting[PACK].append(unit)
            else:
                self.done += 1
        self.begin(now, DETECT)
        self.begin(now, PACK)

    def fail(self, now: float, node: int) -> None:
        """What the node was doing goes back to the front of its queue."""
        self.failures += 1
        self.epoch[node] += 1
        for stage, unit in reversed(self.running[node]):
            self.waiting[stage].appendleft(unit)
            self.repeated += 1
        self.running[node].clear()
        for stage in self.free:
            self.free[stage] = deque(n for n in self.free[stage] if n != node)
        self.push(now + self.cluster.start_seconds, JOIN, node)

    def begin(self, now: float, stage: int) -> None:
        """Units to free slots, longest free first."""
        while self.waiting[stage] and self.free[stage]:
            unit, node = self.waiting[stage].popleft(), self.free[stage].popleft()
            began = now
            if stage == DETECT:
                began = self.driver_free = max(now, self.driver_free)
                self.driver_free += self.cluster.hand_out_seconds
                began = self.driver_free
            work = self.work[unit]
            seconds = work.detect_seconds if stage == DETECT else work.pack_seconds
            size = work.bytes_read + (work.bytes_written if stage == PACK else 0.0)
            self.storage_free = (
                max(began, self.storage_free) + size / self.cluster.storage_bandwidth
            )
            self.running[node][stage, unit] = began
            self.push(max(began + seconds, self.storage_free), stage, node, unit)


def simulate(work: Sequence[Work], cluster: Cluster) -> Estimate:
    """Raises ValueError for a cluster that could do nothing."""
    for name in ("nodes", "detectors", "pack_cores"):
        if getattr(cluster, name) < 1:
            raise ValueError(f"{name} is {getattr(cluster, name)}, it must be at least 1")
    return _Model(work, cluster).run()
