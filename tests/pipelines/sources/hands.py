"""Posed free hands in a known camera, and the files that hand data sets share.

The truth is in the project's own convention: OpenCV axes, metres, `hand21`, absolute rotations; a
left hand is the x-mirrored right one, its parameters those of the mirrored model.
"""

import json
import pickle
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from extpose.body_model import FREE_FILES, BodyModel, load_body_model
from extpose.keypoints import KEYPOINT_NAMES
from extpose.rotations import axis_angle_to_matrix
from pipelines.records import Filtered, Record, Source
from tests.pipelines.sources.cuts import check_cut

MIRROR = np.array([-1.0, 1.0, 1.0])
FLIP = np.array([1.0, -1.0, -1.0])
HANDS_MEAN = np.tile([0.05, -0.08, 0.45], 15)
"""A bent mean pose, as MANO's is; the free hand's own is flat."""
HANDS_COMPONENTS = np.linalg.qr(np.random.default_rng(7).standard_normal((45, 45)))[0]
NUM_VERTICES = 778


@dataclass(frozen=True)
class Hands:
    """t hands, the truth of a test."""

    global_orient: np.ndarray
    pose: np.ndarray
    betas: np.ndarray
    transl: np.ndarray
    keypoints: np.ndarray
    vertices: np.ndarray
    """The first 778, as many as MANO has."""
    K: np.ndarray
    is_right: bool
    size: tuple[int, int]

    @property
    def uv(self) -> np.ndarray:
        """The keypoints in the picture."""
        homogeneous = self.keypoints @ self.K.T
        return homogeneous[..., :2] / homogeneous[..., 2:]

    def draw(self, frame: int) -> np.ndarray:
        """A dot at each keypoint: fingers in their own colours, brighter to the tips."""
        image = np.full((*self.size, 3), 60, np.uint8)
        for name, (x, y) in zip(KEYPOINT_NAMES["hand21"], self.uv[frame], strict=True):
            finger, _, part = name.partition("_")
            hue = {"wrist": 0, "thumb": 15, "index": 40, "middle": 70, "ring": 105, "little": 140}
            value = {"": 255, "1": 120, "2": 160, "3": 200, "tip": 255}[part]
            hsv = np.uint8([[[hue[finger], 0 if finger == "wrist" else 220, value]]])
            color = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].tolist()
            cv2.circle(image, (round(float(x)), round(float(y))), 3, color, -1)
        return image


def pose_hands(
    seed: int,
    num_frames: int = 1,
    *,
    is_right: bool = True,
    size: tuple[int, int] = (224, 224),
    distance: float = 0.5,
    fixed_betas: bool = True,
) -> Hands:
    """Bent fingers, any direction, near the optical axis; neighbouring frames are alike."""
    rng = np.random.default_rng(seed)
    start, speed = rng.normal(0, 0.15, (2, 15, 3))
    start[:, 2] += 0.5
    times = np.linspace(0, 1, num_frames)[:, None, None]
    pose = start + 0.3 * speed * times
    turns = Rotation.random(rng=rng) * Rotation.from_rotvec(0.2 * rng.random(3) * times[:, 0])
    orient = turns.as_rotvec()
    betas = np.repeat(rng.normal(0, 0.5, (1 if fixed_betas else num_frames, 10)), 1, 0)
    betas = np.broadcast_to(betas, (num_frames, 10)).copy()
    posed = model_output(orient, pose, betas)
    center = posed[1].mean(1)
    place = np.array([0.01, -0.02, distance]) + 0.02 * times[:, 0]
    side = 1.0 if is_right else MIRROR
    transl = place - center * side
    focal = 1.6 * distance * min(size) / 0.4
    K = np.array([[focal, 0, size[1] / 2 - 1], [0, focal * 1.01, size[0] / 2 + 2], [0, 0, 1]])
    return Hands(
        global_orient=orient if is_right else orient * FLIP,
        pose=pose if is_right else pose * FLIP,
        betas=betas,
        transl=transl,
        keypoints=posed[1] * side + transl[:, None],
        vertices=(posed[0] * side + transl[:, None])[:, :NUM_VERTICES],
        K=K,
        is_right=is_right,
        size=size,
    )


def model_output(
    orient: np.ndarray, pose: np.ndarray, betas: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and keypoints of the free right hand."""
    body = _free_hand()
    with torch.inference_mode():
        posed = body(
            axis_angle_to_matrix(torch.from_numpy(orient)),
            axis_angle_to_matrix(torch.from_numpy(pose)),
            torch.from_numpy(betas),
        )
    return posed.vertices.numpy(), posed.keypoints.numpy()


@lru_cache
def _free_hand() -> BodyModel:
    return load_body_model(body="mano").double()


def rest_root(betas: np.ndarray, *, is_right: bool) -> np.ndarray:
    """The wrist at rest: what the root rotation turns about."""
    body = _free_hand()
    roots = body.joints_template[0] + torch.from_numpy(betas) @ body.joint_shapedirs[0].T
    return roots.numpy() * (1.0 if is_right else MIRROR)


def write_mano(root: Path, *, posedirs: np.ndarray | None = None) -> None:
    """The free hand as MANO's two files: bent mean pose, a PCA; the left one with MANO's fault."""
    folder = root / "mano"
    folder.mkdir(parents=True, exist_ok=True)
    with np.load(FREE_FILES["mano"]) as archive:
        fields = {name: archive[name].astype(float) for name in archive.files}
    fields["kintree_table"], fields["f"] = (
        fields[name].astype(np.int64) for name in ("kintree_table", "f")
    )
    if posedirs is not None:
        fields["posedirs"] = posedirs
    mean = HANDS_MEAN.reshape(15, 3)
    for side, flip in (("RIGHT", np.ones(3)), ("LEFT", FLIP)):
        file = fields | {
            "hands_mean": (mean * flip).ravel(),
            "hands_components": (HANDS_COMPONENTS.reshape(45, 15, 3) * flip).reshape(45, 45),
            "v_template": fields["v_template"] * (1 if side == "RIGHT" else MIRROR),
        }
        write_pickle(folder / f"MANO_{side}.pkl", file)


def write_pickle(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = pickle.dumps(content, protocol=2)
    path.write_bytes(data.replace(b"numpy._core.", b"numpy.core."))


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def read_all(source: Source, root: Path, split: str) -> list[Record | Filtered]:
    """All units, each read twice: the same records in the same order, each one checked."""
    units = source.list_units(root, split)
    assert units == sorted(units)
    found = [item for unit in units for item in source.read_unit(root, split, unit)]
    again = [item for unit in units for item in source.read_unit(root, split, unit)]
    assert [item.name for item in found] == [item.name for item in again]
    records = [item for item in found if isinstance(item, Record)]
    assert len({record.name for record in records}) == len(records)
    for record in records:
        check_cut(record)
        assert all(frame.path.is_file() for frame in record.frames)
        image = cv2.imread(str(record.frames[0].path))
        assert image.shape[:2] == record.image_size
    return found


def assert_is(record: Record, hands: Hands, frames: slice = slice(None)) -> None:
    """The record's labels are the truth."""
    t = record.targets
    assert record.is_right == hands.is_right
    assert record.body == "mano"
    np.testing.assert_allclose(t.keypoints_3d[..., :3], hands.keypoints[frames], atol=1e-5)
    np.testing.assert_allclose(t.keypoints_2d[..., :2], hands.uv[frames], atol=2e-2)
    assert (t.keypoints_3d[..., 3] == 1).all()
    assert (t.keypoints_2d[..., 2] == 1).all()
    low, high = hands.uv[frames].min(1), hands.uv[frames].max(1)
    np.testing.assert_allclose(record.track.bbox_xyxy, np.hstack([low, high]), atol=2e-2)
    assert record.intrinsics is not None
    np.testing.assert_allclose(record.intrinsics[0], hands.K, rtol=1e-5)


def assert_posed(record: Record, hands: Hands, frames: slice = slice(None)) -> None:
    """The parameters give the labelled joints by the free hand, mirrored for a left one."""
    t = record.targets
    assert t.has_pose.all()
    assert t.has_betas
    np.testing.assert_allclose(t.betas, hands.betas[frames][0], atol=1e-5)
    flip, mirror = (np.ones(3), 1.0) if record.is_right else (FLIP, MIRROR)
    betas = np.broadcast_to(t.betas.astype(float), (len(t.pose), 10)).copy()
    _, keypoints = model_output(
        t.global_orient.astype(float) * flip, t.pose.astype(float) * flip, betas
    )
    np.testing.assert_allclose(
        keypoints * mirror + t.transl[:, None], hands.keypoints[frames], atol=2e-5
    )


def draw_record(record: Record, frame: int = 0) -> np.ndarray:
    """The labels over the picture: rings with the first letter of finger and the part."""
    image = cv2.imread(str(record.frames[frame].path))
    scale = 3
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    for name, (x, y, labelled) in zip(
        KEYPOINT_NAMES["hand21"], record.targets.keypoints_2d[frame], strict=True
    ):
        if labelled:
            place = (round(scale * (float(x) + 0.5)), round(scale * (float(y) + 0.5)))
            cv2.circle(image, place, 12, (255, 255, 255), 1)
            finger, _, part = name.partition("_")
            text = finger[0] + part[:1]
            cv2.putText(image, text, (place[0] + 12, place[1]), 0, 0.5, (255, 255, 255), 1)
    x0, y0, x1, y1 = (round(scale * (float(v) + 0.5)) for v in record.track.bbox_xyxy[frame])
    cv2.rectangle(image, (x0, y0), (x1, y1), (0, 255, 255), 1)
    return image


def turn(hands: Hands, R: np.ndarray) -> Hands:
    """The same hands in axes `x' = R x`: root rotation and translation as MANO has them."""
    rest = rest_root(hands.betas, is_right=hands.is_right)
    wrist = (hands.transl + rest) @ R.T
    turned = Rotation.from_matrix(R) * Rotation.from_rotvec(hands.global_orient)
    return replace(
        hands,
        global_orient=turned.as_rotvec(),
        transl=wrist - rest,
        keypoints=hands.keypoints @ R.T,
        vertices=hands.vertices @ R.T,
    )


def move(hands: Hands, offset: np.ndarray) -> Hands:
    """The same hands in axes whose origin lies at `-offset`."""
    return replace(
        hands,
        transl=hands.transl + offset,
        keypoints=hands.keypoints + offset,
        vertices=hands.vertices + offset,
    )
