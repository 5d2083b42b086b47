"""What one synthetic clip of a body shows, before it is filmed: geometry, clothes, light, truth.

Axes    t frames   v vertices   k keypoints   n joints   h w pixels
Units   metres, radians, pixels
Frames  `_world` (y up), `_cam` (OpenCV), `_img` pixels of the rendered picture
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

from extpose.body_model import BodyModel
from extpose.config import SynthConfig
from extpose.keypoints import COCO17_OF_BODY44
from extpose.raster import Light, vertex_normals
from extpose.rotations import axis_angle_to_matrix
from extpose.schema import ClipTargets
from extpose.synth.appearance import Outfit, cloth_color, dress
from extpose.synth.background import paint_backdrop
from extpose.synth.motion import JOINTS, MOTIONS, Motion
from extpose.synth.photographs import Photographs
from extpose.synth.posing import Bones, Skin, find_bones, shape_body, skin_mesh, skin_normals
from extpose.synth.props import Mesh, Prop, draw_held, draw_obstacle, make_seat
from extpose.synth.sensor import Degradation, sample_degradation
from extpose.synth.surroundings import Backdrop
from extpose.synth.world import Camera, Person, Purpose, make_rng, sample_camera, sample_person

MIN_DEPTH = 0.4
"""No part of the person comes nearer to the camera, metres."""
SEAT_BELOW = 0.1
"""From the pelvis of who sits to the seat, metres."""
ANKLES = (JOINTS.index("left_ankle"), JOINTS.index("right_ankle"))


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What is loaded once and serves all clips of bodies."""

    body: BodyModel
    skin: Skin
    motions: dict[str, Motion]
    photographs: Photographs | None

    @property
    def leg_length(self) -> float:
        """Hip to ankle at rest, metres."""
        hip, knee, ankle = self.body.joints_template[[1, 4, 7]]
        return float((hip - knee).norm() + (knee - ankle).norm())


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A clip before it is filmed."""

    name: str
    """Of the motion."""
    is_right: bool | None
    """Hands only."""
    camera: Camera
    vertices_cam: Float64[np.ndarray, "t v 3"]
    """The bare body (or hand)."""
    subject: Prop
    """The same, as it is seen: dressed."""
    props: tuple[Prop, ...]
    """Everything else that can hide it."""
    evidence_cam: Float64[np.ndarray, "t k 3"]
    """What a detector looks for."""
    targets: ClipTargets
    light: Light
    backdrop: Backdrop
    shadow: float
    """How much darker the floor is in the shadow; 0: no floor is seen."""
    degradation: Degradation


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A posed person in the world."""

    person: Person
    bones: Bones
    root_rest: Float64[np.ndarray, " 3"]
    shaped: Float64[np.ndarray, "v 3"]

    def seen_by(self, camera: Camera) -> Bones:
        """The skeleton in camera axes."""
        return self.bones.move(camera.R, camera.to_camera(self.person.pelvis_world[:, None])[:, 0])


def build_body_scene(stage: Stage, config: SynthConfig, index: int) -> Scene:
    """Draw everything about a clip, and work out where every vertex is in each frame."""
    streams = {purpose: make_rng(config.seed, config.split, index, purpose) for purpose in Purpose}
    figure = _pose(stage, config, streams[Purpose.PERSON])
    camera = sample_camera(figure.person.pelvis_world, config, rng=streams[Purpose.CAMERA])
    vertices_cam = skin_mesh(figure.shaped, stage.skin, figure.seen_by(camera))
    too_near = max(MIN_DEPTH - float(vertices_cam[..., 2].min()), 0.0)
    camera = replace(camera, position=camera.position - too_near * camera.R[:, 2])
    vertices_cam[..., 2] += too_near
    look = streams[Purpose.LOOK]
    outfit = dress(stage.body, look)
    backdrop = paint_backdrop(
        camera, figure.person.pelvis_world, photographs=stage.photographs, rng=look
    )
    regressor = stage.body.coco_regressor
    targets = make_targets(stage.body, figure.person, camera, figure.root_rest)
    evidence = targets.keypoints_3d[:, list(COCO17_OF_BODY44), :3].astype(np.float64)
    if regressor is not None:
        evidence = regressor.double().numpy() @ vertices_cam
    return Scene(
        name=figure.person.motion,
        is_right=None,
        camera=camera,
        vertices_cam=vertices_cam,
        subject=_wear(stage, figure, outfit, backdrop, camera),
        props=(
            *_add_others(stage, config, figure, camera, backdrop, streams[Purpose.OTHERS]),
            *_add_props(figure, camera, backdrop, streams[Purpose.PROPS]),
        ),
        evidence_cam=evidence,
        targets=targets,
        light=sample_light(backdrop, camera, look),
        backdrop=backdrop,
        shadow=float(look.uniform(0.15, 0.6)),
        degradation=sample_degradation(config.image_size, look),
    )


def _pose(stage: Stage, config: SynthConfig, rng: np.random.Generator) -> Figure:
    """Draw a person and put them on the floor."""
    person = sample_person(
        stage.motions, MOTIONS[config.split], config, leg_length=stage.leg_length, rng=rng
    )
    shaped, rest_joints = shape_body(stage.body, person.betas)
    bones = find_bones(person.rotations, rest_joints, stage.body.parents)
    bare = skin_mesh(shaped, stage.skin, bones)
    lowest = bare[..., 1].min(1)
    pelvis = person.pelvis_world.copy()
    if person.is_composed:
        pelvis = _stand(bones.joints) - np.array([0, 1, 0]) * lowest[:, None]
    else:
        pelvis[:, 1] += -min(float((lowest + pelvis[:, 1]).min()), 0.0)
    return Figure(
        person=replace(person, pelvis_world=pelvis),
        bones=bones,
        root_rest=rest_joints[0],
        shaped=shaped,
    )


def _stand(joints: np.ndarray) -> np.ndarray:
    """Where the pelvis goes so that the lower foot stays where it is, `t 3`."""
    feet = joints[:, ANKLES]
    load = np.exp(-25 * (feet[..., 1] - feet[..., 1].min(1, keepdims=True)))
    load /= load.sum(1, keepdims=True)
    steps = (np.diff(feet, axis=0) * load[1:, :, None]).sum(1)
    path = -np.concatenate([np.zeros((1, 3)), np.cumsum(steps, 0)]) * [1, 0, 1]
    return path - path[len(path) // 2]


def _wear(stage: Stage, figure: Figure, outfit: Outfit, backdrop: Backdrop, camera: Camera) -> Prop:
    """The dressed surface in the camera."""
    faces = stage.body.faces.numpy()
    normals = vertex_normals(figure.shaped, faces)
    dressed = figure.shaped + outfit.offset[:, None] * normals
    seen = figure.seen_by(camera)
    return Prop(
        vertices_cam=skin_mesh(dressed, stage.skin, seen),
        faces=faces,
        colors=outfit.colors * backdrop.tint,
        normals=skin_normals(vertex_normals(dressed, faces), stage.skin, seen),
    )


def _add_others(
    stage: Stage,
    config: SynthConfig,
    subject: Figure,
    camera: Camera,
    backdrop: Backdrop,
    rng: np.random.Generator,
) -> Iterator[Prop]:
    """People behind or beside the subject, each in motion of their own."""
    if rng.random() > 0.3:
        return
    for _ in range(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15])):
        other = _pose(stage, config, rng)
        middle = subject.person.pelvis_world[len(camera.R) // 2] * [1, 0, 1]
        away = middle - camera.position[0] * [1, 0, 1]
        away /= max(float(np.linalg.norm(away)), 1e-6)
        aside = np.array([-away[2], 0.0, away[0]]) * rng.choice([-1.0, 1.0])
        near = float(np.linalg.norm(middle[[0, 2]] - backdrop.centre))
        far = np.clip(backdrop.radius - near - 0.5, 0.7, 7)
        behind = rng.choice([rng.uniform(-0.3, 0.6), rng.uniform(0.6, far)], p=[0.3, 0.7])
        lateral = rng.uniform(0.75, 1.5) if behind < 0.6 else rng.uniform(0.2, 1.0 + 0.5 * behind)
        moved = middle + away * behind + aside * lateral
        person = replace(other.person, pelvis_world=other.person.pelvis_world + moved)
        other = replace(other, person=person)
        yield _wear(stage, other, dress(stage.body, rng), backdrop, camera)
        if person.is_seated:
            yield _put(_draw_seat(other, rng), camera, backdrop)


def _add_props(
    figure: Figure, camera: Camera, backdrop: Backdrop, rng: np.random.Generator
) -> Iterator[Prop]:
    """A seat below who sits, a thing in front or behind, something in the hand."""
    middle = len(camera.R) // 2
    pelvis = figure.person.pelvis_world[middle]
    meshes: list[Mesh] = []
    if figure.person.is_seated:
        meshes.append(_draw_seat(figure, rng))
    if rng.random() < 0.35:
        away = (camera.position[middle] - pelvis) * [1, 0, 1]
        length = max(float(np.linalg.norm(away)), 1e-6)
        part = rng.choice([rng.uniform(0.12, 0.4), rng.uniform(-1.5, -0.2)], p=[0.7, 0.3])
        aside = np.array([-away[2], 0.0, away[0]]) / length * rng.normal(0, 0.45)
        heading = Rotation.from_euler("y", np.arctan2(away[0], away[2]) + rng.normal(0, 0.5))
        place = pelvis * [1, 0, 1] + part * away + aside
        meshes.append(draw_obstacle(rng).move(heading.as_matrix(), place))
    for mesh in meshes:
        yield _put(mesh, camera, backdrop)
    if rng.random() < 0.12:
        yield _hold(draw_held(rng), figure, camera, backdrop, rng)


def _draw_seat(figure: Figure, rng: np.random.Generator) -> Mesh:
    """A chair under who sits, where they are in the middle of the clip."""
    middle = len(figure.bones.turned) // 2
    pelvis = figure.person.pelvis_world[middle]
    facing = figure.bones.turned[middle, 0, :, 2]
    heading = Rotation.from_euler("y", np.arctan2(facing[0], facing[2]))
    seat = make_seat(max(pelvis[1] - SEAT_BELOW, 0.15), cloth_color(rng))
    return seat.move(heading.as_matrix(), pelvis * [1, 0, 1])


def _put(mesh: Mesh, camera: Camera, backdrop: Backdrop) -> Prop:
    """A thing that does not move."""
    still = np.broadcast_to(mesh.vertices, (len(camera.R), *mesh.vertices.shape))
    return Prop(
        vertices_cam=camera.to_camera(still),
        faces=mesh.faces,
        colors=mesh.colors * backdrop.tint,
    )


def _hold(
    mesh: Mesh, figure: Figure, camera: Camera, backdrop: Backdrop, rng: np.random.Generator
) -> Prop:
    """A thing that follows a hand, its axis across the palm."""
    joint = JOINTS.index(str(rng.choice(["left_hand", "right_hand"])))
    upright = Rotation.from_euler("x", 90, degrees=True).as_matrix()
    turned = figure.bones.turned[:, joint] @ upright
    grip = figure.bones.joints[:, joint] + figure.person.pelvis_world
    grip = grip - 0.03 * figure.bones.turned[:, joint, :, 1]
    vertices = np.einsum("tij,vj->tvi", turned, mesh.vertices) + grip[:, None]
    return Prop(
        vertices_cam=camera.to_camera(vertices),
        faces=mesh.faces,
        colors=mesh.colors * backdrop.tint,
    )


def make_targets(
    body: BodyModel, person: Person, camera: Camera, root_rest: Float64[np.ndarray, " 3"]
) -> ClipTargets:
    """The truth as a shard stores it: the camera's rotation is part of the root's."""
    root_cam = Rotation.from_matrix(camera.R) * Rotation.from_rotvec(person.rotations[:, 0])
    transl = camera.to_camera(person.pelvis_world[:, None])[:, 0] - root_rest
    return find_targets(
        body,
        global_orient=root_cam.as_rotvec(),
        pose=person.rotations[:, 1:],
        betas=person.betas,
        transl=transl,
        K=camera.K,
    )


def find_targets(
    body: BodyModel,
    *,
    global_orient: Float64[np.ndarray, "t 3"],
    pose: Float64[np.ndarray, "t j 3"],
    betas: Float64[np.ndarray, " 10"],
    transl: Float64[np.ndarray, "t 3"],
    K: Float64[np.ndarray, "3 3"],
) -> ClipTargets:
    """Labels from parameters in the camera frame, all keypoints in 3D and in the picture."""
    turns = [axis_angle_to_matrix(torch.from_numpy(a)).float() for a in (global_orient, pose)]
    shape = torch.from_numpy(betas).float().expand(len(transl), 10)
    with torch.inference_mode(), one_thread():
        points = body.find_keypoints(turns[0], turns[1], shape).double().numpy()
    keypoints_cam = points + transl[:, None]
    labelled = np.ones((*points.shape[:2], 1))
    return ClipTargets(
        global_orient=global_orient.astype(np.float32),
        pose=pose.astype(np.float32),
        betas=betas.astype(np.float32),
        transl=transl.astype(np.float32),
        keypoints_2d=np.concatenate([project(keypoints_cam, K), labelled], -1).astype(np.float32),
        keypoints_3d=np.concatenate([keypoints_cam, labelled], -1).astype(np.float32),
        has_pose=np.ones(len(transl), bool),
        has_betas=np.array(True),
    )


def project(
    points_cam: Float64[np.ndarray, "*t 3"], K: Float64[np.ndarray, "3 3"]
) -> Float64[np.ndarray, "*t 2"]:
    """Pinhole projection to pixels."""
    return (points_cam[..., :2] / points_cam[..., 2:]) @ K[:2, :2].T + K[:2, 2]


def outline(
    vertices_cam: Float64[np.ndarray, "t v 3"], K: Float64[np.ndarray, "3 3"]
) -> Float64[np.ndarray, "t 4"]:
    """The boxes (x0 y0 x1 y1) of a mesh in the picture, wherever they leave it."""
    x, y = (vertices_cam[..., i] / vertices_cam[..., 2] for i in range(2))
    sides = [K[row, 0] * x + K[row, 1] * y + K[row, 2] for row in range(2)]
    return np.stack([*(side.min(1) for side in sides), *(side.max(1) for side in sides)], -1)


def sample_light(backdrop: Backdrop, camera: Camera, rng: np.random.Generator) -> Light:
    """From where the place is bright; else from above, at any side, mostly not from behind."""
    ambient = rng.uniform(0.3, 0.65)
    diffuse = float(rng.uniform(0.85, 1.15) - ambient)
    if backdrop.sun_world is not None:
        x, y, z = (camera.R[0] @ backdrop.sun_world).tolist()
        return Light(direction=(x, y, z), ambient=float(ambient + 0.1), diffuse=diffuse)
    azimuth, elevation = rng.normal(0, 1.0), rng.uniform(0.3, 1.3)
    return Light(
        direction=(
            float(np.sin(azimuth) * np.cos(elevation)),
            float(-np.sin(elevation)),
            float(-np.cos(azimuth) * np.cos(elevation)),
        ),
        ambient=float(ambient),
        diffuse=diffuse,
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums in one order, whatever the machine's number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
