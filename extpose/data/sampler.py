"""Which samples a training step sees: a pure function of (seed, step, global batch).

The stream of samples is the concatenation of one permutation per epoch. Step s sees positions
`s * batch` to `(s + 1) * batch`, whatever the number of workers; a worker takes its slice of them.
So the position in the data is the step, and a run may go on with more or fewer workers.

In a mix of data sets each has a stream of its own, and `Mixture` says which one fills each place.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from extpose.data.augment import draw_rng


@dataclass(frozen=True)
class Draw:
    """One sample of the stream: which clip, and in which epoch (which decides its augmentation)."""

    epoch: int
    index: int


class EpochOrder:
    """An endless stream over `size` things: in each epoch every one of them once, shuffled."""

    def __init__(self, size: int, seed: int, *, purpose: str = "order", name: str = "") -> None:
        if size < 1:
            raise ValueError("no samples to draw from")
        self.size, self.seed, self.purpose, self.name = size, seed, purpose, name
        self._permutation: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def __call__(self, position: int) -> tuple[int, int]:
        """Epoch and number of the thing at one position."""
        epoch, offset = divmod(position, self.size)
        if self._permutation[0] != epoch:
            rng = draw_rng(self.seed, epoch, self.name, purpose=self.purpose)
            self._permutation = (epoch, rng.permutation(self.size))
        return epoch, int(self._permutation[1][offset])


GOLDEN = (5**0.5 - 1) / 2
"""Multiples of it fill [0, 1) as evenly as can be."""


class Mixture:
    """Which data set fills each place of a step.

    Systematic sampling: a comb of `batch` evenly spaced points lies over the weights, which are
    put side by side, and each point takes the data set that it falls on. The comb is moved by a
    draw of the seed and from step to step by the golden ratio. So each data set fills its share of
    every step up to one place; its expectation is exact, and over s steps the error grows like
    log(s), not like the root of s as with draws one by one.
    """

    def __init__(self, weights: Sequence[float], *, batch: int, seed: int) -> None:
        values = np.array(weights, np.float64)
        if not (np.isfinite(values) & (values > 0)).all():
            raise ValueError(f"mix is {tuple(weights)}, each weight must be a number above 0")
        self.batch, self.seed = batch, seed
        self._inner = np.cumsum(values)[:-1] / values.sum()
        self._start = float(draw_rng(seed, 0, "", purpose="mix").random())
        self._before = (0, np.zeros(len(values), np.int64))

    def counts(self, steps: Int64[np.ndarray, " steps"]) -> Int64[np.ndarray, "steps sets"]:
        """Places that each data set fills in each of these steps."""
        shift: Float[np.ndarray, " steps"] = (self._start + steps * GOLDEN) % 1.0
        ends = np.ceil(self.batch * self._inner - shift[:, None]).astype(np.int64)
        edges = [np.zeros_like(ends, shape=(len(steps), 1)), ends]
        edges.append(np.full_like(edges[0], self.batch))
        return np.diff(np.concatenate(edges, 1), axis=1)

    def places(self, step: int) -> list[tuple[int, int]]:
        """For each place of a step the data set, and how many samples it gave before."""
        at, before = self._before
        if at > step:
            at, before = 0, np.zeros_like(before)
        before = before + self.counts(np.arange(at, step)).sum(0)
        self._before = (step, before)
        filled = [
            (number, int(before[number]) + i)
            for number, count in enumerate(self.counts(np.array([step]))[0])
            for i in range(count)
        ]
        order = draw_rng(self.seed, step, "", purpose="places").permutation(self.batch)
        return [filled[i] for i in order]


class StepSampler:
    """Micro-batches of one worker, from `start_step` to `steps`; iterate once.

    `sizes` are those of the data sets, whose samples are numbered one after the other. With `mix`,
    their weights, each is gone through in epochs of its own; without, they are one data set.
    `batch` is the number of clips of a step over all workers. A worker's share is split into
    micro-batches of at most `micro_batch` clips, all of one size.
    """

    def __init__(
        self,
        sizes: int | Sequence[int],
        *,
        batch: int,
        micro_batch: int,
        seed: int,
        steps: int,
        start_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
        mix: Sequence[float] = (),
    ) -> None:
        sizes = [sizes] if isinstance(sizes, int) else list(sizes)
        if mix and len(mix) != len(sizes):
            raise ValueError(f"mix has {len(mix)} weights for {len(sizes)} data sets")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size} workers")
        self.micro_batch = micro_batch_size(batch, micro_batch, world_size=world_size)
        self.accumulation = batch // world_size // self.micro_batch
        self.batch, self.steps, self.start_step = batch, steps, start_step
        self.rank, self.world_size = rank, world_size
        self.mixture = Mixture(mix, batch=batch, seed=seed) if len(mix) > 1 else None
        if self.mixture is None:
            self.orders, self.firsts = [EpochOrder(sum(sizes), seed)], [0]
        else:
            self.orders = [EpochOrder(n, seed, name=str(i)) for i, n in enumerate(sizes)]
            self.firsts = [sum(sizes[:i]) for i in range(len(sizes))]

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
        own = slice(self.rank * share, (self.rank + 1) * share)
        if self.mixture is None:
            places = [(0, step * self.batch + place) for place in range(self.batch)[own]]
        else:
            places = self.mixture.places(step)[own]
        return [self._draw(number, position) for number, position in places]

    def _draw(self, number: int, position: int) -> Draw:
        """The sample at one position of the endless stream of a data set."""
        epoch, index = self.orders[number](position)
        return Draw(epoch, self.firsts[number] + index)


def micro_batch_size(batch: int, micro_batch: int, *, world_size: int) -> int:
    """Largest size up to `micro_batch` that divides a worker's share of the batch."""
    if batch < 1 or micro_batch < 1:
        raise ValueError(f"batch={batch} and micro_batch={micro_batch} must be at least 1")
    if batch % world_size:
        raise ValueError(f"batch={batch} cannot be shared out evenly to {world_size} workers")
    share = batch // world_size
    return next(size for size in range(min(micro_batch, share), 0, -1) if share % size == 0)
