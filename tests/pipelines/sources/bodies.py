"""A miniature world of people whose truth is known: the free body, posed before a known camera.

Each test of a source writes such people in the layout of its data set and reads them back.

Axes   t frames   n joints (24)   p keypoints (44)   v vertices
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from extpose.body_model import BodyModel, load_body_model
from extpose.keypoints import FLIP_PAIRS, KEYPOINT_NAMES
from pipelines.records import SMPL24_NAMES, Record

SIZE = (240, 320)
"""Height, width of the pictures."""
INTRINSICS = np.array([[300.0, 0, 150.0], [0, 310.0, 125.0], [0, 0, 1]])
BODY44 = KEYPOINT_NAMES["body44"]


@dataclass(frozen=True, kw_only=True)
class Person:
    """One body over t frames. `pose[:, 0]` is the root; `*_cam` are in the camera."""

    pose: np.ndarray
    betas: np.ndarray
    transl: np.ndarray
    vertices: np.ndarray
    joints: np.ndarray
    keypoints: np.ndarray
    vertices_cam: np.ndarray
    joints_cam: np.ndarray
    keypoints_cam: np.ndarray
    joints_img: np.ndarray
    keypoints_img: np.ndarray


@dataclass(frozen=True, kw_only=True)
class World:
    """A camera that moves in a world whose z is up, and people before it."""

    extrinsics: np.ndarray
    """(t, 4, 4), world to camera."""
    people: tuple[Person, ...]

    @property
    def num_frames(self) -> int:
        return len(self.extrinsics)


@cache
def body_model() -> BodyModel:
    return load_body_model()


def repose(pose: np.ndarray, betas: np.ndarray, transl: np.ndarray) -> dict[str, np.ndarray]:
    """Vertices, joints and keypoints of (t, 24, 3) axis-angles; float64 in, float64 out."""
    matrices = torch.from_numpy(
        Rotation.from_rotvec(pose.reshape(-1, 3)).as_matrix().reshape(-1, 24, 3, 3)
    ).float()
    shape = torch.from_numpy(np.tile(betas, (len(pose), 1))).float()
    with torch.no_grad():
        out = body_model()(matrices[:, 0], matrices[:, 1:], shape, torch.from_numpy(transl).float())
    return {k: getattr(out, k).double().numpy() for k in ("vertices", "joints", "keypoints")}


def make_world(
    *,
    seed: int = 0,
    num_frames: int = 6,
    num_people: int = 1,
    intrinsics: np.ndarray = INTRINSICS,
    move: float = 1.0,
    depth: float = 4.0,
) -> World:
    """People who walk before a camera that turns; `move` 0: it stands at the world's origin."""
    rng = np.random.default_rng(seed)
    phase = np.linspace(0, 1, num_frames)[:, None]
    up_to_down = Rotation.from_matrix([[1, 0, 0], [0, 0, -1], [0, 1, 0]])
    turn = Rotation.from_rotvec(move * phase * [0.2, 0.4, 0.1])
    extrinsics = np.tile(np.eye(4), (num_frames, 1, 1))
    if move:
        extrinsics[:, :3, :3] = (turn * up_to_down).as_matrix()
        extrinsics[:, :3, 3] = move * (rng.normal(0, 0.2, 3) + phase * [0.3, 0.2, 0.1])
    people = tuple(
        _make_person(rng, phase, extrinsics, intrinsics, place=(i - (num_people - 1) / 2, depth))
        for i in range(num_people)
    )
    return World(extrinsics=extrinsics, people=people)


def _make_person(
    rng: np.random.Generator,
    phase: np.ndarray,
    extrinsics: np.ndarray,
    intrinsics: np.ndarray,
    *,
    place: tuple[float, float],
) -> Person:
    num_frames = len(extrinsics)
    pose = rng.normal(0, 0.15, (1, 24, 3)) + phase[..., None] * rng.normal(0, 0.25, (1, 24, 3))
    # Upright in the camera, the right arm raised so that left and right differ to the eye.
    in_camera = Rotation.from_rotvec([np.pi, 0, 0]) * Rotation.from_rotvec(
        phase * [0.1, 1.2, 0.0] + rng.normal(0, 0.1, 3)
    )
    to_world = Rotation.from_matrix(extrinsics[:, :3, :3]).inv()
    pose[:, 0] = (to_world * in_camera).as_rotvec()
    pose[:, 17, 2] -= 1.0
    betas = rng.normal(0, 1, 10)
    place_cam = np.array([place[0], 0.3, place[1]]) + phase * [0.4, 0.1, 0.3]
    transl = to_world.apply(place_cam - extrinsics[:, :3, 3])
    world = repose(pose, betas, transl)
    cam = {
        f"{k}_cam": v @ extrinsics[:, :3, :3].swapaxes(1, 2) + extrinsics[:, None, :3, 3]
        for k, v in world.items()
    }
    img = {f"{k}_img": to_pixels(cam[f"{k}_cam"], intrinsics) for k in ("joints", "keypoints")}
    assert num_frames == len(pose)
    return Person(pose=pose, betas=betas, transl=transl, **world, **cam, **img)


def to_pixels(points: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    flat = points @ intrinsics.T
    return flat[..., :2] / flat[..., 2:]


def draw(
    world: World, frame: int, *, size: tuple[int, int] = SIZE, intrinsics: np.ndarray = INTRINSICS
) -> np.ndarray:
    """RGB: the skin as dots, the persons' own left half red, the right half blue."""
    picture = np.full((*size, 3), 40, np.uint8)
    is_left = body_model().v_template[:, 0].numpy() > 0
    for person in world.people:
        points = to_pixels(person.vertices_cam[frame], intrinsics)[::3]
        for side, color in ((is_left[::3], (220, 60, 60)), (~is_left[::3], (60, 90, 230))):
            x, y = np.round(points[side]).astype(int).T
            inside = (x >= 0) & (y >= 0) & (x < size[1]) & (y < size[0])
            picture[y[inside], x[inside]] = color
    return picture


def write_picture(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture[..., ::-1])


def points_of(people: World, person: int, names: tuple[str | None, ...]) -> np.ndarray:
    """Pixels (t, m, 2) of the named keypoints; zero where the name is None."""
    found = people.people[person].keypoints_img
    indices = [0 if name is None else BODY44.index(name) for name in names]
    points = found[:, indices].copy()
    points[:, [name is None for name in names]] = 0
    return points


def assert_body(record: Record, person: Person, frames: slice, atol: float = 2e-4) -> None:
    """The record's parameters, posed, are the person in the camera: metre by metre."""
    targets = record.targets
    assert targets.has_pose.all()
    assert targets.has_betas
    np.testing.assert_allclose(targets.betas, person.betas, atol=1e-6)
    np.testing.assert_allclose(targets.pose, person.pose[frames, 1:], atol=1e-6)
    pose = np.concatenate([targets.global_orient[:, None], targets.pose], 1).astype(np.float64)
    found = repose(pose, targets.betas.astype(np.float64), targets.transl.astype(np.float64))
    np.testing.assert_allclose(found["vertices"], person.vertices_cam[frames], atol=atol)


def assert_joints(record: Record, person: Person, frames: slice, atol: float = 1e-4) -> None:
    """SMPL's 24 joints are labelled, and only they, where the person has them."""
    for name, labels, truth in (
        ("2d", record.targets.keypoints_2d, person.joints_img),
        ("3d", record.targets.keypoints_3d, person.joints_cam),
    ):
        named = {n: i for i, n in enumerate(SMPL24_NAMES) if n is not None}
        is_labelled = np.array([n in named for n in BODY44])
        np.testing.assert_array_equal(labels[..., -1], np.tile(is_labelled, (len(labels), 1)))
        for joint, row in named.items():
            np.testing.assert_allclose(
                labels[:, BODY44.index(joint), :-1],
                truth[frames, row],
                atol=atol if name == "3d" else 0.02,
                err_msg=f"{name} {joint}",
            )


def overlay(record: Record, picture: np.ndarray, frame: int = 0) -> np.ndarray:
    """BGR, three times as large: labels over the picture; left is yellow, right is green."""
    canvas = cv2.resize(picture[..., ::-1], None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST)
    left = {a for a, _ in FLIP_PAIRS["body44"]}
    right = {b for _, b in FLIP_PAIRS["body44"]}
    x0, y0, x1, y1 = np.round(record.track.bbox_xyxy[frame] * 3).astype(int).tolist()
    cv2.rectangle(canvas, (x0, y0), (x1, y1), (255, 255, 255), 1)
    for i, (x, y, labelled) in enumerate(record.targets.keypoints_2d[frame]):
        color = (0, 255, 255) if i in left else (0, 255, 0) if i in right else (255, 255, 255)
        if labelled:
            cv2.circle(canvas, (round(x * 3), round(y * 3)), 5, color, 2)
    for x, y, confidence in record.track.keypoints_2d[frame]:
        if confidence:
            cv2.drawMarker(canvas, (round(x * 3), round(y * 3)), (255, 255, 0), 0, 8)
    return canvas
