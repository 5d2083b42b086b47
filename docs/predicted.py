"""The card's picture of real footage: frames of an overlay, evenly spaced so that none is chosen.

extpose predict ~/.cache/extpose/video-walkers/demo.mp4 --out runs/walkers
PYTHONPATH=. python docs/predicted.py runs/walkers/demo/overlay.mp4 docs/predicted.jpg
"""

import sys
from pathlib import Path

import cv2
import numpy as np

from extpose.video import probe, read_frames

COLUMNS, ROWS, WIDTH = 3, 3, 400


def draw_sheet(overlay: Path) -> np.ndarray:
    """`ROWS` by `COLUMNS` frames, in reading order. RGB."""
    info = probe(overlay)
    chosen = np.linspace(0, info.num_frames - 1, COLUMNS * ROWS + 2).round()[1:-1]
    size = (WIDTH, round(WIDTH * info.height / info.width))
    cells = [
        cv2.resize(frame.rgb, size, interpolation=cv2.INTER_AREA)
        for frame in read_frames(overlay)
        if frame.index in chosen
    ]
    return np.vstack([np.hstack(cells[i * COLUMNS : (i + 1) * COLUMNS]) for i in range(ROWS)])


def main(overlay: str, out: str) -> None:
    """Write the sheet."""
    picture = cv2.cvtColor(draw_sheet(Path(overlay)), cv2.COLOR_RGB2BGR)
    cv2.imwrite(out, picture, [cv2.IMWRITE_JPEG_QUALITY, 75])


if __name__ == "__main__":
    main(*sys.argv[1:])
