"""A walking figure in DeepMimic's file format, made of sines: for tests without downloads."""

import json
from pathlib import Path

import numpy as np

from extpose.schema import Split
from extpose.synth.motion import MOTIONS


def write_walk(folder: Path, name: str, *, num_frames: int = 31, phase: float = 0.0) -> Path:
    """A second of walking along +x with the figure's right at +z, 1.2 m; every joint moves."""
    frames = []
    for i in range(num_frames):
        angle = 2 * np.pi * i / (num_frames - 1) + phase
        swing, other = 0.4 * np.sin(angle), -0.4 * np.sin(angle)
        frames.append(
            [
                *(1 / 30, 1.2 * i / (num_frames - 1), 0.87 + 0.02 * np.cos(2 * angle), 0.0),
                *_turn("y", 0.05 * np.sin(angle)),
                *_turn("y", -0.1 * np.sin(angle)),
                *_turn("y", 0.1 * np.sin(angle)),
                *(*_turn("z", swing), -0.3 + 0.25 * np.sin(angle), *_turn("z", 0.1)),
                *(*_turn("z", other), 0.3),
                *(*_turn("z", other), -0.3 - 0.25 * np.sin(angle), *_turn("z", 0.1)),
                *(*_turn("z", swing), 0.4),
            ]
        )
    path = folder / f"humanoid3d_{name}.txt"
    path.write_text(json.dumps({"Loop": "wrap", "Frames": np.array(frames).tolist()}))
    return path


def write_motions(folder: Path, split: Split = "train") -> Path:
    """A folder with a file for each clip of a split; each walks a little differently."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(MOTIONS[split]):
        write_walk(folder, name, phase=0.5 * i)
    return folder


def _turn(axis: str, angle: float) -> list[float]:
    """Quaternion, w first."""
    vector = [float(a == axis) * np.sin(angle / 2) for a in "xyz"]
    return [np.cos(angle / 2), *vector]
