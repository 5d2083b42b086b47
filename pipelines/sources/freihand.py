"""FreiHAND: right hands in single images, with 3D joints, meshes and MANO parameters.

Zimmermann et al., "FreiHAND: A Dataset for Markerless Capture of Hand Pose and Shape from Single
RGB Images" (2019), version 2. The layout follows the data set's public toolbox and was not compared
with the files themselves:

- `training_*.json` are lists over the N = 32,560 unique images. Picture `i + v * N` shows sample i
  with background v: `gs` (green screen), `hom` (homogenised), `sample`, `auto` (coloured).
- xyz and verts are metres in the camera's frame (x right, y down, z forward), the joints in
  OpenPose's order. Joints are MANO's regressed from the *posed* mesh; finger tips are the vertices
  744, 320, 443, 555, 672, so the ring and little finger's are not those of `body_file.py`.
- `mano` is 61 numbers: 48 axis-angles whose last 45 are relative to MANO's mean pose (the toolbox
  loads the model with `flat_hand_mean=False, use_pca=False`), 10 shape, 2 + 1 for an approximate
  root, which is not used. So rotations are labelled only if the user's own MANO_RIGHT.pkl is in
  `ROOT/mano`. The root rotation is said to be that of the camera before the picture was warped, and
  a user of the set found small differences; so the posed mesh is turned and moved as a whole onto
  the labelled one, which also shows whether the pose is understood (3 mm).
- The evaluation's xyz, verts and mano were published later (`FreiHAND_pub_v2_eval`); the two
  archives are unpacked into one folder. Its mano is read if it is there; that it has the same
  format is an assumption, which the mesh checks.

Records of the test split are named by their place in the official list (`00000000`, ...).
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from extpose.schema import Split
from pipelines.labels.hand_checks import check_hands
from pipelines.labels.hand_model import MovedHand, fit_mesh, read_hand_model
from pipelines.labels.hand_records import (
    UNIT_IMAGES,
    HandLabels,
    add_ones,
    list_blocks,
    make_record,
    project_points,
    read_image_size,
    require,
)
from pipelines.labels.long_json import count_matrices, read_matrices
from pipelines.records import Filtered, Record, Source, SourceError

NUM_VERTICES = 778
VERSIONS = ("gs", "hom", "sample", "auto")
"""Backgrounds of the training images, in the order of their numbers."""
_FOLDERS: dict[str, str] = {"train": "training", "test": "evaluation"}


def list_units(root: Path, split: Split) -> list[str]:
    """Blocks of 500 images: `gs-00000500`. Backgrounds without a first image are left out."""
    folder = _FOLDERS[split]
    count = count_matrices(root / f"{folder}_K.json")
    if split == "test":
        return list_blocks(count)
    pictures = require(root / folder / "rgb")
    versions = [v for i, v in enumerate(VERSIONS) if (pictures / f"{i * count:08d}.jpg").exists()]
    if not versions:
        raise SourceError(f"{pictures}: has no 00000000.jpg")
    return sorted(unit for version in versions for unit in list_blocks(count, f"{version}-"))


def read_unit(root: Path, split: Split, unit: str) -> Iterator[Record | Filtered]:
    """The hands of one block, in the order of the list."""
    folder, count = _FOLDERS[split], _count(root, split)
    version, _, digits = unit.rpartition("-")
    first, shift = int(digits), VERSIONS.index(version) * count if version else 0
    stop = min(first + UNIT_IMAGES, count)
    xyz_path = root / f"{folder}_xyz.json"
    points = read_matrices(xyz_path, first, stop, shape=(21, 3))
    cameras = read_matrices(root / f"{folder}_K.json", first, stop, shape=(3, 3))
    vertices = read_matrices(root / f"{folder}_verts.json", first, stop, shape=(NUM_VERTICES, 3))
    check_hands(points, is_right=True, path=xyz_path, key=f"[{first}:{stop}]")
    pose, betas = _read_poses(root, folder, first, stop, vertices)
    pictures = [root / folder / "rgb" / f"{i + shift:08d}.jpg" for i in range(first, stop)]
    size = read_image_size(pictures[0])
    for i, picture in enumerate(pictures):
        one = slice(i, i + 1)
        keypoints_3d = add_ones(points[one])
        yield make_record(
            HandLabels(
                keypoints_3d=keypoints_3d,
                keypoints_2d=project_points(keypoints_3d, cameras[one]),
                intrinsics=cameras[one],
                pose=None if pose is None else pose.cut(one),
                betas=None if betas is None else betas[i],
                vertices=vertices[one],
            ),
            name=f"{version}-{first + i:08d}" if version else f"{first + i:08d}",
            frames=[require(picture)],
            image_size=size,
            is_right=True,
            path=xyz_path,
        )


def _count(root: Path, split: Split) -> int:
    """Samples of a split; all lists must have as many. Raises SourceError naming both files."""
    folder = _FOLDERS[split]
    hint = "of the archive FreiHAND_pub_v2_eval" if split == "test" else ""
    paths = [require(root / f"{folder}_{kind}.json", hint) for kind in ("K", "xyz", "verts")]
    counts = [count_matrices(path) for path in paths]
    for path, count in zip(paths, counts, strict=True):
        if count != counts[0]:
            raise SourceError(f"{path}: lists {count} samples, {paths[0].name} {counts[0]}")
    return counts[0]


def _read_poses(
    root: Path, folder: str, first: int, stop: int, vertices: Float64[np.ndarray, "n v 3"]
) -> tuple[MovedHand | None, Float64[np.ndarray, "n 10"] | None]:
    """MANO parameters of a block: none without `*_mano.json`, shapes only without MANO's file."""
    path = root / f"{folder}_mano.json"
    if not path.exists() and folder == "evaluation":
        return None, None
    values = read_matrices(require(path), first, stop, shape=(1, 61))[:, 0]
    betas, model = values[:, 48:58], read_hand_model(root, is_right=True)
    if model is None:
        return None, betas
    hand = MovedHand(
        global_orient=values[:, :3],
        pose=model.add_mean(values[:, 3:48]),
        transl=np.zeros((len(values), 3)),
        betas=betas,
    )
    return fit_mesh(model, hand, vertices, path=path), betas


SOURCE = Source(
    name="freihand",
    splits=("train", "test"),
    list_units=list_units,
    read_unit=read_unit,
    layout="""training/rgb/00000000.jpg ... 00130239.jpg
training_{K,mano,verts,xyz}.json
evaluation/rgb/00000000.jpg ... 00003959.jpg
evaluation_{K,verts,xyz}.json [evaluation_mano.json]
[mano/MANO_RIGHT.pkl: for labelled rotations]""",
    licence="lmb.informatik.uni-freiburg.de/projects/freihand: research only, no commercial use",
)
