"""How many units may be under way at a time, so that a run stays within `max_memory`.

The sizes are generous guesses at what only those processes hold; `tests/benchmarks/
bench_preprocess.py` prints what they are. They do not depend on how long the videos are.
"""

import os
from dataclasses import dataclass

from extpose.config import PreprocessConfig
from extpose.errors import ExtPoseError
from pipelines.ledger import Unit

GIB = 1 << 30
BASE = 0.9
"""GiB of the driver and of Ray's own processes."""
PER_UNIT = 1.0
"""GiB of the processes that one unit under way keeps busy: actor, detector, `track`, `pack`."""
FRAMES_HELD = 24
"""Decoded frames of a unit in memory: the decoders' own, those ahead, and those in work."""
OBJECT_STORE = 0.1
"""GiB. Only descriptions and small arrays go through it."""


@dataclass(frozen=True, kw_only=True)
class WorkSize:
    """How much is done at a time."""

    detectors: int
    """At the start, and at least."""
    most_detectors: int
    object_store: int | None
    """Bytes; None: Ray's choice."""


def size_of_work(units: list[Unit], config: PreprocessConfig) -> WorkSize:
    """As many detectors as are asked for, have work, and fit.

    Raises ExtPoseError for a `max_memory` that not one unit fits into, or the machine has not.
    """
    asked = min(config.num_detectors, len(units))
    most = min(max(config.max_detectors, asked), len(units))
    if not config.max_memory:
        return WorkSize(detectors=asked, most_detectors=most, object_store=None)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    if config.max_memory > there:
        raise ExtPoseError(
            f"max_memory is {config.max_memory:g} GiB, this machine has {there:.1f} GiB"
        )
    frame = max((3 * unit.height * unit.width for unit in units), default=0)
    each = PER_UNIT + FRAMES_HELD * frame / GIB
    fit = int((config.max_memory - BASE - OBJECT_STORE) / each)
    if fit < 1:
        raise ExtPoseError(
            f"max_memory is {config.max_memory:g} GiB, one detector on these videos needs "
            f"{BASE + OBJECT_STORE + each:.1f} GiB"
        )
    return WorkSize(
        detectors=min(asked, fit),
        most_detectors=min(most, fit),
        object_store=int(OBJECT_STORE * GIB),
    )
