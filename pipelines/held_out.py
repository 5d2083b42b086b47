"""Metrics of a network in training on held-out clips, by the evaluation's own code.

    score = open_held_out(config)
    values = score(model, workers)

Every worker predicts its share of the clips; all get the same numbers.
"""

import logging
from dataclasses import dataclass

from extpose.config import EvaluateConfig, TrainConfig
from extpose.data.loader import find_shards
from extpose.data.shards import ShardIndex
from extpose.errors import TrainingError
from extpose.evaluation.protocols import PROTOCOLS
from extpose.evaluation.scoring import ClipScores
from extpose.evaluation.summary import summarise
from extpose.inference import Network
from extpose.model.extpose import ExtPose
from extpose.storage import Location
from extpose.training.workers import Workers
from pipelines.scorer import FREE_PROTOCOL, ShardScorer, open_body

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeldOut:
    """The held-out clips of a run."""

    config: TrainConfig
    shards: tuple[Location, ...]
    count: int
    """Clips that are looked at."""

    def __call__(self, model: ExtPose, workers: Workers) -> dict[str, float]:
        """Metrics of the free body's or hand's protocol by name; collective over the workers.

        Raises TrainingError, on every worker, when none of the clips can be scored.
        """
        scores, problem = list[ClipScores](), ""
        try:
            scores = self._score_share(model, workers)
        except Exception as error:  # told to all workers, who would wait for this one for ever
            logger.exception("validation failed on worker %d", workers.rank)
            problem = f"{type(error).__name__}: {error}"
        gathered = workers.gather((scores, problem))
        if problems := [text for _, text in gathered if text]:
            raise TrainingError(f"{self.config.validation}: validation failed: {problems[0]}")
        found = sorted((clip for part, _ in gathered for clip in part), key=lambda clip: clip.key)
        protocol = PROTOCOLS[FREE_PROTOCOL[self.config.model.body]]
        metrics = summarise(found, protocol, bootstrap=0).metrics
        values = {m.name: m.value for m in metrics if m.value is not None}
        if not values:
            raise TrainingError(f"{self.config.validation}: no clip has labels to compare with")
        return values

    def _score_share(self, model: ExtPose, workers: Workers) -> list[ClipScores]:
        assert self.config.validation is not None
        settings = EvaluateConfig(
            data=self.config.validation, body_model=self.config.body_model,
            files=self.config.files, skeleton=self.config.loader.skeleton,
        )  # fmt: skip
        body = self.config.model.body
        network = Network(
            model=model,
            body=open_body(settings, body, "neutral"),
            device=str(workers.device),
            window=self.config.loader.num_frames,
            skeleton=self.config.loader.skeleton,
        )
        scorer, index = ShardScorer(settings, network), ShardIndex(list(self.shards))
        scores: list[ClipScores] = []
        for clip in range(workers.rank, self.count, workers.size):
            found = scorer.score_one(index.read_clip(clip)).scores
            scores += [one for part in found.values() for one in part]
        index.close()
        return scores


def open_held_out(config: TrainConfig) -> HeldOut | None:
    """None without `config.validation`. Raises ShardError where there is nothing to read."""
    if config.validation is None:
        return None
    if config.validate_every < 1:
        raise TrainingError(f"validate_every is {config.validate_every}, at least 1")
    shards = find_shards(config.validation)
    index = ShardIndex(shards)
    count = min(config.validate_clips, len(index)) if config.validate_clips else len(index)
    index.close()
    return HeldOut(config, tuple(shards), count)
