"""`extpose plan`: what a recipe will need on a cluster, before it is paid for.

    extpose plan body-video --cluster 8xA100-80GB

Memory is counted by `extpose.training.memory`, time from `extpose.training.flops` with an assumed
MFU. What is exchanged over the network is not counted: it is a part of what the MFU stands for.

Units   GB are 1e9 bytes; seconds, hours
"""

import math
import re
from dataclasses import dataclass, replace

import torch

from extpose.config import TrainConfig
from extpose.errors import ExtPoseError
from extpose.model.ablations import build_network
from extpose.training.flops import num_tokens, training_flops
from extpose.training.memory import (
    Activations,
    ModelStates,
    ParameterSizes,
    activations,
    batch_bytes,
    buffers,
    model_states,
    parameter_sizes,
)
from extpose.training.throughput import GPUS
from extpose.training.trainable import select_trainable

GB = 1e9
RESERVED = 3.0
"""GB that CUDA's context, its libraries and the allocator's gaps take: an assumption."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Equal GPUs."""

    count: int
    name: str
    memory: float
    """Bytes of one."""

    def peak(self, precision: str) -> float:
        """FLOPs a second of one GPU."""
        gpu = GPUS[self.name]
        return gpu.fp32 if precision == "fp32" else gpu.half


@dataclass(frozen=True, kw_only=True)
class Need:
    """One way to run the recipe."""

    zero_stage: int
    checkpointing: bool
    states: ModelStates
    buffers: float
    activations: Activations
    batch: float
    micro_batch: int
    """Clips of a forward pass that memory is counted for."""
    largest: int
    """Clips of a forward pass that would fit; 0: not even one."""
    step_seconds: float

    @property
    def total(self) -> float:
        """Bytes of one GPU."""
        parts = (self.states.total, self.buffers, self.activations.total, self.batch)
        return sum(parts) + RESERVED * GB


def parse_cluster(text: str) -> Cluster:
    """`8xA100-80GB` or `8xH100`. Raises ExtPoseError for what is not known."""
    match = re.fullmatch(r"(\d+)x([A-Za-z0-9]+?)(?:-(\d+)GB)?", text)
    if match is None or int(match[1]) < 1:
        raise ExtPoseError(f"cluster {text!r} is not of the form 8xA100-80GB")
    name = match[2].upper()
    if name not in GPUS:
        raise ExtPoseError(f"cluster {text!r}: unknown GPU {match[2]!r}, known: {', '.join(GPUS)}")
    sizes = GPUS[name].memory_gb
    size = int(match[3]) if match[3] else sizes[0]
    if size not in sizes:
        raise ExtPoseError(f"cluster {text!r}: {name} has {' or '.join(map(str, sizes))} GB")
    return Cluster(count=int(match[1]), name=name, memory=size * GB)


def sizes_of(config: TrainConfig) -> ParameterSizes:
    """Parameters of a recipe, without the memory for them."""
    with torch.device("meta"):
        model = build_network(config.model)
    select_trainable(model, config.engine.trainable)
    return parameter_sizes(model)


def micro_batch_of(config: TrainConfig, workers: int) -> int:
    """Clips of one forward pass, as a run would take them.

    Raises ExtPoseError where the batch cannot be shared.
    """
    if config.batch % workers:
        raise ExtPoseError(f"batch {config.batch} cannot be shared by {workers} GPUs")
    share = config.batch // workers
    return max(n for n in range(1, config.engine.micro_batch + 1) if share % n == 0)


def plan(config: TrainConfig, cluster: Cluster, *, mfu: float) -> list[Need]:
    """ZeRO 0 to 3, without and with activation checkpointing.

    Raises ExtPoseError for a batch that cannot be shared, an MFU that none can have, and networks
    and offloading, which are not counted.
    """
    if not 0 < mfu <= 1:
        raise ExtPoseError(f"mfu is {mfu}, a share between 0 and 1")
    if config.engine.offload != "nothing":
        raise ExtPoseError(
            f"engine.offload is {config.engine.offload!r}: what moves to main memory, and the time "
            "that it costs, are not counted; plan without it"
        )
    if config.model.adds_modules:
        raise ExtPoseError(
            f"fusion {config.model.fusion!r} with skeleton_input {config.model.skeleton_input!r}: "
            "only networks without added modules are counted"
        )
    sizes = sizes_of(config)
    return [
        _need(config, cluster, sizes, zero_stage=stage, checkpointing=checkpointing, mfu=mfu)
        for checkpointing in (False, True)
        for stage in range(4)
    ]


def _need(
    config: TrainConfig,
    cluster: Cluster,
    sizes: ParameterSizes,
    *,
    zero_stage: int,
    checkpointing: bool,
    mfu: float,
) -> Need:
    micro = micro_batch_of(config, cluster.count)
    share = config.batch // cluster.count
    frames = config.loader.num_frames
    flops = training_flops(config.model, num_frames=frames, recompute=checkpointing)

    def need(clips: int) -> Need:
        return Need(
            zero_stage=zero_stage,
            checkpointing=checkpointing,
            states=model_states(
                sizes, zero_stage=zero_stage, workers=cluster.count, accumulates=clips < share
            ),
            buffers=buffers(sizes, zero_stage=zero_stage, workers=cluster.count),
            activations=activations(
                config.model, clips=clips, num_frames=frames, precision=config.engine.precision,
                checkpointing=checkpointing,
            ),
            batch=batch_bytes(config.model, clips=clips, num_frames=frames),
            micro_batch=clips,
            largest=0,
            step_seconds=share * flops / (cluster.peak(config.engine.precision) * mfu),
        )  # fmt: skip

    per_clip = (need(2).total - need(1).total) or 1.0
    room = cluster.memory - need(1).total
    return replace(need(micro), largest=max(0, 1 + math.floor(room / per_clip)))


def plan_table(config: TrainConfig, cluster: Cluster, *, mfu: float, price: float) -> str:
    """The plan for people."""
    needs = plan(config, cluster, mfu=mfu)
    sizes, frames = sizes_of(config), config.loader.num_frames
    flops = training_flops(config.model, num_frames=frames)
    accumulation = config.batch // cluster.count // needs[0].micro_batch
    tokens = 2 * frames * num_tokens(config.model)
    lines = [
        f"{sizes.total / 1e6:.1f} M parameters, {sizes.trained / 1e6:.1f} M trained; "
        f"clips of {frames} frames: {tokens:,} tokens, {flops / 1e12:.2f} TFLOP forward and "
        "backward",
        f"{cluster.count} x {cluster.name} with {cluster.memory / GB:.0f} GB, "
        f"{config.engine.precision}: {cluster.peak(config.engine.precision) / 1e12:g} TFLOP/s "
        f"each (data sheet), MFU {mfu:.0%} (assumed)",
        f"batch {config.batch} = {cluster.count} GPUs x micro-batch {needs[0].micro_batch} "
        f"x {accumulation} accumulated; {config.steps:,} steps",
        "",
        f"GB of a GPU at micro-batch {needs[0].micro_batch} ({RESERVED:g} GB reserved in all)",
        f"{'ZeRO':<5}{'recompute':<10}{'weights':>8}{'master':>7}{'grads':>7}{'Adam':>7}"
        f"{'acts':>8}{'other':>7}{'all':>8}  {'fits':<5}{'largest':>8}{'s/step':>8}{'hours':>8}"
        f"{'cost':>9}",
    ]
    lines += [_row(need, config, cluster, price=price) for need in needs]
    lines += [
        "",
        f"recompute: activation checkpointing. Cost at {price:g} a GPU hour. Formulas are checked "
        "against runs on a CPU; no GPU was measured.",
    ]
    return "\n".join(lines)


def _row(need: Need, config: TrainConfig, cluster: Cluster, *, price: float) -> str:
    hours = need.step_seconds * config.steps / 3600
    states = need.states
    parts: tuple[float, ...] = (states.weights, states.master, states.gradients, states.moments)
    parts += (need.activations.total, need.buffers + need.batch, need.total)
    widths = (8, 7, 7, 7, 8, 7, 8)
    cells = "".join(f"{p / GB:>{w}.1f}" for p, w in zip(parts, widths, strict=True))
    fits = "yes" if need.total <= cluster.memory else "NO"
    return (
        f"{need.zero_stage:<5}{'yes' if need.checkpointing else 'no':<10}{cells}  {fits:<5}"
        f"{need.largest:>8}{need.step_seconds:>8.2f}{hours:>8.1f}"
        f"{hours * cluster.count * price:>9.0f}"
    )
