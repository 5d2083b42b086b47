"""3DPW (von Marcard et al., ECCV 2018): one or two people outdoors, a moving phone, 30 fps.

Files   `sequenceFiles/{train,validation,test}/SEQ.pkl` (Python 2 pickles, latin-1) and
        `imageFiles/SEQ/image_%05d.jpg`. A unit is a sequence, a person a record per stretch of
        frames whose camera is known.
Keys    per person: `poses` (t, 72) and `trans` (t, 3) in the world, `betas` (10 or more, the first
        10 count), `genders` m or f, `poses2d` (t, 3, 18) OpenPose, all zero where it found fewer
        than 6 joints, `jointPositions` (t, 72) = 24 joints in the world, `campose_valid` (t,);
        `cam_poses` (t, 4, 4) world to camera, `cam_intrinsics` (3, 3).
Units   metres, pixels; SMPL's order of joints; SMPL of the person's gender

J0(betas), which the change of frame needs, is joint 0 minus `trans`, so no SMPL file is read. The
box is around OpenPose's points with confidence > 0; around the projected joints where it found
none, and then not counted as detected. Frames without a camera are filtered as `no_camera`, those
with nobody in the picture as `outside`.

The layout was learned from the data set's readme as quoted in mmhuman3d, and from how SPIN, VIBE
and WHAM prepare it. Not verified without the data: that `jointPositions` are the joints of `poses`
and `betas` to the millimetre, that all images have one size within a sequence.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64

from extpose.keypoints import reorder_keypoints
from extpose.schema import ClipTargets, Gender, Split
from pipelines.labels.annotations import (
    find_runs,
    get_floats,
    get_people,
    get_text,
    need_folder,
    read_image_size,
    read_pickled_dict,
    to_floats,
    to_gender,
    to_key,
)
from pipelines.labels.kinematics import check_cameras, find_rest_root, turn_body, turn_points
from pipelines.labels.tracks import OPENPOSE18, find_boxes, make_track, with_ones
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
_FOLDERS: dict[Split, str] = {"train": "train", "val": "validation", "test": "test"}


@dataclass(frozen=True, kw_only=True)
class _Sequence:
    """What all people of a sequence share."""

    path: Path
    name: str
    content: dict[str, Any]
    num_people: int
    has_camera: Bool[np.ndarray, "people t"]
    rotation: Float64[np.ndarray, "t 3 3"]
    offset: Float64[np.ndarray, "t 3"]
    intrinsics: Float64[np.ndarray, "t 3 3"]
    frames: tuple[FrameRef, ...]
    image_size: tuple[int, int]


def list_units(root: Path, split: Split) -> list[str]:
    """The sequences of a split."""
    folder = need_folder(root / "sequenceFiles" / _FOLDERS[split])
    if names := sorted(path.stem for path in folder.glob("*.pkl")):
        return names
    raise SourceError(f"{folder}: no *.pkl")


def read_unit(root: Path, split: Split, unit: str) -> Iterator[Record | Filtered]:
    """The people of a sequence."""
    sequence = _read_sequence(root, split, unit)
    for person in range(sequence.num_people):
        yield from _read_person(sequence, person)


def _read_sequence(root: Path, split: Split, unit: str) -> _Sequence:
    path = root / "sequenceFiles" / _FOLDERS[split] / f"{unit}.pkl"
    content = read_pickled_dict(path)
    if (name := get_text(path, content, "sequence")) != unit:
        raise SourceError(f"{path}: sequence is {name!r}, the file is called {unit!r}")
    poses = get_people(path, content, "poses")
    if not poses:
        raise SourceError(f"{path}: poses has no people")
    has_camera = np.array(
        [
            to_floats(path, f"campose_valid[{i}]", valid, (None,)) > 0
            for i, valid in enumerate(get_people(path, content, "campose_valid", len(poses)))
        ]
    )
    used = np.asarray(has_camera.any(0))
    num_frames = len(used)
    cameras = get_floats(path, content, "cam_poses", (num_frames, 4, 4), used=used)
    rotation, offset = check_cameras(f"{path}: cam_poses", cameras, used)
    intrinsics = get_floats(path, content, "cam_intrinsics", (3, 3))
    folder = need_folder(root / "imageFiles" / unit)
    frames = tuple(FrameRef(path=folder / f"image_{i:05d}.jpg") for i in range(num_frames))
    for frame in (frames[0], frames[-1]):
        if not frame.path.is_file():
            raise SourceError(f"{frame.path}: no such file, {path} has {len(frames)} frames")
    return _Sequence(
        path=path,
        name=to_key(unit),
        content=content,
        num_people=len(poses),
        has_camera=has_camera,
        rotation=rotation,
        offset=offset,
        intrinsics=np.tile(intrinsics, (num_frames, 1, 1)),
        frames=frames,
        image_size=read_image_size(frames[0].path),
    )


def _read_person(sequence: _Sequence, person: int) -> Iterator[Record | Filtered]:
    joints_cam, targets, gender = _read_body(sequence, person)
    num_frames = len(sequence.frames)
    openpose = _floats(sequence, "poses2d", person, (num_frames, 3, 18)).swapaxes(1, 2)
    evidence = reorder_keypoints(openpose.astype(np.float32), OPENPOSE18, "coco17")
    projected = with_ones(project(joints_cam, sequence.intrinsics))
    height, width = sequence.image_size
    inside = ((projected[..., :2] >= 0) & (projected[..., :2] < (width, height))).all(-1)
    is_detected = np.asarray(np.any(evidence[..., 2] > 0, 1))
    has_camera = sequence.has_camera[person]
    is_before = np.all(joints_cam[..., 2] > 0, 1)
    seen, hidden = has_camera & is_detected, has_camera & is_detected & ~is_before
    if 2 * hidden.sum() > seen.sum():
        raise SourceError(
            f"{sequence.path}: jointPositions[{person}] is behind the camera in {hidden.sum()} of "
            f"{seen.sum()} frames in which poses2d[{person}] has the person: cam_poses the wrong "
            "way around?"
        )
    wanted = has_camera & is_before & (is_detected | np.any(inside, 1))
    record = Record(
        name=f"{sequence.name}-{person}",
        frames=sequence.frames,
        image_size=sequence.image_size,
        fps=FPS,
        track=make_track(
            find_boxes(evidence, projected),
            evidence,
            fps=FPS,
            track_id=person,
            is_detected=is_detected,
        ),
        targets=targets,
        intrinsics=sequence.intrinsics.astype(np.float32),
        body="smpl",
        gender=gender,
        evidence="openpose",
    )
    for start, stop in find_runs(wanted):
        yield replace(slice_record(record, start, stop), name=f"{record.name}-{start:05d}")
    yield from _count_rest(record.name, has_camera, wanted)


def _count_rest(
    name: str, has_camera: Bool[np.ndarray, " t"], wanted: Bool[np.ndarray, " t"]
) -> Iterator[Filtered]:
    for reason, frames in (("no_camera", ~has_camera), ("outside", has_camera & ~wanted)):
        if frames.any():
            yield Filtered(name=name, num_frames=int(frames.sum()), reason=reason)


def _read_body(
    sequence: _Sequence, person: int
) -> tuple[Float64[np.ndarray, "t 24 3"], ClipTargets, Gender]:
    """Joints in the camera, labels, gender."""
    num_frames = len(sequence.frames)
    poses = _floats(sequence, "poses", person, (num_frames, 72)).reshape(num_frames, 24, 3)
    transl = _floats(sequence, "trans", person, (num_frames, 3))
    betas = _floats(sequence, "betas", person, (None,))
    if len(betas) < 10:
        raise SourceError(f"{sequence.path}: betas[{person}] has {len(betas)} values, expected 10")
    flat = _floats(sequence, "jointPositions", person, (num_frames, 72))
    joints = flat.reshape(num_frames, 24, 3)
    rest_root = find_rest_root(f"{sequence.path}: jointPositions[{person}]", joints[:, 0], transl)
    global_orient, transl_cam = turn_body(
        poses[:, 0], transl,
        rest_root=rest_root, rotation=sequence.rotation, offset=sequence.offset,
    )  # fmt: skip
    joints_cam = turn_points(joints, sequence.rotation, sequence.offset)
    gender = get_people(sequence.path, sequence.content, "genders", sequence.num_people)[person]
    targets = replace(
        empty_targets("smpl", num_frames),
        global_orient=global_orient.astype(np.float32),
        pose=poses[:, 1:].astype(np.float32),
        betas=betas[:10].astype(np.float32),
        transl=transl_cam.astype(np.float32),
        keypoints_2d=_label(project(joints_cam, sequence.intrinsics)),
        keypoints_3d=_label(joints_cam),
        has_pose=np.ones(num_frames, bool),
        has_betas=np.array(True),
    )
    return joints_cam, targets, to_gender(sequence.path, f"genders[{person}]", str(gender))


def _label(points: Float64[np.ndarray, "t 24 c"]) -> Float32[np.ndarray, "t 44 c1"]:
    return reorder_keypoints(with_ones(points), SMPL24_NAMES, "body44")


def _floats(
    sequence: _Sequence, key: str, person: int, shape: tuple[int | None, ...]
) -> Float64[np.ndarray, "..."]:
    people = get_people(sequence.path, sequence.content, key, sequence.num_people)
    return to_floats(sequence.path, f"{key}[{person}]", people[person], shape)


SOURCE = Source(
    name="3dpw",
    splits=("train", "val", "test"),
    list_units=list_units,
    read_unit=read_unit,
    layout="""sequenceFiles/{train,validation,test}/SEQ.pkl
imageFiles/SEQ/image_00000.jpg ...""",
    licence="3D Poses in the Wild, project page of the authors (MPI Informatics); research only",
)
