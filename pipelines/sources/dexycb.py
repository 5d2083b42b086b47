"""DexYCB: hands that grasp objects, ten people, eight cameras, split `s0` (all seen).

Chao et al., "DexYCB: A Benchmark for Capturing Hand Grasping of Objects" (2021). The layout follows
the data set's public toolkit and was not compared with the files themselves:

- `SUBJECT/SEQUENCE/SERIAL/color_000000.jpg` (640 x 480) and `labels_000000.npz`, 30 frames a second
  (the paper). `SEQUENCE/meta.yml` has `num_frames`, `serials`, `mano_sides`, `mano_calib`.
- `s0` numbers the 100 sequences of each subject in the order of their names: every fifth (4, 9,
  ...) is val for the first two subjects, test for the others; the rest is train. So all sequence
  folders must be there, and an incomplete set is refused rather than split otherwise.
- `joint_3d` (1, 21, 3) metres and `joint_2d` (1, 21, 2) pixels, OpenCV camera, OpenPose's order;
  all -1 where no hand is annotated. `pose_m` (1, 51): root axis-angle, 45 coefficients of MANO's
  PCA about its mean pose (`flat_hand_mean=False, ncomps=45`), translation; all 0 likewise. Camera:
  `calibration/intrinsics/SERIAL_640x480.yml`; shape: `calibration/mano_NAME/mano.yml`.
- So rotations are labelled only with the user's MANO files in `ROOT/mano`. Left hands were fitted
  with MANO_LEFT's faulty shape directions (the authors say so), with the shape of the right hand:
  their parameters are kept, and miss the labelled joints by a millimetre or so.

A unit is a sequence; its records are the runs of annotated frames of each camera.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float64

from extpose.npz import read_npz
from extpose.schema import Split
from pipelines.labels.hand_checks import check_hands
from pipelines.labels.hand_model import MovedHand, check_joints, read_hand_model
from pipelines.labels.hand_records import (
    HandLabels,
    add_ones,
    find_runs,
    make_record,
    read_image_size,
    require,
)
from pipelines.records import Filtered, Record, Source, SourceError, check_array
from pipelines.source_files import note_file

SUBJECTS = (
    "20200709-subject-01", "20200813-subject-02", "20200820-subject-03", "20200903-subject-04",
    "20200908-subject-05", "20200918-subject-06", "20200928-subject-07", "20201002-subject-08",
    "20201015-subject-09", "20201022-subject-10",
)  # fmt: skip
NUM_SEQUENCES = 100
FPS = 30.0


def list_units(root: Path, split: Split) -> list[str]:
    """The sequences of a split: `20200709-subject-01-20200709_141841`."""
    units = []
    for number, subject in enumerate(SUBJECTS):
        folder = require(root / subject)
        names = sorted(path.name for path in folder.iterdir() if path.is_dir())
        if len(names) != NUM_SEQUENCES:
            raise SourceError(f"{folder}: {len(names)} sequences, expected {NUM_SEQUENCES}")
        other: Split = "val" if number < 2 else "test"
        units += [
            f"{subject}-{name}"
            for i, name in enumerate(names)
            if split == (other if i % 5 == 4 else "train")
        ]
    return sorted(units)


def read_unit(root: Path, split: Split, unit: str) -> Iterator[Record | Filtered]:
    """The hand of one sequence, seen by each camera."""
    subject, _, sequence = unit.rpartition("-")
    folder = root / subject / sequence
    meta_path, meta = _read_yaml(folder / "meta.yml", "num_frames", "serials", "mano_sides")
    side = meta["mano_sides"][0] if meta["mano_sides"] else None
    if side not in ("left", "right"):
        raise SourceError(
            f"{meta_path}: mano_sides is {meta['mano_sides']}, expected left or right"
        )
    betas = _read_betas(root, meta_path, meta)
    for serial in sorted(str(serial) for serial in meta["serials"]):
        camera = _read_camera(root, serial)
        frames = range(int(meta["num_frames"]))
        labels = [require(folder / serial / f"labels_{i:06d}.npz") for i in frames]
        yield from _read_camera_view(
            root, labels, name=f"{sequence}-{serial}", camera=camera, betas=betas, side=side
        )


def _read_camera_view(
    root: Path,
    paths: list[Path],
    *,
    name: str,
    camera: Float64[np.ndarray, "3 3"],
    betas: Float64[np.ndarray, " 10"],
    side: str,
) -> Iterator[Record | Filtered]:
    values = [_read_labels(path) for path in paths]
    points, pixels, params = (np.stack([v[i] for v in values]) for i in range(3))
    known = ~((points == -1).all((1, 2)) | (params == 0).all(1))
    if not known.all():
        yield Filtered(name=name, num_frames=int((~known).sum()), reason="no_hand")
    numbers = np.flatnonzero(known)
    if not len(numbers):
        return
    points, pixels, params = points[known], pixels[known], params[known]
    is_right, path = side == "right", paths[numbers[0]]
    check_hands(points, is_right=is_right, path=path, key="joint_3d")
    pose = _read_pose(root, points, params, betas, is_right=is_right, path=path)
    size = read_image_size(_image_of(path))
    for part in find_runs(numbers.tolist()):
        run = numbers[part]
        yield make_record(
            HandLabels(
                keypoints_3d=add_ones(points[part]),
                keypoints_2d=add_ones(pixels[part]),
                intrinsics=np.repeat(camera[None], len(run), 0),
                pose=None if pose is None else pose.cut(part),
                betas=betas,
            ),
            name=f"{name}-{run[0]:06d}",
            frames=[require(_image_of(paths[i])) for i in run],
            image_size=size,
            is_right=is_right,
            path=path,
            first_frame=int(run[0]),
            fps=FPS,
        )


def _read_pose(
    root: Path,
    points: Float64[np.ndarray, "t 21 3"],
    params: Float64[np.ndarray, "t 51"],
    betas: Float64[np.ndarray, " 10"],
    *,
    is_right: bool,
    path: Path,
) -> MovedHand | None:
    model = read_hand_model(root, is_right=is_right)
    if model is None:
        return None
    hand = MovedHand(
        global_orient=params[:, :3],
        pose=model.expand_pca(params[:, 3:48]),
        transl=params[:, 48:],
        betas=np.repeat(betas[None], len(params), 0),
    )
    check_joints(model, hand, points, path=path)
    return hand


def _image_of(path: Path) -> Path:
    return path.with_name(path.name.replace("labels_", "color_")).with_suffix(".jpg")


def _read_labels(
    path: Path,
) -> tuple[Float64[np.ndarray, "21 3"], Float64[np.ndarray, "21 2"], Float64[np.ndarray, " 51"]]:
    try:
        found = read_npz(note_file(path), ("joint_3d", "joint_2d", "pose_m"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: not a readable npz of plain arrays ({error})") from error
    return (
        check_array(path, "joint_3d", found["joint_3d"], shape=(1, 21, 3))[0],
        check_array(path, "joint_2d", found["joint_2d"], shape=(1, 21, 2))[0],
        check_array(path, "pose_m", found["pose_m"], shape=(1, 51))[0],
    )


def _read_camera(root: Path, serial: str) -> Float64[np.ndarray, "3 3"]:
    path, content = _read_yaml(root / "calibration/intrinsics" / f"{serial}_640x480.yml", "color")
    keys = ("fx", "fy", "ppx", "ppy")
    values = [content["color"].get(key) for key in keys]
    fx, fy, cx, cy = check_array(path, f"color {', '.join(keys)}", values, shape=(4,))
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def _read_betas(root: Path, path: Path, meta: dict[str, Any]) -> Float64[np.ndarray, " 10"]:
    names = meta.get("mano_calib")
    if not names:
        raise SourceError(f"{path}: mano_calib is {names}, expected a name")
    path, content = _read_yaml(root / "calibration" / f"mano_{names[0]}" / "mano.yml", "betas")
    return check_array(path, "betas", content["betas"], shape=(10,))


def _read_yaml(path: Path, *keys: str) -> tuple[Path, dict[str, Any]]:
    """A file's content; it must have the keys. Raises SourceError naming those it lacks."""
    try:
        content = yaml.safe_load(require(path).read_text())
    except yaml.YAMLError as error:
        raise SourceError(f"{path}: not YAML ({error})") from error
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise SourceError(f"{path}: lacks {', '.join(missing)}")
    return path, content


SOURCE = Source(
    name="dexycb",
    splits=("train", "val", "test"),
    list_units=list_units,
    read_unit=read_unit,
    layout="""20200709-subject-01/SEQUENCE/meta.yml (all ten subjects, 100 sequences each)
20200709-subject-01/SEQUENCE/SERIAL/{color_000000.jpg,labels_000000.npz}
calibration/intrinsics/SERIAL_640x480.yml
calibration/mano_NAME/mano.yml
[mano/MANO_RIGHT.pkl mano/MANO_LEFT.pkl: for labelled rotations]""",
    licence="dex-ycb.github.io: CC BY-NC 4.0",
)
