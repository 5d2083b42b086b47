"""Good clips with labels that a test may spoil: a free body before a known camera."""

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from extpose.config import CropConfig, SkeletonConfig
from extpose.data.clip import ClipOrigin, make_clip
from extpose.data.shards import write_shard
from extpose.detect.people import Track
from extpose.keypoints import COCO17_OF_BODY44
from extpose.schema import SCHEMA_VERSION, Clip
from pipelines.records import empty_targets
from tests.pipelines.sources.bodies import INTRINSICS, SIZE, make_world

CROP, SKELETON = CropConfig(size=64), SkeletonConfig()


def labelled_clip(seed: int, num_frames: int = 3, *, body: str = "smpl") -> Clip:
    """A person or a hand; evidence is the truth."""
    return (_hand if body == "mano" else _person)(seed, num_frames)


def _person(seed: int, num_frames: int) -> Clip:
    person = make_world(seed=seed, num_frames=num_frames).people[0]
    ones = np.ones((num_frames, 44, 1))
    targets = replace(
        empty_targets("smpl", num_frames),
        global_orient=person.pose[:, 0].astype(np.float32),
        pose=person.pose[:, 1:].astype(np.float32),
        betas=person.betas.astype(np.float32),
        transl=person.transl.astype(np.float32),
        keypoints_2d=np.concatenate([person.keypoints_img, ones], -1).astype(np.float32),
        keypoints_3d=np.concatenate([person.keypoints_cam, ones], -1).astype(np.float32),
        has_pose=np.ones(num_frames, bool),
        has_betas=np.array(True),
    )
    return _clip(seed, targets, targets.keypoints_2d[:, list(COCO17_OF_BODY44)], body="smpl")


def _hand(seed: int, num_frames: int) -> Clip:
    """A flat hand that drifts."""
    rng = np.random.default_rng(seed)
    points = np.zeros((21, 3))
    for finger in range(5):
        reach = np.cumsum([0.085 if finger else 0.04, 0.04, 0.03, 0.02])
        angle = np.deg2rad(-30 + 15 * finger)
        points[1 + 4 * finger : 5 + 4 * finger, 0] = np.sin(angle) * reach
        points[1 + 4 * finger : 5 + 4 * finger, 1] = -np.cos(angle) * reach
    path = np.cumsum(rng.normal(0, 0.003, (num_frames, 1, 3)), 0) + np.array([0, 0, 0.6])
    deep = points + path
    flat = deep @ INTRINSICS.T
    ones = np.ones((num_frames, 21, 1))
    targets = replace(
        empty_targets("mano", num_frames),
        keypoints_2d=np.concatenate([flat[..., :2] / flat[..., 2:], ones], -1).astype(np.float32),
        keypoints_3d=np.concatenate([deep, ones], -1).astype(np.float32),
    )
    return _clip(seed, targets, targets.keypoints_2d, body="mano")


def _clip(seed: int, targets, evidence: np.ndarray, *, body: str) -> Clip:
    num_frames = len(evidence)
    points = targets.keypoints_2d[..., :2]
    origin = ClipOrigin(
        source="test",
        split="train",
        video_id=f"{body}-{seed}",
        fps=25.0,
        image_size=SIZE,
        detector="truth",
        body=body,
        is_right=True if body == "mano" else None,
        keypoint_set="hand21" if body == "mano" else "coco17",
    )
    rng = np.random.default_rng(seed)
    return make_clip(
        (rng.integers(0, 256, (*SIZE, 3), np.uint8) for _ in range(num_frames)),
        Track(
            track_id=0,
            first_frame=0,
            bbox_xyxy=np.concatenate([points.min(1), points.max(1)], 1),
            keypoints_2d=evidence * np.float32([1, 1, 0.9]),
            timestamps=np.arange(num_frames) / 25,
            is_detected=np.ones(num_frames, bool),
        ),
        origin=origin,
        crop=CROP,
        skeleton=SKELETON,
        intrinsics=np.tile(INTRINSICS.astype(np.float32), (num_frames, 1, 1)),
        targets=targets,
    )


def write_folder(folder: Path, *shards) -> Path:
    """Shards `0.tar`, `1.tar`, ... and their manifest."""
    folder.mkdir(exist_ok=True)
    for i, clips in enumerate(shards):
        write_shard(folder / f"{i}.tar", clips)
    return list_shards(folder, [[len(c), sum(x.num_frames for x in c)] for c in map(list, shards)])


def list_shards(folder: Path, counts) -> Path:
    """(Again) the manifest of what is there: `counts` are clips and frames of each shard."""
    entries = [
        {
            "name": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "clips": clips,
            "frames": frames,
        }
        for path, (clips, frames) in zip(sorted(folder.glob("*.tar")), counts, strict=True)
    ]
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "source": "labelled",
        "shards": entries,
        "settings": {"skeleton": asdict(SKELETON), "crop": asdict(CROP)},
        "clips": sum(entry["clips"] for entry in entries),
        "frames": sum(entry["frames"] for entry in entries),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
