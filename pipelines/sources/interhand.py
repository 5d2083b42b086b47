"""InterHand2.6M (version 1.0): one and two hands, 80 to 140 cameras, in 5 or 30 frames a second.

Moon et al., "InterHand2.6M" (2020), with the MANO fits of NeuralAnnot. The layout follows the data
set's public repository and was not compared with the files themselves:

- `images/SPLIT/Capture0/SEQ/cam400262/image18000.jpg`; a unit is one sequence of one capture (all
  cameras), a record one hand in one camera over consecutive frames. Numbers go on by the smallest
  difference in the folder; `first_frame` counts in that step. The frame rate is not in the files:
  it is that of the download, hence two sources, `interhand-5fps` and `interhand-30fps`.
- `annotations/SPLIT/InterHand2.6M_SPLIT_{camera,joint_3d,MANO_NeuralAnnot}.json`, see
  `pipelines/labels/interhand.py`. Joints: right 0 to 20, left 21 to 41; thumb to little, each
  finger from its tip to the palm, the wrist last. They are not MANO's joints; the fits are off by
  about 5 mm.
- A hand is in a frame where any of its joints is valid, and labelled where its wrist is: others
  are filtered as `invalid_joints`, and as `out_of_view` where fewer than 11 of its points are valid
  and inside the picture. The official evaluation takes its own list (`_data.json`) instead.
- MANO poses are relative to the mean pose, in world axes (the viewer makes smplx's layer with
  `use_pca=False`), so rotations are labelled only with the user's MANO files in `ROOT/mano`. Left
  fits are said to be of MANO_LEFT with corrected shape directions, which is this project's left
  hand. The fitted shapes vary from frame to frame (the authors: to fit better), a record has one:
  their mean, with `transl` changed so that the wrists stay where the fits have them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, Int64

from extpose.schema import Split
from pipelines.labels.hand_model import MovedHand, check_joints, read_hand_model, turn_hand
from pipelines.labels.hand_records import (
    TIPS_THEN_WRIST,
    HandLabels,
    add_ones,
    find_runs,
    make_record,
    order_hand,
    project_points,
    read_image_size,
    require,
)
from pipelines.labels.interhand import SIDES, Camera, Joints, read_cameras, read_fits, read_joints
from pipelines.records import Filtered, Record, Source, SourceError

MIN_INSIDE = 11
FIT_TOLERANCE = 0.02
_WRIST = TIPS_THEN_WRIST.index("wrist")
_NO_FIT = np.full(61, np.nan)


@dataclass(frozen=True)
class _View:
    """One side in one camera: the frames that are kept."""

    name: str
    images: list[Path]
    size: tuple[int, int]
    numbers: list[int]
    step: int
    points: Float64[np.ndarray, "t 21 3"]
    is_labelled: Bool[np.ndarray, "t 21"]
    fits: Float64[np.ndarray, "t 61"]


def list_units(root: Path, split: Split) -> list[str]:
    """The sequences of a split: `Capture0-ROM01_No_Interaction_2_Hand`."""
    folder = require(root / "images" / split)
    return sorted(
        f"{capture.name}-{sequence.name}"
        for capture in folder.glob("Capture*")
        for sequence in capture.iterdir()
        if sequence.is_dir()
    )


def read_unit(root: Path, split: Split, unit: str, *, fps: float) -> Iterator[Record | Filtered]:
    """Both hands of one sequence in every camera that has pictures of it."""
    capture, _, sequence = unit.partition("-")
    number = capture.removeprefix("Capture")
    prefix = root / "annotations" / split / f"InterHand2.6M_{split}"
    cameras_path, joints_path, fits_path = (
        prefix.with_name(f"{prefix.name}_{kind}.json")
        for kind in ("camera", "joint_3d", "MANO_NeuralAnnot")
    )
    joints = read_joints(joints_path).get(number)
    if joints is None:
        raise SourceError(f"{joints_path}: lacks the capture {number}")
    cameras = read_cameras(cameras_path, number)
    fits = read_fits(fits_path).get(number, {})
    for folder in sorted(require(root / "images" / split / capture / sequence).glob("cam*")):
        camera = cameras.get(folder.name.removeprefix("cam"))
        if camera is None:
            raise SourceError(f"{cameras_path}: capture {number} lacks {folder.name}")
        for side in SIDES:
            name = f"{unit}-{folder.name}-{side}"
            for found in _read_view(folder, joints, fits, camera, side=side, name=name):
                if isinstance(found, Filtered):
                    yield found
                else:
                    yield from _make_records(root, found, camera, side, joints_path, fps)


def _read_view(
    folder: Path,
    joints: dict[int, Joints],
    fits: dict[int, dict[str, Float64[np.ndarray, " 61"]]],
    camera: Camera,
    *,
    side: str,
    name: str,
) -> Iterator[_View | Filtered]:
    images = {int(path.stem.removeprefix("image")): path for path in folder.glob("image*.jpg")}
    numbers = sorted(n for n in images if n in joints)
    if missing := len(images) - len(numbers):
        yield Filtered(name=name, num_frames=missing, reason="no_annotation")
    part = SIDES[side]
    numbers = [n for n in numbers if joints[n].is_valid[part].any()]
    if not numbers:
        return
    size = read_image_size(images[numbers[0]])
    world = np.stack([joints[n].points[part] for n in numbers])
    valid = np.stack([joints[n].is_valid[part] for n in numbers])
    points = (world - camera.position) @ camera.R.T
    in_view = _count_inside(points, valid, camera, size) >= MIN_INSIDE
    lost = {"invalid_joints": ~valid[:, _WRIST], "out_of_view": valid[:, _WRIST] & ~in_view}
    for reason, frames in lost.items():
        if frames.any():
            yield Filtered(name=name, num_frames=int(frames.sum()), reason=reason)
    kept = np.flatnonzero(valid[:, _WRIST] & in_view)
    steps = np.diff(sorted(images))
    if not len(kept):
        return
    yield _View(
        name=name,
        images=[images[numbers[i]] for i in kept],
        size=size,
        numbers=[numbers[i] for i in kept],
        step=int(steps.min()) if len(steps) else 1,
        points=order_hand(points, TIPS_THEN_WRIST)[kept],
        is_labelled=order_hand(valid, TIPS_THEN_WRIST)[kept],
        fits=np.stack([fits.get(numbers[i], {}).get(side, _NO_FIT) for i in kept]),
    )


def _count_inside(
    points: Float64[np.ndarray, "t 21 3"],
    valid: Bool[np.ndarray, "t 21"],
    camera: Camera,
    size: tuple[int, int],
) -> Int64[np.ndarray, " t"]:
    """Valid points inside the picture, of each frame."""
    pixels = project_points(add_ones(points, valid), np.repeat(camera.K[None], len(points), 0))
    inside = (pixels[..., :2] > -0.5) & (pixels[..., :2] < (size[1] - 0.5, size[0] - 0.5))
    return (inside.all(-1) & (pixels[..., 2] > 0)).sum(1)


def _make_records(
    root: Path, view: _View, camera: Camera, side: str, path: Path, fps: float
) -> Iterator[Record]:
    for part in find_runs(view.numbers, step=view.step):
        points = add_ones(view.points[part], view.is_labelled[part])
        intrinsics = np.repeat(camera.K[None], len(points), 0)
        has_fit = np.isfinite(view.fits[part]).all(1)
        betas = view.fits[part, 48:58][has_fit].mean(0) if has_fit.any() else None
        pose = None
        if betas is not None:
            pose = _read_pose(root, view, part, camera, betas, side=side, path=path)
        first = view.numbers[part.start]
        yield make_record(
            HandLabels(
                keypoints_3d=points,
                keypoints_2d=project_points(points, intrinsics),
                intrinsics=intrinsics,
                pose=pose,
                has_pose=has_fit,
                betas=betas,
            ),
            name=f"{view.name}-{first}",
            frames=view.images[part],
            image_size=view.size,
            is_right=side == "right",
            path=path,
            first_frame=first // view.step,
            fps=fps,
        )


def _read_pose(
    root: Path,
    view: _View,
    part: slice,
    camera: Camera,
    betas: Float64[np.ndarray, " 10"],
    *,
    side: str,
    path: Path,
) -> MovedHand | None:
    """The fits in the camera's axes: the wrist moves as a point, what it turns about stays.

    Zero where there is no fit.
    """
    model = read_hand_model(root, is_right=side == "right")
    if model is None:
        return None
    fits = np.nan_to_num(view.fits[part])
    wrist = model.rest_wrist(fits[:, 48:58]) + fits[:, 58:]
    one_shape = np.repeat(betas[None], len(fits), 0)
    hand = MovedHand(
        global_orient=turn_hand(camera.R, fits[:, :3]),
        pose=model.add_mean(fits[:, 3:48]),
        transl=(wrist - camera.position) @ camera.R.T - model.rest_wrist(one_shape),
        betas=one_shape,
    )
    sure = np.isfinite(view.fits[part]).all(1) & view.is_labelled[part].all(1)
    if sure.any():
        points = view.points[part][sure]
        check_joints(model, hand.cut(sure), points, path=path, tolerance=FIT_TOLERANCE)
    return hand


def _make_source(fps: int) -> Source:
    return Source(
        name=f"interhand-{fps}fps",
        splits=("train", "val", "test"),
        list_units=list_units,
        read_unit=partial(read_unit, fps=float(fps)),
        layout="""images/train/Capture0/SEQ/cam400262/image18000.jpg ...
annotations/train/InterHand2.6M_train_{camera,joint_3d}.json
[annotations/train/InterHand2.6M_train_MANO_NeuralAnnot.json]
(val and test likewise)
[mano/MANO_RIGHT.pkl mano/MANO_LEFT.pkl: for labelled rotations]""",
        licence="mks0601.github.io/InterHand2.6M: CC BY-NC 4.0",
    )


SOURCE_5FPS = _make_source(5)
SOURCE_30FPS = _make_source(30)
