"""From a person's box to the square that the network sees, and to the one that is stored.

Axes     t frames   n points   h w pixels
Units    pixels; (0, 0) is the centre of the top left pixel
Frames   `_img` source image, `_crop` square crop
Boxes    square boxes are (centre x, centre y, side); the crop of `size` pixels maps the centre to
         (size / 2, size / 2) with the scale size / side (HMR2.0's rule)

The stored crop has the network crop's pixel size and a border around it, so the un-augmented
network crop is a plain slice of the stored one (`stored_border`).
"""

import cv2
import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8

from extpose.config import CropConfig

ASPECT = 192 / 256
"""Width to height of what the network looks at (HMR2.0)."""
BLUR_FROM = 1.1
"""HMR2.0 blurs before shrinking when half the shrink factor is above this."""


def network_box(
    bbox_xyxy: Float32[np.ndarray, "t 4"], config: CropConfig
) -> Float32[np.ndarray, "t 3"]:
    """Square boxes of the network's crop: (centre x, centre y, side).

    HMR2.0's inference rule: grow the box to 3:4, take the longer side times `box_scale`.
    """
    box = bbox_xyxy.astype(np.float64)
    width, height = box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]
    if not (np.isfinite(box).all() and (width > 0).all() and (height > 0).all()):
        raise ValueError(f"bbox_xyxy: every box needs x1 < x2 and y1 < y2, got {bbox_xyxy}")
    side = np.maximum(height, width / ASPECT) * config.box_scale
    centre = (box[:, :2] + box[:, 2:]) / 2
    return np.concatenate([centre, side[:, None]], axis=1).astype(np.float32)


def stored_border(config: CropConfig) -> int:
    """Pixels that the stored crop has on each side around the network's crop."""
    if config.margin < 1:
        raise ValueError(f"crop.margin is {config.margin}, it must be at least 1")
    return round(config.size * (config.margin - 1) / 2)


def stored_size(config: CropConfig) -> int:
    """Side of the stored crop in pixels: `size * margin`, to an even difference from `size`."""
    return config.size + 2 * stored_border(config)


def stored_box(box: Float32[np.ndarray, "t 3"], config: CropConfig) -> Float32[np.ndarray, "t 3"]:
    """The network's square boxes widened to those of the stored crops."""
    scale = np.array([1, 1, stored_size(config) / config.size])
    return (box * scale).astype(np.float32)


def box_to_affine(box: Float[np.ndarray, " 3"], size: int) -> Float64[np.ndarray, "2 3"]:
    """Source pixels to pixels of the crop of `box`, `size` wide."""
    cx, cy, side = (float(value) for value in box)
    scale = size / side
    return np.array([[scale, 0, size / 2 - scale * cx], [0, scale, size / 2 - scale * cy]])


def invert_affine(affine: Float[np.ndarray, "2 3"]) -> Float64[np.ndarray, "2 3"]:
    """The affine that undoes this one."""
    (a, b, tx), (c, d, ty) = affine.astype(np.float64).tolist()
    det = a * d - b * c
    if det == 0:
        raise ValueError(f"affine {affine.tolist()} cannot be inverted")
    return np.array(
        [[d / det, -b / det, (b * ty - d * tx) / det], [-c / det, a / det, (c * tx - a * ty) / det]]
    )


def compose_affine(
    second: Float[np.ndarray, "2 3"], first: Float[np.ndarray, "2 3"]
) -> Float64[np.ndarray, "2 3"]:
    """The affine that applies `first`, then `second`."""
    linear = second[:, :2].astype(np.float64)
    result = linear @ first.astype(np.float64)
    result[:, 2] += second[:, 2]
    return result


def apply_affine(
    points: Float[np.ndarray, "*n 2"], affine: Float[np.ndarray, "2 3"]
) -> Float64[np.ndarray, "*n 2"]:
    """Move points. Element-wise in double precision, so the bits do not depend on a BLAS."""
    x, y = points[..., 0].astype(np.float64), points[..., 1].astype(np.float64)
    (a, b, tx), (c, d, ty) = affine.astype(np.float64).tolist()
    return np.stack([a * x + b * y + tx, c * x + d * y + ty], axis=-1)


def keypoints_to_crop(
    keypoints_img: Float32[np.ndarray, "*t k 3"],
    crop_to_img: Float32[np.ndarray, "*t 2 3"],
    *,
    crop_size: int,
    skeleton_size: int,
) -> Float32[np.ndarray, "*t k 3"]:
    """Source keypoints to pixels of the un-augmented network crop; confidence is kept.

    `crop_to_img` is that of the stored crop of `crop_size`; the network's crop of `skeleton_size`
    lies in its middle. Drawing a frame and redrawing a clip both call this; element by element,
    with the operations of `invert_affine` and `apply_affine` in order, they agree in every bit.
    """
    border = (crop_size - skeleton_size) / 2
    affine = np.moveaxis(crop_to_img.astype(np.float64), (-2, -1), (0, 1))
    (a, b, tx), (c, d, ty) = affine[..., None]
    x, y = np.moveaxis(keypoints_img[..., :2].astype(np.float64), -1, 0)
    det = a * d - b * c
    if not det.all():
        singular = crop_to_img.reshape(-1, 2, 3)[np.argmin(det != 0)]
        raise ValueError(f"affine {singular.tolist()} cannot be inverted")
    points = keypoints_img.copy()
    points[..., 0] = d / det * x + -b / det * y + (b * ty - d * tx) / det - border
    points[..., 1] = -c / det * x + a / det * y + (c * tx - a * ty) / det - border
    return points


def crop_image(
    rgb: UInt8[np.ndarray, "h w 3"], img_to_crop: Float[np.ndarray, "2 3"], size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """Warp to a square of `size`: bilinear, black outside, blurred first where it shrinks much.

    The blur is HMR2.0's (standard deviation (shrink / 2 - 1) / 2 in source pixels), of the part
    of the image that is needed only.
    """
    crop_to_img = invert_affine(img_to_crop)
    shrink = float(np.sqrt(abs(np.linalg.det(crop_to_img[:, :2])))) / 2
    if shrink > BLUR_FROM:
        sigma = (shrink - 1) / 2
        rgb, origin = _cut(rgb, crop_to_img, size, border=int(np.ceil(4 * sigma)) + 2)
        if rgb.size == 0:
            return np.zeros((size, size, 3), np.uint8)
        rgb = cv2.GaussianBlur(rgb, (0, 0), sigma).astype(np.uint8, copy=False)
        crop_to_img = crop_to_img - np.array([[0, 0, origin[0]], [0, 0, origin[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(
        rgb, crop_to_img, (size, size), flags=flags, borderMode=cv2.BORDER_CONSTANT
    )
    return warped.astype(np.uint8, copy=False)


def _cut(
    rgb: np.ndarray, crop_to_img: np.ndarray, size: int, *, border: int
) -> tuple[np.ndarray, tuple[int, int]]:
    """The part of the image under the crop plus a border, and the (x, y) of its first pixel."""
    ends = (0.0, float(size))
    corners = apply_affine(np.array([[x, y] for x in ends for y in ends]), crop_to_img)
    height, width = rgb.shape[:2]
    low = np.floor(corners.min(0)).astype(int) - border
    high = np.ceil(corners.max(0)).astype(int) + border + 1
    x0, y0 = (int(v) for v in np.clip(low, 0, (width, height)))
    x1, y1 = (int(v) for v in np.clip(high, 0, (width, height)))
    return rgb[y0:y1, x0:x1], (x0, y0)
