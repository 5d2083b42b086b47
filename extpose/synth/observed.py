"""What a detector says of rendered people beside the truth: what the noise model is fitted to.

Axes    n clips   t frames   k keypoints
Units   pixels of the rendered picture
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int64

from extpose.config import SynthConfig
from extpose.errors import AssetError
from extpose.npz import read_npz
from extpose.synth.evidence import clip_boxes, match_people
from extpose.synth.keypoints import find_visible
from extpose.synth.render import Studio, build_scene, film
from extpose.synth.scene import outline, project


@dataclass(frozen=True, kw_only=True)
class Observed:
    """Clips of one length, each with one person: the truth and what was found."""

    truth: Float32[np.ndarray, "n t k 2"]
    depth: Float32[np.ndarray, "n t k"]
    """Metres along the camera's axis."""
    is_visible: Bool[np.ndarray, "n t k"]
    """In the picture and not behind another part."""
    boxes: Float32[np.ndarray, "n t 4"]
    """Of the whole body, also where it leaves the picture."""
    found: Float32[np.ndarray, "n t k 3"]
    """x y confidence; confidence 0 where the person was not found."""
    found_boxes: Float32[np.ndarray, "n t 4"]
    is_found: Bool[np.ndarray, "n t"]
    image_size: Int64[np.ndarray, "n 2"]
    """Height, width."""

    def __len__(self) -> int:
        return len(self.truth)


def observe_renders(studio: Studio, config: SynthConfig, index: int) -> Observed:
    """One clip, rendered and looked at by the studio's observer; raises ValueError without one."""
    if studio.observer is None:
        raise ValueError("a detector's errors need an observer, there is none")
    scene = build_scene(studio, config, index)
    shots = list(film(studio, scene, config, index))
    truth = project(scene.evidence_cam, scene.camera.K)
    depth = scene.evidence_cam[..., 2]
    boxes = outline(scene.vertices_cam, scene.camera.K)
    found_boxes, found, is_found = match_people(
        [shot.rgb for shot in shots],
        clip_boxes(boxes, config.image_size),
        studio.observer,
        truth.shape[1],
    )
    per_frame = zip(truth, depth, shots, strict=True)
    return Observed(
        truth=truth[None].astype(np.float32),
        depth=depth[None].astype(np.float32),
        is_visible=np.stack([find_visible(x, z, shot.depth) for x, z, shot in per_frame])[None],
        boxes=boxes[None].astype(np.float32),
        found=found[None].astype(np.float32),
        found_boxes=found_boxes[None].astype(np.float32),
        is_found=is_found[None],
        image_size=np.array([config.image_size]),
    )


def join_observed(parts: Iterable[Observed]) -> Observed:
    """All clips of several."""
    listed = list(parts)
    return Observed(
        **{f.name: np.concatenate([getattr(p, f.name) for p in listed]) for f in fields(Observed)}
    )


def save_observed(path: Path, observed: Observed) -> None:
    """As one .npz, which appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        np.savez_compressed(file, **{f.name: getattr(observed, f.name) for f in fields(Observed)})
    temporary.rename(path)


def load_observed(path: Path) -> Observed:
    """Read what `save_observed` wrote. Raises AssetError."""
    try:
        return Observed(**read_npz(path, [f.name for f in fields(Observed)]))
    except (OSError, ValueError) as error:
        raise AssetError(f"{path}: not a file of a detector's findings ({error})") from error
