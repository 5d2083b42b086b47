"""COCO-WholeBody's 133 keypoints: the 17 of the body come first, the hands last.

Both hands have the project's order of 21 (wrist, then thumb to little finger), the left one first.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, UInt8

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


class PersonNetwork(ABC):
    """Keypoints of the one person in a box, people in batches; one instance a process.

    A network of its own kind reads one batch (`_read_batch`).
    """

    name: str
    num_keypoints: int
    """17 or 133."""
    batch: int
    """People of one run of the network."""

    @abstractmethod
    def _read_batch(self, people: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """Picture and box of each person to all keypoints of the network, p m 3."""

    def find_keypoints(
        self, rgb: UInt8[np.ndarray, "h w 3"], boxes: Float32[np.ndarray, "p 4"]
    ) -> Float32[np.ndarray, "p 17 3"]:
        """x y confidence of one person in each box."""
        return body_of(self._find_all([rgb], [boxes])[0])

    def find_in_frames(
        self, images: Sequence[UInt8[np.ndarray, "h w 3"]], boxes: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """As `find_keypoints` of each frame, with the people of all frames in common batches."""
        return [body_of(points) for points in self._find_all(images, boxes)]

    def find_hands(
        self, rgb: UInt8[np.ndarray, "h w 3"], boxes: Float32[np.ndarray, "p 4"]
    ) -> Float32[np.ndarray, "p 2 21 3"]:
        """Left and right hand of the person in each box. Raises AssetError for a body network."""
        if self.num_keypoints != NUM_WHOLEBODY:
            raise AssetError(f"hands need {NUM_WHOLEBODY} keypoints, not {self.num_keypoints}")
        return hands_of(self._find_all([rgb], [boxes])[0])

    def _find_all(
        self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """All keypoints of the network, p m 3 of each frame."""
        people = [(rgb, box) for rgb, own in zip(images, boxes, strict=True) for box in own]
        found = np.zeros((len(people), self.num_keypoints, 3), np.float32)
        for start in range(0, len(people), self.batch):
            part = people[start : start + self.batch]
            found[start : start + len(part)] = self._read_batch(part)
        return np.split(found, np.cumsum([len(own) for own in boxes])[:-1])
