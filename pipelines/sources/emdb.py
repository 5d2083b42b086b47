"""EMDB (Kaufmann et al., ICCV 2023): one person per sequence, electromagnetic sensors, 30 fps.

Files   `P0` ... `P9`, in each `SEQ/images/%05d.jpg` and `SEQ/P?_SEQ_data.pkl`. The test split is
        EMDB 1, the sequences that the authors evaluate cameras on; a unit is a sequence
        (`P0/09_outdoor_walk`), a record a stretch of good frames.
Keys    `gender`, `name`, `emdb1`, `n_frames`, `good_frames_mask` (t,), `camera.intrinsics` (3, 3),
        `camera.extrinsics` (t, 4, 4) world to camera, `camera.width`, `camera.height`,
        `smpl.poses_root` (t, 3), `smpl.poses_body` (t, 69), `smpl.trans` (t, 3) in the world,
        `smpl.betas` (10,), `kp2d` (t, 24, 2) SMPL's joints projected, `bboxes.bboxes` (t, 4) x0 y0
        x1 y1, `bboxes.invalid_idxs`
Units   metres, pixels; SMPL of the person's gender

The files hold no 3D joints, and SMPL's need the body's file. But the joints of a posed body are
linear in its bones, which are the same in all frames, and `kp2d` are their exact projections: one
least-squares problem over the sequence gives all 24 joints and J0, and its residual checks units,
axes and order of everything above.

The evidence is `kp2d`, so it is `projected` truth, without a face: run a detector for a fair test.
Frames outside `good_frames_mask` are filtered as `bad_frame`.

The layout was learned from the data set's own description (`dataset.md` of its repository); that
`extrinsics` take the world to the camera, from how the authors' evaluation uses them. Not verified
without the data: the frame rate, and that `kp2d` are not rounded (which would cost millimetres).
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64

from extpose.keypoints import reorder_keypoints
from extpose.schema import ClipTargets, Split
from pipelines.labels.annotations import (
    find_runs,
    get_floats,
    get_text,
    get_value,
    need_folder,
    read_image_size,
    read_pickled_dict,
    to_gender,
    to_key,
)
from pipelines.labels.kinematics import (
    check_cameras,
    check_rest_joints,
    fit_joints,
    rotate_chain,
    turn_body,
)
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
"""Pixels between `kp2d` and the joints that they determine: median of the worst joint."""
MAX_UNCERTAINTY = 0.5
"""Metres of a bone per pixel of noise; the noise of `kp2d` is that of float32."""


def list_units(root: Path, split: Split) -> list[str]:
    """The sequences of EMDB 1. Their files are opened: the flag is inside."""
    need_folder(root)
    paths = sorted(root.glob("P[0-9]*/*/*_data.pkl"))
    units = [f"{path.parent.parent.name}/{path.parent.name}" for path in paths if _is_tested(path)]
    if not units:
        raise SourceError(f"{root}: {len(paths)} files P?/SEQ/*_data.pkl, none with emdb1 = True")
    return units


def read_unit(root: Path, split: Split, unit: str) -> Iterator[Record | Filtered]:
    """The person of a sequence."""
    folder = need_folder(root / unit)
    path = folder / f"{unit.replace('/', '_')}_data.pkl"
    content = read_pickled_dict(path)
    num_frames = int(get_value(path, content, "n_frames", (int, np.integer)))
    frames = tuple(FrameRef(path=folder / "images" / f"{i:05d}.jpg") for i in range(num_frames))
    if not frames[-1].path.is_file():
        raise SourceError(f"{frames[-1].path}: no such file, {path} has n_frames = {num_frames}")
    is_good = get_floats(path, content, "good_frames_mask", (num_frames,)) > 0
    intrinsics = np.tile(get_floats(path, content, "camera.intrinsics", (3, 3)), (num_frames, 1, 1))
    evidence, boxes = _read_evidence(path, content, is_good)
    name = to_key(unit)
    if is_good.any():
        record = Record(
            name=name,
            frames=frames,
            image_size=_read_size(path, content, frames[0].path),
            fps=FPS,
            track=make_track(boxes, evidence, fps=FPS),
            targets=_read_targets(path, content, is_good, intrinsics),
            intrinsics=intrinsics.astype(np.float32),
            body="smpl",
            gender=to_gender(path, "gender", get_text(path, content, "gender")),
            evidence="projected",
        )
        for start, stop in find_runs(is_good):
            yield replace(slice_record(record, start, stop), name=f"{name}-{start:05d}")
    if not is_good.all():
        yield Filtered(name=name, num_frames=int((~is_good).sum()), reason="bad_frame")


def _is_tested(path: Path) -> bool:
    return bool(get_value(path, read_pickled_dict(path), "emdb1", (bool, np.bool_)))


def _read_size(path: Path, content: dict[str, Any], image: Path) -> tuple[int, int]:
    height, width = (
        int(get_value(path, content, f"camera.{key}", (int, np.integer, float)))
        for key in ("height", "width")
    )
    if (found := read_image_size(image)) != (height, width):
        raise SourceError(f"{image}: {found[0]} x {found[1]}, {path} says {height} x {width}")
    return height, width


def _read_evidence(
    path: Path, content: dict[str, Any], is_good: Bool[np.ndarray, " t"]
) -> tuple[Float32[np.ndarray, "t 17 3"], Float32[np.ndarray, "t 4"]]:
    num = len(is_good)
    points = with_ones(get_floats(path, content, "kp2d", (num, 24, 2), used=is_good))
    labels = reorder_keypoints(points, SMPL24_NAMES, "body44")
    boxes = get_floats(path, content, "bboxes.bboxes", (num, 4), used=is_good).astype(np.float32)
    is_empty = np.any(boxes[:, 2:] <= boxes[:, :2], 1, keepdims=True)
    return to_evidence(labels), np.where(is_empty, find_boxes(points), boxes)


def _read_targets(
    path: Path,
    content: dict[str, Any],
    is_good: Bool[np.ndarray, " t"],
    intrinsics: Float64[np.ndarray, "t 3 3"],
) -> ClipTargets:
    num = len(is_good)
    extrinsics = get_floats(path, content, "camera.extrinsics", (num, 4, 4), used=is_good)
    rotation, offset = check_cameras(f"{path}: camera.extrinsics", extrinsics, is_good)
    orient = get_floats(path, content, "smpl.poses_root", (num, 3), used=is_good)
    flat = get_floats(path, content, "smpl.poses_body", (num, 69), used=is_good)
    pose = flat.reshape(num, 23, 3)
    transl = get_floats(path, content, "smpl.trans", (num, 3), used=is_good)
    seen = get_floats(path, content, "kp2d", (num, 24, 2), used=is_good)
    shift = np.einsum("trc,tc->tr", rotation, transl) + offset
    joints = np.zeros((num, 24, 3))
    joints[is_good], rest, uncertainty = fit_joints(
        seen[is_good],
        rotation[is_good, None] @ rotate_chain(orient[is_good], pose[is_good]),
        shift[is_good],
        intrinsics[is_good],
        rotation[is_good],
    )
    _check_fit(path, seen[is_good], project(joints[is_good], intrinsics[is_good]), uncertainty)
    rest_root = check_rest_joints(f"{path}: kp2d", rest)
    orient_cam, transl_cam = turn_body(
        orient, transl, rest_root=rest_root, rotation=rotation, offset=offset
    )
    return replace(
        empty_targets("smpl", num),
        global_orient=orient_cam.astype(np.float32),
        pose=pose.astype(np.float32),
        betas=get_floats(path, content, "smpl.betas", (10,)).astype(np.float32),
        transl=transl_cam.astype(np.float32),
        keypoints_2d=reorder_keypoints(with_ones(seen), SMPL24_NAMES, "body44"),
        keypoints_3d=reorder_keypoints(with_ones(joints), SMPL24_NAMES, "body44"),
        has_pose=is_good,
        has_betas=np.array(True),
    )


def _check_fit(
    path: Path,
    seen: Float64[np.ndarray, "t 24 2"],
    found: Float64[np.ndarray, "t 24 2"],
    uncertainty: float,
) -> None:
    residual = float(np.median(np.linalg.norm(found - seen, axis=-1), 0).max())
    if residual > MAX_RESIDUAL:
        raise SourceError(
            f"{path}: kp2d are off any body in this pose by {residual:.3g} px (median of the "
            f"worst joint), at most {MAX_RESIDUAL}: wrong axes, unit, camera or order?"
        )
    if uncertainty > MAX_UNCERTAINTY:
        raise SourceError(
            f"{path}: {len(seen)} good frames of kp2d determine the joints to {uncertainty:.3g} m "
            f"a pixel, {MAX_UNCERTAINTY} is needed"
        )


SOURCE = Source(
    name="emdb",
    splits=("test",),
    list_units=list_units,
    read_unit=read_unit,
    layout="""P0/SEQ/P0_SEQ_data.pkl
P0/SEQ/images/00000.jpg ...
P1 ... P9 alike""",
    licence="EMDB, project page of the authors (ETH Zurich); on request, research only",
)
