"""Gradients, neighbours and level sets against differences, brute force and closed forms."""

import numpy as np
import pytest
from keras import ops

from zoo.ops.gradients import norm, value_and_gradient
from zoo.ops.isosurface import NoSurface, zero_level_curve, zero_level_set
from zoo.ops.neighbours import nearest_neighbours


def array(tensor):
    return ops.convert_to_numpy(tensor)


def test_gradient_of_a_quadratic_is_exact():
    points = np.random.default_rng(0).standard_normal((20, 3)).astype("float32")
    value, gradient = value_and_gradient(lambda x: ops.sum(x * x, axis=-1), points)
    np.testing.assert_allclose(array(value), (points**2).sum(-1), rtol=1e-6)
    np.testing.assert_allclose(array(gradient), 2 * points, rtol=1e-6)


def test_gradient_of_a_constant_is_zero():
    _, gradient = value_and_gradient(lambda x: ops.ones((4, 1)), np.ones((4, 3), "float32"))
    assert not array(gradient).any()


def test_norm_has_no_nan_gradient_at_zero():
    points = np.array([[0, 0, 0], [3, 0, 4]], "float32")
    length, gradient = value_and_gradient(norm, points)
    np.testing.assert_allclose(array(length), [0, 5])
    np.testing.assert_allclose(array(gradient), [[0, 0, 0], [0.6, 0, 0.8]], rtol=1e-6)


@pytest.mark.parametrize("method", ["tree", "blocks", "auto"])
@pytest.mark.parametrize("k", [1, 7])
def test_neighbours_equal_brute_force(method, k):
    rng = np.random.default_rng(1)
    # Far from the origin, where squared coordinates in float32 would cancel.
    queries, points = (rng.uniform(500, 501, (size, 3)).astype("float32") for size in (1500, 300))
    distances, indices = nearest_neighbours(queries, points, k, method)
    brute = np.linalg.norm(queries[:, None] - points, axis=-1)
    np.testing.assert_allclose(array(distances), np.sort(brute, axis=1)[:, :k], atol=2e-4)
    chosen = np.take_along_axis(brute, array(indices), axis=1)
    np.testing.assert_allclose(array(distances), chosen, atol=1e-5)


@pytest.mark.parametrize("method", ["tree", "blocks"])
def test_neighbour_distances_pull_on_queries(method):
    queries = np.array([[0.1, 0, 0], [1, 1, 0.2]], "float32")
    points = np.array([[0, 0, 0], [1, 1, 1]], "float32")
    _, gradient = value_and_gradient(
        lambda x: nearest_neighbours(x, points, 1, method)[0][:, 0], queries
    )
    np.testing.assert_allclose(array(gradient), [[1, 0, 0], [0, 0, -1]], atol=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [
        {"method": "octree"},
        {"k": 0},
        {"k": 4},
        {"points": np.zeros((3, 2), "float32")},
    ],
)
def test_neighbours_refuse(arguments):
    given = {"queries": np.zeros((2, 3), "float32"), "points": np.zeros((3, 3), "float32")}
    name = next(iter(arguments))
    with pytest.raises(ValueError, match=name):
        nearest_neighbours(**(given | arguments))


def ellipsoid(points):
    """A third-axis distance to half axes (1, 0.6, 0.4) about (0.3, 0, 0)."""
    return 0.4 * (np.linalg.norm((points - [0.3, 0, 0]) / [1, 0.6, 0.4], axis=1) - 1)


LOW, HIGH = [-1.2, -1.1, -1.0], [1.4, 1.1, 1.2]


def test_an_off_centre_ellipsoid_keeps_its_frame():
    import trimesh

    vertices, faces = zero_level_set(ellipsoid, LOW, HIGH, 96)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    cell = 2.6 / 96
    np.testing.assert_allclose(mesh.bounds, [[-0.7, -0.6, -0.4], [1.3, 0.6, 0.4]], atol=cell)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.24, rel=0.02)


@pytest.mark.parametrize("resolution", [31, 100, 130])
def test_sparse_and_dense_level_sets_are_equal(resolution):
    meshes = [zero_level_set(ellipsoid, LOW, HIGH, resolution, sparse=s) for s in (True, False)]
    (vertices, faces), (dense_vertices, dense_faces) = meshes
    assert len(faces) == len(dense_faces)
    order, dense_order = (np.lexsort(v.round(9).T) for v in (vertices, dense_vertices))
    np.testing.assert_allclose(vertices[order], dense_vertices[dense_order], atol=1e-6)


def test_the_sparse_level_set_visits_a_fraction():
    visited = []

    def counted(points):
        visited.append(len(points))
        return ellipsoid(points)

    zero_level_set(counted, LOW, HIGH, 256)
    assert sum(visited) < 256 * 217 * 217 / 20


def test_memory_of_a_fine_level_set_is_bounded():
    import tracemalloc

    tracemalloc.start()
    zero_level_set(ellipsoid, [-1.2] * 3, [1.4] * 3, 512)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The full grid in float32 alone takes 513^3 x 4 bytes, 540 MB.
    assert peak < 500e6


@pytest.mark.parametrize("sign", [1, -1])
def test_an_empty_level_set_says_so(sign):
    with pytest.raises(NoSurface, match="zero level set is empty"):
        zero_level_set(lambda x: sign * np.ones(len(x)), LOW, HIGH, 40)
    with pytest.raises(NoSurface, match="zero level set is empty"):
        zero_level_curve(lambda x: sign * np.ones(len(x)), LOW[:2], HIGH[:2], 40)


def test_a_planar_level_set_is_a_circle_with_the_inside_left():
    (curve,) = zero_level_curve(lambda p: np.hypot(*p.T) - 0.5, [-1, -1], [1, 1], 64)
    np.testing.assert_allclose(np.hypot(*curve.T), 0.5, atol=2e-3)
    assert np.allclose(curve[0], curve[-1])
    x, y = curve.T
    assert (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2 == pytest.approx(np.pi / 4, rel=0.01)
