"""Keypoint sets: their names, their order, and which of them are each other's mirror image.

`coco17` and `hand21` are what detectors find and what is drawn. `body44` is what bodies are
labelled with: HMR2.0's 25 joints of OpenPose, then 19 joints of the older data sets, whose
definitions differ (a `lsp_right_hip` is not a `right_hip`). The hand is labelled by `hand21`.

Left and right are the person's own.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float32

KeypointSet = Literal["coco17", "hand21", "body44"]

_COCO17 = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
    "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip",
    "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip
OPENPOSE25 = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow",
    "left_wrist", "mid_hip", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee",
    "left_ankle", "right_eye", "left_eye", "right_ear", "left_ear", "left_big_toe",
    "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel",
)  # fmt: skip
"""OpenPose's BODY_25."""
EXTRA19 = (
    "lsp_right_ankle", "lsp_right_knee", "lsp_right_hip", "lsp_left_hip", "lsp_left_knee",
    "lsp_left_ankle", "lsp_right_wrist", "lsp_right_elbow", "lsp_right_shoulder",
    "lsp_left_shoulder", "lsp_left_elbow", "lsp_left_wrist", "lsp_neck", "lsp_head_top",
    "mpii_pelvis", "mpii_thorax", "h36m_spine", "h36m_jaw", "h36m_head",
)  # fmt: skip
"""The rows of HMR2.0's `SMPL_to_J19.pkl`: LSP's joints, and others of MPII and Human3.6M."""
_HAND21 = (
    "wrist", *(
        f"{finger}_{part}"
        for finger in ("thumb", "index", "middle", "ring", "little")
        for part in ("1", "2", "3", "tip")
    ),
)  # fmt: skip

KEYPOINT_NAMES: dict[KeypointSet, tuple[str, ...]] = {
    "coco17": _COCO17,
    "hand21": _HAND21,
    "body44": OPENPOSE25 + EXTRA19,
}
NUM_KEYPOINTS: dict[str, int] = {name: len(names) for name, names in KEYPOINT_NAMES.items()}


def find_flip_pairs(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Indices of left and right of each pair, by name."""
    place = {name: i for i, name in enumerate(names)}
    return tuple((i, place[n.replace("left", "right")]) for n, i in place.items() if "left" in n)


FLIP_PAIRS: dict[KeypointSet, tuple[tuple[int, int], ...]] = {
    name: find_flip_pairs(names) for name, names in KEYPOINT_NAMES.items()
}
"""Left and right. A hand has none: a mirrored hand is the other hand."""

COCO17_OF_BODY44: tuple[int, ...] = tuple(OPENPOSE25.index(name) for name in _COCO17)
"""Where COCO's keypoints are among the 44."""


def reorder_keypoints(
    points: Float32[np.ndarray, "*t m c"], names: Sequence[str | None], target: KeypointSet
) -> Float32[np.ndarray, "*t k c"]:
    """Keypoints in another order: row i is called `names[i]` in `target`; None is left out.

    What `target` has and `names` has not is zero, confidence included. Raises ValueError for a
    name that `target` does not know, a repeated one, or another number of points than names.
    """
    wanted = KEYPOINT_NAMES[target]
    known = [(i, name) for i, name in enumerate(names) if name is not None]
    kept = [name for _, name in known]
    if strangers := sorted(set(kept) - set(wanted)):
        raise ValueError(f"{strangers} are not keypoints of {target}")
    if len(set(kept)) < len(kept):
        raise ValueError(f"keypoint names are repeated: {sorted(kept)}")
    if points.shape[-2] != len(names):
        raise ValueError(f"{points.shape[-2]} points, {len(names)} names")
    out = np.zeros((*points.shape[:-2], len(wanted), points.shape[-1]), points.dtype)
    out[..., [wanted.index(name) for name in kept], :] = points[..., [i for i, _ in known], :]
    return out
