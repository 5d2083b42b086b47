"""`extpose validate`: every fault of a folder of shards, with file, key and field.

    extpose validate data/walk

Checked: the manifest (checksums, counts, nothing missing, nothing besides), every member against
the contract (docs/data.md), every picture's size, every drawing against its keypoints, boxes,
crops and times.
"""

import json
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from extpose.config import SkeletonConfig
from extpose.data.clip import decode_image, redraw_skeleton
from extpose.data.crop import apply_affine
from extpose.data.shards import ShardIndex
from extpose.errors import ShardError
from extpose.schema import Clip
from extpose.storage import Location, hash_file, list_files, name_in, read_bytes
from pipelines.accounts import account_faults
from pipelines.ledger import MANIFEST

log = logging.getLogger(__name__)
CENTRE_TOLERANCE = 0.01
"""Of the crop's side: how far the crop's centre may be from the box's."""


def validate(folder: Location) -> int:
    """Log every fault; 0 when there is none, else 1."""
    faults = list(find_faults(folder))
    for fault in faults:
        log.error("%s", fault)
    log.info("%s: %d faults", folder, len(faults))
    return 1 if faults else 0


def find_faults(folder: Location) -> Iterator[str]:
    """Every fault as `file: key: field: what is wrong`."""
    paths = [entry.location for entry in list_files(folder, ".tar", deep=True)]
    if not paths:
        yield f"{folder}: no shards (*.tar) in this folder"
        return
    try:
        manifest = json.loads(read_bytes(folder / MANIFEST))
        listed = {shard["name"]: shard for shard in manifest["shards"]}
        drawing = manifest["settings"]["skeleton"]
        skeleton = SkeletonConfig(**drawing)
    except (OSError, ValueError, TypeError, KeyError) as error:
        yield f"{folder / MANIFEST}: not a readable manifest ({error!r})"
        listed, skeleton = None, None
    seen: dict[str, Location] = {}
    for path in tqdm(paths, desc="validate", unit="shard", leave=False):
        counted = {"clips": 0, "frames": 0}
        yield from _shard_faults(path, skeleton, seen, counted)
        if listed is not None:
            entry = listed.pop(name_in(folder, path), None)
            yield from _listing_faults(path, entry, counted)
    for name in listed or ():
        yield f"{folder / name}: in {MANIFEST}, but not there"
    yield from account_faults(folder)


def _listing_faults(
    path: Location, entry: dict[str, Any] | None, counted: dict[str, int]
) -> Iterator[str]:
    """The shard against its line in the manifest."""
    if entry is None:
        yield f"{path}: not in {MANIFEST}"
        return
    found = {"sha256": hash_file(path), **counted}
    for name, value in found.items():
        if entry.get(name) != value:
            yield f"{path}: {name} is {value}, {MANIFEST} says {entry.get(name)}"


def _shard_faults(
    path: Location,
    skeleton: SkeletonConfig | None,
    seen: dict[str, Location],
    counted: dict[str, int],
) -> Iterator[str]:
    """The clips of one shard; adds to `seen` keys and to the counts."""
    try:
        index = ShardIndex([path])
    except ShardError as error:
        yield str(error)
        return
    for i, key in enumerate(index.keys):
        counted["clips"] += 1
        counted["frames"] += index.num_frames(i)
        if key in seen:
            yield f"{path}: {key}: key is also in {seen[key]}"
        seen[key] = path
        try:
            clip = index.read_clip(i)
        except ShardError as error:
            yield str(error)
            continue
        for fault in [*_array_faults(clip), *_picture_faults(clip, skeleton)]:
            yield f"{path}: {key}: {fault}"
    index.close()


def _array_faults(clip: Clip) -> Iterator[str]:
    """What shapes and types do not show."""
    box, (height, width) = clip.bbox_xyxy, clip.meta.image_size
    if not (box[:, :2] < box[:, 2:]).all():
        yield "bbox_xyxy: needs x1 < x2 and y1 < y2"
    if (box[:, 2:] < 0).any() or (box[:, :2] > [width, height]).any():
        yield f"bbox_xyxy: outside the image of {height} x {width}"
    if (np.diff(clip.timestamps) <= 0).any():
        yield "timestamps: do not rise"
    middle = np.array([clip.meta.crop_size / 2] * 2)
    for frame, affine in enumerate(clip.crop_to_img):
        side = clip.meta.crop_size * np.sqrt(abs(np.linalg.det(affine[:, :2].astype(np.float64))))
        distance = apply_affine(middle, affine) - (box[frame, :2] + box[frame, 2:]) / 2
        if not np.linalg.norm(distance) <= CENTRE_TOLERANCE * side:
            yield f"crop_to_img: frame {frame}: the crop's centre is {distance} px from the box's"
    if clip.keypoints_2d[~clip.is_detected, :, 2].any():
        yield "keypoints_2d: confidence in frames that are not detected"


def _picture_faults(clip: Clip, skeleton: SkeletonConfig | None) -> Iterator[str]:
    """Sizes of the pictures, and the drawings against the keypoints."""
    for kind, suffix in (("rgb", "jpg"), ("skeleton", "skeleton.png")):
        size = clip.meta.crop_size if kind == "rgb" else clip.meta.skeleton_size
        for frame, data in enumerate(getattr(clip, kind)):
            name = f"{frame:03d}.{suffix}"
            try:
                image = decode_image(data)
            except ValueError as error:
                yield f"{name}: {error}"
                continue
            if image.shape != (size, size, 3):
                yield f"{name}: shape {image.shape}, expected {(size, size, 3)}"
            elif kind == "skeleton" and skeleton and not _is_drawn(clip, frame, image, skeleton):
                yield f"{name}: is not the drawing of keypoints_2d"


def _is_drawn(clip: Clip, frame: int, image: np.ndarray, config: SkeletonConfig) -> bool:
    try:
        drawn = redraw_skeleton(
            clip.keypoints_2d[frame],
            clip.crop_to_img[frame],
            keypoint_set=clip.meta.keypoint_set,
            crop_size=clip.meta.crop_size,
            skeleton_size=clip.meta.skeleton_size,
            config=config,
        )
    except ValueError:  # an affine without inverse
        return False
    return np.array_equal(drawn, image)
