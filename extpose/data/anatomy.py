"""What labels say about themselves: shapes, rotations, sides, order of the joints.

Certain is what contradicts other numbers of the same clip, or bones that no person has. What a
detector may honestly get wrong (left for right in one frame, somebody seen from behind) is only
doubted.

Axes     t frames   k keypoints   p keypoints of the labels
Units    metres and radians; 2D distances are fractions of the box's longer side
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float64
from scipy.optimize import linear_sum_assignment

from extpose.data.faults import Fault
from extpose.keypoints import COCO17_OF_BODY44, FLIP_PAIRS, KEYPOINT_NAMES, KeypointSet
from extpose.schema import TARGET_SET, Clip, ClipTargets

MAX_BETA, RARE_BETA = 5.0, 3.5
"""Shape coefficients are standard deviations of real people."""
MAX_ANGLE = 4 * np.pi
"""Of one rotation: more than two turns is another unit (degrees)."""
DIFFERENT, EXPLAINED = 0.03, 0.5
"""Two sets of points disagree above the first; another order explains it below the second times
that."""
MIN_POINTS = 6
"""Of fewer common points nothing is said."""
BONES: dict[str, tuple[tuple[str, str], ...]] = {
    part: tuple((f"{side}_{a}", f"{side}_{b}") for side in ("left", "right"))
    for part, (a, b) in {
        "thigh": ("hip", "knee"), "shin": ("knee", "ankle"), "upper arm": ("shoulder", "elbow"),
        "forearm": ("elbow", "wrist"),
    }.items()
}  # fmt: skip
RATIOS = (("shin", "thigh", 0.5, 1.9), ("forearm", "upper arm", 0.45, 1.9),
          ("upper arm", "thigh", 0.35, 1.2))  # fmt: skip
"""Least and largest length of the first bone over the second's, of a person."""
MAX_UNEVEN, MAX_UNSTEADY = 1.6, 0.25
"""A left bone over the right one; deviation of a bone's length over time, of its mean."""
MIN_CHIRALITY = -0.3
"""Cosine of what points forward with the way left and up say is forward."""


def find_label_faults(clip: Clip) -> Iterator[Fault]:
    """Labels against plausible people, against each other, and against the 2D evidence."""
    if clip.targets is None:
        return
    yield from _find_parameter_faults(clip.targets)
    points = clip.targets.keypoints_3d
    if (points[..., 3] > 0).any():
        orders = list(_find_projection_faults(clip, clip.targets))
        bones = list(_find_bone_faults(clip, clip.targets))
        # Points in another order have other sides too; one cause is enough.
        yield from orders or bones or _find_mirror_faults(clip, clip.targets)
    yield from _find_evidence_faults(clip, clip.targets)


def _find_parameter_faults(targets: ClipTargets) -> Iterator[Fault]:
    if targets.has_betas and (largest := float(np.abs(targets.betas).max())) > RARE_BETA:
        message = f"target.betas: reach {largest:.3g} standard deviations, at most {MAX_BETA:g}"
        yield Fault(kind="betas", message=message, is_certain=largest > MAX_BETA)
    labelled = {
        "global_orient": targets.global_orient[targets.has_pose, None],
        "pose": targets.pose[targets.has_pose],
    }
    for name, rotations in labelled.items():
        angles = np.linalg.norm(rotations.astype(np.float64), axis=-1)
        if angles.size and angles.max() > MAX_ANGLE:
            frame, joint = np.unravel_index(angles.argmax(), angles.shape)
            message = (
                f"target.{name}: labelled frame {frame}, joint {joint} turns by {angles.max():.4g} "
                f"rad, at most {MAX_ANGLE:.4g}: no rotation in radians"
            )
            yield Fault(kind="rotation", message=message)


def _find_projection_faults(clip: Clip, targets: ClipTargets) -> Iterator[Fault]:
    """3D labels, scaled and moved onto the 2D ones: both are along the picture's axes."""
    flat, deep = targets.keypoints_2d.astype(np.float64), targets.keypoints_3d.astype(np.float64)
    common = (flat[..., 2] > 0) & (deep[..., 3] > 0)
    kinds = TARGET_SET[clip.meta.body]
    where = "target.keypoints_3d against target.keypoints_2d"
    yield from _compare(clip, flat, deep, common, keypoint_set=kinds, where=where, is_fitted=True)


def _find_evidence_faults(clip: Clip, targets: ClipTargets) -> Iterator[Fault]:
    labels = targets.keypoints_2d.astype(np.float64)
    if clip.meta.keypoint_set == "coco17":
        labels = labels[:, list(COCO17_OF_BODY44)]
    evidence = clip.keypoints_2d.astype(np.float64)
    common = (labels[..., 2] > 0) & (evidence[..., 2] >= 0.3)
    is_told = clip.meta.detector.startswith(("truth", "annotated"))
    where = f"keypoints_2d ({clip.meta.detector}) against target.keypoints_2d"
    for fault in _compare(
        clip, labels, evidence, common, keypoint_set=clip.meta.keypoint_set, where=where
    ):
        is_certain = fault.is_certain and (is_told or fault.kind == "joint_order")
        yield Fault(kind=fault.kind, message=fault.message, is_certain=is_certain)


def _compare(
    clip: Clip,
    wanted: Float64[np.ndarray, "t k 3"],
    given: Float64[np.ndarray, "t k c"],
    common: Bool[np.ndarray, "t k"],
    *,
    keypoint_set: KeypointSet,
    where: str,
    is_fitted: bool = False,
) -> Iterator[Fault]:
    """Whether another order of the given points suits better; medians over the frames."""
    box = clip.bbox_xyxy.astype(np.float64)
    sizes = (box[:, 2:] - box[:, :2]).max(1)
    rows = []
    for t in np.flatnonzero(common.sum(1) >= MIN_POINTS):
        a, b, known = wanted[t, :, :2] / sizes[t], given[t, :, :2] / sizes[t], common[t]
        rows.append(_costs(a, b, known, keypoint_set=keypoint_set, is_fitted=is_fitted))
    if not rows:
        return
    as_is, swapped, best = np.median(np.array(rows), axis=0)
    if as_is < DIFFERENT:
        return
    if swapped < EXPLAINED * as_is and not (swapped > DIFFERENT and best < EXPLAINED * swapped):
        message = f"{where}: {as_is:.3f} of the box off, {swapped:.3f} with left and right swapped"
        yield Fault(kind="sides_swapped", message=message)
    elif as_is > 3 * DIFFERENT and best < min(EXPLAINED / 2 * as_is, 1.5 * DIFFERENT):
        message = f"{where}: {as_is:.3f} of the box off, {best:.3f} in another joint order"
        yield Fault(kind="joint_order", message=message)


def _costs(
    wanted: Float64[np.ndarray, "k 2"],
    given: Float64[np.ndarray, "k 2"],
    known: Bool[np.ndarray, " k"],
    *,
    keypoint_set: KeypointSet,
    is_fitted: bool,
) -> tuple[float, float, float]:
    """Mean distances of one frame: as given, with sides swapped, in the best order at all."""
    order = np.arange(len(given))
    for left, right in FLIP_PAIRS[keypoint_set]:
        order[left], order[right] = right, left
    both = known & known[order]
    as_is = _distance(wanted[known], given[known], is_fitted=is_fitted)
    swapped = as_is
    if FLIP_PAIRS[keypoint_set] and both.sum() >= MIN_POINTS:
        swapped = _distance(wanted[both], given[order][both], is_fitted=is_fitted)
    a, b = wanted[known], given[known]
    if is_fitted:
        b = (b - b.mean(0)) / max(b.std(), 1e-9) * a.std() + a.mean(0)
    apart = np.linalg.norm(a[:, None] - b, axis=-1)
    rows, columns = linear_sum_assignment(apart)
    return as_is, swapped, float(apart[rows, columns].mean())


def _distance(
    a: Float64[np.ndarray, "m 2"], b: Float64[np.ndarray, "m 2"], *, is_fitted: bool
) -> float:
    """Mean distance; `is_fitted`: after the scale (not negative) and shift of b that suit best."""
    if is_fitted:
        moved = b - b.mean(0)
        scale = max(float((moved * (a - a.mean(0))).sum()), 0) / max((moved**2).sum(), 1e-12)
        b = scale * moved + a.mean(0)
    return float(np.linalg.norm(a - b, axis=-1).mean())


def _find_bone_faults(clip: Clip, targets: ClipTargets) -> Iterator[Fault]:
    """Lengths of limbs: their ratios, both sides, and over time."""
    if clip.meta.body == "mano":
        yield from _find_finger_faults(targets)
        return
    place = {name: i for i, name in enumerate(KEYPOINT_NAMES["body44"])}
    points = targets.keypoints_3d.astype(np.float64)
    lengths: dict[tuple[str, str], Float64[np.ndarray, " t"]] = {}
    for pairs in BONES.values():
        for pair in pairs:
            a, b = (points[:, place[name]] for name in pair)
            known = (a[:, 3] > 0) & (b[:, 3] > 0)
            if known.any():
                lengths[pair] = np.linalg.norm(a[known, :3] - b[known, :3], axis=-1)
    signs = list(_find_odd_bones(lengths))
    # One limb may be badly labelled; an order that is wrong spoils several.
    if len(signs) > 1:
        message = f"target.keypoints_3d: bones of no person ({'; '.join(signs[:4])})"
        # Lifted labels of single pictures can be that far off; of a video they are not.
        is_certain = clip.num_frames > 1
        message += ": another joint order?"
        yield Fault(kind="joint_order", message=message, is_certain=is_certain)


def _find_odd_bones(
    lengths: dict[tuple[str, str], Float64[np.ndarray, " t"]],
) -> Iterator[str]:
    median = {pair: float(np.median(values)) for pair, values in lengths.items()}
    for first, second, least, most in RATIOS:
        for side in (0, 1):
            a, b = median.get(BONES[first][side]), median.get(BONES[second][side])
            if a is not None and b is not None and not least * b <= a <= most * b:
                name = ("left", "right")[side]
                yield f"{name} {first} {a:.3f} m, {second} {b:.3f} m"
    for part, (left, right) in BONES.items():
        a, b = median.get(left), median.get(right)
        if a is not None and b is not None and max(a, b) > MAX_UNEVEN * min(a, b):
            yield f"left {part} {a:.3f} m, right {b:.3f} m"
    for pair, values in lengths.items():
        if len(values) > 3 and values.std() > MAX_UNSTEADY * values.mean():
            yield f"{pair[0]} to {pair[1]} {values.min():.3f} to {values.max():.3f} m"


def _find_finger_faults(targets: ClipTargets) -> Iterator[Fault]:
    points = targets.keypoints_3d.astype(np.float64)
    points = points[(points[..., 3] > 0).all(1), :, :3]
    if not len(points):
        return
    fingers = points[:, 5:].reshape(-1, 4, 4, 3)
    palm = float(np.linalg.norm(fingers[:, :, 0] - points[:, :1], axis=-1).mean())
    bones = np.linalg.norm(np.diff(fingers, axis=2), axis=-1).mean((0, 1))
    # The median hand bends; its bones do not: a palm is longer than any of them.
    if palm < 1.2 * bones.max() or bones.max() > 4 * bones.min():
        message = (
            f"target.keypoints_3d: a palm of {palm:.3f} m and finger bones of "
            f"{', '.join(f'{b:.3f}' for b in bones)} m: another joint order?"
        )
        yield Fault(kind="joint_order", message=message)


def _find_mirror_faults(clip: Clip, targets: ClipTargets) -> Iterator[Fault]:
    """Left, up and forward of a body are a right-handed system; noses and toes point forward."""
    if clip.meta.body == "mano":
        return
    place = {name: i for i, name in enumerate(KEYPOINT_NAMES["body44"])}
    points = targets.keypoints_3d.astype(np.float64)

    def get(name: str) -> Float64[np.ndarray, "t 3"]:
        row = points[:, place[name]]
        return np.where(row[:, 3:] > 0, row[:, :3], np.nan)

    left = get("left_hip") - get("right_hip")
    up = (get("left_shoulder") + get("right_shoulder") - get("left_hip") - get("right_hip")) / 2
    forward = np.cross(left, up)
    cues = {
        "nose": get("nose") - (get("left_ear") + get("right_ear")) / 2,
        "left toe": get("left_big_toe") - get("left_heel"),
        "right toe": get("right_big_toe") - get("right_heel"),
    }
    scores: dict[str, float] = {}
    for name, cue in cues.items():
        norm = np.linalg.norm(cue, axis=-1) * np.linalg.norm(forward, axis=-1)
        cosines = (cue * forward).sum(-1) / np.where(norm > 0, norm, np.nan)
        if np.isfinite(cosines).any():
            scores[name] = float(np.nanmedian(cosines))
    if scores and max(scores.values()) < MIN_CHIRALITY:
        said = ", ".join(f"{name} {score:.2f}" for name, score in scores.items())
        message = f"target.keypoints_3d: point backwards ({said}): left and right swapped?"
        yield Fault(kind="sides_swapped", message=message, is_certain=len(scores) > 1)


def find_side_doubts(clip: Clip) -> Iterator[Fault]:
    """Left and right of a body's 2D evidence, by itself: over time, and face against shoulders."""
    if clip.meta.keypoint_set != "coco17":
        return
    points = clip.keypoints_2d.astype(np.float64)
    sure = points[..., 2] >= 0.3
    box = clip.bbox_xyxy.astype(np.float64)
    sizes = (box[:, 2:] - box[:, :2]).max(1)
    jumps = [
        f + 1
        for f in range(len(points) - 1)
        if _is_exchange(points[f, :, :2], points[f + 1, :, :2], sure[f] & sure[f + 1], sizes[f])
    ]
    if jumps:
        more = f" and {len(jumps) - 1} more" if len(jumps) > 1 else ""
        message = f"keypoints_2d: left and right change places at frame {jumps[0]}{more}"
        yield Fault(kind="sides_swapped", message=message, is_certain=False)
    if (share := _share_twisted(points, sure, sizes)) > 0.8:
        message = f"keypoints_2d: face and shoulders look opposite ways in {share:.0%} of frames"
        yield Fault(kind="sides_swapped", message=message, is_certain=False)


def _is_exchange(
    before: Float64[np.ndarray, "k 2"],
    after: Float64[np.ndarray, "k 2"],
    known: Bool[np.ndarray, " k"],
    size: float,
) -> bool:
    """Whether exchanging left and right explains most of the movement between two frames."""
    order = np.arange(len(before))
    for left, right in FLIP_PAIRS["coco17"]:
        order[left], order[right] = right, left
    known = known & known[order] & (order != np.arange(len(order)))
    if known.sum() < MIN_POINTS:
        return False
    as_is = np.linalg.norm(after[known] - before[known], axis=-1).mean() / size
    swapped = np.linalg.norm(after[order][known] - before[known], axis=-1).mean() / size
    return bool(as_is > 2 * DIFFERENT and swapped < EXPLAINED * as_is)


def _share_twisted(
    points: Float64[np.ndarray, "t k 3"],
    sure: Bool[np.ndarray, "t k"],
    sizes: Float64[np.ndarray, " t"],
) -> float:
    """Share of the telling frames in which the eyes' order is not that of shoulders and hips."""
    place = {name: i for i, name in enumerate(KEYPOINT_NAMES["coco17"])}
    signs = []
    for part, least in (("eye", 0.02), ("shoulder", 0.08), ("hip", 0.05)):
        left, right = place[f"left_{part}"], place[f"right_{part}"]
        width = (points[:, left, 0] - points[:, right, 0]) / sizes
        told = sure[:, left] & sure[:, right] & (np.abs(width) > least)
        signs.append(np.where(told, np.sign(width), 0))
    eyes, shoulders, hips = signs
    told = (eyes != 0) & (shoulders != 0) & (hips == shoulders)
    return float((eyes[told] != shoulders[told]).mean()) if told.any() else 0.0
