"""BEDLAM (Black et al., CVPR 2023): rendered people in motion, labelled by SMPL.

Files   `processed_labels/SCENE.npz`, written from the ground truth by the data set's own script
        for SMPL (`df_full_body_smpl.py`, at 6 or 30 fps), and `images/SCENE/png/SEQ/SEQ_%04d.png`
        (30 fps). A unit is a sequence of a scene, a record a person's stretch of frames.
Keys    one row a person and picture: `imgname`, `sub`, `gender`, `pose_cam` (n, 72), `shape`
        (n, 10), `trans_cam` (n, 3), `cam_ext` (n, 4, 4), `cam_int` (n, 3, 3), `gtkps` (n, 45, 2 or
        more) SMPL's 24 joints and 21 points of the skin, projected
Units   metres, pixels; OpenCV's camera

`transl` is `trans_cam` plus the last column of `cam_ext`. The files hold no 3D joints; the 24 are
those that the projections determine together with pose and translation (`kinematics.fit_joints`),
and are left out where a person moves too little for that. Labels of SMPL-X, which are what the
project's page offers ready-made, are refused: its pose is another body's. Pictures of the
`closeup` scenes are stored on their side; they are filtered as `rotated_picture`. The evidence is
`gtkps`, so it is `projected` truth.

The layout was learned from the data set's processing script and its ReadMe. Not verified without
the data: file names of pictures, and the spelling of `gender`.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64

from extpose.body_file import SMPL_TO_OPENPOSE
from extpose.keypoints import OPENPOSE25, reorder_keypoints
from extpose.schema import ClipTargets, Split
from pipelines.labels.annotations import (
    need_arrays,
    need_folder,
    read_image_size,
    to_floats,
    to_gender,
    to_key,
)
from pipelines.labels.kinematics import check_rest_joints, fit_joints, rotate_chain
from pipelines.labels.tracks import find_boxes, make_track, to_evidence, with_ones
from pipelines.records import (
    SMPL24_NAMES,
    Filtered,
    FrameRef,
    Record,
    Source,
    SourceError,
    empty_targets,
    project,
    slice_record,
)

FPS = 30.0
MAX_RESIDUAL = 1.0
"""Pixels between `gtkps` and the joints that they determine: median of the worst joint."""
MAX_UNCERTAINTY = 0.5
"""Metres of a bone per pixel of noise."""
_KEYS = (
    "imgname", "sub", "gender", "pose_cam", "shape", "trans_cam", "cam_ext", "cam_int", "gtkps"
)  # fmt: skip
_SHAPES: dict[str, tuple[int | None, ...]] = {
    "pose_cam": (None, 72), "shape": (None, None), "trans_cam": (None, 3),
    "cam_ext": (None, 4, 4), "cam_int": (None, 3, 3), "gtkps": (None, 45, None),
}  # fmt: skip


def list_units(root: Path, split: Split) -> list[str]:
    """`SCENE/SEQ` of all labels."""
    folder = need_folder(root / "processed_labels")
    units = set()
    for path in folder.glob("*.npz"):
        names = need_arrays(path, ["imgname"])["imgname"]
        units |= {f"{path.stem}/{Path(str(name)).parent}" for name in names}
    if not units:
        raise SourceError(f"{folder}: no *.npz with pictures")
    return sorted(units)


def read_unit(root: Path, split: Split, unit: str) -> Iterator[Record | Filtered]:
    """The people of a sequence."""
    scene, sequence = unit.rsplit("/", 1)
    path = root / "processed_labels" / f"{scene}.npz"
    folder = need_folder(root / "images" / scene / "png" / sequence)
    content = need_arrays(path, _KEYS)
    numbers, step = _read_numbers(path, content, sequence)
    arrays = {key: to_floats(path, key, content[key], shape) for key, shape in _SHAPES.items()}
    for key, array in (content | arrays).items():
        if len(array) != len(numbers):
            raise SourceError(f"{path}: {key} has {len(array)} rows, imgname {len(numbers)}")
    for person in sorted({str(sub) for sub in content["sub"][numbers >= 0]}):
        rows = np.flatnonzero((numbers >= 0) & (content["sub"] == person))
        rows = rows[np.argsort(numbers[rows], kind="stable")]
        part = {key: array[rows] for key, array in (content | arrays).items()}
        name = to_key(f"{scene}-{sequence}-{person}")
        yield from _read_person(path, folder, name, part, numbers=numbers[rows], step=step)


def _read_numbers(
    path: Path, content: dict[str, np.ndarray], sequence: str
) -> tuple[np.ndarray, int]:
    """Number of each row's frame at 30 fps (-1: of another sequence), and their step."""
    numbers = np.full(len(content["imgname"]), -1)
    for row, name in enumerate(content["imgname"]):
        picture = Path(str(name))
        if picture.parent.name == sequence:
            digits = picture.stem.rsplit("_", 1)[-1]
            if not digits.isdigit():
                raise SourceError(f"{path}: imgname[{row}] is {str(name)!r}, not SEQ/SEQ_0000.png")
            numbers[row] = int(digits)
    used = np.unique(numbers[numbers >= 0])
    return numbers, int(np.gcd.reduce(np.diff(used))) if len(used) > 1 else 1


def _read_person(
    path: Path,
    folder: Path,
    name: str,
    rows: dict[str, np.ndarray],
    *,
    numbers: np.ndarray,
    step: int,
) -> Iterator[Record | Filtered]:
    if len(np.unique(numbers)) < len(numbers):
        raise SourceError(f"{path}: {name}: several rows of one picture for one person")
    frames = tuple(FrameRef(path=folder / Path(str(n)).name) for n in rows["imgname"])
    image_size = read_image_size(frames[0].path)
    width, height = (int(v) for v in np.round(2 * rows["cam_int"][0, :2, 2]))
    if (height, width) == image_size[::-1] and height != width:
        yield Filtered(name=name, num_frames=len(frames), reason="rotated_picture")
        return
    if (height, width) != image_size:
        raise SourceError(
            f"{frames[0].path}: {image_size[0]} x {image_size[1]}, the camera of {path} is for "
            f"{height} x {width}"
        )
    targets = _read_targets(path, name, rows)
    record = Record(
        name=name,
        frames=frames,
        image_size=image_size,
        fps=FPS / step,
        track=make_track(
            find_boxes(targets.keypoints_2d), to_evidence(targets.keypoints_2d), fps=FPS / step
        ),
        targets=targets,
        intrinsics=rows["cam_int"].astype(np.float32),
        body="smpl",
        gender=to_gender(path, "gender", str(rows["gender"][0])),
        evidence="projected",
    )
    # Rows of pictures that show too little of a person are not in the file.
    follows = np.concatenate([[False], np.diff(numbers) == step])
    starts = np.flatnonzero(~follows)
    for start, stop in zip(starts, [*starts[1:], len(numbers)], strict=True):
        part = slice_record(record, int(start), int(stop))
        first = int(numbers[start]) // step
        track = replace(
            part.track,
            first_frame=first,
            timestamps=(first + np.arange(stop - start)) / part.fps,
        )
        yield replace(part, name=f"{name}-{numbers[start]:04d}", track=track)


def _read_targets(path: Path, name: str, rows: dict[str, np.ndarray]) -> ClipTargets:
    num = len(rows["sub"])
    pose = rows["pose_cam"].reshape(num, 24, 3)
    transl = rows["trans_cam"] + rows["cam_ext"][:, :3, 3]
    if rows["shape"].shape[1] < 10 or rows["gtkps"].shape[2] < 2:
        raise SourceError(
            f"{path}: shape has {rows['shape'].shape[1]} values and gtkps {rows['gtkps'].shape[2]} "
            "coordinates, expected 10 and 2 at least"
        )
    seen = rows["gtkps"][..., :2]
    openpose = with_ones(seen[:, list(SMPL_TO_OPENPOSE)])
    return replace(
        empty_targets("smpl", num),
        global_orient=pose[:, 0].astype(np.float32),
        pose=pose[:, 1:].astype(np.float32),
        betas=rows["shape"][0, :10].astype(np.float32),
        transl=transl.astype(np.float32),
        keypoints_2d=reorder_keypoints(openpose, OPENPOSE25, "body44"),
        keypoints_3d=_find_joints(f"{path}: {name}", pose, transl, seen[:, :24], rows["cam_int"]),
        has_pose=np.ones(num, bool),
        has_betas=np.array(True),
    )


def _find_joints(
    name: str,
    pose: Float64[np.ndarray, "t 24 3"],
    transl: Float64[np.ndarray, "t 3"],
    seen: Float64[np.ndarray, "t 24 2"],
    intrinsics: Float64[np.ndarray, "t 3 3"],
) -> Float32[np.ndarray, "t 44 4"]:
    num = len(pose)
    joints, rest, uncertainty = fit_joints(
        seen,
        rotate_chain(pose[:, 0], pose[:, 1:]),
        transl,
        intrinsics,
        np.tile(np.eye(3), (num, 1, 1)),
    )
    errors = np.linalg.norm(project(joints, intrinsics) - seen, axis=-1)
    residual = float(np.median(errors, 0).max())
    if residual > MAX_RESIDUAL:
        raise SourceError(
            f"{name}: gtkps are off any body in this pose by {residual:.3g} px (median of the "
            f"worst joint), at most {MAX_RESIDUAL}: wrong axes, unit, camera or order?"
        )
    if uncertainty > MAX_UNCERTAINTY:
        return np.zeros((num, 44, 4), np.float32)
    check_rest_joints(name, rest)
    return reorder_keypoints(with_ones(joints), SMPL24_NAMES, "body44")


SOURCE = Source(
    name="bedlam",
    splits=("train",),
    list_units=list_units,
    read_unit=read_unit,
    layout="""processed_labels/SCENE.npz (written by the data set's df_full_body_smpl.py)
images/SCENE/png/seq_000000/seq_000000_0000.png ...""",
    licence="BEDLAM, project page (registration), Max Planck Institute; non-commercial research",
)
