"""8-bit pictures to what the network takes: colour factors and ImageNet's normalisation, one pass.

Axes    h w pixels   c channels (RGB)
Units   8-bit values; normalised ones are in standard deviations
"""

from typing import no_type_check

import numpy as np
from jaxtyping import Float32, UInt8

from extpose.compiled import compiled

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
"""ImageNet's, for RGB in [0, 1]."""


def normalisation_table(color: Float32[np.ndarray, " 3"]) -> Float32[np.ndarray, "3 256"]:
    """What each 8-bit value of each channel becomes: times the colour, clipped, normalised."""
    values = np.minimum(np.arange(256) * color[:, None].astype(np.float64), 255) / 255
    mean, std = np.array(IMAGE_MEAN)[:, None], np.array(IMAGE_STD)[:, None]
    return ((values - mean) / std).astype(np.float32)


def normalise(
    out: Float32[np.ndarray, "3 h w"],
    image: UInt8[np.ndarray, "h w 3"],
    table: Float32[np.ndarray, "3 256"],
    *,
    is_bgr: bool = False,
) -> None:
    """Look every value up in `table` (by channel, red first) and write the planes into `out`."""
    _look_up(out, np.ascontiguousarray(image), table, 2 if is_bgr else 0)


@compiled
@no_type_check
def _look_up(out, image, table, first):
    """`first` is where red is in `image`: 0, or 2 where the channels are reversed."""
    for y in range(image.shape[0]):
        for c in range(3):
            values, row, source = table[c], out[c, y], abs(first - c)
            for x in range(image.shape[1]):
                row[x] = values[image[y, x, source]]
