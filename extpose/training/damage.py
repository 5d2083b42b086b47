"""Clips that could not be read in training: told once each, and too many of them end the run."""

import logging

from extpose.data.shard_index import ShardIndex
from extpose.errors import TrainingError
from extpose.training.workers import Workers

logger = logging.getLogger(__name__)


class Damage:
    """What this start of a run has met so far; the same on every worker.

    Where there are several shards, one of them may be lost whole, however small its share.
    """

    def __init__(self, workers: Workers, index: ShardIndex, *, limit: float) -> None:
        """`limit` is the share of all clips that may be damaged; 0: none may."""
        self.workers, self.num_clips, self.limit = workers, len(index), limit
        shards = index.clips_of_shards()
        spare = int(shards.max()) if limit and len(shards) > 1 else 0
        self.allowed = max(limit * self.num_clips, spare)
        self.reasons: dict[str, None] = {}

    def note(self, skipped: list[str]) -> None:
        """Take the skipped clips of this worker's part of a step; collective.

        Raises TrainingError, on every worker, when more than the allowed share of clips is damaged.
        """
        found = dict.fromkeys(reason for part in self.workers.gather(skipped) for reason in part)
        for reason in found:
            if reason not in self.reasons and self.workers.rank == 0:
                logger.warning("skipped, the next clip took its place: %s", reason)
        self.reasons |= found
        if len(self.reasons) > self.allowed:
            raise TrainingError(
                f"{len(self.reasons)} of {self.num_clips} clips cannot be read, more than "
                f"a shard and than loader.max_damaged={self.limit:g} allow: "
                f"{'; '.join(list(self.reasons)[:3])}"
            )
