"""Clips that could not be read in training: told once each, and too many of them end the run."""

import logging

from extpose.errors import TrainingError
from extpose.training.workers import Workers

logger = logging.getLogger(__name__)


class Damage:
    """What this start of a run has met so far; the same on every worker."""

    def __init__(self, workers: Workers, *, num_clips: int, limit: float) -> None:
        self.workers, self.num_clips, self.limit = workers, num_clips, limit
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
        if len(self.reasons) > self.limit * self.num_clips:
            raise TrainingError(
                f"{len(self.reasons)} of {self.num_clips} clips cannot be read, more than "
                f"loader.max_damaged={self.limit:g} allows: {'; '.join(list(self.reasons)[:3])}"
            )
