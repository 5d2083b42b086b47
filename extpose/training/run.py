"""One worker of a training run: puts data, network, engine and loop together.

Every worker calls `run_worker` with the same config; a run that finds checkpoints in its folder
goes on from the newest. Who starts the workers is not known here.
"""

import math
from dataclasses import dataclass

import cv2
import torch

from extpose.batch import Batch
from extpose.body_model import load_body_model
from extpose.config import TrainConfig
from extpose.data.loader import ClipDataset, training_batches
from extpose.data.sampler import StepSampler, micro_batch_size
from extpose.errors import CheckpointError, TrainingError
from extpose.model.ablations import build_network
from extpose.model.extpose import ExtPose
from extpose.model.weights import build_pretrained, save_model
from extpose.params import Prediction
from extpose.training.adversary import Adversary
from extpose.training.checkpoint import find_latest, read_state
from extpose.training.damage import Damage
from extpose.training.engine import Engine, create_engine, worker_device
from extpose.training.logs import RunLog, config_hash
from extpose.training.loop import Losses, Progress, StepRecord, train
from extpose.training.losses import compute_losses
from extpose.training.mocap import read_mocap
from extpose.training.run_index import open_index
from extpose.training.saving import CHECKPOINTS, Saver
from extpose.training.state import EXTRA, section
from extpose.training.throughput import open_throughput
from extpose.training.trackers import check_trackers
from extpose.training.trainable import count_parameters, select_trainable
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
    dataset = open_dataset(config, workers)
    try:
        sizes = {"batch": config.batch, "micro_batch": config.engine.micro_batch}
        micro_batch = micro_batch_size(**sizes, world_size=workers.size)
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
    start = resume(config, engine, adversary)
    sampler = StepSampler(
        dataset.sizes,
        **sizes,
        mix=config.mix,
        seed=config.seed,
        steps=config.steps,
        start_step=start.step,
        rank=workers.rank,
        world_size=workers.size,
    )
    log = None
    if workers.rank == 0:
        throughput = open_throughput(config, workers.device, workers=workers.size)
        log = RunLog(config, start_step=start.step, throughput=throughput)
        log.write_parameters(parameters)
    validation = None
    if score is not None:
        refuse_overlap(score.shards, dataset.index)
        validation = Validation(config, engine, score, start_step=start.step)
    watch = _Watch(log, validation)
    saver = Saver(config, engine, adversary)
    limit = config.loader.max_damaged
    try:
        done = train(
            config,
            engine,
            training_batches(
                dataset, sampler, workers=config.loader.workers, pin_memory=config.use_gpu
            ),
            make_losses(config, engine.workers.device),
            start=start,
            report=watch,
            save=saver,
            is_asked_to_save=lambda: saver.is_asked,
            adversary=adversary,
            damage=Damage(engine.workers, dataset.index, limit=limit),
        )
        saver.finish()
    finally:
        saver.close()
    watch.validate(done.step, is_last=True)
    write_weights(config, engine)
    if log is not None:
        log.close()


def open_dataset(config: TrainConfig, workers: Workers) -> ClipDataset:
    """The labelled clips of `config.data`; collective over the workers."""
    if config.mix and len(config.mix) != len(config.data):
        raise TrainingError(
            f"mix has {len(config.mix)} weights for {len(config.data)} data sets: {config.mix}"
        )
    if not all(math.isfinite(weight) and weight > 0 for weight in config.mix):
        raise TrainingError(f"mix is {config.mix}, each weight must be a number above 0")
    index, sizes = open_index(config, workers)
    dataset = ClipDataset(
        index,
        config.loader,
        sizes=sizes if config.mix else None,
        body=config.model.body,
        size=config.model.image_size,
        seed=config.seed,
    )
    if config.loader.num_frames > config.model.max_frames:
        raise TrainingError(
            f"loader.num_frames={config.loader.num_frames} is more than "
            f"model.max_frames={config.model.max_frames}"
        )
    if not dataset.has_labels():
        folders = ", ".join(map(str, config.data))
        raise TrainingError(f"{folders}: no clip has targets, nothing can be learned")
    return dataset


def create_model(config: TrainConfig) -> ExtPose:
    """Randomly initialised from the seed, or with the weights of `config.init`.

    What `config.engine.trainable` leaves out is frozen. Raises TrainingError when weights do not
    fit, or switches of the config each other.
    """
    torch.manual_seed(config.seed)
    try:
        if config.init is None:
            model = build_network(config.model)
        else:
            model = build_pretrained(config.model, config.init)
        select_trainable(model, config.engine.trainable)
    except (CheckpointError, ValueError) as error:
        raise TrainingError(str(error)) from error
    return model


def create_adversary(config: TrainConfig, workers: Workers) -> Adversary | None:
    """The adversarial term of a run with `config.mocap`. Raises TrainingError for a bad file."""
    if config.mocap is None:
        return None
    if not config.loss.adversarial:
        raise TrainingError(f"mocap {config.mocap} has no effect with loss.adversarial 0")
    try:
        return Adversary(
            config.adversary,
            read_mocap(config.mocap, config.model.body),
            body=config.model.body,
            weight=config.loss.adversarial,
            batch=config.batch,
            seed=config.seed,
            workers=workers,
        )
    except CheckpointError as error:
        raise TrainingError(str(error)) from error


def make_losses(config: TrainConfig, device: torch.device) -> Losses:
    """The objective with its body model."""
    body_model = load_body_model(config.body_model, config.model.body).to(device)

    def losses(
        prediction: Prediction, batch: Batch
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return compute_losses(prediction, batch, body_model, config.loss)

    return losses


def resume(config: TrainConfig, engine: Engine, adversary: Adversary | None = None) -> Progress:
    """Load the newest complete checkpoint of the run, if there is one."""
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
    try:
        state = read_state(folder)
        engine.load_state(state)
        if adversary is not None:
            adversary.load_state(section(state, EXTRA), folder)
    except CheckpointError as error:
        raise TrainingError(str(error)) from error
    return Progress(step=meta.step, seconds=meta.seconds)


def write_weights(config: TrainConfig, engine: Engine) -> None:
    """`model.safetensors`, from rank 0; every worker calls it."""
    state = engine.consolidated_state_dict()
    if engine.workers.rank == 0:
        model = build_network(config.model)
        model.load_state_dict(state)
        save_model(config.out / WEIGHTS, model, {"config_hash": config_hash(config)})
    engine.workers.barrier()


@dataclass(frozen=True)
class _Watch:
    """What is done after each step besides saving; `log` is None but on rank 0."""

    log: RunLog | None
    validation: Validation | None

    def __call__(self, record: StepRecord, batch: Batch) -> None:
        self.validate(record.step)
        if self.log is not None:
            self.log(record, batch)

    def validate(self, step: int, *, is_last: bool = False) -> None:
        values = self.validation(step, is_last=is_last) if self.validation else None
        if values is not None and self.log is not None:
            self.log.add_validation(values, step)
