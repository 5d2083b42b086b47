"""Signs of a wrong joint order or a wrong side that 3D joints of hands carry in themselves.

Axes    t hands   21 keypoints (`hand21`)
Units   metres; any right-handed axes
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float64

from pipelines.records import SourceError

MIN_HANDS = 5
"""Of fewer hands nothing is said."""
MIN_CHIRALITY = -0.15
"""Palm lengths that finger tips may lie behind the knuckles, in the median."""


def check_hands(
    points: Float64[np.ndarray, "t 21 3"], *, is_right: bool, path: Path, key: str
) -> None:
    """Refuse joints in another order, and left hands that are called right ones, or mirrored.

    Order: a finger's first bone is longer than its last, and shorter than the palm. Side: the
    finger tips lie on the palm's side of the knuckles, for fingers hardly bend backwards; measured
    in palm lengths as if the hand were what it is said to be. The median of at least five hands
    decides: of fewer hands, nothing is said.

    Raises SourceError naming file, key and both values.
    """
    if len(points) < MIN_HANDS:
        return
    fingers = points[:, 5:].reshape(-1, 4, 4, 3)
    palm = np.linalg.norm(fingers[:, :, 0] - points[:, :1], axis=-1).mean()
    first, last = (
        float(np.linalg.norm(fingers[:, :, i] - fingers[:, :, i + 1], axis=-1).mean())
        for i in (0, 2)
    )
    if not palm > first > last:
        raise SourceError(
            f"{path}: {key}: a palm of {palm:.3g} m, a finger's first bone of {first:.3g} m and "
            f"last one of {last:.3g} m: another joint order?"
        )
    normal = np.cross(points[:, 5] - points[:, 0], points[:, 17] - points[:, 0])
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True) * (1 if is_right else -1)
    bend = ((fingers[:, :, 3] - fingers[:, :, 0]).mean(1) * normal).sum(-1)
    score = float(np.median(bend)) / palm
    if score < MIN_CHIRALITY:
        said, seen = ("right", "left") if is_right else ("left", "right")
        raise SourceError(
            f"{path}: {key} should be {said} hands, but their fingers bend as those of {seen} "
            f"hands do ({score:.2f} palm lengths, at least {MIN_CHIRALITY}): mirrored?"
        )
