"""What one synthetic clip of a hand shows: the hand, its forearm, what it holds, truth.

A left hand is a mirrored right one, labels included (`docs/data.md`): everything is made for a
right hand in a mirrored picture and turned over at the end.

Axes    t frames   v vertices   k keypoints   Units and frames as in `scene.py`
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

from extpose.config import SynthConfig
from extpose.keypoints import MANO_JOINTS
from extpose.raster import vertex_normals
from extpose.schema import ClipTargets
from extpose.synth.appearance import SKIN, paint_cloth, random_color
from extpose.synth.background import paint_backdrop
from extpose.synth.hands import compose_hand
from extpose.synth.posing import Bones, find_bones, shape_body, skin_mesh, skin_normals
from extpose.synth.props import Mesh, Prop, make_ball, make_box, make_round
from extpose.synth.scene import Scene, Stage, find_targets, project, sample_light
from extpose.synth.sensor import sample_degradation
from extpose.synth.surroundings import Backdrop
from extpose.synth.world import Camera, Purpose, make_rng, waver

HAND_LENGTH = 0.19
"""Metres, for framing."""
NEAREST = 0.16
"""Metres between the camera and the hand at least."""
FOREARM = np.array([0.0, 0.02, 0.05, 0.09, 0.15, 0.22, 0.3])
"""Metres from where the hand's mesh ends."""
BEND_WITHIN = 0.05
"""Metres of forearm over which the wrist bends."""
MIRROR = np.array([-1.0, 1.0, 1.0])


def build_hand_scene(stage: Stage, config: SynthConfig, index: int) -> Scene:
    """Draw everything about a clip, and work out where every vertex is in each frame."""
    streams = {purpose: make_rng(config.seed, config.split, index, purpose) for purpose in Purpose}
    person, look = streams[Purpose.PERSON], streams[Purpose.LOOK]
    is_right = bool(person.random() < 0.5)
    betas = np.clip(person.normal(0, 1.1, 10), -3, 3)
    shaped, rest = shape_body(stage.body, betas)
    name, rotations = compose_hand(config.num_frames, config.fps, rest_joints=rest, rng=person)
    bones = find_bones(rotations, rest, stage.body.parents)
    camera, middle = _sample_view(config, streams[Purpose.CAMERA])
    knuckles = bones.joints[:, [MANO_JOINTS.index("middle_1"), MANO_JOINTS.index("middle_3")]]
    place = middle - knuckles[config.num_frames // 2].mean(0)
    still = np.tile(np.eye(3), (config.num_frames, 1, 1))
    seen = bones.move(still, place)
    vertices_cam = skin_mesh(shaped, stage.skin, seen)
    too_near = max(0.08 - float(vertices_cam[..., 2].min()), 0.0)
    if too_near > 0:
        place = place + np.array([0, 0, too_near])
        seen = bones.move(still, place)
        vertices_cam = skin_mesh(shaped, stage.skin, seen)
    backdrop = paint_backdrop(camera, camera.position, photographs=stage.photographs, rng=look)
    targets = find_targets(
        stage.body,
        global_orient=rotations[:, 0],
        pose=rotations[:, 1:],
        betas=betas,
        transl=place - rest[0],
        K=camera.K,
    )
    skin = SKIN[look.integers(len(SKIN))] * look.uniform(0.85, 1.1) * backdrop.tint
    scene = Scene(
        name=name,
        is_right=is_right,
        camera=camera,
        vertices_cam=vertices_cam,
        subject=Prop(
            vertices_cam=vertices_cam,
            faces=stage.body.faces.numpy(),
            colors=_paint_hand(stage, shaped, skin, look),
            normals=skin_normals(
                vertex_normals(shaped, stage.body.faces.numpy()), stage.skin, seen
            ),
        ),
        props=(
            _add_forearm(stage, shaped, seen, skin, look),
            *_add_things(seen, rest, backdrop, streams[Purpose.PROPS]),
        ),
        evidence_cam=targets.keypoints_3d[..., :3].astype(np.float64),
        targets=targets,
        light=sample_light(backdrop, camera, look),
        backdrop=backdrop,
        shadow=0.0,
        degradation=sample_degradation(config.image_size, look),
    )
    return scene if is_right else _mirror(scene)


def _sample_view(config: SynthConfig, rng: np.random.Generator) -> tuple[Camera, np.ndarray]:
    """A camera, and where the hand is in its axes: near, or small and far."""
    height, width = config.image_size
    focal = height / 2 / np.tan(np.deg2rad(np.exp(rng.uniform(np.log(25), np.log(75)))) / 2)
    K = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    fraction = rng.uniform(0.35, 0.85) if rng.random() < 0.75 else rng.uniform(0.16, 0.35)
    depth = max(focal * HAND_LENGTH / (fraction * min(height, width)), NEAREST)
    times = np.arange(config.num_frames) / config.fps
    room = np.clip(0.5 - 0.6 * fraction, 0.06, 0.3) * np.array([width, height]) / focal * depth
    middle = np.array([*rng.uniform(-room, room), depth])
    drift = rng.uniform(0, 0.05) * min(height, width) / focal * depth
    place = middle + drift * waver(times, rng) * [1, 1, 0.5]
    turn = Rotation.from_euler("yx", [rng.uniform(0, 2 * np.pi), rng.uniform(-0.5, 0.9)])
    upright = np.diag([1.0, -1.0, -1.0])
    shake = Rotation.from_rotvec(rng.uniform(0, 0.01) * waver(times, rng))
    R = shake.as_matrix() @ upright @ turn.inv().as_matrix()
    position = np.tile([0.0, rng.uniform(0.8, 1.8), 0.0], (config.num_frames, 1))
    return Camera(K=K, R=R, position=position), place


def _paint_hand(
    stage: Stage, shaped: np.ndarray, skin: np.ndarray, rng: np.random.Generator
) -> Float64[np.ndarray, "v 3"]:
    """A paler palm, redder joints, nails; a ring or a glove now and then."""
    normals = vertex_normals(shaped, stage.body.faces.numpy())
    part = stage.body.lbs_weights.numpy().argmax(1)
    colors = np.tile(skin, (len(shaped), 1))
    if rng.random() < 0.06:
        return paint_cloth(shaped, rng)
    palm = np.clip(-normals[:, 1], 0, 1)[:, None]
    colors = colors * (1 + 0.12 * palm) + palm * np.array([14.0, 4.0, 4.0])
    waves = rng.normal(0, 1, (6, 3)) * rng.uniform(60, 300, (6, 1))
    colors *= 1 + 0.025 * np.sin(shaped @ waves.T + rng.uniform(0, 6, 6)).sum(-1, keepdims=True)
    joints = stage.body.joints_template.double().numpy()
    near = np.linalg.norm(stage.body.v_template.numpy()[:, None] - joints[1:], axis=-1).min(1)
    colors *= 1 - 0.1 * np.exp(-((near / 0.009) ** 2))[:, None] * np.array([0.4, 1, 1])
    for finger in ("index", "middle", "ring", "little"):
        tip = part == MANO_JOINTS.index(f"{finger}_3")
        if tip.any():
            end = shaped[tip, 0].min()
            nail = tip & (shaped[:, 0] < end + 0.012) & (normals[:, 1] > 0.35)
            colors[nail] = colors[nail] * 0.55 + np.array([110, 88, 84])
    if rng.random() < 0.2:
        base = MANO_JOINTS.index("ring_1")
        joint = joints[base] + 0.35 * (joints[base + 1] - joints[base])
        band = (part == base) & (np.abs(shaped[:, 0] - joint[0]) < 0.003)
        colors[band] = (200, 170, 80)
    return np.asarray(np.clip(colors, 0, 255))


def _add_forearm(
    stage: Stage, shaped: np.ndarray, seen: Bones, skin: np.ndarray, rng: np.random.Generator
) -> Prop:
    """A tube from where the hand's mesh ends, bent at the wrist, bare or in a sleeve."""
    loop = find_border(stage.body.faces.numpy())
    ring = shaped[loop]
    center = ring.mean(0)
    bend = rng.normal(0, [0.2, 0.35, 0.5])
    sleeve = rng.choice([rng.uniform(0.0, 0.06), rng.uniform(0.06, 0.25), 1.0], p=[0.4, 0.3, 0.3])
    cloth, rings, colors = paint_cloth(np.zeros((1, 3)), rng)[0], [], []
    for i, distance in enumerate(FOREARM):
        turn = Rotation.from_rotvec(bend * min(distance / BEND_WITHIN, 1.0))
        if i > 0:
            center = center + turn.apply([distance - FOREARM[i - 1], 0, 0])
        is_cloth = distance > sleeve
        scale = 1 + 1.2 * distance + (0.22 if is_cloth else 0.0)
        rings.append(center + turn.apply(ring - ring.mean(0)) * scale)
        colors.append(np.tile(cloth if is_cloth else skin, (len(ring), 1)))
    tube = np.concatenate([*rings, center[None]])
    index = np.arange(len(FOREARM) * len(ring)).reshape(len(FOREARM), len(ring))
    a, b = index[:-1], np.roll(index[:-1], -1, 1)
    c, d = index[1:], np.roll(index[1:], -1, 1)
    faces = np.concatenate([np.stack([a, c, d], -1), np.stack([a, d, b], -1)]).reshape(-1, 3)
    last = index[-1]
    cap = np.stack([last, np.full(len(ring), len(tube) - 1), np.roll(last, -1)], -1)
    vertices = np.einsum("tij,vj->tvi", seen.turned[:, 0], tube) + seen.shift[:, 0, None]
    return Prop(
        vertices_cam=vertices,
        faces=np.concatenate([faces, cap]),
        colors=np.concatenate([*colors, colors[-1][:1]]),
    )


def find_border(faces: np.ndarray) -> np.ndarray:
    """Vertices around the largest hole of a mesh, in the direction in which its faces go."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    have = {(int(a), int(b)) for a, b in edges}
    after = {a: b for a, b in have if (b, a) not in have}
    longest: list[int] = []
    while after:
        start, at = next(iter(sorted(after.items())))
        loop = [start]
        del after[start]
        while at != start and at in after:
            loop.append(at)
            at = after.pop(at)
        longest = max(longest, loop, key=len)
    return np.array(longest)


def _add_things(
    seen: Bones, rest: np.ndarray, backdrop: Backdrop, rng: np.random.Generator
) -> list[Prop]:
    """Something in the hand, and something before it, now and then."""
    things, num_frames = [], len(seen.turned)
    if rng.random() < 0.25:
        color, radius = random_color(rng, strength=1.6), rng.uniform(0.012, 0.04)
        kind = rng.choice(["ball", "stick", "box"])
        mesh: Mesh = make_ball(radius, color)
        if kind == "stick":
            mesh = make_round(np.full(2, radius * 0.6), np.array([-0.1, 0.12]), color)
            mesh = mesh.move(Rotation.from_euler("x", 90, degrees=True).as_matrix(), np.zeros(3))
        elif kind == "box":
            mesh = make_box((-0.035, -0.02, -0.06), (0.035, 0.0, 0.06), color)
        knuckle = rest[MANO_JOINTS.index("middle_1")]
        grip = knuckle + np.array([-0.01, -0.022 - radius * (kind != "box"), 0.0])
        vertices = np.einsum("tij,vj->tvi", seen.turned[:, 0], mesh.vertices + grip)
        vertices = vertices + seen.shift[:, 0, None]
        things.append(Prop(vertices_cam=vertices, faces=mesh.faces, colors=mesh.colors))
    if rng.random() < 0.12:
        mesh = make_round(
            np.full(2, rng.uniform(0.006, 0.02)), np.array([-0.4, 0.4]), random_color(rng)
        ).move(Rotation.random(random_state=rng).as_matrix(), np.zeros(3))
        wrist = seen.joints[num_frames // 2, 0]
        place = wrist * rng.uniform(0.75, 0.95) + rng.normal(0, 0.06, 3) * [1, 1, 0]
        still = np.tile(mesh.vertices + place, (num_frames, 1, 1))
        things.append(Prop(vertices_cam=still, faces=mesh.faces, colors=mesh.colors))
    return [replace(thing, colors=thing.colors * backdrop.tint) for thing in things]


def _mirror(scene: Scene) -> Scene:
    """The left hand of the same scene."""

    def turn_over(prop: Prop) -> Prop:
        return replace(
            prop,
            vertices_cam=prop.vertices_cam * MIRROR,
            faces=prop.faces[:, ::-1].copy(),
            normals=None if prop.normals is None else prop.normals * MIRROR,
        )

    return replace(
        scene,
        vertices_cam=scene.vertices_cam * MIRROR,
        subject=turn_over(scene.subject),
        props=tuple(turn_over(prop) for prop in scene.props),
        evidence_cam=scene.evidence_cam * MIRROR,
        targets=mirror_targets(scene.targets, scene.camera.K),
    )


def mirror_targets(targets: ClipTargets, K: Float64[np.ndarray, "3 3"]) -> ClipTargets:
    """Labels of the mirrored hand, in the same camera: y and z of an axis-angle change sign."""
    turn = np.array([1, -1, -1], np.float32)
    keypoints_3d = targets.keypoints_3d * np.array([-1, 1, 1, 1], np.float32)
    keypoints_2d = targets.keypoints_2d.copy()
    keypoints_2d[..., :2] = project(keypoints_3d[..., :3].astype(np.float64), K)
    return replace(
        targets,
        global_orient=targets.global_orient * turn,
        pose=targets.pose * turn,
        transl=targets.transl * MIRROR.astype(np.float32),
        keypoints_2d=keypoints_2d,
        keypoints_3d=keypoints_3d,
    )
