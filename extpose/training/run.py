"""One worker of a training run: puts data, network, engine and loop together.

Every worker calls `run_worker` with the same config; a run that finds checkpoints in its folder
goes on from the newest. Who starts the workers is not known here.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import cv2
import torch

from extpose.batch import Batch
from extpose.body_model import BodyModel
from extpose.config import TrainConfig
from extpose.data.loader import ClipDataset, training_batches
from extpose.data.sampler import StepSampler, micro_batch_size
from extpose.errors import CheckpointError, TrainingError
from extpose.model.ablations import build_network
from extpose.model.weights import save_model
from extpose.params import Prediction
from extpose.training.adversary import Adversary
from extpose.training.body import check_labels, open_body
from extpose.training.checkpoint import find_latest, read_state
from extpose.training.damage import Damage
from extpose.training.engine import Engine, create_engine, worker_device
from extpose.training.facts import config_hash
from extpose.training.inputs import check_inputs, describe_inputs
from extpose.training.logs import RunLog
from extpose.training.loop import Losses, Progress, StepRecord, train
from extpose.training.losses import compute_losses
from extpose.training.parts import create_adversary, create_model, open_dataset
from extpose.training.saving import CHECKPOINTS, Saver
from extpose.training.state import EXTRA, section
from extpose.training.throughput import open_throughput
from extpose.training.trackers import check_trackers
from extpose.training.trainable import ParameterCount, count_parameters
from extpose.training.validation import Score, Validation, refuse_overlap
from extpose.training.workers import Workers, leave_surplus

WEIGHTS = "model.safetensors"


def run_worker(config: TrainConfig, score: Score | None = None) -> None:
    """Train (or go on) and write `model.safetensors`; collective over the workers of the run.

    `score` gives the metrics on held-out clips, where there are any. With `config.min_workers`,
    workers that the batch cannot be shared out to return at once.

    Raises TrainingError on every worker for what another try would not change.
    """
    if config.engine.threads:
        cv2.setNumThreads(config.engine.threads)
    check_trackers(config)
    device = worker_device(config.use_gpu)
    if config.min_workers and not leave_surplus(config.batch, device):
        return
    workers = Workers(device)
    dataset, body_model = open_dataset(config, workers), open_body(config)
    inputs = inspect_inputs(config, dataset, body_model, workers=workers)
    try:
        micro_batch = micro_batch_size(
            config.batch, config.engine.micro_batch, world_size=workers.size
        )
    except ValueError as error:
        raise TrainingError(str(error)) from error
    model = create_model(config)
    parameters = count_parameters(model)
    engine = create_engine(
        model,
        config.engine,
        accumulation=config.batch // workers.size // micro_batch,
        micro_batch=micro_batch,
        use_gpu=config.use_gpu,
        skeleton_input=config.model.skeleton_input,
    )
    adversary = create_adversary(config, engine.workers)
    start = resume(config, engine, adversary, inputs=inputs)
    log = open_log(config, engine.workers, start_step=start.step, parameters=parameters)
    validation = None
    if score is not None:
        refuse_overlap(score.shards, dataset.index)
        validation = Validation(config, engine, score, start_step=start.step)
    watch = _Watch(log, validation)
    saver = Saver(config, engine, adversary, inputs=inputs, start_step=start.step)
    limit = config.loader.max_damaged
    batches = open_batches(config, dataset, workers=workers, start_step=start.step)
    try:
        done = train(
            config,
            engine,
            batches if start.step else watch.see_first(batches),
            make_losses(config, body_model.to(engine.workers.device)),
            start=start,
            report=watch,
            save=saver,
            is_asked_to_save=lambda: saver.is_asked,
            adversary=adversary,
            damage=Damage(engine.workers, dataset.index, limit=limit),
        )
        saver.finish()
        watch.validate(done.step, is_last=True)
        write_weights(config, engine)
    finally:
        saver.close()
        if log is not None:
            log.close()


def inspect_inputs(
    config: TrainConfig, dataset: ClipDataset, body_model: BodyModel, *, workers: Workers
) -> dict[str, str]:
    """What the run reads, as hashes. Raises TrainingError for labels of another body."""
    found: dict[str, str] = {}

    def inspect() -> None:
        check_labels(config, dataset, body_model)
        found.update(describe_inputs(config, dataset.index))

    workers.first_does(inspect)
    return dict(workers.from_first(found))


def open_batches(
    config: TrainConfig, dataset: ClipDataset, *, workers: Workers, start_step: int
) -> Iterable[Batch]:
    """This worker's micro-batches from a step on."""
    sampler = StepSampler(
        dataset.sizes,
        batch=config.batch,
        micro_batch=config.engine.micro_batch,
        mix=config.mix,
        seed=config.seed,
        steps=config.steps,
        start_step=start_step,
        rank=workers.rank,
        world_size=workers.size,
    )
    return training_batches(
        dataset, sampler, workers=config.loader.workers, pin_memory=config.use_gpu
    )


def make_losses(config: TrainConfig, body_model: BodyModel) -> Losses:
    """The objective with its body model."""

    def losses(
        prediction: Prediction, batch: Batch
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return compute_losses(prediction, batch, body_model, config.loss)

    return losses


def open_log(
    config: TrainConfig, workers: Workers, *, start_step: int, parameters: ParameterCount
) -> RunLog | None:
    """The log of rank 0. Raises TrainingError, on every worker, where it cannot be written."""
    opened: list[RunLog] = []

    def open_it() -> None:
        throughput = open_throughput(config, workers.device, workers=workers.size)
        opened.append(RunLog(config, start_step=start_step, throughput=throughput))
        opened[0].write_parameters(parameters)

    workers.first_does(open_it)
    return opened[0] if opened else None


def resume(
    config: TrainConfig,
    engine: Engine,
    adversary: Adversary | None = None,
    *,
    inputs: Mapping[str, str],
) -> Progress:
    """Load the newest complete checkpoint of the run, if there is one.

    Raises TrainingError where it is of another config, or of other `inputs`.
    """
    root, workers = config.out / CHECKPOINTS, engine.workers
    found = workers.from_first(find_latest(root) if workers.rank == 0 else None)
    if found is None:
        return Progress(step=0, seconds=0.0)
    folder, meta = found
    if meta.config_hash != (expected := config_hash(config)):
        raise TrainingError(
            f"{folder}: config hash {meta.config_hash}, this run has {expected}: "
            "another config; choose another --out or restore the config of its config.json"
        )
    check_inputs(config, folder, meta.inputs, inputs)
    try:
        state = read_state(folder)
        engine.load_state(state)
        if adversary is not None:
            adversary.load_state(section(state, EXTRA), folder)
    except CheckpointError as error:
        raise TrainingError(str(error)) from error
    return Progress(step=meta.step, seconds=meta.seconds)


def write_weights(config: TrainConfig, engine: Engine) -> None:
    """`model.safetensors`, from rank 0; every worker calls it.

    Raises TrainingError, on every worker, where it cannot be written.
    """
    state = engine.consolidated_state_dict()

    def save() -> None:
        model = build_network(config.model)
        model.load_state_dict(state)
        save_model(config.out / WEIGHTS, model, {"config_hash": config_hash(config)})

    engine.workers.first_does(save)


@dataclass(frozen=True)
class _Watch:
    """What is done after each step besides saving; `log` is None but on rank 0."""

    log: RunLog | None
    validation: Validation | None

    def __call__(self, record: StepRecord) -> None:
        self.validate(record.step)
        if self.log is not None:
            self.log(record)

    def see_first(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Draw the first of them before the network gets it: the run may end right there."""
        for number, batch in enumerate(batches):
            if self.log is not None and not number:
                self.log.draw_first(batch)
            yield batch

    def validate(self, step: int, *, is_last: bool = False) -> None:
        values = self.validation(step, is_last=is_last) if self.validation else None
        if values is not None and self.log is not None:
            self.log.add_validation(values, step)
