"""Surface distances against closed forms, brute force and tensorflow-graphics."""

import sys

import numpy as np
import pytest
import trimesh

from zoo.data import shapes
from zoo.metrics.surface import (
    benchmark_distances,
    cloud_distances,
    held_out_distances,
    normal_consistency,
)
from zoo.ops.graphics import graphics

RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.standard_normal((200, 3)), RNG.standard_normal((150, 3))


@pytest.fixture
def reference():
    try:
        return graphics()
    except ImportError as error:
        pytest.skip(str(error))


def test_distances_by_brute_force():
    brute = np.linalg.norm(FIRST[:, None] - SECOND, axis=-1)
    forward, backward = brute.min(axis=1), brute.min(axis=0)
    results = cloud_distances(FIRST, SECOND)
    assert results["chamfer"] == pytest.approx((forward.mean() + backward.mean()) / 2)
    assert results["hausdorff"] == pytest.approx(max(forward.max(), backward.max()))
    assert results["mean_forward"] == pytest.approx(forward.mean())
    assert results["max_backward"] == pytest.approx(backward.max())


def test_a_shifted_lattice_is_off_by_the_shift():
    lattice = np.stack(np.meshgrid(*[np.arange(4.0)] * 3), axis=-1).reshape(-1, 3)
    results = cloud_distances(lattice, lattice + [0.25, 0, 0])
    assert results["chamfer"] == pytest.approx(0.25)
    assert results["hausdorff"] == pytest.approx(0.25)


def test_the_held_out_frame_removes_units():
    plain = held_out_distances(FIRST, SECOND, np.zeros(3), 1.0)
    metres = held_out_distances(FIRST * 9 + 5, SECOND * 9 + 5, np.full(3, 5.0), 9.0)
    assert metres == pytest.approx(plain)


def test_benchmark_distances_keep_units_and_add_the_scan():
    results = benchmark_distances(FIRST * 9, SECOND * 9, scan=FIRST * 9)
    assert results["benchmark_chamfer"] == pytest.approx(
        9 * cloud_distances(FIRST, SECOND)["chamfer"]
    )
    assert results["benchmark_scan_chamfer"] == 0
    assert "benchmark_scan_chamfer" not in benchmark_distances(FIRST, SECOND)


def test_normals_count_their_sign():
    sphere = shapes.sphere(2000)
    arguments = sphere.points, sphere.normals, sphere.points[:50], sphere.normals[:50]
    assert normal_consistency(*arguments) == pytest.approx(1)
    assert normal_consistency(*arguments[:3], -arguments[3]) == pytest.approx(-1)


def test_empty_clouds_are_refused():
    with pytest.raises(ValueError, match="second must hold at least one point"):
        cloud_distances(FIRST, np.zeros((0, 3)))


def test_tensorflow_graphics_agrees_on_hausdorff(reference):
    one_sided = [
        float(reference.hausdorff(a.astype("float32"), b.astype("float32")))
        for a, b in ((FIRST, SECOND), (SECOND, FIRST))
    ]
    results = cloud_distances(FIRST, SECOND)
    assert results["max_forward"] == pytest.approx(one_sided[0], rel=1e-5)
    assert results["max_backward"] == pytest.approx(one_sided[1], rel=1e-5)


def test_tensorflow_graphics_agrees_on_chamfer(reference):
    """Its Chamfer distance sums the two means of squared distances."""
    from scipy.spatial import cKDTree

    squared = (cKDTree(b).query(a)[0] ** 2 for a, b in ((FIRST, SECOND), (SECOND, FIRST)))
    expected = sum(distances.mean() for distances in squared)
    theirs = reference.chamfer(FIRST.astype("float32"), SECOND.astype("float32"))
    assert float(theirs) == pytest.approx(expected, rel=1e-5)


def test_tensorflow_graphics_agrees_on_vertex_normals(reference):
    from zoo.data.scan import Scan

    mesh = trimesh.creation.icosphere(2)
    theirs = reference.vertex_normals(
        mesh.vertices.astype("float32")[None], mesh.faces.astype("int32")[None]
    )[0]
    ours = Scan.from_mesh(mesh).normals
    # trimesh weighs faces by their angle, tensorflow-graphics by their area.
    assert (np.asarray(theirs) * ours).sum(axis=1).min() > 0.999


def test_a_missing_tensorflow_graphics_says_how_to_get_it(monkeypatch):
    for name in [key for key in sys.modules if key.startswith("tensorflow_graphics")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorflow_graphics", None)
    with pytest.raises(ImportError, match="pip install tensorflow-graphics"):
        graphics()
