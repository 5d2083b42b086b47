"""The objective: HMR2.0's terms on clips, and two temporal ones that are off by default.

The adversarial term is in `adversary.py`.

Axes    b clips   t frames   k keypoints   j joint rotations without the root
Units   3D in metres relative to the root keypoint; 2D in the crop, [-0.5, 0.5]; rotation matrices
Source  4D-Humans: absolute differences of keypoints, squared differences of parameters, *summed*
        over coordinates, keypoints, frames and the clips of a GPU
"""

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor

from extpose.batch import Batch, Targets, map_tensors
from extpose.body_model import BodyModel
from extpose.config import LossConfig
from extpose.geometry import project_to_crop
from extpose.params import Prediction

_PELVIS, _HIPS, _WRIST = (39,), (9, 12), (0,)
TEMPORAL = {"velocity": 1, "acceleration": 2}
"""Terms of differences over time, and how often the difference is taken."""


def compute_losses(
    prediction: Prediction, batch: Batch, body_model: BodyModel, config: LossConfig
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """The total and its terms, each with its weight applied, so that they add up to the total.

    The terms are `keypoints_3d`, `keypoints_2d`, `global_orient`, `pose` and `betas`, and
    `velocity` and `acceleration` where they have a weight. Padding frames and what is not labelled
    count nothing. Computed in float32 whatever the network's
    precision. With `reduction="sum"` the sums are scaled to `config.clips_per_sum` clips, so that
    their mean over micro-batches does not depend on how many clips one takes. With `"mean"` each
    term is divided by the number of frames (of clips for `betas`) in which it has a label.

    Raises ValueError where the batch has no targets or the body model another keypoint set.
    """
    if batch.targets is None:
        raise ValueError(f"clips without targets cannot be trained on: {batch.keys[:3]}")
    targets, valid = batch.targets, batch.valid
    prediction = map_tensors(prediction, Tensor.float)
    params = prediction.params
    betas = repeat(params.betas, "b c -> b t c", t=valid.shape[1])
    keypoints = body_model.find_keypoints(params.global_orient, params.pose, betas)
    if keypoints.shape[-2] != targets.keypoints_3d.shape[-2]:
        raise ValueError(
            f"{targets.keypoints_3d.shape[-2]} keypoints in the batch, "
            f"{keypoints.shape[-2]} in the body model"
        )
    root = root_keypoints(body_model)
    has_pose, has_betas = targets.has_pose & valid, targets.has_betas
    has_3d, has_2d = _labelled_points(targets, valid, root, body_model.has_keypoint)
    true = targets.params
    sums = {
        "keypoints_3d": (sum_keypoints_3d(keypoints, has_3d, root=root), has_3d[..., 3]),
        "keypoints_2d": (
            sum_keypoints_2d(project_to_crop(keypoints, prediction.crop_cam), has_2d),
            has_2d[..., 2],
        ),
        "global_orient": (
            sum_squares(params.global_orient, true.global_orient, has_pose),
            has_pose,
        ),
        "pose": (sum_squares(params.pose, true.pose, has_pose), has_pose),
        "betas": (sum_squares(params.betas, true.betas, has_betas), has_betas),
    }
    for name, order in TEMPORAL.items():
        if getattr(config, name):
            value = sum_differences(keypoints, has_3d, root=root, order=order)
            sums[name] = (value, confidence_over_time(has_3d[..., 3], order))
    terms = {name: getattr(config, name) * value for name, (value, _) in sums.items()}
    if config.reduction == "mean":
        terms = {name: value / _count_labelled(sums[name][1]) for name, value in terms.items()}
    else:
        scale = config.clips_per_sum / len(valid)
        terms = {name: scale * value for name, value in terms.items()}
    return torch.stack(list(terms.values())).sum(), terms


def root_keypoints(body_model: BodyModel) -> tuple[int, ...]:
    """3D points are compared relative to the mean of these keypoints.

    The pelvis (HMR2.0); the hips where the body model has no regressor for it; the wrist (HaMeR).
    """
    if body_model.body == "mano":
        return _WRIST
    return _PELVIS if bool(body_model.has_keypoint[_PELVIS[0]]) else _HIPS


def sum_keypoints_3d(
    found: Float[Tensor, "*batch k 3"],
    target: Float[Tensor, "*batch k 4"],
    *,
    root: tuple[int, ...],
) -> Float[Tensor, ""]:
    """Sum of confidence times the absolute difference, each side relative to its own root."""
    points, confidence = target[..., :3], target[..., 3:]
    difference = _relative_to(found, root) - _relative_to(points, root)
    return (confidence * difference.abs()).sum()


def sum_keypoints_2d(
    found: Float[Tensor, "*batch k 2"], target: Float[Tensor, "*batch k 3"]
) -> Float[Tensor, ""]:
    """Sum of confidence times the absolute difference."""
    return (target[..., 2:] * (found - target[..., :2]).abs()).sum()


def sum_squares(
    found: Float[Tensor, "..."], target: Float[Tensor, "..."], labelled: Bool[Tensor, "..."]
) -> Float[Tensor, ""]:
    """Sum of squared differences where `labelled`, whose axes are the leading ones of the rest."""
    keep = labelled.reshape(labelled.shape + (1,) * (found.ndim - labelled.ndim))
    return torch.where(keep, found - target, 0).square().sum()


def sum_differences(
    found: Float[Tensor, "b t k 3"],
    target: Float[Tensor, "b t k 4"],
    *,
    root: tuple[int, ...],
    order: int,
) -> Float[Tensor, ""]:
    """Sum of confidence times the absolute difference of velocities (`order` 1) or accelerations
    (2) of points relative to the root, in metres a frame and metres a frame squared.

    0 where there are too few frames for one.
    """
    error = _relative_to(found, root) - _relative_to(target[..., :3], root)
    confidence = confidence_over_time(target[..., 3], order)
    return (confidence[..., None] * error.diff(n=order, dim=1).abs()).sum()


def confidence_over_time(
    confidence: Float[Tensor, "b t k"], order: int
) -> Float[Tensor, "b steps k"]:
    """Of a difference: the least of the `order` + 1 frames that it is made of."""
    steps = max(confidence.shape[1] - order, 0)
    shifted = [confidence[:, i : i + steps] for i in range(order + 1)]
    return torch.stack(shifted).amin(0)


def _relative_to(
    points: Float[Tensor, "*batch k 3"], root: tuple[int, ...]
) -> Float[Tensor, "*batch k 3"]:
    return points - points[..., list(root), :].mean(-2, keepdim=True)


def _labelled_points(
    targets: Targets,
    valid: Bool[Tensor, "b t"],
    root: tuple[int, ...],
    has_keypoint: Bool[Tensor, " k"],
) -> tuple[Float[Tensor, "b t k 4"], Float[Tensor, "b t k 3"]]:
    """Targets with confidence 0 in padding frames, where the body model has no such keypoint, and,
    in 3D, where the root is not labelled.
    """
    points_3d, points_2d = targets.keypoints_3d.float(), targets.keypoints_2d.float()
    has_root = (points_3d[..., list(root), 3] > 0).all(-1)
    kept = rearrange(valid, "b t -> b t 1") & has_keypoint
    return _keep_points(points_3d, kept & has_root[..., None]), _keep_points(points_2d, kept)


def _keep_points(points: Float[Tensor, "b t k c"], keep: Bool[Tensor, "b t k"]) -> Tensor:
    """Zeros in place of other points: an unlabelled one may be anything, even not a number."""
    labelled = keep[..., None] & (points[..., -1:] > 0)
    return torch.where(labelled, points, 0)


def _count_labelled(confidence: Tensor) -> Tensor:
    """Frames (or clips) with at least one label; 1 where there is none, and the sum is 0."""
    labelled = confidence > 0
    if labelled.ndim == 3:
        labelled = labelled.any(-1)
    return labelled.sum().clamp_min(1)
