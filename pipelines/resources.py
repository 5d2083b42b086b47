"""How many processes of a run there may be at a time, for `max_memory` and for the cluster.

The sizes are generous: `tests/benchmarks/bench_preprocess.py` prints what runs hold, with MoveNet a
quarter less (docs/preprocessing-scale.md). They do not depend on how long the videos are.
"""

import logging
import os
from dataclasses import dataclass

import ray

from extpose.config import PreprocessConfig
from extpose.detect.plugs import PLUGS
from extpose.errors import ExtPoseError
from pipelines.ledger import Unit

log = logging.getLogger(__name__)
GIB = 1 << 30
BASE = 0.9
"""GiB of the driver and of Ray's own processes."""
PER_UNIT = 1.0
"""GiB of the processes that one unit under way keeps busy: actor, detector, `track`, `pack`."""
PER_HANDS = 0.6
"""GiB of an actor and its process that look for hands, with MediaPipe's networks."""
FRAMES_HELD = 24
"""Decoded frames of a unit in memory: the decoders' own, those ahead, and those in work."""
OBJECT_STORE = 0.1
"""GiB. Only descriptions and small arrays go through it."""
CPUS_PER_ACTOR = 0.5
"""Logical: Ray Data's own helpers need free CPUs next to the actors, or wait for ever."""
CPUS_FOR_TASKS = 1.0
"""Of `track` and `pack`: with less beside the actors, no unit would ever be finished."""


@dataclass(frozen=True, kw_only=True)
class WorkSize:
    """How much is done at a time."""

    detectors: int
    """At the start, and at least."""
    most_detectors: int
    hands: int
    """Processes that look for hands, at least; 0 where no hands are cut."""
    most_hands: int
    object_store: int | None
    """Bytes; None: Ray's choice."""


def size_of_work(units: list[Unit], config: PreprocessConfig) -> WorkSize:
    """As many processes as are asked for, have work, and fit.

    Raises ExtPoseError for a `max_memory` that not one unit fits into, or the machine has not.
    """
    fit, object_store = len(units), None
    if config.max_memory:
        fit, object_store = min(fit, _fitting(units, config)), int(OBJECT_STORE * GIB)
    detectors = min(config.num_detectors, fit)
    most_detectors = min(max(config.max_detectors, config.num_detectors), fit)
    hands, most_hands = detectors, most_detectors
    if config.num_hand_finders:
        hands = most_hands = min(config.num_hand_finders, fit)
    has_hands = config.body == "mano"
    return WorkSize(
        detectors=detectors,
        most_detectors=most_detectors,
        hands=hands if has_hands else 0,
        most_hands=most_hands if has_hands else 0,
        object_store=object_store,
    )


def _fitting(units: list[Unit], config: PreprocessConfig) -> int:
    """Units that may be under way at a time."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    if config.max_memory > there:
        raise ExtPoseError(
            f"max_memory is {config.max_memory:g} GiB, this machine has {there:.1f} GiB"
        )
    frame = max((3 * unit.height * unit.width for unit in units), default=0)
    held = FRAMES_HELD + 2 * (PLUGS[config.detector].frames - 1)  # ahead, and in work
    each = PER_UNIT + held * frame / GIB
    if config.body == "mano":
        each += PER_HANDS
    fit = int((config.max_memory - BASE - OBJECT_STORE) / each)
    if fit < 1:
        raise ExtPoseError(
            f"max_memory is {config.max_memory:g} GiB, one detector on these videos needs "
            f"{BASE + OBJECT_STORE + each:.1f} GiB"
        )
    return fit


def hand_gpus(config: PreprocessConfig) -> float:
    """Of one process that looks for hands: MediaPipe's networks stay on the CPU."""
    return config.gpus_per_detector if config.detect.hands == "wholebody" else 0.0


def check_cluster(size: WorkSize, config: PreprocessConfig) -> None:
    """Refuse what the cluster can never run: actors keep what they have for the whole run.

    A cluster that was joined may grow, so there it is only told. Raises ExtPoseError.
    """
    there = ray.cluster_resources()
    gpus = size.detectors * config.gpus_per_detector + size.hands * hand_gpus(config)
    needed = {"CPU": (size.detectors + size.hands) * CPUS_PER_ACTOR + CPUS_FOR_TASKS, "GPU": gpus}
    for name, wanted in needed.items():
        if wanted <= there.get(name, 0.0):
            continue
        message = (
            f"{size.detectors} detectors{f' and {size.hands} hand finders' if size.hands else ''} "
            f"need {wanted:g} {name}s, the cluster has {there.get(name, 0.0):g}; "
            + ("a smaller --gpus-per-detector" if name == "GPU" else "a smaller --num-detectors")
            + (", or --num-hand-finders" if size.hands else "")
        )
        if not os.environ.get("RAY_ADDRESS"):
            raise ExtPoseError(f"{message} would fit")
        log.warning("%s would fit, or it must grow", message)
