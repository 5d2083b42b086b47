"""What is seen of a synthetic person: a track of boxes and 2D keypoints.

From the truth, from the truth with a detector's errors (bodies: the fitted model of `noise.py`;
hands: the simple one of `keypoints.py`), or by a real detector on the pictures.

Axes    t frames   k keypoints   h w pixels; everything in pixels of the picture
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from extpose.config import SynthConfig
from extpose.detect.people import Detections, Track
from extpose.synth.keypoints import KeypointNoise, add_noise, find_visible
from extpose.synth.noise import FITTED, NAMES, draw_evidence, load_noise

Observer = Callable[[np.ndarray], Detections]
"""RGB picture to people."""

BOX_NOISE = 0.02
"""Deviation of a box's sides, fraction of its size, constant over a clip."""
MIN_BOX = 8.0
MIN_OVERLAP = 0.3
"""Intersection over union from which a detection is the person."""


def observe(
    frames: Sequence[UInt8[np.ndarray, "h w 3"]],
    depth_maps: Sequence[Float32[np.ndarray, "h w"]],
    *,
    boxes: Float[np.ndarray, "t 4"],
    keypoints_img: Float[np.ndarray, "t k 2"],
    keypoints_depth: Float[np.ndarray, "t k"],
    config: SynthConfig,
    observer: Observer | None,
    rng: np.random.Generator,
) -> Track:
    """The person's track as `config.keypoints` asks for; `boxes` are the true ones.

    Raises ValueError where an observer is needed and there is none.
    """
    is_detected = np.ones(len(frames), bool)
    if config.keypoints == "detector":
        if observer is None:
            raise ValueError("keypoints 'detector' needs an observer, there is none")
        boxes, keypoints, is_detected = match_people(
            frames, clip_boxes(boxes, config.image_size), observer, keypoints_img.shape[1]
        )
    elif config.keypoints == "noise":
        is_visible = _visible(keypoints_img, keypoints_depth, depth_maps)
        if keypoints_img.shape[1] == len(NAMES):
            boxes, keypoints, is_detected = _disturb_body(
                boxes, keypoints_img, keypoints_depth, is_visible, config=config, rng=rng
            )
        else:
            boxes, keypoints = _disturb_hand(
                boxes, keypoints_img, is_visible, config.image_size, rng=rng
            )
    else:
        boxes = clip_boxes(boxes, config.image_size)
        certain = np.ones((*keypoints_img.shape[:2], 1))
        keypoints = np.concatenate([keypoints_img, certain], -1).astype(np.float32)
    return Track(
        track_id=0,
        first_frame=0,
        bbox_xyxy=boxes.astype(np.float32),
        keypoints_2d=keypoints,
        timestamps=np.arange(len(frames)) / config.fps,
        is_detected=is_detected,
    )


def _disturb_body(
    boxes: Float[np.ndarray, "t 4"],
    keypoints_img: Float[np.ndarray, "t k 2"],
    keypoints_depth: Float[np.ndarray, "t k"],
    is_visible: Bool[np.ndarray, "t k"],
    *,
    config: SynthConfig,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "t 4"], Float[np.ndarray, "t k 3"], Bool[np.ndarray, " t"]]:
    """Boxes in the picture, keypoints with confidence, and whether a detector finds the person."""
    seen = draw_evidence(
        keypoints_img,
        keypoints_depth,
        is_visible,
        boxes=boxes,
        image_size=config.image_size,
        fps=config.fps,
        noise=load_noise(config.noise or FITTED),
        rng=rng,
    )
    found = clip_boxes(seen.boxes, config.image_size)
    true = clip_boxes(boxes, config.image_size)
    return np.where(seen.is_detected[:, None], found, true), seen.keypoints, seen.is_detected


def _disturb_hand(
    boxes: Float[np.ndarray, "t 4"],
    keypoints_img: Float[np.ndarray, "t k 2"],
    is_visible: Bool[np.ndarray, "t k"],
    image_size: tuple[int, int],
    *,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "t 4"], Float[np.ndarray, "t k 3"]]:
    """Boxes in the picture and keypoints with confidence."""
    size = (boxes[:, 2:] - boxes[:, :2]).max(-1)
    moved = clip_boxes(boxes, image_size) + rng.normal(0, BOX_NOISE, 4) * size[:, None]
    limit = np.array([image_size[1] - 0.5, image_size[0] - 0.5])
    is_inside = np.all((keypoints_img >= -0.5) & (keypoints_img < limit), axis=-1)
    keypoints = add_noise(
        keypoints_img,
        is_visible,
        np.asarray(is_inside),
        size=size,
        keypoint_set="hand21",
        noise=KeypointNoise(),
        rng=rng,
    )
    return clip_boxes(moved, image_size), keypoints


def _visible(
    keypoints: np.ndarray, depth: np.ndarray, depth_maps: Sequence[np.ndarray]
) -> np.ndarray:
    per_frame = zip(keypoints, depth, depth_maps, strict=True)
    return np.stack([find_visible(*frame) for frame in per_frame])


def clip_boxes(
    boxes: Float[np.ndarray, "t 4"], image_size: tuple[int, int]
) -> Float[np.ndarray, "t 4"]:
    """The part of each box that lies in the picture, never smaller than `MIN_BOX`."""
    limit = np.array([image_size[1] - 1, image_size[0] - 1], np.float64)
    low = np.clip(boxes[:, :2], 0, limit - MIN_BOX)
    high = np.maximum(np.clip(boxes[:, 2:], 0, limit), low + MIN_BOX)
    return np.concatenate([low, high], -1)


def match_people(
    frames: Sequence[np.ndarray], boxes: np.ndarray, observer: Observer, num_keypoints: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes and keypoints of the detection nearest to the true box; missed: the box remains."""
    boxes = boxes.copy()
    keypoints = np.zeros((len(frames), num_keypoints, 3), np.float32)
    is_detected = np.zeros(len(frames), bool)
    for frame, rgb in enumerate(frames):
        found = observer(rgb)
        overlap = _overlap(found.bbox_xyxy, boxes[frame])
        if found.keypoints_2d.shape[1] != num_keypoints:
            raise ValueError(
                f"the observer finds {found.keypoints_2d.shape[1]} keypoints, asked {num_keypoints}"
            )
        if len(overlap) and overlap.max() >= MIN_OVERLAP:
            best = int(overlap.argmax())
            boxes[frame], keypoints[frame] = found.bbox_xyxy[best], found.keypoints_2d[best]
            is_detected[frame] = True
    return boxes, keypoints, is_detected


def _overlap(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Intersection over union of each box with one."""
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    common = np.prod(np.maximum(sides, 0), -1)
    return common / (np.prod(boxes[:, 2:] - boxes[:, :2], -1) + np.prod(box[2:] - box[:2]) - common)
