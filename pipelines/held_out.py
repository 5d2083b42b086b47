"""Metrics of a network in training on held-out clips, by the evaluation's own code.

    score = open_held_out(config)
    score.open(workers)
    values = score(model, workers)

Every worker predicts its share of the clips; all get the same numbers.
"""

import logging
from collections.abc import Callable, Iterable, Iterator

from extpose.config import EvaluateConfig, TrainConfig
from extpose.data.loader import find_shards
from extpose.data.shards import ShardIndex
from extpose.errors import TrainingError
from extpose.evaluation.scoring import ClipScores
from extpose.evaluation.summary import summarise
from extpose.inference import Network
from extpose.model.extpose import ExtPose
from extpose.storage import Location
from extpose.training.workers import Workers
from pipelines.scorer import FREE_PROTOCOL, ShardScorer, find_protocols, open_body

logger = logging.getLogger(__name__)


class HeldOut:
    """The held-out clips of a run, by the rule of `config.held_out`."""

    def __init__(self, config: TrainConfig, shards: tuple[Location, ...]) -> None:
        """Raises ExtPoseError for a protocol that is not known, or does not fit."""
        self.config, self.shards, self.index = config, shards, ShardIndex([])
        body = config.model.body
        name = config.held_out.protocol or FREE_PROTOCOL[body]
        (self.protocol,) = find_protocols((name,), body)
        if (metric := config.held_out.best_by) not in self.protocol.metrics:
            known = ", ".join(self.protocol.metrics)
            raise TrainingError(f"held_out.best_by is {metric!r}, protocol {name} has {known}")
        assert config.validation is not None
        self.settings = EvaluateConfig(
            data=config.validation,
            protocol=(name,),
            body_model=config.body_model,
            body_male=config.held_out.body_male,
            body_female=config.held_out.body_female,
            files=config.files,
            skeleton=config.loader.skeleton,
        )

    def open(self, workers: Workers) -> None:
        """One worker scans the shards; collective. Raises ShardError, StoreError, on that one."""
        self.index = workers.from_first(ShardIndex(self.shards) if workers.rank == 0 else None)

    def check(self, model: ExtPose, workers: Workers) -> None:
        """Score clips until one has a number; collective.

        Raises TrainingError, on every worker, when none has, or none can be scored.
        """

        def look() -> list[ClipScores]:
            if workers.rank:
                return []
            self._warn_of_gender()
            scores = self._score(model, workers, range(self.count))
            found = next(([one] for one in scores if self._values([one])), [])
            for text in (text for one in found for text in one.stand_in):
                logger.warning("%s: scored with %s", self.config.validation, text)
            return found

        self._gather(workers, look)

    def __call__(self, model: ExtPose, workers: Workers) -> dict[str, float]:
        """Metrics of the protocol by name; collective over the workers.

        Raises TrainingError, on every worker, when none of the clips can be scored.
        """
        share = range(workers.rank, self.count, workers.size)
        found = self._gather(workers, lambda: list(self._score(model, workers, share)))
        return self._values(found)

    @property
    def count(self) -> int:
        """Clips that are looked at."""
        limit = self.config.validate_clips
        return min(limit, len(self.index)) if limit else len(self.index)

    def _gather(self, workers: Workers, look: Callable[[], list[ClipScores]]) -> list[ClipScores]:
        """What all workers found, in the order of keys."""
        scores, problem = list[ClipScores](), ""
        try:
            scores = look()
        except Exception as error:  # told to all workers, who would wait for this one for ever
            logger.exception("validation failed on worker %d", workers.rank)
            problem = f"{type(error).__name__}: {error}"
        gathered = workers.gather((scores, problem))
        if problems := [text for _, text in gathered if text]:
            raise TrainingError(f"{self.config.validation}: validation failed: {problems[0]}")
        found = sorted((clip for part, _ in gathered for clip in part), key=lambda clip: clip.key)
        if not self._values(found):
            raise TrainingError(f"{self.config.validation}: no clip has labels to compare with")
        return found

    def _values(self, found: Iterable[ClipScores]) -> dict[str, float]:
        metrics = summarise(found, self.protocol, bootstrap=0).metrics
        return {m.name: m.value for m in metrics if m.value is not None}

    def _score(self, model: ExtPose, workers: Workers, clips: range) -> Iterator[ClipScores]:
        network = Network(
            model=model,
            body=open_body(self.settings, self.config.model.body, "neutral"),
            device=str(workers.device),
            window=self.config.loader.num_frames,
            skeleton=self.config.loader.skeleton,
        )
        scorer = ShardScorer(self.settings, network)
        for clip in clips:
            for part in scorer.score_one(self.index.read_clip(clip)).scores.values():
                yield from part
        self.index.close()

    def _warn_of_gender(self) -> None:
        meta = self.index.read_window(0, 0, 1).meta
        if meta.gender != "neutral" and not self.protocol.gendered:
            logger.warning(
                "%s: labels of the %s body are posed with the neutral one: choose a protocol that "
                "knows of it (held_out.protocol)", self.config.validation, meta.gender,
            )  # fmt: skip


def open_held_out(config: TrainConfig) -> HeldOut | None:
    """None without `config.validation`. Raises ShardError where there is nothing to read."""
    if config.validation is None:
        return None
    if config.validate_every < 1:
        raise TrainingError(f"validate_every is {config.validate_every}, at least 1")
    return HeldOut(config, tuple(find_shards(config.validation)))
