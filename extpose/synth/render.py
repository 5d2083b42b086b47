"""From (config, index) to one synthetic clip with exact truth: build, film, observe, pack.

Axes    t frames   v vertices   k keypoints   h w pixels
Units   metres, radians, pixels
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from extpose.body_model import BodyModel, load_body_model
from extpose.config import SynthConfig
from extpose.data.clip import ClipOrigin, make_clip
from extpose.errors import AssetError
from extpose.keypoints import KeypointSet
from extpose.raster import Light, render_mesh, render_moments
from extpose.schema import Clip
from extpose.synth.evidence import Observer, observe
from extpose.synth.hand_scene import build_hand_scene
from extpose.synth.motion import Motion, load_motions
from extpose.synth.photographs import Photographs
from extpose.synth.posing import gather_skin
from extpose.synth.scene import Scene, Stage, build_body_scene, outline, project
from extpose.synth.sensor import degrade
from extpose.synth.shading import cast_shadow, shade_vertices
from extpose.synth.surroundings import coarse_camera, enlarge, look_around, smear
from extpose.synth.world import Camera, Purpose, make_rng

SUPERSAMPLE = 2
BLUR_SAMPLES = 4
"""Moments of a frame with motion blur, each seen from another part of the pixel."""
CLOTH_DEPTH = 0.07
HAND_DEPTH = np.array([0.032, *(0.03, 0.02, 0.014, 0.008), *(0.03, 0.015, 0.013, 0.008) * 4])
"""How deep below the skin a keypoint of a hand may lie, metres: wrist, thumb, fingers."""
AS_IS = Light(ambient=1.0, diffuse=0.0)


@dataclass(frozen=True, kw_only=True)
class Studio(Stage):
    """What is loaded once and serves all clips."""

    observer: Observer | None
    """Finds people in pictures; only where `keypoints` is `detector`."""


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One filmed frame."""

    rgb: UInt8[np.ndarray, "h w 3"]
    depth: Float32[np.ndarray, "h w"]


def open_studio(
    config: SynthConfig,
    motion_dir: Path | None,
    observer: Observer | None = None,
    *,
    photographs: Photographs | None = None,
) -> Studio:
    """Load the free body (with the motion clips of the split) or hand. Raises AssetError."""
    is_hand = config.body == "hand"
    body = load_body_model(body="mano" if is_hand else "smpl")
    motions: dict[str, Motion] = {}
    if not is_hand:
        if motion_dir is None:
            raise AssetError("no folder of motion clips; bring them with: extpose doctor --fetch")
        motions = load_motions(motion_dir, config.split)
    return Studio(
        body=body,
        skin=gather_skin(body.lbs_weights),
        motions=motions,
        photographs=photographs,
        observer=observer,
    )


def build_scene(studio: Studio, config: SynthConfig, index: int) -> Scene:
    """What the clip of this index shows."""
    build = build_hand_scene if config.body == "hand" else build_body_scene
    return build(studio, config, index)


def make_synthetic_clip(studio: Studio, config: SynthConfig, index: int) -> Clip:
    """The clip of this index; the same bytes whoever asks, in whatever order."""
    scene = build_scene(studio, config, index)
    shots = list(film(studio, scene, config, index))
    keypoint_set: KeypointSet = "hand21" if config.body == "hand" else "coco17"
    track = observe(
        [shot.rgb for shot in shots],
        [shot.depth for shot in shots],
        boxes=outline(scene.vertices_cam, scene.camera.K),
        keypoints_img=project(scene.evidence_cam, scene.camera.K),
        keypoints_depth=scene.evidence_cam[..., 2],
        config=config,
        observer=studio.observer,
        rng=make_rng(config.seed, config.split, index, Purpose.KEYPOINTS),
    )
    real = "mediapipe-hands" if config.body == "hand" else "movenet-thunder"
    detectors = {"truth": "truth", "noise": "truth+noise", "detector": real}
    origin = ClipOrigin(
        source="synth",
        split=config.split,
        video_id=f"synth-{config.split}-{config.seed}-{index:06d}-{scene.name.replace('_', '-')}",
        fps=config.fps,
        image_size=config.image_size,
        detector=detectors[config.keypoints],
        body=studio.body.body,
        is_right=scene.is_right,
        keypoint_set=keypoint_set,
    )
    intrinsics = np.tile(scene.camera.K.astype(np.float32), (config.num_frames, 1, 1))
    vertices = scene.vertices_cam.astype(np.float32) if config.vertices else None
    targets = replace(
        scene.targets, is_visible=find_seen(studio.body, scene, shots), vertices=vertices
    )
    return make_clip(
        (shot.rgb for shot in shots),
        track,
        origin=origin,
        crop=config.crop,
        skeleton=config.skeleton,
        intrinsics=intrinsics,
        targets=targets,
    )


def film(studio: Studio, scene: Scene, config: SynthConfig, index: int) -> Iterator[Shot]:
    """Render the frames of a scene one by one."""
    parts = (scene.subject, *scene.props)
    starts = np.cumsum([0, *(part.vertices_cam.shape[1] for part in parts)])
    faces = np.concatenate([p.faces + s for p, s in zip(parts, starts[:-1], strict=True)])
    faces = faces.astype(np.uint32)
    colors = np.concatenate([part.colors for part in parts])
    surface = np.concatenate([part.vertices_cam for part in parts], 1)
    normals = np.concatenate([part.find_normals() for part in parts], 1)
    camera = scene.camera
    rng = make_rng(config.seed, config.split, index, Purpose.PIXELS)
    for frame, R in enumerate(camera.R):
        background = look_around(
            *(scene.backdrop, camera.K, R, camera.position[frame]), image_size=config.image_size
        )
        if scene.shadow > 0:
            background = cast_shadow(
                *(background, surface[frame], coarse_camera(camera.K)),
                light=scene.light,
                up_cam=R[:, 1],
                eye_level=float(camera.position[frame, 1]),
                strength=scene.shadow,
            )
        moved = scene.degradation.shutter * _turning(camera, frame)
        background = enlarge(smear(background, moved), config.image_size)
        lit = shade_vertices(
            *(surface[frame], normals[frame], colors), light=scene.light, up_cam=R[:, 1]
        )
        image, depth = _expose(
            *(surface, frame, faces, lit, camera.K, background),
            shutter=scene.degradation.shutter,
        )
        yield Shot(rgb=degrade(image, scene.degradation, rng), depth=depth)


def _turning(camera: Camera, frame: int) -> Float64[np.ndarray, " 2"]:
    """Coarse pixels by which the camera's turning moves the background between two frames."""
    before, after = max(frame - 1, 0), min(frame + 1, len(camera.R) - 1)
    K = coarse_camera(camera.K)
    ahead = K @ camera.R[after] @ camera.R[before].T @ [0, 0, 1.0]
    return np.asarray((ahead[:2] / ahead[2] - K[:2, 2]) / max(after - before, 1))


def find_seen(body: BodyModel, scene: Scene, shots: list[Shot]) -> Bool[np.ndarray, "t k"]:
    """Which labelled keypoints are in the picture and hidden by no other part or thing.

    A joint lies below the skin: it is hidden where the nearest surface on its line of sight is
    nearer by more than that. A body's joints are as deep as they are at rest from any side, half
    as much more, and the cloth; a hand's knuckles lie near its back, so its depths are fixed.
    """
    keypoints = scene.targets.keypoints_3d[..., :3].astype(np.float64)
    middle = keypoints[0].mean(0)  # small numbers: squares of differences are taken apart below
    skin, points = scene.vertices_cam[0] - middle, keypoints[0] - middle
    squared = (skin**2).sum(1) - 2 * points @ skin.T + (points**2).sum(1)[:, None]
    reach = np.sqrt(np.maximum(squared.min(1), 0))
    allowed = HAND_DEPTH if body.body == "mano" else 1.5 * reach + CLOTH_DEPTH
    pixels = np.rint(scene.targets.keypoints_2d[..., :2]).astype(int)
    depth = np.stack([shot.depth for shot in shots])
    height, width = depth.shape[1:]
    x, y = pixels[..., 0], pixels[..., 1]
    inside = (x >= 0) & (y >= 0) & (x < width) & (y < height) & (keypoints[..., 2] > 0)
    frame = np.arange(len(depth))[:, None]
    before = depth[frame, np.where(inside, y, 0), np.where(inside, x, 0)]
    return np.asarray(inside & (before > keypoints[..., 2] - allowed))


def _expose(
    surface: Float64[np.ndarray, "t v 3"],
    frame: int,
    faces: np.ndarray,
    lit: np.ndarray,
    K: np.ndarray,
    background: np.ndarray,
    *,
    shutter: float,
) -> tuple[np.ndarray, np.ndarray]:
    """One picture and its depth: a moment, or the mean of several while the shutter is open."""

    if shutter == 0 or len(surface) == 1:
        drawn = render_mesh(
            *(surface[frame], faces, lit, K, background),
            light=AS_IS,
            supersample=SUPERSAMPLE,
            cull=True,
        )
        return drawn.image, drawn.depth
    before, after = max(frame - 1, 0), min(frame + 1, len(surface) - 1)
    velocity = (surface[after] - surface[before]) / (after - before)
    moments = []
    for sample in range(BLUR_SAMPLES):
        time = shutter * ((sample + 0.5) / BLUR_SAMPLES - 0.5)
        shifted = K.copy()
        shifted[:2, 2] += [(sample % 2) / 2 - 0.25, (sample // 2) / 2 - 0.25]
        moments.append((surface[frame] + time * velocity, shifted))
    return render_moments(moments, faces, lit, background)
