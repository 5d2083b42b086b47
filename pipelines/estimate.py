"""`extpose estimate`: how long and how much, for many clips on 1 to 16 nodes.

    extpose estimate data/walk --clips 1000000 --node cpu-32

Stage times are those of a run that was measured (`timing.json`); the cluster is the discrete-event
model of `pipelines.cluster_model`. What is assumed, and not measured, is printed with the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from extpose.errors import ExtPoseError
from pipelines.cluster_model import Cluster, Estimate, Work, simulate
from pipelines.timing import RunTiming, read_timing

GIB = 1 << 30
PLAN_READS, STAGE_READS = 2, 2
"""Of every video: once for its hash and once for its frames' times; by detection and by packing."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A kind of machine, and what one hour of it is assumed to cost."""

    cores: int
    detectors: int
    gpus: int = 0
    detect_speedup: float = 1.0
    """Of one detector, against one on a core."""
    price: float
    """An hour, in dollars."""


NODES = {
    "cpu-32": Node(cores=32, detectors=28, price=1.3),
    "gpu-16": Node(cores=16, detectors=4, gpus=1, detect_speedup=20.0, price=1.5),
}
NodeKind = Literal["cpu-32", "gpu-16"]


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What is not measured."""

    mean_video_seconds: float = 120.0
    video_skew: float = 1.0
    """Standard deviation of the logarithm of a video's length (log-normal); 0: all alike."""
    fps: float = 25.0
    unit_frames: int = 256
    video_megabits: float = 4.0
    """A second of video, as read."""
    storage_gigabits: float = 20.0
    """A second, of all nodes together."""
    plan_gigabits: float = 4.0
    """A second, at which the driver reads and hashes the videos before the first unit."""
    start_seconds: float = 180.0
    """Of a node: boot, image, weights."""
    hand_out_seconds: float = 0.075
    """Of the driver, for the three blocks of a unit (19 ms a task, 35 ms an actor's)."""
    failure_hours: float = 200.0
    """Mean time until a node is lost; one that replaces it starts as long as a new one."""
    price: float = 0.0
    """Of a node for an hour; 0: what is assumed for its kind."""
    seed: int = 0


@dataclass(frozen=True)
class EstimateArgs:
    """`extpose estimate`."""

    timing: tyro.conf.Positional[Path]
    """`timing.json` of a run of `extpose preprocess`, or its folder."""
    clips: int = 1_000_000
    node: NodeKind = "cpu-32"
    clock: Literal["cpu", "wall"] = "cpu"
    """Which of the measured times of detection counts: that of the CPU, or, where a GPU was
    measured, that on the wall."""
    nodes: tuple[int, ...] = (1, 2, 4, 8, 16)
    assume: Assumptions = field(default_factory=Assumptions)


def draw_units(num_frames: int, assume: Assumptions) -> np.ndarray:
    """Frames of each unit of videos of random lengths, `num_frames` in all, as the plan cuts."""
    random = np.random.default_rng(assume.seed)
    mean = assume.mean_video_seconds * assume.fps
    units: list[int] = []
    while num_frames > 0:
        drawn = mean * random.lognormal(-(assume.video_skew**2) / 2, assume.video_skew)
        video = min(max(int(drawn), 1), num_frames)
        num_frames -= video
        parts = -(-video // assume.unit_frames)
        units += np.diff([video * i // parts for i in range(parts + 1)]).tolist()
    return np.array(units)


def cost_of(timing: RunTiming, clock: str) -> dict[str, float]:
    """Seconds a frame of each stage."""
    measured = timing.cpu | ({"detect": timing.stages["detect"]} if clock == "wall" else {})
    return {stage: seconds / timing.frames for stage, seconds in measured.items()}


def make_work(
    timing: RunTiming, frames: np.ndarray, node: Node, assume: Assumptions, *, clock: str
) -> list[Work]:
    """Units with the measured cost a frame of each stage."""
    each = cost_of(timing, clock)
    read = assume.video_megabits * 1e6 / 8 / assume.fps
    written = timing.num_bytes / timing.frames
    return [
        Work(
            detect_seconds=n * each["detect"] / node.detect_speedup,
            pack_seconds=n * sum(cost for stage, cost in each.items() if stage != "detect"),
            bytes_read=n * read,
            bytes_written=n * written,
        )
        for n in frames.tolist()
    ]


def estimate(args: EstimateArgs) -> tuple[list[str], list[Estimate]]:
    """Lines to print, and an estimate for each number of nodes. Raises ExtPoseError."""
    timing, assume, node = read_timing(args.timing), args.assume, NODES[args.node]
    if not timing.clips:
        raise ExtPoseError(f"{args.timing}: the run made {timing.clips} clips, needed 1 or more")
    frames = draw_units(round(args.clips * timing.frames / timing.clips), assume)
    work = make_work(timing, frames, node, assume, clock=args.clock)
    read = float(sum(unit.bytes_read for unit in work))
    estimates = [
        simulate(
            work,
            Cluster(
                nodes=num,
                detectors=node.detectors,
                pack_cores=max(node.cores - node.detectors, 1),
                plan_seconds=PLAN_READS * read * 8 / (assume.plan_gigabits * 1e9),
                start_seconds=assume.start_seconds,
                hand_out_seconds=assume.hand_out_seconds,
                storage_bandwidth=assume.storage_gigabits * 1e9 / 8,
                mean_seconds_to_failure=assume.failure_hours * 3600,
                seed=assume.seed,
            ),
        )
        for num in args.nodes
    ]
    return _head(args, timing, frames, read) + _table(args, estimates), estimates


def _head(args: EstimateArgs, timing: RunTiming, frames: np.ndarray, read: float) -> list[str]:
    """What was measured and what is assumed."""
    node, assume = NODES[args.node], args.assume
    each = cost_of(timing, args.clock)
    stages = ", ".join(f"{stage} {1e3 * seconds:.1f} ms" for stage, seconds in each.items())
    return [
        f"measured: {stages} a frame, {timing.clips} clips of "
        f"{timing.frames} frames, {timing.num_bytes / timing.frames / 1e3:.0f} kB written a frame",
        f"assumed:  {args.node}: {node.cores} cores, {node.gpus} GPUs, {node.detectors} detectors "
        f"(each {node.detect_speedup:g} times as fast as measured), "
        f"{assume.price or node.price:g} dollars an hour",
        *(f"          {name} {value:g}" for name, value in vars(assume).items() if name != "price"),
        f"work:     {args.clips} clips = {frames.sum()} frames in {len(frames)} units, "
        f"{read / GIB:.0f} GiB of video, read {PLAN_READS + STAGE_READS} times",
    ]


def _table(args: EstimateArgs, estimates: Sequence[Estimate]) -> list[str]:
    price = args.assume.price or NODES[args.node].price
    lines = [
        f"{'nodes':>6}{'hours':>9}{'speed-up':>10}{'detectors busy':>16}{'lost nodes':>12}"
        f"{'repeated':>10}{'dollars':>10}"
    ]
    one = estimates[0].seconds * args.nodes[0]
    for num, found in zip(args.nodes, estimates, strict=True):
        hours = found.seconds / 3600
        lines.append(
            f"{num:>6}{hours:>9.1f}{one / found.seconds:>10.2f}{found.detector_share:>16.0%}"
            f"{found.failures:>12}{found.repeated:>10}{hours * num * price:>10.0f}"
        )
    return lines
