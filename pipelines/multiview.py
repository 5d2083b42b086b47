"""`extpose multiview`: people in 3D from the videos of several calibrated cameras.

    videos --detect, track--> tracks --meet?--> people --triangulate, refine--> points --fit--> body

Below `out`: `cameras.json` (refined), for every person `person_NNN.npz` and, labelled, one shard a
camera (so `extpose evaluate --data` reads them), `overlay_CAMERA.mp4`, `sheet.png`, `report.html`.
"""

from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from extpose.body_model import load_body_model
from extpose.config import DetectConfig
from extpose.detect.people import Track
from extpose.detect.track import link_tracks
from extpose.errors import ExtPoseError
from extpose.geometry import align_similarity
from extpose.multiview.associate import group_tracks
from extpose.multiview.body import fit_body, is_posed
from extpose.multiview.cameras import write_cameras
from extpose.multiview.gaps import nearest_known
from extpose.multiview.refine import refine_cameras
from extpose.multiview.triangulate import smooth, triangulate
from extpose.npz import read_npz
from extpose.video import read_frames
from pipelines.arguments import MultiviewArgs
from pipelines.multiview_open import open_recording
from pipelines.multiview_output import write_outputs
from pipelines.multiview_people import Person, Recording

ROBUST = 0.01
"""Error from which an observation loses weight, in box sizes: 8 pixels of someone 800 high."""
LIMBS = slice(5, 17)


def run(options: MultiviewArgs) -> str:
    """Everything; a table of errors as text. Raises ExtPoseError."""
    recording = open_recording(options)
    tracks = [find_tracks(recording, i) for i in range(len(recording.cameras))]
    people = group_tracks(recording.cameras, tracks)
    if not people:
        seen = ", ".join(
            f"{c.name} {len(t)}" for c, t in zip(recording.cameras, tracks, strict=True)
        )
        raise ExtPoseError(f"nobody is seen by two cameras; tracks: {seen}; is the offset right?")
    gathered = [gather(tracks, person, recording.num_frames) for person in people]
    cameras, scale = recording.cameras, _scale(gathered)
    if options.refine:
        every = np.concatenate([keypoints for keypoints, _, _ in gathered], 1)
        cameras = refine_cameras(cameras, every, scale=scale)
    solved = []
    for keypoints, boxes, is_detected in gathered:
        found = triangulate(cameras, keypoints, scale=scale)
        points = smooth(found.points_world, fps=recording.fps)
        body = None
        if options.body and is_posed(points).any():
            body = fit_body(cameras, keypoints, points, body=load_body_model(), scale=2 * scale)
        solved.append(
            Person(
                keypoints=keypoints,
                boxes=boxes,
                is_detected=is_detected,
                found=found,
                points_world=points,
                body=body,
            )
        )
    options.out.mkdir(parents=True, exist_ok=True)
    write_cameras(options.out / "cameras.json", cameras)
    text = describe(recording, solved, options.reference)
    write_outputs(options, recording, cameras, solved, text)
    return text


def find_tracks(recording: Recording, camera: int) -> list[Track]:
    """Everybody in one view."""
    # Only here: the detector needs its weights and an inference runtime.
    from extpose.detect.movenet import PersonDetector

    config = DetectConfig()
    detector = PersonDetector(config)
    start = recording.first[camera]
    frames = read_frames(recording.paths[camera], start, start + recording.num_frames)
    seen = (
        (frame.index - start, frame.timestamp, detector(frame.rgb))
        for frame in tqdm(
            frames, total=recording.num_frames, desc=recording.cameras[camera].name, unit="frame"
        )
    )
    return list(link_tracks(seen, config, recording.cameras[camera].size).tracks)


def gather(
    tracks: list[list[Track]], person: dict[int, list[int]], num_frames: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keypoints, boxes, and where the person was detected, for all cameras and frames."""
    keypoints = np.zeros((len(tracks), num_frames, 17, 3))
    boxes = np.zeros((len(tracks), num_frames, 4), np.float32)
    is_detected = np.zeros((len(tracks), num_frames), bool)
    for camera, listed in person.items():
        for index in listed:
            track = tracks[camera][index]
            part = slice(track.first_frame, track.first_frame + track.num_frames)
            keypoints[camera, part] = track.keypoints_2d
            boxes[camera, part] = track.bbox_xyxy
            is_detected[camera, part] = track.is_detected
        boxes[camera] = boxes[camera][nearest_known((boxes[camera] != 0).any(-1))]
    return keypoints, boxes, is_detected


def _scale(gathered: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> float:
    sizes = [(b[..., 2:] - b[..., :2]).max(-1)[d] for _, b, d in gathered]
    return ROBUST * float(np.median(np.concatenate(sizes)))


def describe(recording: Recording, people: list[Person], reference: Path | None) -> str:
    """Errors of every person; against a reference where one is given."""
    lines = [f"{recording.num_frames} frames, {len(recording.cameras)} cameras"]
    for number, person in enumerate(people):
        found = person.found
        lines.append(f"person {number}: limb joints")
        for title, errors in (
            ("reprojection, px", found.reprojection),
            ("reprojection into a camera that was left out, px", found.left_out),
            ("uncertainty, mm", 1000 * found.uncertainty[None]),
        ):
            values = errors[:, :, LIMBS]
            values = values[np.isfinite(values)]
            if not len(values):
                lines.append(f"  {title}: nothing to measure")
                continue
            middle, high = np.percentile(values, [50, 90])
            lines.append(f"  {title}: median {middle:.1f}, 90 % {high:.1f}")
        missing = 100 * float(np.isnan(person.points_world[:, LIMBS]).any(-1).mean())
        lines.append(f"  not found: {missing:.1f} %")
        if person.body is not None:
            away = np.linalg.norm(person.body.keypoints_world - person.points_world, axis=-1)
            middle = 1000 * np.nanmedian(away[:, LIMBS])
            lines.append(f"  fitted body from the points: median {middle:.1f} mm")
    if reference is not None:
        lines += compare_reference(people[0], reference)
    return "\n".join(lines)


def compare_reference(person: Person, path: Path) -> list[str]:
    """PA-MPJPE and root-aligned MPJPE of the first person against stored points."""
    try:
        truth = read_npz(path, ["joints_world"])["joints_world"].astype(np.float64)
    except (OSError, ValueError) as error:
        raise ExtPoseError(f"{path}: not a reference with joints_world ({error})") from error
    count = min(len(truth), len(person.points_world))
    sides = {"points": person.points_world}
    if person.body is not None:
        known = person.body.has_pose[:, None, None]
        sides["fitted body"] = np.where(known, person.body.keypoints_world, np.nan)
    lines = [f"against {path.name}, {count} frames, 12 limb joints"]
    for name, points in sides.items():
        aligned, rooted = agreement(points[:count], truth[:count])
        lines.append(f"  {name}: PA-MPJPE {aligned:.1f} mm, root-aligned MPJPE {rooted:.1f} mm")
    return lines


def agreement(points: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """PA-MPJPE and root-aligned MPJPE of limb joints in millimetres (t 17 3, any axes)."""
    aligned, rooted = [], []
    for a, b in zip(points, truth, strict=True):
        known = (np.isfinite(a) & np.isfinite(b)).all(-1)[LIMBS]
        if known.sum() < 8 or not np.isfinite(a[[11, 12]] + b[[11, 12]]).all():
            continue
        p, q = (torch.from_numpy(x[LIMBS][known].astype(np.float64)) for x in (a, b))
        aligned.append((align_similarity(p, q) - q).norm(dim=-1).mean())
        difference = (a - a[[11, 12]].mean(0)) - (b - b[[11, 12]].mean(0))
        rooted.append(np.linalg.norm(difference[LIMBS][known], axis=-1).mean())
    if not aligned:
        raise ExtPoseError("no frame has 8 limb joints and both hips on both sides")
    return 1000 * float(np.mean(aligned)), 1000 * float(np.mean(rooted))
