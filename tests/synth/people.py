"""People that sway before a still camera: truth for tests of the noise model, no rendering."""

import numpy as np

from extpose.synth.observed import Observed

IMAGE_SIZE = (360, 480)
# COCO's keypoints of someone who stands and faces the camera: metres, y down, feet at 0.9.
STANDING = np.array(
    [(0, -0.8), (0.03, -0.83), (-0.03, -0.83), (0.08, -0.82), (-0.08, -0.82), (0.2, -0.55),
     (-0.2, -0.55), (0.35, -0.3), (-0.35, -0.3), (0.45, -0.05), (-0.45, -0.05), (0.14, 0.0),
     (-0.14, 0.0), (0.18, 0.42), (-0.18, 0.42), (0.2, 0.85), (-0.2, 0.85)]
)  # fmt: skip


def make_people(num_clips: int, num_frames: int = 16, seed: int = 0) -> Observed:
    """Headings all around, at 150 pixels a metre; what is found is the truth itself."""
    rng = np.random.default_rng(seed)
    times = np.arange(num_frames) / 30
    truth, depth = [], []
    for _ in range(num_clips):
        angle = rng.uniform(0, 2 * np.pi) + 0.3 * np.sin(times * rng.uniform(1, 5))
        points = STANDING + rng.normal(0, 0.03, STANDING.shape)
        place = np.array([240.0, 185.0]) + rng.uniform(-40, 40, 2) * [1, 0.1]
        x = points[:, 0] * np.cos(angle)[:, None]
        truth.append(place + 150 * np.stack([x, np.broadcast_to(points[:, 1], x.shape)], -1))
        depth.append(4 + points[:, 0] * np.sin(angle)[:, None])
    points_img = np.array(truth)
    low, high = points_img.min(2) - 15, points_img.max(2) + 15
    boxes = np.concatenate([low, high], -1).astype(np.float32)
    certain = np.full((*points_img.shape[:-1], 1), 0.9)
    return Observed(
        truth=points_img.astype(np.float32),
        depth=np.array(depth, np.float32),
        is_visible=rng.random(points_img.shape[:-1]) < 0.7,
        boxes=boxes,
        found=np.concatenate([points_img, certain], -1).astype(np.float32),
        found_boxes=boxes,
        is_found=np.ones(points_img.shape[:2], bool),
        image_size=np.tile(IMAGE_SIZE, (num_clips, 1)),
    )
