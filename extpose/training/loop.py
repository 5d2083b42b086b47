"""The training loop: a function that Ray Train, a plain process and a test call alike.

Axes, units and frames of reference: `extpose.batch`.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from extpose.batch import Batch, to_device
from extpose.config import TrainConfig
from extpose.errors import TrainingError
from extpose.params import Prediction
from extpose.training.adversary import Adversary
from extpose.training.damage import Damage
from extpose.training.engine import Engine, learning_rate

Losses = Callable[[Prediction, Batch], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is."""

    step: int
    """Optimiser steps done."""
    seconds: float
    """Of training, over all starts of the run."""


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One line of the log."""

    step: int
    seconds: float
    loss: float
    """Mean over the micro-batches of all workers, like the terms."""
    terms: dict[str, float]
    """They add up to the loss; `discriminator`, which is a loss of its own, comes beside them."""
    lr: float
    grad_norm: float
    frames_per_second: float
    """Of all workers."""
    data_wait: float
    """Seconds of this step that were spent waiting for data."""
    skipped: int
    """Clips of this step that could not be read and were replaced, of all workers."""
    num_frames: int
    """Of the step, over all workers."""


def train(
    config: TrainConfig,
    engine: Engine,
    batches: Iterable[Batch],
    losses: Losses,
    *,
    start: Progress,
    report: Callable[[StepRecord], None],
    save: Callable[[Progress], None],
    is_asked_to_save: Callable[[], bool] = bool,
    adversary: Adversary | None = None,
    damage: Damage | None = None,
) -> Progress:
    """Train from `start` to `config.steps` or `config.max_seconds`; saving on the way.

    `batches` yields this worker's micro-batches from step `start.step` on. `report` gets each
    step's record; every worker calls `report` and `save`. It also saves
    after a step before which `is_asked_to_save` was true on rank 0. Raises TrainingError, on every
    worker, for a loss or gradient that is not finite.
    """
    source, progress = iter(batches), start
    started = time.perf_counter() - start.seconds
    while not is_done(config, progress):
        step = progress.step
        began = time.perf_counter()
        part = _accumulate(config, engine, source, losses, adversary, step=step)
        size, is_first = engine.workers.size, engine.workers.rank == 0
        # Rank 0's clock counts for all, so that all stop at the same step; so do its requests.
        clock = time.perf_counter() - started if is_first else 0.0
        asked = float(is_first and is_asked_to_save())
        counts = [float(bool(part.broken)), len(part.skipped) * size]
        own = torch.tensor([*part.values, clock * size, asked, *counts])
        loss, *values, seconds, is_asked, any_broken, skipped = engine.workers.mean(own).tolist()
        if skipped and damage is not None:
            damage.note(part.skipped)
        if any_broken:
            _refuse(engine, step, f"the loss is not finite ({loss})", part.broken)
        lr = learning_rate(config.engine, step, _share_done(config, step, seconds))
        norm = engine.step(lr)
        # In fp16 the scaler skips such a step and lowers its scale.
        if config.engine.precision != "fp16" and not math.isfinite(norm):
            _refuse(engine, step, f"the gradient is not finite ({norm})", part.keys)
        terms = dict(zip(part.names, values, strict=True))
        if adversary is not None:
            terms["discriminator"] = adversary.step(step)
        frames = part.batch.valid.numel() * engine.accumulation * engine.workers.size
        record = StepRecord(
            step=step + 1,
            seconds=seconds,
            loss=loss,
            terms=terms,
            lr=lr,
            grad_norm=norm,
            frames_per_second=frames / (time.perf_counter() - began),
            data_wait=part.waited,
            skipped=round(skipped),
            num_frames=frames,
        )
        report(record)
        progress = Progress(step=step + 1, seconds=seconds)
        is_due = progress.step % config.checkpoint_every == 0
        if is_done(config, progress) or is_due or is_asked:
            save(progress)
    return progress


def is_done(config: TrainConfig, progress: Progress) -> bool:
    """Whether all steps are done or the time is over."""
    is_late = 0 < config.max_seconds <= progress.seconds
    return progress.step >= config.steps or is_late


@dataclass(frozen=True, kw_only=True)
class _Accumulated:
    """This worker's part of a step; `values` are the loss and the terms in the order of `names`."""

    names: list[str]
    values: list[float]
    keys: list[str]
    broken: list[str]
    """The keys of micro-batches whose loss is not finite."""
    skipped: list[str]
    waited: float
    batch: Batch


def _accumulate(
    config: TrainConfig,
    engine: Engine,
    source: Iterator[Batch],
    losses: Losses,
    adversary: Adversary | None,
    *,
    step: int,
) -> _Accumulated:
    """Forward and backward of all micro-batches of one step."""
    waited, sums, names = 0.0, torch.zeros(()), list[str]()
    keys, broken, skipped = list[str](), list[str](), list[str]()
    for micro in range(engine.accumulation):
        asked = time.perf_counter()
        batch = to_device(next(source), engine.workers.device)
        waited += time.perf_counter() - asked
        torch.manual_seed(_seed(config, step, engine.workers.rank * engine.accumulation + micro))
        prediction = engine(batch)
        total, terms = losses(prediction, batch)
        if adversary is not None:
            term = adversary.term(prediction, batch)
            total, terms = total + term, terms | {"adversarial": term}
        engine.backward(total)
        keys += batch.keys
        skipped += batch.skipped
        names = sorted(terms)
        values = torch.stack([total, *(terms[name] for name in names)]).detach().float().cpu()
        sums = sums + values / engine.accumulation
        if not torch.isfinite(values).all():
            broken += batch.keys
    return _Accumulated(
        names=names,
        values=sums.tolist(),
        keys=keys,
        broken=broken,
        skipped=skipped,
        waited=waited,
        batch=batch,
    )


def _share_done(config: TrainConfig, step: int, seconds: float) -> float:
    """0 to 1, by steps or by time, whichever is further: a run that ends by time decays too."""
    by_time = seconds / config.max_seconds if config.max_seconds > 0 else 0.0
    return max(step / config.steps, by_time)


def _seed(config: TrainConfig, step: int, micro: int) -> int:
    """Of the network's own randomness (stochastic depth) in one micro-batch of one step."""
    return (config.seed * 1_000_003 + step) * 65_537 + micro


def _refuse(engine: Engine, step: int, what: str, keys: list[str]) -> None:
    named = sorted({key for part in engine.workers.gather(keys) for key in part})
    raise TrainingError(f"step {step + 1}: {what}; clips: {', '.join(named)}")
