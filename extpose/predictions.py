"""Predictions for the clips of a data set, as one file: what evaluation scores, whoever made it.

An `.npz` of plain arrays (never pickled). Clips lie one after the other along the first axis.

    keys            n      the clips' keys
    num_frames      n      frames of each
    global_orient   N 3    axis-angle in the camera frame, N = sum of num_frames
    pose            N j 3  axis-angle of the other joints (23 SMPL, 15 MANO)
    betas           n 10   one shape a clip
    transl          N 3    metres: `vertices_cam = body(...) + transl`
    focal_length    n      pixels, with the principal point at the image's centre
    facts           a text: JSON of what made them (checkpoint, settings, versions)

The parameters of a left hand are a left hand's: those of the mirrored right-hand model.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32

from extpose.body_model import BodyModel, BodyOutput
from extpose.errors import ExtPoseError
from extpose.motion import Motion, pose_body
from extpose.npz import read_npz
from extpose.rotations import axis_angle_to_matrix
from extpose.schema import NUM_ROTATIONS, BodyName


class PredictionError(ExtPoseError):
    """A prediction file that does not fit the data set or the format."""


@dataclass(frozen=True, kw_only=True)
class ClipPrediction:
    """One clip's parameters."""

    global_orient: Float32[np.ndarray, "t 3"]
    pose: Float32[np.ndarray, "t j 3"]
    betas: Float32[np.ndarray, " 10"]
    transl: Float32[np.ndarray, "t 3"]
    focal_length: float

    def rotations(self) -> Float[torch.Tensor, "t n 3 3"]:
        """Of all joints relative to their parents, root first."""
        joined = np.concatenate([self.global_orient[:, None], self.pose], 1)
        return axis_angle_to_matrix(torch.from_numpy(joined))

    def posed(self, body: BodyModel, *, is_right: bool | None) -> BodyOutput:
        """Mesh, joints and keypoints in the camera frame; of a left hand as it is."""
        arrays = (self.global_orient, self.pose, self.transl)
        # Copies: what comes from another process may not be written to, which torch warns of.
        orient, pose, transl = (torch.tensor(a) for a in arrays)
        betas = torch.tensor(self.betas).expand(len(orient), 10)
        rotations = axis_angle_to_matrix(orient), axis_angle_to_matrix(pose)
        return pose_body(body, *rotations, betas, transl, is_right=is_right)


def prediction_of(motion: Motion) -> ClipPrediction:
    """What of a motion goes into the file."""
    names = ("global_orient", "pose", "betas", "transl", "focal_length")
    return ClipPrediction(**{name: getattr(motion, name) for name in names})


_PER_FRAME = ("global_orient", "pose", "transl")
_PER_CLIP = ("betas", "focal_length")


def save_predictions(
    path: Path, predictions: Mapping[str, ClipPrediction], facts: Mapping[str, Any]
) -> None:
    """Write the file; `facts` is what made the predictions."""
    clips = list(predictions.values())
    arrays: dict[str, Any] = {
        "keys": np.array(list(predictions)),
        "num_frames": np.array([len(clip.global_orient) for clip in clips], np.int64),
        "facts": np.array(json.dumps(dict(facts), sort_keys=True)),
    }
    arrays |= {n: np.concatenate([getattr(clip, n) for clip in clips]) for n in _PER_FRAME}
    arrays |= {n: np.array([getattr(c, n) for c in clips], np.float32) for n in _PER_CLIP}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


def load_predictions(
    path: Path, *, body: BodyName | None = None
) -> tuple[dict[str, ClipPrediction], dict[str, Any]]:
    """The predictions by key, and the facts.

    Raises:
        PredictionError: not such a file, another body's, or values that are not finite; the message
            names the file, the field and both values.
    """
    arrays = _read_arrays(path)
    _check_fields(path, arrays, body)
    counts = arrays["num_frames"].astype(int)
    if not len(arrays["keys"]):
        raise PredictionError(f"{path}: keys is empty, there are no predictions in it")
    _check_angles(path, arrays["pose"])
    keys, ends = arrays["keys"].tolist(), np.cumsum(counts)
    if len(set(keys)) < len(keys):
        repeated = sorted({key for key in keys if keys.count(key) > 1})[:5]
        raise PredictionError(f"{path}: keys are repeated: {repeated}")
    clips = {}
    for i, (key, stop, count) in enumerate(zip(keys, ends.tolist(), counts.tolist(), strict=True)):
        part = slice(stop - count, stop)
        clips[key] = ClipPrediction(
            **{name: arrays[name][part].astype(np.float32) for name in _PER_FRAME},
            betas=arrays["betas"][i].astype(np.float32),
            focal_length=float(arrays["focal_length"][i]),
        )
        _check_finite(path, key, clips[key])
    return clips, _parse_facts(path, str(arrays["facts"]))


def _check_fields(path: Path, arrays: Mapping[str, np.ndarray], body: BodyName | None) -> None:
    """Raises PredictionError for a field of the wrong kind or shape."""
    num_joints = arrays["pose"].shape[1] if arrays["pose"].ndim == 3 else -1
    if num_joints not in NUM_ROTATIONS.values():
        raise PredictionError(
            f"{path}: pose has shape {arrays['pose'].shape}, expected (N, j, 3) with j of "
            f"{NUM_ROTATIONS}"
        )
    if body is not None and num_joints != NUM_ROTATIONS[body]:
        raise PredictionError(
            f"{path}: pose has {num_joints} joints, a {body} has {NUM_ROTATIONS[body]}"
        )
    if (kind := arrays["num_frames"].dtype).kind not in "iu" or (arrays["num_frames"] < 1).any():
        raise PredictionError(f"{path}: num_frames is {kind}, expected whole numbers from 1 on")
    counts = arrays["num_frames"].astype(int)
    total, num_clips = int(counts.sum()), len(arrays["keys"])
    shapes = {"num_frames": (num_clips,), "betas": (num_clips, 10), "focal_length": (num_clips,)}
    shapes |= {"global_orient": (total, 3), "pose": (total, num_joints, 3), "transl": (total, 3)}
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise PredictionError(
                f"{path}: {name} has shape {arrays[name].shape}, expected {shape}"
            )
        if arrays[name].dtype.kind not in "fiu":
            raise PredictionError(f"{path}: {name} is {arrays[name].dtype}, expected numbers")


def _parse_facts(path: Path, text: str) -> dict[str, Any]:
    try:
        facts = json.loads(text)
    except ValueError as error:
        raise PredictionError(f"{path}: facts is not JSON ({error}), '{{}}' would do") from error
    if not isinstance(facts, dict):
        raise PredictionError(f"{path}: facts is a {type(facts).__name__}, expected an object")
    return facts


def _check_angles(path: Path, pose: Float[np.ndarray, "t j 3"]) -> None:
    """No body turns its joints by more than half a turn in the median."""
    angle = float(np.nanmedian(np.linalg.norm(pose.astype(np.float64), axis=-1)))
    if angle > np.pi:
        raise PredictionError(
            f"{path}: pose turns joints by {angle:.3g} rad (median), at most {np.pi:.3g} can be: "
            "are these degrees?"
        )


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        arrays = read_npz(path)
    except FileNotFoundError:
        raise PredictionError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise PredictionError(f"{path}: not a readable npz of plain arrays ({error})") from error
    expected = {"keys", "num_frames", "facts", *_PER_FRAME, *_PER_CLIP}
    if missing := sorted(expected - arrays.keys()):
        raise PredictionError(f"{path}: lacks {missing}, has {sorted(arrays)}")
    return arrays


def _check_finite(path: Path, key: str, clip: ClipPrediction) -> None:
    for name in (*_PER_FRAME, *_PER_CLIP):
        values = np.atleast_1d(getattr(clip, name))
        if not np.isfinite(values).all():
            bad = np.argwhere(~np.isfinite(values))[0].tolist()
            raise PredictionError(f"{path}: {key}: {name}{bad} is {values[tuple(bad)]}, not finite")
