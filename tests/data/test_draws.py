"""Draws on shapes: even over the area, repeatable, and what travels with them."""

import numpy as np
import pytest
import trimesh

from zoo.data.draws import Shape, ShapeDraws

RANDOM = np.random.default_rng(0)


def test_points_of_a_mesh_are_spread_by_area():
    # Two sheets of equal area, one of two faces, one of many.
    coarse = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]])
    fine = coarse.subdivide().subdivide().subdivide()
    fine.apply_translation([5, 0, 0])
    both = trimesh.util.concatenate([coarse, fine])
    drawn = Shape(both.vertices, both.faces).draw(2000, np.random.default_rng(0))
    assert abs((drawn["points"][:, 0] < 3).mean() - 0.5) < 0.01
    np.testing.assert_allclose(drawn["frames"][:, 2], [[0, 0, 1]] * 2000, atol=1e-6)
    gram = np.einsum("nij,nkj->nik", drawn["frames"], drawn["frames"])
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(3), gram.shape), atol=1e-5)


def test_points_of_a_cloud_are_spread_by_area_too():
    dense, sparse = RANDOM.uniform(0, 1, (4000, 2)), RANDOM.uniform(0, 1, (500, 2)) + [3, 0]
    flat = np.concatenate([dense, sparse])
    cloud = np.column_stack([flat, np.zeros(len(flat))])
    drawn = Shape(cloud).draw(1000, np.random.default_rng(0))
    assert 0.35 < (drawn["points"][:, 0] < 2).mean() < 0.65
    assert "frames" not in drawn


def test_features_are_interpolated_as_positions_are():
    mesh = trimesh.creation.icosphere(subdivisions=2)
    drawn = Shape(mesh.vertices, mesh.faces, features=mesh.vertices.astype(np.float32)).draw(
        100, np.random.default_rng(0)
    )
    np.testing.assert_allclose(drawn["features"], drawn["points"], atol=1e-6)


def test_weights_of_zero_are_never_drawn():
    mesh = trimesh.creation.icosphere(subdivisions=2)
    weights = (mesh.vertices[:, 2] > 0).astype(float)
    drawn = Shape(mesh.vertices, mesh.faces, weights).draw(500, np.random.default_rng(0))
    assert drawn["points"][:, 2].min() > -0.35
    with pytest.raises(ValueError, match="weights must be positive"):
        Shape(mesh.vertices, mesh.faces, np.zeros(len(mesh.vertices)))


def test_faces_without_area_are_passed_over():
    drawn = Shape(np.eye(3), [[0, 1, 2], [0, 0, 1]]).draw(50, np.random.default_rng(0))
    np.testing.assert_allclose(drawn["points"].sum(axis=1), 1.0, atol=1e-6)
    bare = Shape(RANDOM.normal(size=(20, 3)), [[0, 0, 1]])
    assert bare.faces is None and not bare.oriented


def test_a_batch_depends_on_seed_epoch_and_index_alone():
    shape = Shape(RANDOM.normal(size=(50, 2)))
    options = {"points": 8, "steps": 2, "total": 4, "constants": {"x": np.ones((1, 1))}}
    sets = [ShapeDraws(shape, shape, **options, schedule=lambda p: {"p": p}) for _ in range(2)]
    sets[0][0], sets[0][1]
    for each in sets:
        each.epoch = 1
    one, other = (each[1][0] for each in sets)
    assert set(one) == {"x", "p", "moving_points", "fixed_points"} | {
        "moving_features",
        "fixed_features",
    }
    assert one["p"] == 1.0
    for name, values in one.items():
        assert np.array_equal(values, other[name])
    assert not np.array_equal(one["moving_points"], sets[0][0][0]["moving_points"])
