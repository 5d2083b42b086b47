"""Which samples a training step sees: a pure function of (seed, step, global batch).

The stream of samples is the concatenation of one permutation per epoch. Step s sees positions
`s * batch` to `(s + 1) * batch`, whatever the number of workers; a worker takes its slice of them.
So the position in the data is the step, and a run may go on with more or fewer workers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from extpose.data.augment import draw_rng


@dataclass(frozen=True)
class Draw:
    """One sample of the stream: which clip, and in which epoch (which decides its augmentation)."""

    epoch: int
    index: int


class StepSampler:
    """Micro-batches of one worker, from `start_step` to `steps`; iterate once.

    `batch` is the number of clips of a step over all workers. A worker's share is split into
    micro-batches of at most `micro_batch` clips, all of one size.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        batch: int,
        micro_batch: int,
        seed: int,
        steps: int,
        start_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if num_samples < 1:
            raise ValueError("no samples to draw from")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size} workers")
        self.micro_batch = micro_batch_size(batch, micro_batch, world_size=world_size)
        self.accumulation = batch // world_size // self.micro_batch
        self.num_samples, self.batch, self.seed = num_samples, batch, seed
        self.steps, self.start_step = steps, start_step
        self.rank, self.world_size = rank, world_size
        self._permutation: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def __len__(self) -> int:
        return max(0, self.steps - self.start_step) * self.accumulation

    def __iter__(self) -> Iterator[list[Draw]]:
        for step in range(self.start_step, self.steps):
            draws = self.draws(step)
            for first in range(0, len(draws), self.micro_batch):
                yield draws[first : first + self.micro_batch]

    def draws(self, step: int) -> list[Draw]:
        """This worker's share of a step."""
        share = self.batch // self.world_size
        first = step * self.batch + self.rank * share
        return [self.draw(position) for position in range(first, first + share)]

    def draw(self, position: int) -> Draw:
        """The sample at one position of the endless stream."""
        epoch, offset = divmod(position, self.num_samples)
        if self._permutation[0] != epoch:
            rng = draw_rng(self.seed, epoch, "", purpose="order")
            self._permutation = (epoch, rng.permutation(self.num_samples))
        return Draw(epoch, int(self._permutation[1][offset]))


def micro_batch_size(batch: int, micro_batch: int, *, world_size: int) -> int:
    """Largest size up to `micro_batch` that divides a worker's share of the batch."""
    if batch < 1 or micro_batch < 1:
        raise ValueError(f"batch={batch} and micro_batch={micro_batch} must be at least 1")
    if batch % world_size:
        raise ValueError(f"batch={batch} cannot be shared out evenly to {world_size} workers")
    share = batch // world_size
    return next(size for size in range(min(micro_batch, share), 0, -1) if share % size == 0)
