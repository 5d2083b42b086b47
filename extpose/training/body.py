"""The body model that a training fits with, and whether it can say what the labels say.

A wrong body is not seen in the loss: its joints are a few centimetres from where the labels have
them, the network learns to lean that way, and every number looks well.
"""

import logging

import numpy as np

from extpose.body_model import BodyModel, load_body_model
from extpose.config import TrainConfig
from extpose.data.loader import ClipDataset
from extpose.errors import BodyError, ShardError, TrainingError
from extpose.keypoints import KEYPOINT_NAMES
from extpose.schema import TARGET_SET, Clip, ClipMeta, ClipTargets

FREE_SOURCES = ("synth", "multiview")
"""Data sets whose parameters are those of the free body and hand (docs/data.md)."""
REGRESSOR = "SMPL_to_J19"
MOST_SHARDS = 64
"""Shards whose first clip is looked at; of more, so many that are evenly spread."""
logger = logging.getLogger(__name__)


def open_body(config: TrainConfig) -> BodyModel:
    """The body model of a run, with the extra keypoints where their file is given.

    Raises AssetError for a bad file, TrainingError for one that has no effect.
    """
    if config.files and (config.body_model is None or config.model.body != "smpl"):
        names = ", ".join(map(str, config.files))
        raise TrainingError(f"files is {names}: they have an effect with an SMPL file only")
    extra = next((path for path in config.files if path.name.startswith(REGRESSOR)), None)
    for path in config.files:
        # Others are read by the held-out protocol.
        if path != extra and config.validation is None:
            raise TrainingError(f"files has {path}: only {REGRESSOR}.pkl has an effect")
    return load_body_model(config.body_model, config.model.body, extra_regressor=extra)


def check_labels(config: TrainConfig, dataset: ClipDataset, body_model: BodyModel) -> None:
    """Look at one clip of each shard. Raises TrainingError where the labels are of another body.

    Labels of keypoints that the body model does not find are told in a warning.
    """
    unknown = np.zeros(len(body_model.has_keypoint), bool)
    for clip in _some_clips(dataset):
        if clip.targets is None:
            continue
        _refuse_another_body(config, clip.meta, clip.targets)
        labelled = (clip.targets.keypoints_3d[..., 3] > 0) | (clip.targets.keypoints_2d[..., 2] > 0)
        unknown |= labelled.any(0) & ~body_model.has_keypoint.cpu().numpy()
    if unknown.any():
        names = np.array(KEYPOINT_NAMES[TARGET_SET[config.model.body]])[unknown]
        logger.warning(
            "%s does not find %d of the labelled keypoints, which count nothing (%s); 3D points "
            "are compared relative to the hips, not the pelvis: --files %s.pkl is the remedy",
            config.body_model,
            len(names),
            ", ".join(names),
            REGRESSOR,
        )


def _refuse_another_body(config: TrainConfig, meta: ClipMeta, targets: ClipTargets) -> None:
    if not targets.has_pose.any() and not targets.has_betas:
        return
    if (meta.source in FREE_SOURCES) == (config.body_model is None):
        return
    official = {"smpl": "SMPL", "mano": "MANO"}[meta.body]
    labels = "the free body" if meta.source in FREE_SOURCES else official
    given = config.body_model or "none, which is the free body"
    raise TrainingError(
        f"labels of source {meta.source!r} ({meta.video_id}) are parameters of {labels}, "
        f"--body-model is {given}: the network would learn the joints of another body"
    )


def _some_clips(dataset: ClipDataset) -> list[Clip]:
    """The first frame of the first clip of some shards; one that cannot be read is told later."""
    index, clips = dataset.index, list[Clip]()
    firsts = [i for i in range(len(index)) if not i or index.path_of(i) != index.path_of(i - 1)]
    chosen = np.linspace(0, len(firsts) - 1, min(len(firsts), MOST_SHARDS)).round().astype(int)
    for place in chosen:
        try:
            clips.append(dataset.read(firsts[place], 0, 1))
        except BodyError:
            raise
        except (ShardError, OSError) as error:
            logger.info("not looked at: %s", error)
    return clips
