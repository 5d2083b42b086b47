"""From (config, index) to one synthetic clip with exact truth: pose, film, observe, pack.

Axes    t frames   v vertices   k keypoints   h w pixels
Units   metres, radians, pixels
Frames  `_world` (y up), `_cam` (OpenCV), `_img` pixels of the rendered picture
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Float64, UInt8
from scipy.spatial.transform import Rotation

from extpose.body_model import BodyModel, find_evidence, load_body_model
from extpose.config import SynthConfig
from extpose.data.clip import ClipOrigin, make_clip
from extpose.raster import Light, render_mesh
from extpose.rotations import axis_angle_to_matrix
from extpose.schema import Clip, ClipTargets
from extpose.synth.appearance import dress
from extpose.synth.background import (
    Degradation,
    degrade,
    paint_background,
    sample_degradation,
    turn_background,
)
from extpose.synth.evidence import Observer, observe
from extpose.synth.motion import MOTIONS, Motion, load_motions
from extpose.synth.world import (
    Camera,
    Person,
    Purpose,
    make_rng,
    sample_camera,
    sample_person,
)

SUPERSAMPLE = 2
MIN_DEPTH = 0.4
"""No part of the person comes nearer to the camera, metres."""


@dataclass(frozen=True, kw_only=True)
class Studio:
    """What is loaded once and serves all clips."""

    body: BodyModel
    motions: dict[str, Motion]
    observer: Observer | None
    """Finds people in pictures; only where `keypoints` is `detector`."""

    @property
    def leg_length(self) -> float:
        """Hip to ankle at rest, metres."""
        hip, knee, ankle = self.body.joints_template[[1, 4, 7]]
        return float((hip - knee).norm() + (knee - ankle).norm())


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A clip before it is filmed: exact geometry, and how everything looks."""

    person: Person
    camera: Camera
    vertices_cam: Float64[np.ndarray, "t v 3"]
    evidence_cam: Float64[np.ndarray, "t k 3"]
    """What a detector looks for."""
    targets: ClipTargets
    colors: Float64[np.ndarray, "v 3"]
    light: Light
    background: UInt8[np.ndarray, "h w 3"]
    degradation: Degradation


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One filmed frame."""

    rgb: UInt8[np.ndarray, "h w 3"]
    depth: Float32[np.ndarray, "h w"]


def open_studio(config: SynthConfig, motion_dir: Path, observer: Observer | None = None) -> Studio:
    """Load the free body and the motion clips of the split. Raises AssetError."""
    return Studio(
        body=load_body_model(), motions=load_motions(motion_dir, config.split), observer=observer
    )


def make_synthetic_clip(studio: Studio, config: SynthConfig, index: int) -> Clip:
    """The clip of this index; the same bytes whoever asks, in whatever order."""
    scene = build_scene(studio, config, index)
    shots = list(film(studio, scene, config, index))
    track = observe(
        [shot.rgb for shot in shots],
        [shot.depth for shot in shots],
        vertices_img=project(scene.vertices_cam, scene.camera.K),
        keypoints_img=project(scene.evidence_cam, scene.camera.K),
        keypoints_depth=scene.evidence_cam[..., 2],
        config=config,
        observer=studio.observer,
        rng=make_rng(config.seed, config.split, index, Purpose.KEYPOINTS),
    )
    detectors = {"truth": "truth", "noise": "truth+noise", "detector": "movenet-thunder"}
    motion = scene.person.motion.replace("_", "-")
    origin = ClipOrigin(
        source="synth",
        split=config.split,
        video_id=f"synth-{config.split}-{config.seed}-{index:06d}-{motion}",
        fps=config.fps,
        image_size=config.image_size,
        detector=detectors[config.keypoints],
    )
    intrinsics = np.tile(scene.camera.K.astype(np.float32), (config.num_frames, 1, 1))
    return make_clip(
        (shot.rgb for shot in shots),
        track,
        origin=origin,
        crop=config.crop,
        skeleton=config.skeleton,
        intrinsics=intrinsics,
        targets=scene.targets,
    )


def build_scene(studio: Studio, config: SynthConfig, index: int) -> Scene:
    """Draw everything about a clip, and work out where every vertex is in each frame."""
    streams = {purpose: make_rng(config.seed, config.split, index, purpose) for purpose in Purpose}
    person = sample_person(
        studio.motions,
        MOTIONS[config.split],
        config,
        leg_length=studio.leg_length,
        rng=streams[Purpose.PERSON],
    )
    vertices, keypoints, evidence, root = _pose(studio.body, person)
    lift = -min(float((vertices[..., 1] + person.pelvis_world[:, None, 1]).min()), 0.0)
    pelvis_world = person.pelvis_world + np.array([0.0, lift, 0.0])
    camera = sample_camera(pelvis_world, config, rng=streams[Purpose.CAMERA])
    vertices_cam = camera.to_camera(vertices + pelvis_world[:, None])
    too_near = max(MIN_DEPTH - float(vertices_cam[..., 2].min()), 0.0)
    camera = replace(camera, position=camera.position - too_near * camera.R[:, 2])
    vertices_cam[..., 2] += too_near
    person = replace(person, pelvis_world=pelvis_world)
    keypoints_cam = camera.to_camera(keypoints + pelvis_world[:, None])
    look = streams[Purpose.LOOK]
    return Scene(
        person=person,
        camera=camera,
        vertices_cam=vertices_cam,
        evidence_cam=camera.to_camera(evidence + pelvis_world[:, None]),
        targets=_make_targets(person, camera, keypoints_cam, root),
        colors=dress(studio.body, look),
        light=_sample_light(look),
        background=paint_background(
            config.image_size,
            camera.K,
            camera.R[0],
            eye_level=float(camera.position[0, 1]),
            rng=look,
        ),
        degradation=sample_degradation(config.image_size, look),
    )


def film(studio: Studio, scene: Scene, config: SynthConfig, index: int) -> Iterator[Shot]:
    """Render the frames of a scene one by one."""
    faces = studio.body.faces.numpy()
    camera = scene.camera
    rng = make_rng(config.seed, config.split, index, Purpose.PIXELS)
    for R, vertices_cam in zip(camera.R, scene.vertices_cam, strict=True):
        background = turn_background(scene.background, camera.K, R, R_painted=camera.R[0])
        drawn = render_mesh(
            *(vertices_cam, faces, scene.colors, camera.K, background),
            light=scene.light,
            supersample=SUPERSAMPLE,
        )
        yield Shot(rgb=degrade(drawn.image, scene.degradation, rng), depth=drawn.depth)


def project(
    points_cam: Float64[np.ndarray, "*t 3"], K: Float64[np.ndarray, "3 3"]
) -> Float64[np.ndarray, "*t 2"]:
    """Pinhole projection to pixels."""
    return (points_cam[..., :2] / points_cam[..., 2:]) @ K[:2, :2].T + K[:2, 2]


def _pose(body: BodyModel, person: Person) -> tuple[np.ndarray, ...]:
    """Vertices, the labelled keypoints and COCO's about the pelvis in world axes, and the pelvis
    of the body at rest.
    """
    rotations = axis_angle_to_matrix(torch.from_numpy(person.rotations)).float()
    betas = torch.from_numpy(person.betas).float().expand(len(rotations), 10)
    with torch.inference_mode(), _one_thread():
        posed = body(rotations[:, 0], rotations[:, 1:], betas)
        evidence = find_evidence(posed, body)
    root = posed.joints[0, 0]
    points = [posed.vertices - root, posed.keypoints - root, evidence - root, root]
    vertices, keypoints, evidence, root = (x.double().numpy() for x in points)
    return vertices, keypoints, evidence, root


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in one order, whatever the machine's number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _make_targets(
    person: Person, camera: Camera, keypoints_cam: np.ndarray, root: np.ndarray
) -> ClipTargets:
    """The truth as a shard stores it: the camera's rotation is part of the root's."""
    num_frames = len(person.rotations)
    root_cam = Rotation.from_matrix(camera.R) * Rotation.from_rotvec(person.rotations[:, 0])
    pelvis_cam = camera.to_camera(person.pelvis_world[:, None])[:, 0]
    labelled = np.ones((*keypoints_cam.shape[:2], 1))
    keypoints_img = project(keypoints_cam, camera.K)
    return ClipTargets(
        global_orient=root_cam.as_rotvec().astype(np.float32),
        pose=person.rotations[:, 1:].astype(np.float32),
        betas=person.betas.astype(np.float32),
        transl=(pelvis_cam - root).astype(np.float32),
        keypoints_2d=np.concatenate([keypoints_img, labelled], -1).astype(np.float32),
        keypoints_3d=np.concatenate([keypoints_cam, labelled], -1).astype(np.float32),
        has_pose=np.ones(num_frames, bool),
        has_betas=np.array(True),
    )


def _sample_light(rng: np.random.Generator) -> Light:
    """From above, at any side, mostly not from behind."""
    azimuth, elevation = rng.normal(0, 1.0), rng.uniform(0.3, 1.3)
    ambient = rng.uniform(0.3, 0.65)
    return Light(
        direction=(
            float(np.sin(azimuth) * np.cos(elevation)),
            float(-np.sin(elevation)),
            float(-np.cos(azimuth) * np.cos(elevation)),
        ),
        ambient=float(ambient),
        diffuse=float(rng.uniform(0.85, 1.15) - ambient),
    )
