"""From clips and videos to body motion, with a trained network: the line without shards and Ray.

    motions = predict_video(path, network, detector=detector, config=config)

Axes    t frames   j joint rotations without the root   v vertices
Units   metres, radians, pixels, seconds; `_cam` is the full image's camera (OpenCV axes)
"""

import itertools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt8

from extpose.batch import Batch, Prediction, network_inputs, to_device
from extpose.body_model import BodyModel, BodyOutput
from extpose.config import PredictConfig, SkeletonConfig
from extpose.data.augment import Masking
from extpose.data.clip import ClipOrigin, cut_clips
from extpose.data.window import make_batch, plain_view
from extpose.detect.people import Detections
from extpose.detect.track import TrackingResult, link_tracks
from extpose.errors import VideoError
from extpose.geometry import crop_cam_to_full, default_focal_length
from extpose.model.extpose import ExtPose
from extpose.rotations import (
    axis_angle_to_matrix,
    matrix_to_axis_angle,
    mirror_points,
    mirror_rotations,
)
from extpose.schema import Clip
from extpose.video import probe, read_frames

Modalities = Literal["both", "rgb", "skeleton"]


@runtime_checkable
class Detector(Protocol):
    """Finds the people of a frame; `PersonDetector` is one."""

    name: str

    def __call__(self, rgb: UInt8[np.ndarray, "h w 3"]) -> Detections:
        """All people of an RGB frame."""
        ...


@dataclass(frozen=True, kw_only=True)
class Network:
    """A trained network and the body it poses, on one device."""

    model: ExtPose
    body: BodyModel
    device: str = "cpu"
    modalities: Modalities = "both"
    """What the network gets to see; the other modality is masked as in training."""
    batch: int = 4
    """Windows of one forward pass."""
    skeleton: SkeletonConfig = field(default_factory=SkeletonConfig)
    """How skeletons are drawn: as in training."""


@dataclass(frozen=True, kw_only=True)
class Motion:
    """One person over t consecutive frames, in the camera of the full image.

    `vertices_cam = body(global_orient, pose, betas) + transl` projects with `focal_length` and the
    principal point at the image's centre. A left hand's rotations are those of a left hand: of the
    mirror image of the right-hand model, which is what `posed` gives.
    """

    track_id: int
    is_right: bool | None
    """Hands only."""
    frame: Int64[np.ndarray, " t"]
    """Index in the video."""
    timestamps: Float64[np.ndarray, " t"]
    global_orient: Float32[np.ndarray, "t 3"]
    pose: Float32[np.ndarray, "t j 3"]
    betas: Float32[np.ndarray, " 10"]
    """One shape: the mean over the frames."""
    transl: Float32[np.ndarray, "t 3"]
    focal_length: float
    image_size: tuple[int, int]
    """Height, width."""
    bbox_xyxy: Float32[np.ndarray, "t 4"]
    keypoints_2d: Float32[np.ndarray, "t k 3"]
    """What the detector saw: x y in source pixels, confidence."""
    is_detected: Bool[np.ndarray, " t"]

    @property
    def intrinsics(self) -> Float32[np.ndarray, "3 3"]:
        """Camera matrix of the full image."""
        height, width = self.image_size
        f = self.focal_length
        return np.array([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1]], np.float32)

    def posed(self, body: BodyModel, start: int = 0, stop: int | None = None) -> BodyOutput:
        """Mesh, joints and keypoints of the frames [start, stop) in the camera frame, metres.

        `body` is the right-hand model for left hands too. Their triangles are those of `faces`.
        """
        part = slice(start, stop)
        orient, pose, transl = (
            torch.from_numpy(a[part]) for a in (self.global_orient, self.pose, self.transl)
        )
        betas = torch.from_numpy(self.betas).expand(len(orient), 10)
        rotations = [axis_angle_to_matrix(orient), axis_angle_to_matrix(pose)]
        with torch.inference_mode():
            if self.is_right is not False:
                return body(*rotations, betas, transl)
            mirrored = body(*map(mirror_rotations, rotations), betas, mirror_points(transl))
            return BodyOutput(
                vertices=mirror_points(mirrored.vertices),
                joints=mirror_points(mirrored.joints),
                keypoints=mirror_points(mirrored.keypoints),
            )

    def faces(self, body: BodyModel) -> Int64[np.ndarray, "f 3"]:
        """Triangles of the meshes of `posed`; a mirrored mesh's run the other way around."""
        faces = body.faces.cpu().numpy()
        return np.ascontiguousarray(faces[:, ::-1]) if self.is_right is False else faces


def sliding_windows(num_frames: int, size: int) -> list[tuple[int, int, int]]:
    """Windows of `size` frames, half overlapping: (start, first kept, one after the last kept).

    Every frame is kept once, from the window in which it lies most central. A clip that is shorter
    than a window is one window from 0 (its rest is padding).
    """
    if num_frames <= size:
        return [(0, 0, num_frames)]
    starts = [*range(0, num_frames - size, max(size // 2, 1)), num_frames - size]
    cuts = [0, *((a + size + b) // 2 for a, b in itertools.pairwise(starts))]
    return list(zip(starts, cuts, [*cuts[1:], num_frames], strict=True))


@dataclass(frozen=True, kw_only=True)
class FramePrediction:
    """What the network says of the t frames of a clip. Rotations are matrices.

    Of a left hand it is about what the network is shown: the mirror image, a right hand. Metrics
    compare there, with mirrored labels; `unmirror` turns it back.
    """

    global_orient: Float[torch.Tensor, "t 3 3"]
    pose: Float[torch.Tensor, "t j 3 3"]
    betas: Float[torch.Tensor, "t 10"]
    """Of the window that the frame was taken from."""
    crop_cam: Float[torch.Tensor, "t 3"]
    crop_box_img: Float[torch.Tensor, "t 3"]


def predict_clip(clip: Clip, network: Network) -> FramePrediction:
    """Slide the network's window over a clip."""
    windows = sliding_windows(clip.num_frames, network.model.config.max_frames)
    parts: list[FramePrediction] = []
    for first in range(0, len(windows), network.batch):
        group = windows[first : first + network.batch]
        batch = _window_batch(clip, [start for start, _, _ in group], network)
        moved = to_device(batch, network.device)
        with torch.inference_mode():
            inputs = network_inputs(moved, network.model.config.skeleton_input)
            prediction = network.model(*inputs)
        for row, (start, keep, stop) in enumerate(group):
            parts.append(_keep(prediction, batch, row, slice(keep - start, stop - start)))
    names = FramePrediction.__dataclass_fields__
    return FramePrediction(**{n: torch.cat([getattr(p, n) for p in parts]) for n in names})


def unmirror(prediction: FramePrediction) -> FramePrediction:
    """The left hand whose mirror image the prediction is about, in its own un-mirrored crop.

    Mirroring the crop about its middle is mirroring the camera's x: rotations are conjugated, the
    camera's tx changes its sign; scale, box and shape stay.
    """
    return replace(
        prediction,
        global_orient=mirror_rotations(prediction.global_orient),
        pose=mirror_rotations(prediction.pose),
        crop_cam=prediction.crop_cam * torch.tensor([1.0, -1.0, 1.0]),
    )


def _window_batch(clip: Clip, starts: list[int], network: Network) -> Batch:
    """The windows of a clip that begin at `starts`, un-augmented; the last may be cut short."""
    config = network.model.config
    parts = [slice_clip(clip, s, min(s + config.max_frames, clip.num_frames)) for s in starts]
    masking = Masking(rgb=network.modalities == "skeleton", skeleton=network.modalities == "rgb")
    return make_batch(
        parts,
        [plain_view(part, masking) for part in parts],
        num_frames=config.max_frames,
        size=config.image_size,
        skeleton=network.skeleton,
    )


def slice_clip(clip: Clip, start: int, stop: int) -> Clip:
    """The frames [start, stop) of a clip, without its targets."""
    part = slice(start, stop)
    names = ("rgb", "skeleton", "bbox_xyxy", "crop_to_img", "keypoints_2d", "timestamps")
    arrays = {name: getattr(clip, name)[part] for name in (*names, "is_detected")}
    intrinsics = None if clip.intrinsics is None else clip.intrinsics[part]
    return replace(clip, **arrays, intrinsics=intrinsics, targets=None)


def _keep(prediction: Prediction, batch: Batch, row: int, part: slice) -> FramePrediction:
    orient = prediction.params.global_orient[row, part].float().cpu()
    return FramePrediction(
        global_orient=orient,
        pose=prediction.params.pose[row, part].float().cpu(),
        betas=prediction.params.betas[row].float().cpu().expand(len(orient), 10),
        crop_cam=prediction.crop_cam[row, part].float().cpu(),
        crop_box_img=batch.crop_box_img[row, part].cpu(),
    )


def detect_tracks(video: Path, detector: Detector, config: PredictConfig) -> TrackingResult:
    """Every person of a video over time. Raises VideoError for a video that cannot be read."""
    info = probe(video)
    detections = (
        (frame.index, frame.timestamp, detector(frame.rgb)) for frame in read_frames(video)
    )
    return link_tracks(detections, config.detect, info.image_size)


def predict_video(
    video: Path, network: Network, *, detector: Detector, config: PredictConfig
) -> list[Motion]:
    """The motion of every tracked person. Memory does not grow with the video's pixels.

    Raises VideoError (`no_people`) when nobody is found, or when the video cannot be read.
    """
    info = probe(video)
    tracks = detect_tracks(video, detector, config).tracks
    if not tracks:
        raise VideoError(video, "no_people", "no person was tracked long enough")
    origin = ClipOrigin(
        source="video",
        split="test",
        video_id="video",
        fps=info.fps,
        image_size=info.image_size,
        detector=detector.name,
    )
    parts: dict[int, list[tuple[Clip, FramePrediction]]] = {}
    frames = ((frame.index, frame.rgb) for frame in read_frames(video))
    for clip in cut_clips(
        frames, tracks, origin=origin, crop=config.crop, skeleton=config.skeleton
    ):
        prediction = predict_clip(clip, network)
        # The pictures are no longer needed: keeping them would make memory grow with the video.
        parts.setdefault(clip.meta.track_id, []).append((_without_pictures(clip), prediction))
    return [join_motion(pieces, config.focal_length) for _, pieces in sorted(parts.items())]


def _without_pictures(clip: Clip) -> Clip:
    empty = (b"",) * clip.num_frames
    return replace(clip, rgb=empty, skeleton=empty)


def join_motion(parts: list[tuple[Clip, FramePrediction]], focal_length: float) -> Motion:
    """One person's (or hand's) clips, in order, to one motion in the full image's camera.

    Predictions are `predict_clip`'s; those of a left hand are turned back.
    `focal_length` in pixels; 0 stands for HMR2.0's assumption.
    """
    clips, is_right = [clip for clip, _ in parts], parts[0][0].meta.is_right
    predictions = [unmirror(p) if is_right is False else p for _, p in parts]
    image_size = torch.tensor(clips[0].meta.image_size, dtype=torch.float32)
    focal = focal_length or float(default_focal_length(image_size))
    joined = {
        name: torch.cat([getattr(prediction, name) for prediction in predictions])
        for name in FramePrediction.__dataclass_fields__
    }
    transl = crop_cam_to_full(
        joined["crop_cam"],
        joined["crop_box_img"],
        image_size.expand(len(joined["crop_cam"]), 2),
        focal,
    )
    return Motion(
        track_id=clips[0].meta.track_id,
        is_right=is_right,
        frame=np.concatenate([c.meta.first_frame + np.arange(c.num_frames) for c in clips]),
        timestamps=np.concatenate([c.timestamps for c in clips]),
        global_orient=matrix_to_axis_angle(joined["global_orient"]).numpy(),
        pose=matrix_to_axis_angle(joined["pose"]).numpy(),
        betas=joined["betas"].mean(0).numpy(),
        transl=transl.numpy(),
        focal_length=focal,
        image_size=clips[0].meta.image_size,
        bbox_xyxy=np.concatenate([c.bbox_xyxy for c in clips]),
        keypoints_2d=np.concatenate([c.keypoints_2d for c in clips]),
        is_detected=np.concatenate([c.is_detected for c in clips]),
    )


def save_motion(path: Path, motion: Motion) -> None:
    """Write one person's motion as `.npz` (no pickle); `docs/output.md` lists the arrays."""
    arrays = {name: getattr(motion, name) for name in Motion.__dataclass_fields__}
    if motion.is_right is None:
        del arrays["is_right"]
    np.savez(path, **arrays, intrinsics=motion.intrinsics)
