"""The rasteriser against plain geometry."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extpose.raster import Light, Rendering, render_mesh, render_moments, vertex_normals

WHITE = Light(ambient=1.0, diffuse=0.0)
K = np.array([[100.0, 0, 32], [0, 100.0, 24], [0, 0, 1]])
BLACK = np.zeros((48, 64, 3), np.uint8)


def lift(pixels: list[tuple[float, float]], depth: list[float]) -> np.ndarray:
    """Points in front of the camera that project onto `pixels`."""
    homogeneous = np.c_[np.array(pixels, float), np.ones(len(pixels))]
    return homogeneous @ np.linalg.inv(K).T * np.array(depth)[:, None]


def draw(vertices: np.ndarray, faces: list[list[int]], color: object = (255.0,) * 3) -> Rendering:
    colors = np.broadcast_to(np.array(color, float), vertices.shape)
    return render_mesh(vertices, np.array(faces), colors, K, BLACK, light=WHITE)


def sphere(center: np.ndarray, radius: float, steps: int = 48) -> tuple[np.ndarray, np.ndarray]:
    theta, phi = np.meshgrid(
        np.linspace(0, np.pi, steps), np.linspace(0, 2 * np.pi, steps), indexing="ij"
    )
    directions = np.stack(
        [np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], -1
    )
    index = np.arange(steps * steps).reshape(steps, steps)
    a, b, c, d = (
        i.ravel() for i in (index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:])
    )
    faces = np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)])
    return center + radius * directions.reshape(-1, 3), faces


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0]])
def test_a_triangle_covers_the_pixels_whose_centres_it_contains(order: list[int]) -> None:
    drawn = draw(lift([(9.9, 4.9), (20.2, 4.9), (9.9, 15.2)], [2.0, 2.0, 2.0]), [order])
    y, x = np.mgrid[:48, :64]
    # Hypotenuse: x + y = 25.1; centres with x + y <= 25 are inside.
    inside = (x >= 10) & (y >= 5) & (x + y <= 25)
    np.testing.assert_array_equal(drawn.face_id == 0, inside)
    np.testing.assert_array_equal(drawn.image[..., 0] == 255, inside)
    np.testing.assert_allclose(drawn.depth[inside], 2.0, rtol=1e-6)
    assert np.isinf(drawn.depth[~inside]).all()


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30)
def test_a_split_rectangle_has_no_crack(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = [(4.5, 4.5), (50.5, 4.5), (50.5, 40.5), (4.5, 40.5)]
    middle = (rng.uniform(5, 50), rng.uniform(5, 40))
    vertices = lift([*corners, middle], [3.0] * 5)
    drawn = draw(vertices, [[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]])
    expected = np.zeros((48, 64), bool)
    expected[5:41, 5:51] = True
    np.testing.assert_array_equal(drawn.face_id >= 0, expected)


@pytest.mark.parametrize("faces", [[[0, 1, 2], [3, 4, 5]], [[3, 4, 5], [0, 1, 2]]])
def test_the_nearer_triangle_wins_in_either_order(faces: list[list[int]]) -> None:
    pixels = [(5.0, 5.0), (40.0, 5.0), (5.0, 40.0)]
    vertices = np.concatenate([lift(pixels, [4.0] * 3), lift(pixels, [2.0] * 3)])
    drawn = draw(vertices, faces)
    assert drawn.depth[10, 10] == pytest.approx(2.0)
    assert faces[drawn.face_id[10, 10]] == [3, 4, 5]


def test_colours_are_interpolated_in_perspective() -> None:
    vertices = lift([(0.0, 0.0), (60.0, 0.0), (0.0, 40.0)], [1.0, 5.0, 1.0])
    drawn = draw(vertices, [[0, 1, 2]], color=[[0.0] * 3, [200.0] * 3, [0.0] * 3])
    # Half way in the image, weight of the far corner: (0.5 / 5) / (0.5 / 5 + 0.5 / 1) = 1 / 6.
    assert drawn.image[0, 30, 0] == 33
    assert drawn.depth[0, 30] == pytest.approx(1 / (0.5 / 5 + 0.5))


@pytest.mark.parametrize("supersample", [1, 2, 3])
@pytest.mark.parametrize("pixel", [(20.0, 20.0), (31.37, 22.81), (40.5, 10.25)])
def test_a_small_sphere_lands_where_the_pinhole_says(
    pixel: tuple[float, float], supersample: int
) -> None:
    center = lift([pixel], [8.0])[0]
    vertices, faces = sphere(center, 0.4)
    drawn = render_mesh(
        *(vertices, faces, np.full_like(vertices, 255.0), K, BLACK),
        light=WHITE,
        supersample=supersample,
    )
    mass = drawn.image[..., 0].astype(float)
    y, x = np.mgrid[:48, :64]
    centroid = (mass * x).sum() / mass.sum(), (mass * y).sum() / mass.sum()
    np.testing.assert_allclose(centroid, pixel, atol=0.1)
    radius = 100 * 0.4 / 8
    assert mass.sum() / 255 == pytest.approx(np.pi * radius**2, rel=0.04)


def test_a_floor_that_reaches_behind_the_camera_fills_the_lower_half() -> None:
    floor = np.array([[-90.0, 1, -50], [90, 1, -50], [90, 1, 900], [-90, 1, 900]])
    drawn = draw(floor, [[0, 1, 2], [0, 2, 3]])
    assert (drawn.face_id[:24] == -1).all()
    assert (drawn.face_id[26:] >= 0).all()
    # y = 1 is seen in row 44 at depth 100 / (44 - 24).
    assert drawn.depth[44, 30] == pytest.approx(5.0)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30)
def test_triangles_anywhere_leave_a_valid_picture(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vertices = rng.normal(0, 1, (30, 3)) * 10.0 ** rng.uniform(-3, 6)
    faces = rng.integers(0, 30, (20, 3))
    drawn = draw(vertices, faces.tolist())
    assert drawn.face_id.max() < 20
    np.testing.assert_array_equal(np.isfinite(drawn.depth), drawn.face_id >= 0)
    assert (drawn.depth > 0).all()


def test_behind_the_camera_or_empty_changes_nothing() -> None:
    background = np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)
    behind = lift([(5.0, 5.0), (40.0, 5.0), (5.0, 40.0)], [-2.0] * 3)
    for vertices, faces in (
        (behind, np.array([[0, 1, 2]])),
        (np.zeros((0, 3)), np.zeros((0, 3), int)),
    ):
        drawn = render_mesh(vertices, faces, np.full_like(vertices, 99.0), K, background)
        np.testing.assert_array_equal(drawn.image, background)
        assert (drawn.face_id == -1).all()


def test_supersampling_keeps_the_background_and_the_inside() -> None:
    background = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    vertices = lift([(9.9, 4.9), (40.2, 4.9), (9.9, 35.2)], [2.0] * 3)
    arguments = (vertices, np.array([[0, 1, 2]]), np.full((3, 3), 80.0), K, background)
    once, twice = (render_mesh(*arguments, supersample=s, light=WHITE) for s in (1, 2))
    outside = np.ones((48, 64), bool)
    outside[4:37, 9:42] = False
    np.testing.assert_array_equal(twice.image[outside], background[outside])
    np.testing.assert_array_equal(twice.image[8:15, 12:20], once.image[8:15, 12:20])


def test_the_mean_of_moments() -> None:
    """A square that moves by 10 pixels between two moments is half as bright at both ends."""
    places = [
        lift([(x, 10.0), (x + 20.2, 10.0), (x + 20.2, 30.2), (x, 30.2)], [2.0] * 4)
        for x in (9.9, 19.9)
    ]
    faces = np.array([[0, 2, 1], [0, 3, 2]])
    moments = [(vertices, K) for vertices in places]
    image, depth = render_moments(moments, faces, np.full((4, 3), 200.0), BLACK)
    np.testing.assert_allclose(image[20, [5, 12, 25, 35, 42], 0], [0, 100, 200, 100, 0], atol=1)
    assert np.isinf(depth[20, 12])
    np.testing.assert_allclose(depth[20, 35], 2.0, rtol=1e-6)
    still, _ = render_moments(moments[:1], faces, np.full((4, 3), 200.0), BLACK)
    plain = render_mesh(places[0], faces, np.full((4, 3), 200.0), K, BLACK, light=WHITE)
    np.testing.assert_array_equal(still, plain.image)
    with pytest.raises(ValueError, match="4 vertices"):
        render_moments(moments, faces + 2, np.full((4, 3), 200.0), BLACK)


def test_light_comes_from_where_it_is_said_to() -> None:
    vertices, faces = sphere(np.array([0.0, 0, 5]), 0.8)
    normals = vertex_normals(vertices, faces)
    outward = (normals * (vertices - [0, 0, 5])).sum(-1)[np.abs(normals).sum(-1) > 0]
    assert outward.min() > 0.5
    light = Light(direction=(-1.0, 0.0, -0.2), ambient=0.2, diffuse=0.7)
    image = render_mesh(vertices, faces, np.full_like(vertices, 200.0), K, BLACK, light=light).image
    assert image[24, 22, 0] > 130
    assert image[24, 42, 0] == pytest.approx(40, abs=2)


def test_bad_input_is_refused() -> None:
    vertices = lift([(5.0, 5.0), (40.0, 5.0), (5.0, 40.0)], [2.0] * 3)
    with pytest.raises(ValueError, match="3 vertices"):
        draw(vertices, [[0, 1, 3]])
    vertices[0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        draw(vertices, [[0, 1, 2]])
