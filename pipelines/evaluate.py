"""`extpose evaluate`: how good predictions are, by named protocols.

    extpose evaluate --checkpoint runs/tiny/model.safetensors --data data/held-out
    extpose evaluate --checkpoint runs/tiny/model.safetensors --benchmark pose2sim
    extpose evaluate --predictions runs/evaluate/predictions.npz --data data/3dpw-test
        --protocol 3dpw-14-wham 3dpw-14-hmr2 3dpw-24-smpl

Below `out`: `predictions.npz` (extpose/predictions.py; can be scored again under other protocols),
`results.json`, `results.md`, `report.html` and `pictures/`. Clips of video are predicted by sliding
windows; of each frame that window counts in which it lies most central.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from tqdm import tqdm

from extpose import __version__
from extpose.config import EvaluateConfig
from extpose.data.contents import hash_data
from extpose.data.loader import find_shards
from extpose.data.shards import ShardIndex
from extpose.errors import ExtPoseError
from extpose.evaluation.summary import ProtocolResult, compare, summarise
from extpose.model.weights import packaged_checkpoint
from extpose.predictions import PredictionError, save_predictions
from extpose.storage import Location, hash_file
from extpose.training.source_code import find_commit
from pipelines.benchmark import benchmark_table, open_benchmark
from pipelines.ledger import WriteError
from pipelines.results_page import write_results
from pipelines.scorer import ShardScorer, ShardScores
from pipelines.submission import write_submission

log = logging.getLogger(__name__)
PREDICTIONS = "predictions.npz"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The numbers of one set of predictions under one or more protocols, and how they came."""

    results: tuple[ProtocolResult, ...]
    facts: dict[str, Any]
    """Checkpoint, data, code and settings."""
    unlabelled: int
    """Clips that were left out because they have no labels."""

    def table(self) -> str:
        """Text for a terminal."""
        facts = self.facts
        head = (
            f"{facts['checkpoint'] or facts['predictions']} on {facts['data']}: modalities "
            f"{facts['modalities']}, 2D evidence {', '.join(facts['evidence'])}, window "
            f"{facts['window']}, flip test {_on(facts['flip_test'])}"
        )
        for result in self.results:
            rule = result.protocol
            if rule.flip_test != facts["flip_test"]:
                head += f"\n{rule.name} itself is with flip test {_on(rule.flip_test)}"
            if facts["box_scale"] != [rule.box_scale]:
                head += (
                    f"\n{rule.name} itself crops {rule.box_scale:g} times the box, these shards "
                    f"{', '.join(f'{scale:g}' for scale in facts['box_scale'])} times"
                )
        if facts["benchmark"] is not None:
            head += f"\n{benchmark_table(facts['benchmark'], self.results[0])}"
        if len(self.results) == 1:
            return f"{head}\n{self.results[0].table()}"
        return f"{head}\n{compare(self.results)}"


def _on(value: bool) -> str:
    return "on" if value else "off"


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Predict (or read predictions), score, and write everything below `config.out`.

    Raises ExtPoseError: no labelled clip; predictions, bodies, protocols or data that do not fit
    each other, with the file, the key and both values.
    """
    config = open_benchmark(config)
    shards = find_shards(config.data)
    if config.checkpoint is None and config.predictions is None:
        body = ShardIndex(shards[:1]).read_clip(0).meta.body
        config = replace(config, checkpoint=packaged_checkpoint(body, config.body_model))
    scorer = ShardScorer(config)
    try:
        # Before hours of prediction, not after.
        config.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"{config.out}: cannot be written ({error})") from error
    if scorer.given is not None:
        check_keys(config, shards, set(scorer.given))
    total = ShardScores()
    for part in _score_all(config, shards, scorer):
        total = total.add(part)
    if not total.predictions:
        raise ExtPoseError(f"{config.data}: none of {total.unlabelled} clips has labels")
    facts = facts_of(config, scorer, total, shards)
    results = tuple(
        summarise(total.scores[protocol.name], protocol, bootstrap=config.bootstrap)
        for protocol in scorer.protocols
    )
    evaluation = Evaluation(results=results, facts=facts, unlabelled=total.unlabelled)
    if config.predictions is None:
        save_predictions(config.out / PREDICTIONS, total.predictions, facts)
    if config.submission is not None:
        reader = scorer.reader(scorer.protocols[0], "neutral")
        path = write_submission(config.submission, config.out, total.predictions, reader)
        log.info("submission: %s", path)
    page = write_results(evaluation, total, scorer, shards)
    log.info("report: %s", page)
    return evaluation


def _score_all(
    config: EvaluateConfig, shards: list[Location], scorer: ShardScorer
) -> Iterator[ShardScores]:
    """In the order of the shards, whatever the workers."""
    count = sum(len(ShardIndex([shard])) for shard in shards)
    limit = config.max_clips
    with tqdm(total=min(count, limit or count), desc="evaluate", unit="clip") as bar:
        if config.workers and not limit:
            for part in _score_on_ray(config, shards):
                bar.update(len(part.predictions) + part.unlabelled)
                yield part
            return
        left = limit
        for shard in shards:
            for part in scorer.score(shard, left):
                bar.update()
                left -= bool(limit)
                yield part
            if limit and left == 0:
                return


def _score_on_ray(config: EvaluateConfig, shards: list[Location]) -> Iterator[ShardScores]:
    # Only here, so that the plain path needs no Ray.
    import ray
    from ray.exceptions import RayTaskError
    from ray.util import ActorPool

    from pipelines.runtime import ray_session

    with ray_session():
        actor = ray.remote(num_cpus=1, num_gpus=int(config.device.startswith("cuda")))(_Worker)
        workers = [actor.remote(config) for _ in range(min(config.workers, len(shards)))]
        try:
            yield from ActorPool(workers).map(lambda w, shard: w.score.remote(shard), shards)
        except RayTaskError as error:
            raise error.as_instanceof_cause() from error


class _Worker:
    """A scorer in a process of its own."""

    def __init__(self, config: EvaluateConfig) -> None:
        self.scorer = ShardScorer(config)

    def score(self, shard: Location) -> ShardScores:
        """All clips of a shard."""
        total = ShardScores()
        for part in self.scorer.score(shard):
            total = total.add(part)
        return total


def check_keys(config: EvaluateConfig, shards: list[Location], given: set[str]) -> None:
    """Refuse predictions for other clips than the data set's. Raises PredictionError."""
    index = ShardIndex(shards)
    wanted = set(index.keys)
    index.close()
    missing, unknown = sorted(wanted - given), sorted(given - wanted)
    if missing or unknown:
        raise PredictionError(
            f"{config.predictions}: {len(missing)} clips of {config.data} are not in it (such as "
            f"{missing[:3]}), {len(unknown)} of its clips are not in {config.data} (such as "
            f"{unknown[:3]})"
        )


def facts_of(
    config: EvaluateConfig, scorer: ShardScorer, total: ShardScores, shards: list[Location]
) -> dict[str, Any]:
    """What made the numbers: everything that a reader needs to get them again."""
    network = scorer.network
    facts: dict[str, Any] = {
        "checkpoint": str(config.checkpoint) if config.checkpoint else None,
        "checkpoint_sha256": hash_file(config.checkpoint) if config.checkpoint else None,
        "predictions": str(config.predictions) if config.predictions else None,
        "predictions_sha256": hash_file(config.predictions) if config.predictions else None,
        "benchmark": config.benchmark,
        "data": str(config.data),
        "data_sha256": hash_data(config.data, shards),
        "version": __version__,
        "commit": find_commit(),
        "modalities": config.modalities,
        "evidence": sorted(total.detectors),
        "box_scale": sorted(total.box_scales),
        "window": network.num_frames if network else "as in the file",
        "stride": (config.stride or max(network.num_frames // 2, 1)) if network else None,
        "kept_frame": "most central" if network else None,
        "flip_test": config.flip_test,
        "max_clips": config.max_clips,
        "body_model": str(config.body_model or "free"),
    }
    return facts
