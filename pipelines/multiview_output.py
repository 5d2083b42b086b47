"""What `extpose multiview` leaves: reference files, labelled shards, overlays, a page.

Axes    c cameras   t frames
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float64, UInt8
from scipy.spatial.transform import Rotation

from extpose.body_model import BodyModel, load_body_model
from extpose.config import IngestConfig
from extpose.data.clip import encode_png
from extpose.data.shards import write_shard
from extpose.detect.people import Track
from extpose.keypoints import COCO17_OF_BODY44
from extpose.multiview.body import FittedBody
from extpose.multiview.cameras import Camera
from extpose.report import Report
from extpose.rotations import axis_angle_to_matrix
from extpose.schema import SCHEMA_VERSION, ClipTargets
from extpose.video import VideoWriter, read_frames
from extpose.visualize import draw_keypoints, overlay_mesh
from pipelines.arguments import MultiviewArgs
from pipelines.committed import MANIFEST, write_text
from pipelines.cutting import ClipCutter
from pipelines.multiview_people import Person, Recording
from pipelines.records import FrameRef, Record, empty_targets

SOURCE = "multiview"
COLUMNS = 3
OVERLAY_HEIGHT = 960
"""Pixels; larger pictures are made smaller for the overlays."""
LIMBS = (
    *((5, 7), (7, 9), (6, 8), (8, 10), (5, 6), (5, 11), (6, 12), (11, 12)),
    *((11, 13), (13, 15), (12, 14), (14, 16)),
)


def write_outputs(
    options: MultiviewArgs,
    recording: Recording,
    cameras: Sequence[Camera],
    people: Sequence[Person],
    text: str,
) -> None:
    """Everything below `options.out`."""
    for number, person in enumerate(people):
        write_reference(options.out / f"person_{number:03d}.npz", person, cameras, recording.fps)
    body = load_body_model()
    write_shards(options.out, recording, cameras, people, body)
    shown = np.linspace(0, recording.num_frames - 1, COLUMNS + 2).round().astype(int)[1:-1]
    report, rows = Report("ExtPose: several views", options.out), []
    for i, camera in enumerate(cameras):
        path = options.out / f"overlay_{camera.name}.mp4"
        cells = write_overlay(path, recording, camera, i, people, body, set(shown.tolist()))
        rows.append(np.concatenate(cells, 1))
    width = min(row.shape[1] for row in rows)
    same = [cv2.resize(r, (width, round(r.shape[0] * width / r.shape[1]))) for r in rows]
    sheet = options.out / "sheet.png"
    sheet.write_bytes(encode_png(np.concatenate(same, 0).astype(np.uint8)))
    report.code(text)
    report.picture(sheet, "a row a camera: fitted body, points, and detections (white)")
    for camera in cameras:
        report.video(options.out / f"overlay_{camera.name}.mp4", camera.name)
    report.write()


def write_shards(
    out: Path,
    recording: Recording,
    cameras: Sequence[Camera],
    people: Sequence[Person],
    body: BodyModel,
) -> None:
    """A shard for each camera that saw somebody, with those whom it saw; their manifest."""
    config = IngestConfig(out=out)
    cutter, shards = ClipCutter(config, SOURCE), []
    for i, camera in enumerate(cameras):
        records = [
            make_record(recording, camera, i, person, f"{camera.name}-{number}", body)
            for number, person in enumerate(people)
            if person.is_detected[i].any()
        ]
        if records:
            clips = (clip for record in records for clip in cutter.cut(record))
            path = out / f"{SOURCE}-{camera.name}.tar"
            shards.append((path.name, write_shard(path, clips)))
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "source": SOURCE,
        "settings": {"skeleton": asdict(config.skeleton), "crop": asdict(config.crop)},
        "clips": sum(info.num_clips for _, info in shards),
        "frames": sum(info.num_frames for _, info in shards),
        "shards": [
            {"name": n, "clips": i.num_clips, "frames": i.num_frames, "sha256": i.sha256}
            for n, i in shards
        ],
    }
    write_text(out / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def write_reference(path: Path, person: Person, cameras: Sequence[Camera], fps: float) -> None:
    """Points, uncertainty, observations, cameras and body of one person as plain arrays."""
    found, body = person.found, person.body
    fitted = {} if body is None else {f"body_{k}": v for k, v in vars(body).items()}
    np.savez_compressed(
        path,
        joints_world=person.points_world,
        joints_world_raw=found.points_world,
        unc_mm=1000 * found.uncertainty,
        reprojection_px=found.reprojection,
        left_out_px=found.left_out,
        kp2d=person.keypoints,
        boxes=person.boxes,
        K=np.stack([c.K for c in cameras]),
        R=np.stack([c.R for c in cameras]),
        t=np.stack([c.t for c in cameras]),
        dist=np.stack([c.dist for c in cameras]),
        camera_names=np.array([c.name for c in cameras]),
        image_size=np.array([[c.size[1], c.size[0]] for c in cameras]),
        fps=np.array(fps),
        **fitted,
    )


def make_record(
    recording: Recording, camera: Camera, index: int, person: Person, name: str, body: BodyModel
) -> Record:
    """One person as one camera sees it, labelled by what all cameras found."""
    num_frames, first = recording.num_frames, recording.first[index]
    points_cam = camera.to_camera(person.points_world)
    points_img = camera.project(person.points_world)
    labelled = np.isfinite(points_img).all(-1) & np.isfinite(person.found.uncertainty)
    targets = empty_targets("smpl", num_frames)
    columns = list(COCO17_OF_BODY44)
    for stored, points in ((targets.keypoints_3d, points_cam), (targets.keypoints_2d, points_img)):
        stored[:, columns, :-1] = np.where(labelled[..., None], points, 0)
        stored[:, columns, -1] = labelled
    if person.body is not None:
        targets = label_pose(targets, person.body, camera, body)
    return Record(
        name=name,
        frames=tuple(
            FrameRef(path=recording.paths[index], index=first + i) for i in range(num_frames)
        ),
        image_size=camera.size,
        fps=recording.fps,
        track=Track(
            track_id=0,
            first_frame=first,
            bbox_xyxy=person.boxes[index],
            keypoints_2d=person.keypoints[index].astype(np.float32),
            timestamps=np.arange(num_frames) / recording.fps,
            is_detected=person.is_detected[index],
        ),
        targets=targets,
        intrinsics=np.tile(camera.K.astype(np.float32), (num_frames, 1, 1)),
        body="smpl",
        evidence="movenet-thunder",
    )


def label_pose(
    targets: ClipTargets, fitted: FittedBody, camera: Camera, body: BodyModel
) -> ClipTargets:
    """The fitted body in the camera's axes: its rotation is part of the root's."""
    rest = body.joints_template[0] + body.joint_shapedirs[0] @ torch.from_numpy(fitted.betas)
    root = rest.double().numpy()
    pelvis_cam = camera.to_camera(fitted.transl + root)
    orient = Rotation.from_matrix(camera.R) * Rotation.from_rotvec(fitted.global_orient)
    return replace(
        targets,
        global_orient=orient.as_rotvec().astype(np.float32),
        pose=fitted.pose,
        betas=fitted.betas,
        transl=(pelvis_cam - root).astype(np.float32),
        has_pose=fitted.has_pose,
        has_betas=np.array(True),
    )


def write_overlay(
    path: Path,
    recording: Recording,
    camera: Camera,
    index: int,
    people: Sequence[Person],
    body: BodyModel,
    shown: set[int],
) -> list[UInt8[np.ndarray, "h w 3"]]:
    """Body and points over one view; the frames in `shown` also as pictures."""
    height, width = camera.size
    factor = min(1.0, OVERLAY_HEIGHT / height)
    size = (round(height * factor), round(width * factor))
    K = np.diag([factor, factor, 1.0]) @ camera.K
    bodies = [person.body for person in people if person.body is not None]
    start = recording.first[index]
    cells = []
    with VideoWriter(path, recording.fps, size) as writer:
        for frame in read_frames(recording.paths[index], start, start + recording.num_frames):
            i = frame.index - start
            rgb = cv2.resize(frame.rgb, size[::-1], interpolation=cv2.INTER_AREA).astype(np.uint8)
            meshes = [pose_mesh(b, i, camera, body) for b in bodies if b.has_pose[i]]
            drawn = overlay_mesh(rgb, meshes, body.faces.numpy(), K=K, alpha=0.75)
            for person in people:
                drawn = draw_person(drawn, person, camera, index, i, factor)
            writer.write(drawn)
            if i in shown:
                cells += [drawn]
    return cells


def draw_person(
    rgb: UInt8[np.ndarray, "h w 3"],
    person: Person,
    camera: Camera,
    index: int,
    frame: int,
    factor: float,
) -> UInt8[np.ndarray, "h w 3"]:
    """The detections in white, the projected points in the colours of the sides."""
    seen = person.keypoints[index, frame] * [factor, factor, 1]
    points = camera.project(person.points_world[frame]) * factor
    known = np.asarray(np.isfinite(points).all(-1))
    marks = np.column_stack([np.where(known[:, None], points, 0), known])
    rgb = draw_keypoints(rgb, seen, radius=4.0, color=(255, 255, 255))
    return draw_keypoints(rgb, marks, limbs=LIMBS, radius=2.5)


def pose_mesh(
    fitted: FittedBody, frame: int, camera: Camera, body: BodyModel
) -> Float64[np.ndarray, "v 3"]:
    """Vertices of one frame in the camera's axes."""
    orient, pose, transl, betas = (
        torch.from_numpy(values)[None]
        for values in (
            fitted.global_orient[frame],
            fitted.pose[frame],
            fitted.transl[frame],
            fitted.betas,
        )
    )
    with torch.inference_mode():
        posed = body(axis_angle_to_matrix(orient), axis_angle_to_matrix(pose), betas, transl)
    return camera.to_camera(posed.vertices[0].double().numpy())
