"""How a motion differs from the truth's over time: acceleration, jitter, feet that slide.

Every function works in float64. A window of frames counts only where all of its frames are `valid`
(and a point is labelled in all of them): nothing is differenced across a gap. What does not count
is not a number.

Axes    * clips   t consecutive frames   k 3D keypoints   f points of the feet
Units   metres in; metres a frame, a frame^2, a frame^3 out
"""

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from extpose.evaluation.metrics import hide_points, prepare_points

CONTACT_SPEED = 0.3
"""m/s: below it a foot of the truth stands (WHAM: 1 cm a frame at 30 fps)."""


def acceleration_error(
    found: Float[Tensor, "*clips t k 3"],
    target: Float[Tensor, "*clips t k 3"],
    *,
    valid: Bool[Tensor, "*clips t"] | None = None,
) -> Float64[Tensor, "*clips t_minus_2"]:
    """Mean over keypoints of `|a_found - a_target|`, `a_t = x_{t-1} - 2 x_t + x_{t+1}`, m/frame^2.

    A triple with a frame that is not valid is not a number: nothing is differenced across a gap.
    Times fps^2: m/s^2 (WHAM, GVHMR); times 1000: mm/frame^2 (VIBE prints it as "mm/s^2").
    """
    return acceleration_errors(found, target, valid=valid).mean(-1)


def acceleration_errors(
    found: Float[Tensor, "*clips t k 3"],
    target: Float[Tensor, "*clips t k 3"],
    *,
    valid: Bool[Tensor, "*clips t"] | None = None,
    has_point: Bool[Tensor, "*clips t k"] | None = None,
) -> Float64[Tensor, "*clips t_minus_2 k"]:
    """`acceleration_error` of each keypoint; all three frames must have it."""
    difference = prepare_points(found, valid, has_point) - prepare_points(target, valid, has_point)
    sizes = difference.diff(n=2, dim=-3).norm(dim=-1)
    return hide_points(sizes, _runs(valid, 3), _runs(has_point, 3, dim=-2))


def jitter(
    points: Float[Tensor, "*clips t k 3"], *, valid: Bool[Tensor, "*clips t"] | None = None
) -> Float64[Tensor, "*clips t_minus_3"]:
    """Mean over keypoints of `|x_{t+3} - 3 x_{t+2} + 3 x_{t+1} - x_t|`, m/frame^3.

    Times fps^3 / 10: the 10 m/s^3 of WHAM. The truth's own jitter belongs beside it.
    """
    return jerks(points, valid=valid).mean(-1)


def jerks(
    points: Float[Tensor, "*clips t k 3"],
    *,
    valid: Bool[Tensor, "*clips t"] | None = None,
    has_point: Bool[Tensor, "*clips t k"] | None = None,
) -> Float64[Tensor, "*clips t_minus_3 k"]:
    """`jitter` of each keypoint; all four frames must have it."""
    sizes = prepare_points(points, valid, has_point).diff(n=3, dim=-3).norm(dim=-1)
    return hide_points(sizes, _runs(valid, 4), _runs(has_point, 4, dim=-2))


def foot_sliding(
    found: Float[Tensor, "*clips t f 3"],
    target: Float[Tensor, "*clips t f 3"],
    *,
    threshold: float,
    valid: Bool[Tensor, "*clips t"] | None = None,
    has_point: Bool[Tensor, "*clips t f"] | None = None,
) -> Float64[Tensor, "*clips t_minus_1 f"]:
    """How far a foot moves from one frame to the next while the *truth's* foot stands, m/frame.

    A foot point stands when the truth moves it by less than `threshold` metres in that frame; not a
    number elsewhere. WHAM's and GVHMR's definition: big toes and heels (`left_big_toe`,
    `left_heel`, `right_big_toe`, `right_heel` of `body44`: vertices 3216, 3387, 6617, 6787 of
    SMPL), 1 cm a frame at 30 fps. Both sides are in the world, or in a camera that stands still.
    """
    moved, stood = (
        prepare_points(points, valid, has_point).diff(dim=-3).norm(dim=-1)
        for points in (found, target)
    )
    moved = torch.where(stood < threshold, moved, torch.nan)
    return hide_points(moved, _runs(valid, 2), _runs(has_point, 2, dim=-2))


def _runs(flags: Tensor | None, length: int, *, dim: int = -1) -> Tensor | None:
    """Whether each window of `length` consecutive frames is flagged throughout."""
    if flags is None:
        return None
    if flags.shape[dim] < length:
        return flags.narrow(dim, 0, 0)
    return flags.unfold(dim, length, 1).all(-1)
