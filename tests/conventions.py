"""How far numbers move by convention alone: one set of predictions under several protocols.

    python -m tests.conventions [--protocols 3dpw-14-wham emdb1 ...]

The predictions are made: poses of the free body (or hand), spoilt by turns of the joints, another
shape and a shift of the whole. No network is asked.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d

from extpose.body_model import BodyModel, BodyOutput, load_body_model
from extpose.evaluation.posed import Posed, load_reader
from extpose.evaluation.protocol import Protocol
from extpose.evaluation.protocols import PROTOCOLS
from extpose.evaluation.scoring import ClipScores, score_clip
from extpose.evaluation.summary import ProtocolResult, compare, summarise
from extpose.evaluation.truth import read_truth
from extpose.rotations import axis_angle_to_matrix
from extpose.schema import NUM_ROTATIONS, ClipTargets

BODY_PROTOCOLS = ("3dpw-14-wham", "3dpw-14-hmr2", "3dpw-24-smpl", "h36m-p2", "emdb1", "free-body")
HAND_PROTOCOLS = ("freihand", "freihand-smplx-tips", "ho3d-v2", "free-hand")
FPS = 30.0


@dataclass(frozen=True, kw_only=True)
class MadeClip:
    """Labels, and the parameters of a prediction."""

    key: str
    targets: ClipTargets
    rotations: torch.Tensor
    betas: torch.Tensor
    transl: torch.Tensor


def make_clips(
    body: BodyModel, *, num_clips: int = 6, num_frames: int = 12, noise: float = 0.07, seed: int = 0
) -> Iterator[MadeClip]:
    """Smooth motions, and predictions whose joints are turned by about `noise` radians."""
    rng = np.random.default_rng(seed)
    j = NUM_ROTATIONS[body.body]

    def smooth(size: float, sigma: float) -> np.ndarray:
        turns = gaussian_filter1d(rng.normal(size=(num_frames, j + 1, 3)), sigma, axis=0)
        return (size * turns / turns.std()).astype(np.float32)

    for i in range(num_clips):
        truth = smooth(0.35, 4.0)
        found = truth + smooth(noise, 2.0) + smooth(0.1 * noise, 0.5)
        betas = rng.normal(0, 0.7, (2, 10)).astype(np.float32)
        transl = np.tile(np.float32([0, 0, 4]), (num_frames, 1))
        with torch.inference_mode():
            output = pose(body, truth, betas[0], transl)
        points = output.keypoints.numpy()
        ones = np.ones((*points.shape[:2], 1), np.float32)
        yield MadeClip(
            key=f"made-{i}",
            targets=ClipTargets(
                global_orient=truth[:, 0],
                pose=truth[:, 1:],
                betas=betas[0],
                transl=transl,
                keypoints_2d=np.concatenate([project(points), ones], -1),
                keypoints_3d=np.concatenate([points, ones], -1),
                has_pose=np.ones(num_frames, bool),
                has_betas=np.array(True),
            ),
            rotations=torch.from_numpy(found),
            betas=torch.from_numpy(betas[0] + 0.5 * betas[1]),
            transl=torch.from_numpy(transl + rng.normal(0, 0.05, 3).astype(np.float32)),
        )


def pose(body: BodyModel, turns: np.ndarray, betas: np.ndarray, transl: np.ndarray) -> BodyOutput:
    """The body of axis-angles (t, j + 1, 3)."""
    matrices = axis_angle_to_matrix(torch.from_numpy(turns))
    shape = torch.from_numpy(betas).expand(len(turns), 10)
    return body(matrices[:, 0], matrices[:, 1:], shape, torch.from_numpy(transl))


def project(points: np.ndarray) -> np.ndarray:
    """A camera of 1000 pixels' focal length."""
    return (1000 * points[..., :2] / points[..., 2:] + 500).astype(np.float32)


def score(clip: MadeClip, protocol: Protocol, body: BodyModel) -> ClipScores:
    """A made clip under one protocol; the body of both sides is the free one."""
    reader = load_reader(protocol, body)
    turns, betas, transl = (x.numpy() for x in (clip.rotations, clip.betas, clip.transl))
    with torch.inference_mode():
        output = pose(body, turns, betas, transl)
    found: Posed = reader.read(
        output,
        rotations=axis_angle_to_matrix(clip.rotations),
        project=lambda points: torch.from_numpy(project(points.numpy())),
        is_still=True,
    )
    low, high = (f(clip.targets.keypoints_2d[..., :2], axis=1) for f in (np.min, np.max))
    truth = read_truth(
        reader,
        clip.targets,
        bbox_xyxy=np.concatenate([low, high], 1),
        is_detected=np.ones(len(turns), bool),
        is_still=True,
    )
    return score_clip(protocol, found, truth, key=clip.key, sequence=clip.key, fps=FPS)


def evaluate(
    names: tuple[str, ...], *, num_clips: int = 6, bootstrap: int = 200
) -> list[ProtocolResult]:
    """The same made predictions under each of the protocols (all of one body)."""
    protocols = [PROTOCOLS[name] for name in names]
    body = load_body_model(None, protocols[0].body)
    clips = list(make_clips(body, num_clips=num_clips))
    return [
        summarise((score(clip, p, body) for clip in clips), p, bootstrap=bootstrap)
        for p in protocols
    ]


def main() -> None:
    """Print bodies and hands side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--protocols", nargs="+", choices=sorted(PROTOCOLS))
    options = parser.parse_args()
    groups = [tuple(options.protocols)] if options.protocols else [BODY_PROTOCOLS, HAND_PROTOCOLS]
    for names in groups:
        print(compare(evaluate(names)) + "\n")


if __name__ == "__main__":
    main()
