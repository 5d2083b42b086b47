"""Small clips with reproducible contents, for tests of shards and of what reads them."""

from collections.abc import Iterator

import numpy as np

from extpose.config import CropConfig, SkeletonConfig
from extpose.data.clip import ClipOrigin, make_clip
from extpose.detect.people import Track
from extpose.keypoints import NUM_KEYPOINTS
from extpose.schema import NUM_ROTATIONS, TARGET_SET, Clip, ClipTargets

CROP = CropConfig(size=64, margin=1.5)
SKELETON = SkeletonConfig()
IMAGE_SIZE = (120, 160)


def random_track(
    seed: int, num_frames: int, *, num_keypoints: int = 17, track_id: int = 3
) -> Track:
    """A person who drifts through an image of 120 x 160."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform([10, 5], [60, 30]) + np.arange(num_frames)[:, None] * 0.7
    box = np.concatenate([corner, corner + np.array([40, 80])], axis=1).astype(np.float32)
    points = box[:, None, :2] + rng.uniform([0, 0], [40, 80], (num_frames, num_keypoints, 2))
    confidence = rng.uniform(0, 1, (num_frames, num_keypoints, 1))
    return Track(
        track_id=3,
        first_frame=10,
        bbox_xyxy=box,
        keypoints_2d=np.concatenate([points, confidence], axis=-1).astype(np.float32),
        timestamps=np.arange(10, 10 + num_frames) / 25,
        is_detected=rng.uniform(size=num_frames) > 0.2,
    )


def random_frames(seed: int, num_frames: int) -> Iterator[np.ndarray]:
    """Noise images."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 256, (*IMAGE_SIZE, 3), np.uint8) for _ in range(num_frames))


def random_targets(seed: int, num_frames: int, body: str = "smpl") -> ClipTargets:
    """Labels without a meaning."""
    rng = np.random.default_rng(seed)
    k = NUM_KEYPOINTS[TARGET_SET[body]]

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    ones = np.ones((num_frames, k, 1), np.float32)
    return ClipTargets(
        global_orient=normal(num_frames, 3),
        pose=normal(num_frames, NUM_ROTATIONS[body], 3),
        betas=normal(10),
        transl=normal(num_frames, 3),
        keypoints_2d=np.concatenate([normal(num_frames, k, 2), ones], -1),
        keypoints_3d=np.concatenate([normal(num_frames, k, 3), ones], -1),
        has_pose=np.ones(num_frames, bool),
        has_betas=np.array(True),
        is_visible=rng.random((num_frames, k)) > 0.5 if seed % 2 else None,
        vertices=normal(num_frames, 7, 3) if seed % 2 else None,
    )


def random_clip(
    seed: int = 0,
    num_frames: int = 5,
    *,
    labelled: bool = False,
    body: str = "smpl",
    crop: CropConfig = CROP,
) -> Clip:
    """A clip made by `make_clip`."""
    keypoint_set = "coco17" if body == "smpl" else "hand21"
    origin = ClipOrigin(
        source="test",
        split="train",
        video_id=f"noise-{seed}",
        fps=25.0,
        image_size=IMAGE_SIZE,
        detector="random",
        body=body,
        is_right=None if body == "smpl" else True,
        keypoint_set=keypoint_set,
    )
    return make_clip(
        random_frames(seed, num_frames),
        random_track(seed, num_frames, num_keypoints=NUM_KEYPOINTS[keypoint_set]),
        origin=origin,
        crop=crop,
        skeleton=SKELETON,
        intrinsics=np.tile(np.eye(3, dtype=np.float32), (num_frames, 1, 1)) if labelled else None,
        targets=random_targets(seed, num_frames, body) if labelled else None,
    )
