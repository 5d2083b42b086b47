"""`extpose predict`: videos to body parameters, mesh overlay and a page to look at.

    extpose predict walk.mp4 --checkpoint runs/tiny/model.safetensors --out runs/walk

Below `out`, a folder a video: `person_000.npz`, ... (docs/output.md), `overlay.mp4`, and at the top
`report.html`. With a checkpoint of hands: `person_000_left.npz`, `person_000_right.npz`, ...
"""

import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from tqdm import tqdm

from extpose.body_model import find_evidence, load_body_model
from extpose.config import PredictConfig
from extpose.data.clip import make_video_id
from extpose.detect.plugs import Detector, VideoDetector, build_detector
from extpose.detect.wrist_hands import HandFinder, open_hand_finder
from extpose.errors import ExtPoseError
from extpose.evaluation.temporal import jitter
from extpose.inference import Network, predict_video
from extpose.model.kernels import describe_backend
from extpose.model.weights import load_model, packaged_checkpoint
from extpose.motion import Motion, save_motion
from extpose.report import Report
from extpose.video import VideoWriter, probe, read_frames
from extpose.visualize import overlay_mesh, track_color

log = logging.getLogger(__name__)
OVERLAY_WIDTH = 960
"""Overlays are not drawn wider than this."""
NUM_PICTURES = 3
POSE_FRAMES = 64
"""Frames that are posed at once."""
SURE = 0.5
"""Confidence of the 2D keypoints that the report compares with."""
REPORT_COLUMNS = (
    "person",
    "frames",
    "bridged",
    "2D confidence",
    "median distance to the detected keypoints, of the box's height",
    "jitter, 10 m/s^3",
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one video."""

    video: Path
    folder: Path
    motions: list[Motion]
    seconds: float
    error: str = ""


def predict(videos: Sequence[Path], config: PredictConfig) -> int:
    """Predict each video; 0 when all were done, 1 when none was, 3 when some failed."""
    checkpoint = config.checkpoint or packaged_checkpoint(config.body, config.body_model)
    config = replace(config, checkpoint=checkpoint)
    model = load_model(checkpoint).to(config.device).eval()
    shape = model.config
    backend = describe_backend(config.device, torch.float32, shape.width // shape.num_heads)
    log.info("attention: %s", backend)
    network = Network(
        model=model,
        body=load_body_model(config.body_model, model.config.body),
        device=config.device,
        modalities=config.modalities,
        batch=config.batch,
        skeleton=config.skeleton,
    )
    detector = build_detector(config.detector, config.detect)
    hands = open_hand_finder(config.detect, detector) if shape.body == "mano" else None
    config.out.mkdir(parents=True, exist_ok=True)
    outcomes = [
        _predict_one(
            video, config.out / name, network, detector=detector, hands=hands, config=config
        )
        for video, name in zip(videos, folder_names(videos), strict=True)
    ]
    page = write_report(outcomes, network, config)
    log.info("report: %s", page)
    failed = sum(bool(outcome.error) for outcome in outcomes)
    return 0 if not failed else (1 if failed == len(outcomes) else 3)


def folder_names(videos: Sequence[Path]) -> list[str]:
    """The video's name in plain characters; videos of one name are numbered: `a`, `a-2`."""
    names: list[str] = []
    for video in videos:
        stem = make_video_id(video.stem, "").strip("-")
        numbered = (f"{stem}-{i}" for i in itertools.count(2))
        names.append(next(name for name in itertools.chain([stem], numbered) if name not in names))
    return names


def _predict_one(
    video: Path,
    folder: Path,
    network: Network,
    *,
    detector: Detector | VideoDetector,
    hands: HandFinder | None,
    config: PredictConfig,
) -> Outcome:
    start = time.monotonic()
    try:
        motions = predict_video(video, network, detector=detector, hands=hands, config=config)
        _clear(folder)
        for motion in motions:
            save_motion(folder / f"{file_stem(motion)}.npz", motion)
        if config.overlay:
            write_overlay(video, motions, network, folder)
    except ExtPoseError as error:
        log.error("%s", error)
        return Outcome(
            video=video,
            folder=folder,
            motions=[],
            seconds=time.monotonic() - start,
            error=str(error),
        )
    seconds = time.monotonic() - start
    log.info("%s: %d %s in %.1f s, %s", video, len(motions), _kind(network), seconds, folder)
    return Outcome(video=video, folder=folder, motions=motions, seconds=seconds)


def file_stem(motion: Motion) -> str:
    """`person_003`, of hands `person_003_left`."""
    if motion.is_right is None:
        return f"person_{motion.track_id:03d}"
    return f"person_{motion.track_id // 2:03d}_{'right' if motion.is_right else 'left'}"


def _kind(network: Network) -> str:
    return "people" if network.model.config.body == "smpl" else "hands"


def _clear(folder: Path) -> None:
    """An empty place for one video: what an earlier run wrote must not look like this one's."""
    folder.mkdir(exist_ok=True)
    for pattern in ("person_*.npz", "overlay.mp4", "frame_*.jpg"):
        for path in folder.glob(pattern):
            path.unlink()


def write_overlay(video: Path, motions: list[Motion], network: Network, folder: Path) -> None:
    """`overlay.mp4` with every mesh on the pixels, and a few of its frames as pictures."""
    info = probe(video)
    scale = min(1.0, OVERLAY_WIDTH / info.image_size[1])
    size = tuple(round(side * scale) for side in info.image_size)
    busiest = max(motions, key=lambda motion: len(motion.frame))
    shown = {int(busiest.frame[i]) for i in _spread(len(busiest.frame), NUM_PICTURES)}
    with VideoWriter(folder / "overlay.mp4", info.fps, (size[0], size[1])) as writer:
        for frame in tqdm(read_frames(video), desc="overlay", unit="frame", leave=False):
            small = cv2.resize(frame.rgb, size[::-1], interpolation=cv2.INTER_AREA)
            drawn = draw_people(small, frame.index, motions, network, scale)
            writer.write(drawn)
            if frame.index in shown:
                path = folder / f"frame_{frame.index:06d}.jpg"
                cv2.imwrite(str(path), cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))


def _spread(count: int, number: int) -> list[int]:
    return [int(i) for i in np.linspace(0, count - 1, number + 2)[1:-1]]


def draw_people(
    rgb: UInt8[np.ndarray, "h w 3"],
    index: int,
    motions: list[Motion],
    network: Network,
    scale: float,
) -> UInt8[np.ndarray, "h w 3"]:
    """One frame with the meshes and 2D keypoints of the people who are in it."""
    meshes, faces, ids = [], [], []
    for motion in motions:
        i = int(np.searchsorted(motion.frame, index))
        if i < len(motion.frame) and motion.frame[i] == index:
            meshes.append(motion.posed(network.body, i, i + 1).vertices[0].numpy())
            faces.append(motion.faces(network.body))
            ids.append(motion.track_id)
    if not meshes:
        return rgb
    K = motions[0].intrinsics.astype(np.float64)
    K[:2] *= scale
    colors = [track_color(i) for i in ids]
    return overlay_mesh(rgb, meshes, faces, K=K, colors=colors)


def _row(motion: Motion, network: Network) -> tuple[str, ...]:
    """One person's line of the report."""
    fps = 1 / float(np.median(np.diff(motion.timestamps))) if len(motion.frame) > 1 else 0.0
    joints, points = [], []
    for start in range(0, len(motion.frame), POSE_FRAMES):
        posed = motion.posed(network.body, start, start + POSE_FRAMES)
        joints.append(posed.joints - posed.joints[:, :1])
        projected = find_evidence(posed, network.body).numpy() @ motion.intrinsics.T
        points.append(projected[..., :2] / projected[..., 2:])
    seen = motion.keypoints_2d[..., 2] > SURE
    errors = np.linalg.norm(np.concatenate(points) - motion.keypoints_2d[..., :2], axis=-1)[seen]
    height = np.median(motion.bbox_xyxy[:, 3] - motion.bbox_xyxy[:, 1])
    shaking = (jitter(torch.cat(joints)) * fps**3 / 10).nanmean()
    return (
        file_stem(motion).removeprefix("person_"),
        f"{len(motion.frame)}",
        f"{int((~motion.is_detected).sum())}",
        f"{motion.keypoints_2d[..., 2].mean():.2f}",
        f"{np.median(errors) / height:.1%}" if len(errors) else "-",
        f"{shaking:.2f}",
    )


def write_report(outcomes: list[Outcome], network: Network, config: PredictConfig) -> Path:
    """`report.html` of all videos."""
    report = Report("ExtPose: prediction", config.out)
    report.text(f"Checkpoint {config.checkpoint}, modalities: {config.modalities}.")
    for outcome in outcomes:
        report.heading(outcome.video.name)
        if outcome.error:
            report.text(f"Failed: {outcome.error}")
            continue
        count = f"{len(outcome.motions)} {_kind(network)}"
        report.text(f"{count} in {outcome.seconds:.1f} s.")
        report.table(
            REPORT_COLUMNS,
            [_row(motion, network) for motion in outcome.motions],
        )
        if (outcome.folder / "overlay.mp4").exists():
            report.video(outcome.folder / "overlay.mp4", "The predicted meshes on the video")
        for picture in sorted(outcome.folder.glob("frame_*.jpg")):
            report.picture(picture, picture.stem)
    return report.write()
