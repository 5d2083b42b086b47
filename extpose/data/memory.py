"""Memory of earlier batches, to be written over.

Fresh memory is not free: the system clears it page by page, which took an eighth of the time of a
batch.
"""

import weakref
from typing import Any

import numpy as np
from jaxtyping import Float32

MAX_KEPT = 4
"""Blocks: both streams of a batch that is made, and of one that is in use."""


class Memory:
    """Hands out arrays; a block is handed out again when nobody holds its last array any more.

    A tensor made of an array holds it. Copies in other processes begin with nothing.
    """

    def __init__(self) -> None:
        self._blocks: list[tuple[Float32[np.ndarray, ...], weakref.ref[np.ndarray]]] = []

    def empty(self, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
        """An array with any values in it."""
        same = [one for one in self._blocks if one[0].shape == shape]
        free = next((one for one in same if one[1]() is None), None)
        # numpy asks for huge pages: fresh memory then costs a third of torch's.
        block = np.empty(shape, np.float32) if free is None else free[0]
        array = block.view()
        # Blocks of another shape go: the next batches will be like this one.
        rest = [one for one in same if one is not free]
        self._blocks = [*rest, (block, weakref.ref(array))][-MAX_KEPT:]
        return array

    def __getstate__(self) -> dict[str, Any]:
        return {"_blocks": []}
