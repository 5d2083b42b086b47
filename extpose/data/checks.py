"""What shapes and types of a clip do not show: boxes, crops, times, and pictures that lie.

One cause is reported once: a crop is not compared with a box that is wrong itself, nor a drawing
with keypoints that are already known to be elsewhere.

Axes     t frames   k keypoints   h w pixels
Units    source pixels, seconds
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Float64

from extpose.config import CropConfig, SkeletonConfig
from extpose.data.anatomy import find_label_faults, find_side_doubts
from extpose.data.clip import decode_image
from extpose.data.crop import apply_affine, network_box, stored_box
from extpose.data.drawings import find_drawing_faults
from extpose.data.faults import Fault, FaultKind
from extpose.schema import Clip

CENTRE_TOLERANCE = 0.01
"""Of the crop's side: how far the crop's centre, and its side, may be from the box's."""
SIMILARITY_TOLERANCE = 1e-3
"""Of a crop's scale: how much its two axes may differ in length, and lean on each other."""
SURE = 0.2
"""Keypoints below this confidence are not asked where they are."""
MOSTLY_OUT, MOSTLY_IN = 0.3, 0.8
"""Shares of the keypoints near the box at which they are elsewhere, or there."""


def find_clip_faults(
    clip: Clip, *, skeleton: SkeletonConfig | None, crop: CropConfig | None
) -> Iterator[Fault]:
    """Every fault of a clip whose members and arrays keep to the contract.

    `skeleton` and `crop` are the settings that the shard was made with; without them drawings and
    the crops' sizes are not checked.
    """
    boxes = list(_find_box_faults(clip))
    affines = [] if boxes else list(_find_affine_faults(clip, crop))
    yield from boxes
    yield from affines
    yield from _find_time_faults(clip)
    yield from _find_camera_faults(clip)
    places = [] if boxes or affines else list(_find_place_faults(clip))
    yield from places
    orders = list(find_label_faults(clip))
    pictures = list(_find_picture_faults(clip))
    yield from pictures
    hides_drawing = {"undecodable", "picture_size", "rotation", "affine", "keypoints_in_crop"}
    if skeleton and not hides_drawing & {f.kind for f in [*affines, *places, *pictures]}:
        orders += find_drawing_faults(clip, skeleton)
    yield from orders
    if not {"sides_swapped", "joint_order"} & {fault.kind for fault in orders}:
        yield from find_side_doubts(clip)


def describe_frames(is_wrong: Bool[np.ndarray, " t"]) -> str:
    """`frame 3` or `frame 3 and 5 more`."""
    more = int(is_wrong.sum()) - 1
    return f"frame {int(is_wrong.argmax())}" + (f" and {more} more" if more else "")


def _one(
    kind: FaultKind, field: str, is_wrong: Bool[np.ndarray, " t"], detail: str
) -> Iterator[Fault]:
    """One fault for all frames of a clip that have it."""
    if is_wrong.any():
        yield Fault(kind=kind, message=f"{field}: {describe_frames(is_wrong)}: {detail}")


def _find_box_faults(clip: Clip) -> Iterator[Fault]:
    box, (height, width) = clip.bbox_xyxy, clip.meta.image_size
    is_wrong = np.asarray(~np.all(box[:, :2] < box[:, 2:], axis=1))
    first = box[is_wrong.argmax()].tolist()
    yield from _one("box", "bbox_xyxy", is_wrong, f"{first}, needs x1 < x2 and y1 < y2")
    is_out = np.any((box[:, 2:] < 0) | (box[:, :2] > [width, height]), axis=1) & ~is_wrong
    first = box[is_out.argmax()].tolist()
    detail = f"{first} is outside the image of {height} x {width}"
    yield from _one("box_off_image", "bbox_xyxy", is_out, detail)


def _find_affine_faults(clip: Clip, crop: CropConfig | None) -> Iterator[Fault]:
    """First whether it turns and scales only, then whether it is the box's."""
    linear = clip.crop_to_img[:, :, :2].astype(np.float64)
    lengths = np.linalg.norm(linear, axis=1)
    lean = (linear[:, :, 0] * linear[:, :, 1]).sum(1) / np.maximum(lengths.prod(1), 1e-12)
    stretch = lengths[:, 0] / np.maximum(lengths[:, 1], 1e-12)
    is_wrong = (np.abs(lean) > SIMILARITY_TOLERANCE) | (np.abs(stretch - 1) > SIMILARITY_TOLERANCE)
    is_wrong |= np.linalg.det(linear) <= 0
    at = int(is_wrong.argmax())
    detail = (
        f"axes of lengths {lengths[at].round(4).tolist()}, the cosine between them "
        f"{lean[at]:.4f}, determinant {np.linalg.det(linear[at]):.4g}: not a rotation and a scale"
    )
    yield from _one("rotation", "crop_to_img", is_wrong, detail)
    size = clip.meta.crop_size
    side = size * lengths.mean(1)
    middle = np.array([size / 2, size / 2])
    centre = np.array([apply_affine(middle, affine) for affine in clip.crop_to_img])
    off = np.linalg.norm(centre - (clip.bbox_xyxy[:, :2] + clip.bbox_xyxy[:, 2:]) / 2, axis=1)
    is_off = ~is_wrong & ~(off <= CENTRE_TOLERANCE * np.maximum(side, 1e-6))
    detail = f"the crop's centre is {off[is_off.argmax()]:.2f} px from the box's"
    yield from _one("affine", "crop_to_img", is_off, detail)
    if crop is None:
        return
    wanted = stored_box(network_box(clip.bbox_xyxy, crop), crop)[:, 2]
    # Also against a turned crop: the stored one is upright.
    is_off = ~is_wrong & ~is_off & ~(
        (np.abs(linear[:, 0, 0] * size - wanted) <= CENTRE_TOLERANCE * wanted)
        & (np.abs(linear[:, 1, 0] * size) <= CENTRE_TOLERANCE * wanted)
    )  # fmt: skip
    at = int(is_off.argmax())
    detail = f"the crop is {side[at]:.2f} px wide, its box and the settings give {wanted[at]:.2f}"
    if abs(linear[at, 1, 0] * size) > CENTRE_TOLERANCE * wanted[at]:
        detail = "the crop is turned, the stored one is upright"
    yield from _one("affine", "crop_to_img", is_off, detail)


def _find_time_faults(clip: Clip) -> Iterator[Fault]:
    falls = np.concatenate([[False], np.diff(clip.timestamps) <= 0])
    at = int(falls.argmax())
    times = clip.timestamps[max(at - 1, 0) : at + 1].tolist()
    yield from _one("timestamps", "timestamps", falls, f"do not rise: {times} s")
    has_evidence = ~clip.is_detected & (clip.keypoints_2d[..., 2] > 0).any(1)
    detail = "confidence in frames that are not detected (is_detected is False)"
    yield from _one("bridged", "keypoints_2d", has_evidence, detail)


def _find_camera_faults(clip: Clip) -> Iterator[Fault]:
    if clip.intrinsics is None:
        return
    K = clip.intrinsics.astype(np.float64)
    is_wrong = (np.abs(K[:, 2] - [0, 0, 1]) > 1e-6).any(1) | (np.abs(K[:, 1, 0]) > 1e-6)
    is_wrong |= (K[:, 0, 0] <= 0) | (K[:, 1, 1] <= 0)
    matrix = K[is_wrong.argmax()].tolist()
    detail = f"{matrix}, needs positive focal lengths and a last row 0 0 1"
    yield from _one("intrinsics", "intrinsics", is_wrong, detail)


def _find_place_faults(clip: Clip) -> Iterator[Fault]:
    """Whether keypoints are where the box is; if not, whether they are pixels of the crop."""
    fields = {"keypoints_2d": clip.keypoints_2d}
    if clip.targets is not None:
        fields["target.keypoints_2d"] = clip.targets.keypoints_2d
    for name, points in fields.items():
        sure = points[..., 2] >= SURE
        if not sure.any():
            continue
        share = _share_near(points[..., :2].astype(np.float64), clip, sure)
        if share >= MOSTLY_OUT:
            continue
        for what, moved in crop_readings(points[..., :2], clip).items():
            if (found := _share_near(moved, clip, sure)) > MOSTLY_IN:
                message = (
                    f"{name}: {share:.0%} of the points lie at their box in source pixels, "
                    f"{found:.0%} do when taken for {what}: keypoints in crop coordinates"
                )
                yield Fault(kind="keypoints_in_crop", message=message)
                break
        else:
            message = f"{name}: only {share:.0%} of the points lie at their box"
            yield Fault(kind="keypoints_off_box", message=message, is_certain=False)


def crop_readings(
    points: Float[np.ndarray, "t k 2"], clip: Clip
) -> dict[str, Float64[np.ndarray, "t k 2"]]:
    """Points in source pixels, if they were given in one of three frames of the crop."""
    meta, wide = clip.meta, points.astype(np.float64)
    border = (meta.crop_size - meta.skeleton_size) / 2
    readings = {
        "pixels of the stored crop": wide,
        "pixels of the network's crop": wide + border,
        "normalised crop coordinates": (wide + 0.5) * meta.skeleton_size + border,
    }
    return {
        name: np.stack([apply_affine(p, a) for p, a in zip(crop, clip.crop_to_img, strict=True)])
        for name, crop in readings.items()
    }


def _share_near(
    points: Float64[np.ndarray, "t k 2"], clip: Clip, sure: Bool[np.ndarray, "t k"]
) -> float:
    """Share of the sure points inside the box, which is made half as large again."""
    low, high = clip.bbox_xyxy[:, None, :2], clip.bbox_xyxy[:, None, 2:]
    middle, reach = (low + high) / 2, (high - low) * 0.75
    return float((np.abs(points - middle) <= reach).all(-1)[sure].mean())


def _find_picture_faults(clip: Clip) -> Iterator[Fault]:
    """Whether each picture can be decoded, to its size."""
    for kind, suffix in (("rgb", "jpg"), ("skeleton", "skeleton.png")):
        size = clip.meta.crop_size if kind == "rgb" else clip.meta.skeleton_size
        for frame, data in enumerate(getattr(clip, kind)):
            name = f"{frame:03d}.{suffix}"
            try:
                image = decode_image(data)
            except ValueError as error:
                yield Fault(kind="undecodable", message=f"{name}: {error}")
                continue
            if image.shape != (size, size, 3):
                message = f"{name}: shape {image.shape}, expected {(size, size, 3)}"
                yield Fault(kind="picture_size", message=message)
            elif kind == "rgb" and (reason := _find_damage(data)):
                yield Fault(kind="undecodable", message=f"{name}: {reason}")


def _find_damage(data: bytes) -> str:
    """What a decoder forgives: a JPEG that ends before its end."""
    if not data.startswith(b"\xff\xd8"):
        return f"begins with {data[:2].hex()}, not with a JPEG's ffd8"
    if b"\xff\xd9" not in data[-64:]:
        return f"{len(data)} bytes without a JPEG's end: it was cut off"
    return ""
