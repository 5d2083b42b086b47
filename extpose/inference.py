"""From clips and videos to body motion, with a trained network: the line without shards and Ray.

    motions = predict_video(path, network, detector=detector, config=config)

Axes    t frames   j joint rotations without the root   v vertices
Units   metres, radians, pixels, seconds; `_cam` is the full image's camera (OpenCV axes)
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from extpose.batch import Batch, network_inputs, to_device
from extpose.body_model import BodyModel
from extpose.config import PredictConfig, SkeletonConfig
from extpose.data.augment import FLIP_JOINTS, Masking, no_augmentation
from extpose.data.clip import ClipOrigin, cut_clips
from extpose.data.window import make_batch, plain_view
from extpose.detect.hand_tracks import HandTracking, track_hands
from extpose.detect.people import Detections, Track
from extpose.detect.plugs import BatchDetector, FindPeople, VideoDetector, start_video
from extpose.detect.plugs import Detector as Detector
from extpose.detect.track import TrackingResult, link_tracks
from extpose.detect.wrist_hands import HandFinder
from extpose.errors import VideoError
from extpose.geometry import project_to_rotations
from extpose.model.extpose import ExtPose
from extpose.motion import FramePrediction, Motion, join_motion, unmirror
from extpose.params import Prediction
from extpose.schema import Clip
from extpose.video import Frame, probe, read_frames

Modalities = Literal["both", "rgb", "skeleton"]


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
    window: int = 0
    """Frames of a window; 0: as many as the network takes. 1 is the image task."""
    stride: int = 0
    """Frames from one window to the next; 0: half a window."""
    flip_test: bool = False
    """Also predict the mirrored pictures, and average (bodies only)."""

    @property
    def num_frames(self) -> int:
        """Frames of a window. Raises ValueError for more than the network takes."""
        limit = self.model.config.max_frames
        if not 0 <= self.window <= limit:
            raise ValueError(f"window is {self.window} frames, the network's max_frames is {limit}")
        return self.window or limit


def sliding_windows(num_frames: int, size: int, stride: int = 0) -> list[tuple[int, int, int]]:
    """Windows of `size` frames: (start, first kept, one after the last kept).

    A window begins `stride` frames after the last one; 0: half a window. Every frame is kept once,
    from the window in which it lies most central. A clip that is shorter than a window is one
    window from 0 (its rest is padding).
    """
    if not 0 <= stride <= size:
        raise ValueError(f"stride is {stride}, allowed 1 to the window's {size} frames")
    if num_frames <= size:
        return [(0, 0, num_frames)]
    starts = [*range(0, num_frames - size, stride or max(size // 2, 1)), num_frames - size]
    cuts = [0, *((a + size + b) // 2 for a, b in itertools.pairwise(starts))]
    return list(zip(starts, cuts, [*cuts[1:], num_frames], strict=True))


def predict_clip(clip: Clip, network: Network) -> FramePrediction:
    """Slide the network's window over a clip.

    Raises ValueError for a window that the network cannot take, and for a flip test of hands: a
    mirrored right hand is a left one, which the network does not know.
    """
    if not network.flip_test:
        return _predict_view(clip, network, is_mirrored=False)
    if clip.meta.body != "smpl":
        raise ValueError(f"{clip.key}: a flip test of body {clip.meta.body!r}, only 'smpl' has one")
    mirrored = unmirror_body(_predict_view(clip, network, is_mirrored=True))
    return average(_predict_view(clip, network, is_mirrored=False), mirrored)


def _predict_view(clip: Clip, network: Network, *, is_mirrored: bool) -> FramePrediction:
    windows = sliding_windows(clip.num_frames, network.num_frames, network.stride)
    parts: list[FramePrediction] = []
    for first in range(0, len(windows), network.batch):
        group = windows[first : first + network.batch]
        batch = _window_batch(clip, [start for start, _, _ in group], network, is_mirrored)
        moved = to_device(batch, network.device)
        with torch.inference_mode():
            inputs = network_inputs(moved, network.model.config.skeleton_input)
            prediction = network.model(*inputs)
        for row, (start, keep, stop) in enumerate(group):
            parts.append(_keep(prediction, batch, row, slice(keep - start, stop - start)))
    names = FramePrediction.__dataclass_fields__
    return FramePrediction(**{n: torch.cat([getattr(p, n) for p in parts]) for n in names})


def unmirror_body(prediction: FramePrediction) -> FramePrediction:
    """The person whose mirror image the prediction is about: as `unmirror`, and left and right of
    the joints change places.
    """
    order = list(range(prediction.pose.shape[1]))
    for left, right in FLIP_JOINTS["smpl"]:
        order[left], order[right] = right, left
    turned = unmirror(prediction)
    return replace(turned, pose=turned.pose[:, order])


def average(a: FramePrediction, b: FramePrediction) -> FramePrediction:
    """The mean of two predictions for the same crop; of rotations the nearest rotation to it."""
    return FramePrediction(
        global_orient=project_to_rotations((a.global_orient + b.global_orient) / 2),
        pose=project_to_rotations((a.pose + b.pose) / 2),
        betas=(a.betas + b.betas) / 2,
        crop_cam=(a.crop_cam + b.crop_cam) / 2,
        crop_box_img=a.crop_box_img,
    )


def _window_batch(clip: Clip, starts: list[int], network: Network, is_mirrored: bool) -> Batch:
    """The windows of a clip that begin at `starts`, un-augmented; the last may be cut short."""
    num_frames = network.num_frames
    parts = [slice_clip(clip, s, min(s + num_frames, clip.num_frames)) for s in starts]
    masking = Masking(rgb=network.modalities == "skeleton", skeleton=network.modalities == "rgb")
    views = [plain_view(part, masking) for part in parts]
    if is_mirrored:
        views = [replace(v, augmentation=no_augmentation(is_flipped=True)) for v in views]
    return make_batch(
        parts,
        views,
        num_frames=num_frames,
        size=network.model.config.image_size,
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


def detect_tracks(
    video: Path, detector: Detector | VideoDetector, config: PredictConfig
) -> TrackingResult:
    """Every person of a video over time. Raises VideoError for a video that cannot be read."""
    info = probe(video)
    find = start_video(detector, video, first_frame=0, num_frames=info.num_frames)
    return link_tracks(_detect(find, read_frames(video)), config.detect, info.image_size)


def _detect(
    find: FindPeople | BatchDetector, frames: Iterator[Frame]
) -> Iterator[tuple[int, float, Detections]]:
    """Index, time and people of each frame, in batches where the detector takes them."""
    if not isinstance(find, BatchDetector):
        yield from ((frame.index, frame.timestamp, find(frame.rgb)) for frame in frames)
        return
    while group := list(itertools.islice(frames, find.batch_size)):
        found = find.detect_batch([frame.rgb for frame in group])
        for frame, people in zip(group, found, strict=True):
            yield frame.index, frame.timestamp, people


def detect_hands(
    video: Path, people: tuple[Track, ...], finder: HandFinder, config: PredictConfig
) -> HandTracking:
    """The hands of tracked people over time."""
    frames = ((frame.index, frame.rgb) for frame in read_frames(video))
    return track_hands(frames, people, finder, config.detect)


def predict_video(
    video: Path,
    network: Network,
    *,
    detector: Detector | VideoDetector,
    config: PredictConfig,
    hands: HandFinder | None = None,
) -> list[Motion]:
    """The motion of every tracked person, or of their hands where the network is one of hands.

    Memory does not grow with the video's pixels. Of a hand that comes and goes there is one motion,
    whose `frame` has gaps.

    Raises VideoError (`no_people`, `no_hands`) when nobody is found, or when the video cannot be
    read; ValueError for a network of hands without `hands`.
    """
    info = probe(video)
    body = network.model.config.body
    if body == "mano" and hands is None:
        raise ValueError("the network is one of hands: predict_video needs a HandFinder")
    tracks = detect_tracks(video, detector, config).tracks
    if not tracks:
        raise VideoError(video, "no_people", "no person was tracked long enough")
    if body == "mano" and hands is not None:
        found = detect_hands(video, tracks, hands, config)
        if not found.tracks:
            reasons = ", ".join(f"{name} {n}" for name, n in found.reasons.items())
            raise VideoError(video, "no_hands", f"frames of hands by reason: {reasons}")
        tracks = found.tracks
    origin = ClipOrigin(
        source="video",
        split="test",
        video_id="video",
        fps=info.fps,
        image_size=info.image_size,
        detector=getattr(detector, "name", "keypoints"),
        body=body,
        keypoint_set="coco17" if body == "smpl" else "hand21",
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
