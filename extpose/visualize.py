"""Pictures for people: meshes and keypoints over frames, and one sheet that shows a clip.

Axes    m meshes   v vertices   f triangles   k keypoints   h w pixels
Units   pixels ((0, 0) is the centre of the top left one), metres in the camera frame; RGB
Colours the person's own left is warm, the right is cool, as in the drawn skeleton
"""

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, Integer, UInt8

from extpose.errors import ShardError
from extpose.keypoints import KEYPOINT_NAMES, NUM_KEYPOINTS, KeypointSet
from extpose.raster import Light, render_mesh
from extpose.schema import Clip

MESH_LIGHT = Light(direction=(0.3, -0.6, -0.7), ambient=0.5, diffuse=0.5)
LEFT_COLOR, RIGHT_COLOR, MIDDLE_COLOR = (255, 140, 40), (40, 160, 255), (255, 255, 255)
GOLDEN_ANGLE = 0.381966
"""Hue step that keeps any number of colours apart."""
FARTHEST = 32768.0
"""Pixels from the corner beyond which keypoints are not drawn."""

LINE_HEIGHT = 18
BACKGROUND, INK, WARNING = (250, 250, 250), (20, 20, 20), (200, 40, 20)


def track_color(track_id: int) -> tuple[float, float, float]:
    """A light RGB colour of its own for every track, 0 to 255."""
    red, green, blue = colorsys.hsv_to_rgb((0.58 + track_id * GOLDEN_ANGLE) % 1, 0.45, 0.95)
    return 255 * red, 255 * green, 255 * blue


def overlay_mesh(
    rgb: UInt8[np.ndarray, "h w 3"],
    vertices_cam: Sequence[Float[np.ndarray, "v 3"]],
    faces: Integer[np.ndarray, "f 3"] | Sequence[Integer[np.ndarray, "f 3"]],
    *,
    K: Float[np.ndarray, "3 3"],
    colors: Sequence[tuple[float, float, float]] | None = None,
    alpha: float = 0.85,
    supersample: int = 1,
) -> UInt8[np.ndarray, "h w 3"]:
    """Draw the meshes over a copy of the frame; nearer ones hide others.

    `faces` are those of all meshes, or of each (a left hand's run the other way around). `colors`
    is one RGB (0 to 255) a mesh, by default those of tracks 0, 1, ...; `alpha` 1 hides the frame
    behind a mesh.
    """
    if not vertices_cam:
        return rgb.copy()
    colors = colors or [track_color(i) for i in range(len(vertices_cam))]
    if len(colors) != len(vertices_cam):
        raise ValueError(f"{len(colors)} colors for {len(vertices_cam)} meshes")
    own = [faces] * len(vertices_cam) if isinstance(faces, np.ndarray) else faces
    if len(own) != len(vertices_cam):
        raise ValueError(f"{len(own)} lists of faces for {len(vertices_cam)} meshes")
    starts = np.cumsum([0, *(len(v) for v in vertices_cam[:-1])])
    drawn = render_mesh(
        np.concatenate(vertices_cam),
        np.concatenate([one + start for one, start in zip(own, starts, strict=True)]),
        np.concatenate(
            [np.tile(np.array(c), (len(v), 1)) for c, v in zip(colors, vertices_cam, strict=True)]
        ),
        K,
        rgb,
        light=MESH_LIGHT,
        supersample=supersample,
    ).image
    return cv2.addWeighted(drawn, alpha, rgb, 1 - alpha, 0).astype(np.uint8)


def draw_keypoints(
    rgb: UInt8[np.ndarray, "h w 3"],
    keypoints: Float[np.ndarray, "k 3"],
    *,
    limbs: Sequence[tuple[int, int]] = (),
    min_confidence: float = 0.2,
    radius: float = 3.0,
    color: tuple[int, int, int] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Mark keypoints (x y confidence, pixels) on a copy of the frame.

    Bodies: left warm, right cool; the 21 of a hand: one colour a finger; or all in `color`.
    `limbs` are pairs of keypoints to join by a line. What is less sure than `min_confidence` is
    left out.
    """
    out = rgb.copy()
    palette = _keypoint_colors(len(keypoints)) if color is None else [color] * len(keypoints)
    seen = (keypoints[:, 2] >= min_confidence) & np.isfinite(keypoints).all(1)
    # What is beside a camera may be projected farther away than OpenCV's integers reach.
    seen &= (np.abs(keypoints[:, :2]) < FARTHEST).all(1)
    # OpenCV draws between pixels on a grid of 1/16.
    fixed = np.round(np.where(seen[:, None], keypoints[:, :2], 0) * 16).astype(int)
    points = [(int(x), int(y)) for x, y in fixed]
    for a, b in limbs:
        if seen[a] and seen[b]:
            width = max(round(radius / 2), 1)
            cv2.line(out, points[a], points[b], palette[b], width, cv2.LINE_AA, shift=4)
    for i in np.flatnonzero(seen):
        cv2.circle(out, points[i], round(radius * 16), palette[i], -1, cv2.LINE_AA, shift=4)
        cv2.circle(out, points[i], round(radius * 16), (0, 0, 0), 1, cv2.LINE_AA, shift=4)
    return out


def contact_sheet(
    clip: Clip, *, num_columns: int = 8, cell: int = 160
) -> UInt8[np.ndarray, "h w 3"]:
    """One picture that shows whether a clip is right: `num_columns` frames spread over it.

    Rows: the network's part of the stored crop, the skeleton, both laid over each other and, where
    there are labels, the crop with the labelled 2D keypoints; text names the clip, its frames,
    what the tracker bridged and the mean confidence of the keypoints. Raises `ShardError` where an
    image of the clip cannot be decoded.
    """
    count = min(num_columns, clip.num_frames)
    frames = [int(i) for i in np.linspace(0, clip.num_frames - 1, count).round()]
    columns = [_draw_column(clip, frame, cell) for frame in frames]
    missing = np.full_like(columns[0], BACKGROUND)
    sheet = np.concatenate([*columns, *[missing] * (num_columns - count)], 1)
    return np.concatenate([_draw_title(clip, sheet.shape[1]), sheet], 0)


def _keypoint_colors(num_keypoints: int) -> list[tuple[int, int, int]]:
    body_sets: tuple[KeypointSet, ...] = ("coco17", "body44")
    for body_set in body_sets:
        if num_keypoints == NUM_KEYPOINTS[body_set]:
            return [_side_color(name) for name in KEYPOINT_NAMES[body_set]]
    if num_keypoints == 21:
        hues = [colorsys.hsv_to_rgb(finger / 5, 0.75, 1.0) for finger in range(5)]
        fingers = [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in hues]
        return [MIDDLE_COLOR, *(color for color in fingers for _ in range(4))]
    raise ValueError(f"{num_keypoints} keypoints; known are {NUM_KEYPOINTS}")


def _side_color(name: str) -> tuple[int, int, int]:
    if "left" in name:
        return LEFT_COLOR
    return RIGHT_COLOR if "right" in name else MIDDLE_COLOR


def _draw_column(clip: Clip, frame: int, cell: int) -> np.ndarray:
    crop = _network_part(clip, _decode(clip, clip.rgb[frame], f"rgb {frame}"))
    skeleton = _decode(clip, clip.skeleton[frame], f"skeleton {frame}")
    both = np.where(skeleton.any(-1, keepdims=True), skeleton, crop // 2 + 32).astype(np.uint8)
    pictures = [crop, skeleton, both]
    if clip.targets is not None:
        labels = _to_network_part(clip, clip.targets.keypoints_2d[frame], frame)
        pictures.append(draw_keypoints(crop, labels, radius=len(crop) / 100))
    images = [cv2.resize(image, (cell, cell), interpolation=cv2.INTER_AREA) for image in pictures]
    detected = bool(clip.is_detected[frame])
    caption = _blank(cell, lines=2)
    number = clip.meta.first_frame + frame
    _write(caption, f"#{number} {clip.timestamps[frame]:.2f} s", line=0)
    confidence = clip.keypoints_2d[frame, :, 2].mean()
    state = f"{'detected' if detected else 'BRIDGED'} {confidence:.2f}"
    _write(caption, state, line=1, color=INK if detected else WARNING)
    return np.concatenate([caption, *images], 0)


def _draw_title(clip: Clip, width: int) -> np.ndarray:
    meta = clip.meta
    height, image_width = meta.image_size
    hand = "" if meta.is_right is None else (" right" if meta.is_right else " left")
    seen = int(clip.is_detected.sum())
    lines = (
        clip.key,
        f"{meta.source}/{meta.split}  {meta.body}{hand}  video {meta.video_id}  "
        f"track {meta.track_id}  {image_width}x{height} at {meta.fps:.4g} fps",
        f"{clip.num_frames} frames, {seen} detected, {clip.num_frames - seen} bridged  "
        f"2D: {meta.detector}, mean confidence {clip.keypoints_2d[..., 2].mean():.2f}  "
        f"{'labelled' if clip.targets else 'unlabelled'}",
    )
    title = _blank(width, lines=len(lines))
    for line, text in enumerate(lines):
        _write(title, text, line=line)
    return title


def _decode(clip: Clip, data: bytes, name: str) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise ShardError(f"{clip.key}: image {name} cannot be decoded ({len(data)} bytes)")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _network_part(clip: Clip, crop: np.ndarray) -> np.ndarray:
    """The square in the middle that the skeleton is drawn for: equal scale, equal centre."""
    size = clip.meta.skeleton_size
    offset = (clip.meta.crop_size - size) / 2
    shift = np.array([[1, 0, -offset], [0, 1, -offset]], np.float64)
    return cv2.warpAffine(crop, shift, (size, size), flags=cv2.INTER_LINEAR)


def _to_network_part(
    clip: Clip, keypoints_img: Float[np.ndarray, "k 3"], frame: int
) -> Float[np.ndarray, "k 3"]:
    """Keypoints in source pixels to pixels of `_network_part`."""
    linear, shift = clip.crop_to_img[frame, :, :2], clip.crop_to_img[frame, :, 2]
    stored = np.linalg.solve(linear.astype(np.float64), (keypoints_img[:, :2] - shift).T).T
    offset = (clip.meta.crop_size - clip.meta.skeleton_size) / 2
    return np.column_stack([stored - offset, keypoints_img[:, 2]])


def _blank(width: int, *, lines: int) -> np.ndarray:
    return np.full((lines * LINE_HEIGHT + 6, width, 3), BACKGROUND, np.uint8)


def _write(image: np.ndarray, text: str, *, line: int, color: tuple[int, int, int] = INK) -> None:
    place = (4, (line + 1) * LINE_HEIGHT - 3)
    cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, color, 1, cv2.LINE_AA)
