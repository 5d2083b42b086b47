"""Poses that anybody may have, for the discriminator: of the synthetic people of the train split.

Writes  an npz as `pipelines.sources.amass` does: `body_pose` (n, 69), `betas` (n, 10), float32

They are drawn as `extpose synth` draws people: motion clips by their weights, at any time, mirrored
or not, with the constant turns of joints and the spread of shapes that it adds.
"""

from pathlib import Path

import numpy as np

from extpose.assets import fetch
from extpose.config import SynthConfig
from extpose.errors import ExtPoseError
from extpose.synth.motion import MOTIONS, load_motions
from extpose.synth.world import sample_person
from pipelines.sources.amass import Mocap

POSES_A_PERSON = 16
SECONDS_A_PERSON = 4.0


def write_free_mocap(out: Path, *, num_poses: int = 20_000, seed: int = 0) -> Mocap:
    """Draw people and write their poses. Raises AssetError where the motion clips cannot be had."""
    if num_poses < 1:
        raise ExtPoseError(f"{out}: {num_poses} poses, at least 1")
    motions, rng = load_motions(fetch("motion"), "train"), np.random.default_rng(seed)
    fps = POSES_A_PERSON / SECONDS_A_PERSON
    config = SynthConfig(out=out, num_frames=POSES_A_PERSON, fps=fps)
    people = [
        sample_person(motions, MOTIONS["train"], config, leg_length=1.0, rng=rng)
        for _ in range(-(-num_poses // POSES_A_PERSON))
    ]
    poses = np.concatenate([person.rotations[:, 1:].reshape(-1, 69) for person in people])
    shapes = np.concatenate([np.tile(p.betas, (POSES_A_PERSON, 1)) for p in people])
    # Neighbours stay in one file but not side by side: whoever takes the first rows sees all.
    order = rng.permutation(len(poses))[:num_poses]
    with out.open("wb") as file:
        np.savez(
            file,
            body_pose=poses[order].astype(np.float32),
            betas=shapes[order].astype(np.float32),
        )
    return Mocap(num_files=len(motions), num_poses=num_poses)
