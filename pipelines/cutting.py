"""Labelled records to clips: read the pictures, choose the 2D evidence, cut, crop and draw."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from extpose.config import DetectConfig, IngestConfig
from extpose.data.clip import ClipOrigin, make_clip
from extpose.detect.boxes import box_iou
from extpose.detect.people import Track
from extpose.detect.plugs import BoxDetector, build_detector, detector_name
from extpose.keypoints import COCO17_OF_BODY44
from extpose.schema import BodyName, Clip
from extpose.video import read_frames
from pipelines.records import (
    Filtered,
    FrameRef,
    Picture,
    Record,
    SourceError,
    empty_targets,
    slice_record,
)

HAND_DETECTOR = "mediapipe-hands"
DETECTED_BOXES = "+boxes"
"""Ends the name of the evidence where boxes are not the labelled ones."""
MIN_OVERLAP = 0.3
"""Intersection over union from which a detection is the labelled person."""
MAX_ID = 60
"""Characters of a record's name in a key, which has 80 in all."""


class ClipCutter:
    """Records of one data set to clips; opens a detector when one is asked for."""

    def __init__(self, config: IngestConfig, source_name: str) -> None:
        self.config, self.source_name = config, source_name
        self._detectors: dict[BodyName, BoxDetector] = {}

    def cut(self, record: Record) -> Iterator[Clip]:
        """A record as clips of at most `clip_frames`, of nearly equal length."""
        num_frames = len(record.frames)
        num_pieces = -(-num_frames // self.config.clip_frames)
        cuts = [num_frames * i // num_pieces for i in range(num_pieces + 1)]
        pieces = [slice_record(record, a, b) for a, b in pairwise(cuts)]
        origin = ClipOrigin(
            source=self.source_name,
            split=self.config.split,
            video_id=short_name(f"{self.source_name}-{record.name}"),
            fps=record.fps,
            image_size=record.image_size,
            detector=self._evidence_name(record),
            body=record.body,
            is_right=record.is_right,
            gender=record.gender,
            keypoint_set=record.keypoint_set,
        )
        return (self._make_clip(piece, origin) for piece in pieces)

    def _make_clip(self, record: Record, origin: ClipOrigin) -> Clip:
        pictures: Iterable[np.ndarray] = read_pictures(record.frames)
        track = record.track
        if "detector" in (self.config.evidence, self.config.boxes):
            pictures = list(pictures)
            found = self._detect(record, pictures)
            keypoints = found if self.config.evidence == "detector" else track
            track = replace(found, keypoints_2d=keypoints.keypoints_2d)
        if self.config.evidence == "truth":
            track = replace(track, keypoints_2d=truth_as_evidence(record))
        return make_clip(
            pictures,
            hide_undetected(track),
            origin=origin,
            crop=self.config.crop,
            skeleton=self.config.skeleton,
            intrinsics=record.intrinsics,
            targets=record.targets if record.is_labelled else None,
        )

    def _evidence_name(self, record: Record) -> str:
        names = {"truth": "truth", "source": record.evidence}
        detector = HAND_DETECTOR
        if record.body == "smpl":
            detector = detector_name(self.config.detector, self.config.detect)
        name = names.get(self.config.evidence, detector)
        return name + DETECTED_BOXES if self.config.boxes == "detector" else name

    def open_detector(self, body: BodyName) -> BoxDetector:
        """The detector of a body; opened once."""
        if body not in self._detectors:
            self._detectors[body] = open_detector(body, self.config)
        return self._detectors[body]

    def _detect(self, record: Record, pictures: list[np.ndarray]) -> Track:
        """Keypoints in the labelled boxes, or those and boxes of whom the detector finds there."""
        detector = self.open_detector(record.body)
        boxes = record.track.bbox_xyxy
        if self.config.boxes == "source":
            found = [
                detector.find_keypoints(*pair)[0]
                for pair in zip(pictures, boxes[:, None], strict=True)
            ]
            return replace(record.track, keypoints_2d=np.stack(found))
        keypoints, boxes = np.zeros_like(record.track.keypoints_2d), boxes.copy()
        for frame, rgb in enumerate(pictures):
            people = detector(rgb)
            overlap = box_iou(boxes[frame, None], people.bbox_xyxy)[0]
            if len(overlap) and overlap.max() >= MIN_OVERLAP:
                best = int(overlap.argmax())
                boxes[frame], keypoints[frame] = people.bbox_xyxy[best], people.keypoints_2d[best]
        return replace(record.track, bbox_xyxy=boxes, keypoints_2d=keypoints)


def find_people(
    picture: Picture, detector: BoxDetector, config: IngestConfig
) -> list[Record | Filtered]:
    """The people of a picture without labels, surest first; those not kept, with the reason.

    Raises SourceError for a picture that cannot be read.
    """
    frames = (FrameRef(path=picture.path),)
    [rgb] = read_pictures(frames)
    people = detector(rgb)
    found: list[Record | Filtered] = []
    for number, (box, points) in enumerate(zip(people.bbox_xyxy, people.keypoints_2d, strict=True)):
        name = f"{picture.name}-{number}"
        if reason := _why_not(box, points, rgb.shape[0], config.detect):
            found.append(Filtered(name=name, num_frames=1, reason=reason))
            continue
        track = Track(
            track_id=number,
            first_frame=0,
            bbox_xyxy=box[None],
            keypoints_2d=points[None],
            timestamps=np.zeros(1),
            is_detected=np.ones(1, bool),
        )
        found.append(
            Record(
                name=name,
                frames=frames,
                image_size=(rgb.shape[0], rgb.shape[1]),
                fps=1.0,
                track=track,
                targets=empty_targets("smpl", 1),
                intrinsics=None,
                body="smpl",
                evidence=detector_name(config.detector, config.detect),
                is_labelled=False,
            )
        )
    return found or [Filtered(name=picture.name, num_frames=1, reason="no_people")]


def _why_not(box: np.ndarray, points: np.ndarray, height: int, config: DetectConfig) -> str:
    """The filters of tracks that make sense for a single frame."""
    if box[3] - box[1] < config.min_box_height * height:
        return "too_small"
    return "low_confidence" if points[:, 2].mean() < config.min_mean_confidence else ""


def hide_undetected(track: Track) -> Track:
    """No evidence in frames in which the data set itself found nobody: protocols leave them out."""
    keypoints = track.keypoints_2d.copy()
    keypoints[~track.is_detected, :, 2] = 0
    return replace(track, keypoints_2d=keypoints)


def short_name(name: str) -> str:
    """In the characters of a key; a long one ends in a hash of what was cut."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")
    if len(plain) <= MAX_ID and plain == name:
        return plain
    return f"{plain[: MAX_ID - 11]}-{hashlib.sha256(name.encode()).hexdigest()[:10]}"


def read_pictures(frames: tuple[FrameRef, ...]) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """RGB pictures of images, or of increasing frames of videos.

    Raises SourceError naming the file that is missing or cannot be decoded.
    """
    at = 0
    while at < len(frames):
        path = frames[at].path
        if frames[at].span is not None:
            yield _read_span(frames[at])
            at += 1
            continue
        if frames[at].index is None:
            bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if bgr is None:
                what = "cannot be decoded" if path.exists() else "no such file"
                raise SourceError(f"{path}: {what}")
            yield cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
            at += 1
            continue
        stop = at
        while stop < len(frames) and frames[stop].path == path:
            stop += 1
        wanted = [int(frame.index or 0) for frame in frames[at:stop]]
        yield from _read_video(path, wanted)
        at = stop


def _read_span(frame: FrameRef) -> UInt8[np.ndarray, "h w 3"]:
    offset, size = frame.span or (0, 0)
    try:
        with frame.path.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
    except OSError as error:
        raise SourceError(f"{frame.path}: cannot be read ({error})") from error
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if bgr is None:
        raise SourceError(f"{frame.path}: the picture at byte {offset} cannot be decoded")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def _read_video(path: Path, wanted: list[int]) -> Iterator[np.ndarray]:
    if not path.is_file():
        raise SourceError(f"{path}: no such file")
    if any(b <= a for a, b in pairwise(wanted)):
        raise SourceError(f"{path}: frames {wanted[:5]}... are not increasing")
    due, following = iter(wanted), 0
    next_index = next(due)
    for frame in read_frames(path, wanted[0], wanted[-1] + 1):
        if frame.index == next_index:
            yield frame.rgb
            following += 1
            next_index = next(due, -1)
    if following < len(wanted):
        raise SourceError(f"{path}: frame {wanted[following]} is not there")


def truth_as_evidence(record: Record) -> Float32[np.ndarray, "t k 3"]:
    """The labelled 2D keypoints in place of a detector's (the paper's rows with a dagger)."""
    labels = record.targets.keypoints_2d
    return labels if record.body == "mano" else labels[:, list(COCO17_OF_BODY44)]


def open_detector(body: BodyName, config: IngestConfig) -> BoxDetector:
    """The detector of a body. Raises AssetError where its weights cannot be had."""
    if body == "smpl":
        detector = build_detector(config.detector, config.detect)
        if not isinstance(detector, BoxDetector):
            raise SourceError(
                f"detector {config.detector!r} cannot look into labelled boxes; give the labels' "
                "own keypoints with --evidence source"
            )
        return detector
    # Only here: it needs its weights and inference runtime.
    from extpose.detect.hands import HandDetector

    return HandDetector(config.detect)
