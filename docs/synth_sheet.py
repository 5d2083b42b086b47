"""The sheet of docs/synth.md: one frame of each of 64 clips of bodies and of 16 of hands.

PYTHONPATH=. python docs/synth_sheet.py docs/synth.jpg
"""

import sys
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from extpose.assets import fetch
from extpose.config import SynthConfig
from extpose.data.clip import encode_jpeg
from extpose.synth.photographs import load_photographs
from extpose.synth.render import build_scene, film, open_studio

CELL, COLUMNS = 160, 16


def draw(body: Literal["body", "hand"], count: int) -> list[np.ndarray]:
    """The middle one of three frames of the clips 0 to `count`."""
    config = SynthConfig(out=Path("unused"), body=body, image_size=(256, 256), num_frames=3)
    photographs = load_photographs(fetch("panoramas"), fetch("photographs"), config.split)
    motion = fetch("motion") if body == "body" else None
    studio = open_studio(config, motion, photographs=photographs)
    pictures = []
    for index in range(count):
        shots = list(film(studio, build_scene(studio, config, index), config, index))
        small = cv2.resize(shots[1].rgb, (CELL, CELL), interpolation=cv2.INTER_AREA)
        pictures.append(np.asarray(small, np.uint8))
    return pictures


def main() -> None:
    """Write the sheet."""
    cells = draw("body", 64) + draw("hand", 16)
    rows = [np.hstack(cells[i : i + COLUMNS]) for i in range(0, len(cells), COLUMNS)]
    Path(sys.argv[1]).write_bytes(encode_jpeg(np.vstack(rows), 82))


if __name__ == "__main__":
    main()
