"""What a run is made of, from its config: data, network, adversary."""

import math

import torch

from extpose.config import TrainConfig
from extpose.data.loader import ClipDataset
from extpose.errors import CheckpointError, TrainingError
from extpose.model.ablations import build_network
from extpose.model.extpose import ExtPose
from extpose.model.weights import build_pretrained
from extpose.training.adversary import Adversary
from extpose.training.mocap import read_mocap
from extpose.training.run_index import open_index
from extpose.training.trainable import select_trainable
from extpose.training.workers import Workers


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
