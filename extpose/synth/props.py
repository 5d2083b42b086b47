"""Things that stand in front, behind or below, and things that are held.

Axes    t frames   v vertices   f faces, counter-clockwise from outside   colours RGB, 0 to 255
World   y up, metres, the floor is y = 0
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from scipy.spatial.transform import Rotation

from extpose.raster import vertex_normals
from extpose.synth.appearance import cloth_color, random_color

Corner = tuple[float | int, float | int, float | int]
BOX_FACES = np.array(
    [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
     [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]]
)  # fmt: skip
ROUND = 14
"""Corners of a round thing."""


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """A closed, coloured surface."""

    vertices: Float64[np.ndarray, "v 3"]
    faces: Int64[np.ndarray, "f 3"]
    colors: Float64[np.ndarray, "v 3"]

    def move(self, R: Float64[np.ndarray, "3 3"], offset: Float64[np.ndarray, " 3"]) -> "Mesh":
        """Turned, then shifted."""
        moved = self.vertices @ R.T + offset
        return Mesh(vertices=moved, faces=self.faces, colors=self.colors)


@dataclass(frozen=True, kw_only=True)
class Prop:
    """A surface in each frame, in camera axes."""

    vertices_cam: Float64[np.ndarray, "t v 3"]
    faces: Int64[np.ndarray, "f 3"]
    colors: Float64[np.ndarray, "v 3"]
    normals: Float64[np.ndarray, "t v 3"] | None = None
    """Of any length; None: those of the faces in each frame, slow for large meshes."""

    def find_normals(self) -> Float64[np.ndarray, "t v 3"]:
        """Of each vertex in each frame."""
        if self.normals is not None:
            return self.normals
        return np.stack([vertex_normals(vertices, self.faces) for vertices in self.vertices_cam])


def join_meshes(meshes: list[Mesh]) -> Mesh:
    """One mesh of several."""
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes[:-1])])
    return Mesh(
        vertices=np.concatenate([mesh.vertices for mesh in meshes]),
        faces=np.concatenate([m.faces + s for m, s in zip(meshes, starts, strict=True)]),
        colors=np.concatenate([mesh.colors for mesh in meshes]),
    )


def make_box(low: Corner, high: Corner, color: np.ndarray) -> Mesh:
    """Along the axes. Every face has corners of its own, so that edges stay sharp."""
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float64)
    sides = np.array(high) - np.array(low)
    vertices = (np.array(low) + corners * sides)[BOX_FACES.reshape(-1)]
    faces = np.arange(len(vertices)).reshape(-1, 3)
    return Mesh(vertices=vertices, faces=faces, colors=np.tile(color, (len(vertices), 1)))


def make_round(radius: np.ndarray, heights: np.ndarray, color: np.ndarray) -> Mesh:
    """A solid of revolution about y: `radius` at each of `heights` (rising), its ends closed."""
    angle = np.arange(ROUND) * 2 * np.pi / ROUND
    ring = np.stack([np.cos(angle), np.zeros(ROUND), -np.sin(angle)], -1)
    radius = np.concatenate([[1e-4], radius, [1e-4]])
    heights = np.concatenate([heights[:1], heights, heights[-1:]])
    vertices = ring[None] * radius[:, None, None] + np.array([0, 1, 0]) * heights[:, None, None]
    index = np.arange(len(radius) * ROUND).reshape(len(radius), ROUND)
    a, b = index[:-1], np.roll(index[:-1], -1, 1)
    c, d = index[1:], np.roll(index[1:], -1, 1)
    faces = np.concatenate([np.stack([a, b, d], -1), np.stack([a, d, c], -1)]).reshape(-1, 3)
    flat = vertices.reshape(-1, 3)
    shade = 1 + 0.05 * np.sin(flat @ [31.0, 47, 23])
    return Mesh(vertices=flat, faces=faces, colors=shade[:, None] * color)


def make_ball(radius: float, color: np.ndarray) -> Mesh:
    """About the origin."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, 9)[1:-1]
    return make_round(radius * np.cos(angle), radius * np.sin(angle), color)


def draw_obstacle(rng: np.random.Generator) -> Mesh:
    """Furniture, a pole, a box or a bush, its foot at the origin."""
    kind = rng.choice(["table", "cabinet", "pole", "bush", "rail", "seat"])
    color = cloth_color(rng)
    w, h = rng.uniform(0.3, 0.9), rng.uniform(0.4, 1.0)
    if kind == "table":
        legs = [make_box((x * w - 0.03, 0, z * 0.3 - 0.03), (x * w + 0.03, h, z * 0.3 + 0.03),
                         color * 0.8) for x in (-1, 1) for z in (-1, 1)]  # fmt: skip
        return join_meshes(
            [make_box((-w - 0.05, h, -0.4), (w + 0.05, h + 0.04, 0.4), color), *legs]
        )
    if kind == "cabinet":
        return make_box((-w / 2, 0, -0.2), (w / 2, h, 0.2), color)
    if kind == "pole":
        radius = rng.uniform(0.03, 0.12)
        return make_round(np.full(2, radius), np.array([0.0, rng.uniform(1.2, 3)]), color)
    if kind == "bush":
        leaves = []
        for _ in range(rng.integers(6, 16)):
            leaf = make_ball(
                rng.uniform(0.08, 0.22), rng.uniform(0.6, 1.2) * np.array([58, 96, 44])
            )
            leaves.append(
                leaf.move(np.eye(3), rng.normal(0, 1, 3) * [0.22, 0.18, 0.15] + [0, h, 0])
            )
        return join_meshes([*leaves, make_round(np.full(2, 0.04), np.array([0.0, h]), color * 0.5)])
    if kind == "rail":
        bars = [make_box((-1.6, y, -0.02), (1.6, y + 0.05, 0.02), color) for y in (h, h * 0.55)]
        posts = [make_box((x, 0, -0.03), (x + 0.06, h + 0.05, 0.03), color) for x in (-1, 0, 1)]
        return join_meshes([*bars, *posts])
    return make_seat(0.45, color).move(Rotation.from_euler("y", rng.uniform(0, 6)).as_matrix(),
                                       np.zeros(3))  # fmt: skip


def make_seat(height: float, color: np.ndarray) -> Mesh:
    """A chair whose user would face +z; its seat's middle is over the origin."""
    legs = [make_box((x - 0.02, 0, z - 0.02), (x + 0.02, height, z + 0.02), color * 0.7)
            for x in (-0.2, 0.2) for z in (-0.2, 0.2)]  # fmt: skip
    seat = make_box((-0.23, height - 0.05, -0.23), (0.23, height, 0.23), color)
    back = make_box((-0.22, height, -0.25), (0.22, height + 0.45, -0.21), color * 0.9)
    return join_meshes([seat, back, *legs])


def draw_held(rng: np.random.Generator) -> Mesh:
    """A ball, a bag, a stick or a cup about the origin."""
    kind, color = rng.choice(["ball", "bag", "stick", "cup"]), random_color(rng, strength=1.8)
    if kind == "ball":
        return make_ball(rng.uniform(0.05, 0.14), color)
    if kind == "bag":
        w, h = rng.uniform(0.08, 0.2, 2)
        return make_box((-w, -2 * h, -0.06), (w, 0.0, 0.06), color)
    if kind == "stick":
        length = rng.uniform(0.2, 0.7)
        return make_round(np.full(2, rng.uniform(0.01, 0.025)), np.array([-0.2, length]), color)
    return make_round(np.array([0.03, 0.04]), np.array([-0.05, 0.06]), color)
