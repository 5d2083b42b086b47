"""From frames and a track to a `Clip`: crop, draw, encode.

The one place where pictures of a clip are made: preprocessing, synthesis and prediction call it,
so the three cannot drift.

Axes     t frames   k keypoints   h w pixels
Units    source pixels, seconds
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from extpose.config import CropConfig, SkeletonConfig
from extpose.data.crop import (
    box_to_affine,
    crop_image,
    invert_affine,
    keypoints_to_crop,
    network_box,
    stored_box,
    stored_size,
)
from extpose.data.skeleton import draw_skeleton
from extpose.detect.people import HandTrack, Track
from extpose.keypoints import KeypointSet
from extpose.schema import (
    MAX_CLIP_FRAMES,
    SCHEMA_VERSION,
    BodyName,
    Clip,
    ClipMeta,
    ClipTargets,
    Gender,
    Split,
)

PNG_COMPRESSION = 3
MAX_STEM = 40
"""Characters of a video's name that its id keeps (tar headers have room for 100 in a member)."""


class MissingFramesError(ValueError):
    """The pictures ended before the track."""


class FrameSizeError(ValueError):
    """A picture of another size than the video's."""


@dataclass(frozen=True, kw_only=True)
class ClipOrigin:
    """What all clips of one video share; the fields are those of `ClipMeta`."""

    source: str
    split: Split
    video_id: str
    fps: float
    image_size: tuple[int, int]
    """Height, width."""
    detector: str
    body: BodyName = "smpl"
    is_right: bool | None = None
    gender: Gender = "neutral"
    keypoint_set: KeypointSet = "coco17"


def make_video_id(stem: str, content_sha256: str) -> str:
    """Readable and unique: the file's name in the characters of a key, and ten digits of its hash.

    Equal files under one name have one id, different files of one name do not.
    """
    name = re.sub(r"[^A-Za-z0-9-]+", "-", stem).strip("-")[:MAX_STEM] or "video"
    return f"{name}-{content_sha256[:10]}"


def make_key(video_id: str, track: Track) -> str:
    """`<video>_<track>_<first frame>`: unique where frame ranges of one track id do not overlap."""
    return f"{video_id}_{track.track_id}_{track.first_frame:06d}"


def slice_track(track: Track, start: int, stop: int) -> Track:
    """The frames [start, stop) of a track, counted from its own first frame."""
    if not 0 <= start < stop <= track.num_frames:
        raise ValueError(f"frames {start} to {stop} of a track of {track.num_frames}")
    return replace(
        track,
        first_frame=track.first_frame + start,
        bbox_xyxy=track.bbox_xyxy[start:stop],
        keypoints_2d=track.keypoints_2d[start:stop],
        timestamps=track.timestamps[start:stop],
        is_detected=track.is_detected[start:stop],
    )


def split_track(track: Track, max_frames: int = MAX_CLIP_FRAMES) -> list[Track]:
    """Cut a track into the fewest pieces of at most `max_frames`, of nearly equal length."""
    if not 1 <= max_frames <= MAX_CLIP_FRAMES:
        raise ValueError(f"max_frames is {max_frames}, allowed 1 to {MAX_CLIP_FRAMES}")
    num_pieces = -(-track.num_frames // max_frames)
    cuts = [track.num_frames * i // num_pieces for i in range(num_pieces + 1)]
    return [slice_track(track, a, b) for a, b in pairwise(cuts)]


class ClipBuilder:
    """A clip that is given its frames one by one, so that one decoder can feed many clips."""

    def __init__(
        self,
        track: Track,
        *,
        origin: ClipOrigin,
        crop: CropConfig,
        skeleton: SkeletonConfig,
        intrinsics: Float32[np.ndarray, "t 3 3"] | None = None,
        targets: ClipTargets | None = None,
    ) -> None:
        self.track, self.origin, self.crop, self.skeleton = track, origin, crop, skeleton
        self.intrinsics, self.targets = intrinsics, targets
        self.crop_size = stored_size(crop)
        boxes = stored_box(network_box(track.bbox_xyxy, crop), crop)
        affines = [invert_affine(box_to_affine(box, self.crop_size)) for box in boxes]
        self.crop_to_img = np.array(affines, np.float32)
        self._rgb: list[bytes] = []
        self._skeleton: list[bytes] = []

    @property
    def is_complete(self) -> bool:
        """Whether every frame of the track was added."""
        return len(self._rgb) == self.track.num_frames

    def add(self, rgb: UInt8[np.ndarray, "h w 3"]) -> None:
        """Take the next frame. Raises ValueError for one too many or one of another size."""
        frame = len(self._rgb)
        if self.is_complete:
            raise ValueError(f"track {self.track.track_id} has {frame} frames, one more was given")
        if rgb.shape[:2] != self.origin.image_size:
            raise FrameSizeError(
                f"frame {self.track.first_frame + frame}: size {rgb.shape[:2]}, "
                f"expected {self.origin.image_size}"
            )
        img_to_crop = invert_affine(self.crop_to_img[frame])
        self._rgb.append(
            encode_jpeg(crop_image(rgb, img_to_crop, self.crop_size), self.crop.jpeg_quality)
        )
        self._skeleton.append(encode_png(self._draw(frame)))

    def _draw(self, frame: int) -> UInt8[np.ndarray, "size size 3"]:
        return redraw_skeleton(
            self.track.keypoints_2d[frame],
            self.crop_to_img[frame],
            keypoint_set=self.origin.keypoint_set,
            crop_size=self.crop_size,
            skeleton_size=self.crop.size,
            config=self.skeleton,
        )

    def finish(self) -> Clip:
        """The clip. Raises ValueError when frames are missing."""
        track, origin = self.track, self.origin
        if not self.is_complete:
            raise MissingFramesError(
                f"track {track.track_id}: {len(self._rgb)} frames given, {track.num_frames} needed"
            )
        return Clip(
            key=make_key(origin.video_id, track),
            meta=ClipMeta(
                schema_version=SCHEMA_VERSION,
                track_id=track.track_id,
                first_frame=track.first_frame,
                crop_size=self.crop_size,
                skeleton_size=self.crop.size,
                **vars(origin),
            ),
            rgb=tuple(self._rgb),
            skeleton=tuple(self._skeleton),
            bbox_xyxy=track.bbox_xyxy,
            crop_to_img=self.crop_to_img,
            keypoints_2d=track.keypoints_2d,
            timestamps=track.timestamps,
            is_detected=track.is_detected,
            intrinsics=self.intrinsics,
            targets=self.targets,
        )


def make_clip(
    frames: Iterable[UInt8[np.ndarray, "h w 3"]],
    track: Track,
    *,
    origin: ClipOrigin,
    crop: CropConfig,
    skeleton: SkeletonConfig,
    intrinsics: Float32[np.ndarray, "t 3 3"] | None = None,
    targets: ClipTargets | None = None,
) -> Clip:
    """Crop, draw and encode the frames of a track; `frames` may be a generator.

    Raises ValueError when the frames are not as many as the track has, or of another size.
    """
    builder = ClipBuilder(
        track,
        origin=origin,
        crop=crop,
        skeleton=skeleton,
        intrinsics=intrinsics,
        targets=targets,
    )
    for rgb in frames:
        builder.add(rgb)
    return builder.finish()


def cut_clips(
    frames: Iterable[tuple[int, UInt8[np.ndarray, "h w 3"]]],
    tracks: Iterable[Track],
    *,
    origin: ClipOrigin,
    crop: CropConfig,
    skeleton: SkeletonConfig,
    max_frames: int = MAX_CLIP_FRAMES,
) -> Iterator[Clip]:
    """All tracks cut out of one pass over (index, RGB) frames; a clip comes when it is complete.

    The side of a hand is that of its `HandTrack`, whatever `origin` says.
    Not more than one unfinished clip a person is in memory. Reading stops after the last clip's
    last frame. Raises MissingFramesError when the frames end before, FrameSizeError for one of
    another size, and ValueError for a track whose boxes or keypoints cannot be cut out.
    """
    waiting = [piece for track in tracks for piece in split_track(track, max_frames)]
    waiting.sort(key=lambda piece: (piece.first_frame, piece.track_id))
    active: list[ClipBuilder] = []
    for index, rgb in frames:
        while waiting and waiting[0].first_frame == index:
            piece = waiting.pop(0)
            own = origin
            if isinstance(piece, HandTrack):
                own = replace(origin, is_right=piece.is_right)
            active.append(ClipBuilder(piece, origin=own, crop=crop, skeleton=skeleton))
        for builder in active:
            builder.add(rgb)
        yield from (builder.finish() for builder in active if builder.is_complete)
        active = [builder for builder in active if not builder.is_complete]
        if not waiting and not active:
            return
    if waiting or active:
        message = f"{len(waiting) + len(active)} clips miss frames: the frames ended before"
        raise MissingFramesError(message)


def redraw_skeleton(
    keypoints_img: Float32[np.ndarray, "k 3"],
    crop_to_img: Float32[np.ndarray, "2 3"],
    *,
    keypoint_set: KeypointSet,
    crop_size: int,
    skeleton_size: int,
    config: SkeletonConfig,
) -> UInt8[np.ndarray, "size size 3"]:
    """The un-augmented drawing of one frame, from the numbers that a shard stores."""
    keypoints_crop = keypoints_to_crop(
        keypoints_img, crop_to_img, crop_size=crop_size, skeleton_size=skeleton_size
    )
    return draw_skeleton(keypoints_crop, keypoint_set, skeleton_size, config)


def encode_jpeg(rgb: UInt8[np.ndarray, "h w 3"], quality: int) -> bytes:
    """RGB to JPEG."""
    return _encode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, quality])


def encode_png(rgb: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """RGB to PNG, lossless."""
    # Without a filter: drawings are flat, and the search for the best one takes most of the time.
    options = [cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION]
    return _encode(".png", rgb, [*options, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE])


def _encode(suffix: str, rgb: np.ndarray, options: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise ValueError(f"cannot encode an image of shape {rgb.shape} as {suffix}")
    return data.tobytes()


def decode_image(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """JPEG or PNG to RGB. Raises ValueError for anything else."""
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if bgr is None:
        raise ValueError(f"{len(data)} bytes that are no JPEG or PNG image")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
