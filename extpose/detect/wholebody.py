"""COCO-WholeBody's 133 keypoints: the 17 of the body come first, the hands last.

Both hands have the project's order of 21 (wrist, then thumb to little finger), the left one first.
"""

import numpy as np
from jaxtyping import Float32

from extpose.errors import AssetError

NUM_BODY, NUM_WHOLEBODY = 17, 133
LEFT_HAND, RIGHT_HAND = slice(91, 112), slice(112, 133)


def check_num_keypoints(count: int, weights: object) -> None:
    """Refuse a network of other keypoints than these two sets."""
    if count not in (NUM_BODY, NUM_WHOLEBODY):
        raise AssetError(
            f"{weights}: a network of {count} keypoints, known are {NUM_BODY} (COCO) and "
            f"{NUM_WHOLEBODY} (COCO-WholeBody)"
        )


def body_of(points: Float32[np.ndarray, "p m 3"]) -> Float32[np.ndarray, "p 17 3"]:
    """The 17 of the body, of either set."""
    return np.ascontiguousarray(points[:, :NUM_BODY])


def hands_of(points: Float32[np.ndarray, "p 133 3"]) -> Float32[np.ndarray, "p 2 21 3"]:
    """The person's own left hand, then the right one."""
    return np.stack([points[:, LEFT_HAND], points[:, RIGHT_HAND]], axis=1)
