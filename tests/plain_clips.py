"""Labelled clips with simple numbers: the stored crop is 240 source pixels about (320, 240)."""

import cv2
import numpy as np

from extpose.keypoints import NUM_KEYPOINTS
from extpose.schema import (
    NUM_ROTATIONS,
    SCHEMA_VERSION,
    TARGET_SET,
    BodyName,
    Clip,
    ClipMeta,
    ClipTargets,
)


def _encode(image: np.ndarray, suffix: str) -> bytes:
    done, buffer = cv2.imencode(suffix, image)
    assert done
    return buffer.tobytes()


def _targets(rng: np.random.Generator, num_frames: int, body: BodyName) -> ClipTargets:
    num_keypoints = NUM_KEYPOINTS[TARGET_SET[body]]

    def normal(*shape: int, scale: float) -> np.ndarray:
        return rng.normal(0, scale, shape).astype(np.float32)

    keypoints_3d = np.ones((num_frames, num_keypoints, 4), np.float32)
    keypoints_3d[..., :3] = normal(num_frames, num_keypoints, 3, scale=0.4)
    keypoints_2d = np.ones((num_frames, num_keypoints, 3), np.float32)
    keypoints_2d[..., :2] = rng.uniform((220, 140), (420, 340), (num_frames, num_keypoints, 2))
    return ClipTargets(
        global_orient=normal(num_frames, 3, scale=0.3),
        pose=normal(num_frames, NUM_ROTATIONS[body], 3, scale=0.2),
        betas=normal(10, scale=1.0),
        transl=np.tile(np.float32([0, 0, 4]), (num_frames, 1)),
        keypoints_2d=keypoints_2d,
        keypoints_3d=keypoints_3d,
        has_pose=np.ones(num_frames, bool),
        has_betas=np.array(True),
    )


def synthetic_clip(
    key: str = "clip-000000",
    *,
    num_frames: int = 4,
    labelled: bool = True,
    body: BodyName = "smpl",
    crop_size: int = 192,
    skeleton_size: int = 128,
    seed: int = 0,
) -> Clip:
    """A clip of smooth colours with valid images and boxes; what it shows means nothing."""
    rng = np.random.default_rng(seed)
    keypoint_set = "coco17" if body == "smpl" else "hand21"
    keypoints_2d = np.empty((num_frames, NUM_KEYPOINTS[keypoint_set], 3), np.float32)
    keypoints_2d[..., :2] = rng.uniform((220, 140), (420, 340), (*keypoints_2d.shape[:2], 2))
    keypoints_2d[..., 2] = rng.uniform(0.3, 1.0, keypoints_2d.shape[:2])
    bbox = np.tile(np.float32([200, 120, 440, 360]), (num_frames, 1))
    scale = 240 / crop_size
    colours = rng.uniform(0, 255, (num_frames, 4, 4, 3)).astype(np.uint8)
    return Clip(
        key=key,
        meta=ClipMeta(
            schema_version=SCHEMA_VERSION,
            source="synth",
            split="train",
            video_id="synthetic",
            track_id=0,
            first_frame=0,
            fps=30.0,
            image_size=(480, 640),
            body=body,
            is_right=True if body == "mano" else None,
            gender="neutral",
            keypoint_set=keypoint_set,
            crop_size=crop_size,
            skeleton_size=skeleton_size,
            detector="truth",
        ),
        rgb=tuple(_encode(cv2.resize(c, (crop_size, crop_size)), ".jpg") for c in colours),
        skeleton=tuple(
            _encode(cv2.resize(c, (skeleton_size, skeleton_size)), ".png") for c in colours
        ),
        bbox_xyxy=bbox,
        crop_to_img=np.tile(np.float32([[scale, 0, 200], [0, scale, 120]]), (num_frames, 1, 1)),
        keypoints_2d=keypoints_2d,
        timestamps=np.arange(num_frames) / 30.0,
        is_detected=np.ones(num_frames, bool),
        intrinsics=np.tile(
            np.float32([[600, 0, 320], [0, 600, 240], [0, 0, 1]]), (num_frames, 1, 1)
        ),
        targets=_targets(rng, num_frames, body) if labelled else None,
    )
