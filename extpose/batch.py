"""What lives on the accelerator, as typed dataclasses.

Axes    b clips   t frames   h w crop pixels   k keypoints   j joint rotations, no root   v vertices
Units   metres in the camera frame; 2D in the network's crop, [-0.5, 0.5]; rotations as matrices
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from extpose.model_config import SkeletonInput
from extpose.params import PoseParams

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Labels of a batch; where something is not labelled its `has_*` or confidence is 0."""

    params: PoseParams
    has_pose: Bool[Tensor, "b t"]
    has_betas: Bool[Tensor, " b"]
    keypoints_2d: Float[Tensor, "b t k 3"]
    """x y in the crop, [-0.5, 0.5], and confidence."""
    keypoints_3d: Float[Tensor, "b t k 4"]
    """x y z in the camera frame, metres, and confidence."""
    transl: Float[Tensor, "b t 3"]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Collated windows. `t` = 1 is the image task."""

    keys: tuple[str, ...]
    rgb: Float[Tensor, "b t 3 h w"]
    """Normalised by ImageNet's mean and deviation; all zero where the modality is masked."""
    skeleton: Float[Tensor, "b t 3 h w"]
    """Normalised alike; all zero where the modality is masked."""
    valid: Bool[Tensor, "b t"]
    """False: padding of a clip that is shorter than the window."""
    crop_box_img: Float[Tensor, "b t 3"]
    """Centre x, centre y and side of the network's square crop, in source pixels."""
    keypoints_crop: Float[Tensor, "b t k 3"]
    """The 2D evidence that `skeleton` is drawn of: x y in the crop, [-0.5, 0.5], and confidence.
    All zero where a keypoint was not seen and where the modality is masked."""
    image_size: Float[Tensor, "b 2"]
    """Source image height, width."""
    targets: Targets | None
    skipped: tuple[str, ...] = ()
    """Clips that could not be read, each with the reason and what took its place."""


def network_inputs(
    batch: Batch, skeleton_input: SkeletonInput = "drawing"
) -> tuple[Float[Tensor, "b t 3 h w"], Float[Tensor, "b t ..."], Bool[Tensor, "b t"]]:
    """What `ExtPose.forward` takes of a batch: image, drawn skeleton or its keypoints, `valid`."""
    evidence = batch.skeleton if skeleton_input == "drawing" else batch.keypoints_crop
    return batch.rgb, evidence, batch.valid


def map_tensors(value: T, function: Callable[[Tensor], Tensor]) -> T:
    """Apply `function` to every tensor of a (nested) dataclass; leave the rest as it is."""
    if isinstance(value, Tensor):
        return function(value)  # type: ignore[return-value]
    if not hasattr(value, "__dataclass_fields__"):
        return value
    changed: dict[str, Any] = {
        f.name: map_tensors(getattr(value, f.name), function)
        for f in fields(value)  # type: ignore[arg-type]
    }
    return type(value)(**changed)


def to_device(batch: Batch, device: torch.device | str) -> Batch:
    """Move every tensor."""
    return map_tensors(batch, lambda tensor: tensor.to(device, non_blocking=True))
