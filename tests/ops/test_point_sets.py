"""Spread subsets, neighbourhoods and interpolation of clouds."""

import keras
import numpy as np
import pytest
from keras import ops

from zoo.ops.point_sets import farthest_points, interpolated, neighbourhoods


def cloud(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def array(tensor):
    return ops.convert_to_numpy(tensor)


@pytest.mark.parametrize("method", ["host", "loop"])
@pytest.mark.parametrize("dims", [2, 3])
def test_farthest_points_begin_at_the_first_differ_and_come_ever_closer(method, dims):
    points = cloud(2, 200, dims)
    chosen = array(farthest_points(points, 60, method=method))
    for own, row in zip(points, chosen, strict=True):
        assert row[0] == 0 and len(set(row)) == 60
        gaps = [
            np.linalg.norm(own[row[:k]] - own[row[k]], axis=1).min() for k in range(1, len(row))
        ]
        assert (np.diff(gaps) <= 1e-6).all()
        # Each is the farthest of all from those before it.
        for k in (1, 7, 30):
            apart = np.linalg.norm(own[:, None] - own[row[:k]], axis=-1).min(axis=1)
            assert apart.max() == pytest.approx(gaps[k - 1], rel=1e-5)


def test_farthest_points_of_host_and_graph_are_the_same():
    points, mask = cloud(3, 120, 3), np.ones((3, 120), np.float32)
    mask[1, :40] = 0
    both = [array(farthest_points(points, 30, mask, method)) for method in ("host", "loop")]
    np.testing.assert_array_equal(*both)


@pytest.mark.parametrize("method", ["host", "loop"])
def test_farthest_points_pass_over_masked_ones_and_repeat_where_too_few_count(method):
    points, mask = cloud(1, 20, 3), np.zeros((1, 20), np.float32)
    mask[0, 5:12] = 1
    points[0, 15] = 1e6
    chosen = array(farthest_points(points, 10, mask, method))[0]
    assert chosen[0] == 5 and set(chosen) == set(range(5, 12))


@pytest.mark.parametrize("search", ["tree", "blocks"])
def test_neighbourhoods_are_the_nearest_points_that_count(search):
    points, mask = cloud(2, 50, 3), np.ones((2, 50), np.float32)
    mask[1, 3:] = 0
    index, shares = neighbourhoods(points, points, 5, mask, search)
    index, shares = array(index), array(shares)
    apart = np.linalg.norm(points[0][:, None] - points[0], axis=-1)
    np.testing.assert_array_equal(np.sort(index[0]), np.sort(np.argsort(apart, axis=1)[:, :5]))
    np.testing.assert_array_equal(shares[:, 0], [[1] * 5, [1, 1, 1, 0, 0]])
    assert set(index[1, :, :3].ravel()) == {0, 1, 2}


def test_a_cloud_of_fewer_points_than_neighbours_gives_all_of_them():
    points = cloud(1, 4, 3)
    index, shares = neighbourhoods(points, points, 16)
    assert index.shape == (1, 4, 4) and array(shares).all()


def test_interpolation_is_exact_for_constants_and_where_points_coincide():
    fine, values = cloud(2, 80, 3), cloud(2, 20, 5, seed=1)
    coarse = fine[:, ::4]
    found = array(interpolated(fine, coarse, values))
    np.testing.assert_allclose(found[:, ::4], values, atol=1e-4)
    constant = np.full((2, 20, 1), 3.5, np.float32)
    np.testing.assert_allclose(array(interpolated(fine, coarse, constant)), 3.5, rtol=1e-6)
    # Three points at equal distance have equal say.
    corners = np.array([[[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, 9, 0]]], np.float32)
    middle = array(interpolated(np.zeros((1, 1, 3), np.float32), corners, corners))
    np.testing.assert_allclose(middle[0, 0], [0, 1 / 3, 0], atol=1e-6)


def test_interpolation_has_finite_gradients_where_points_coincide():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("one backend suffices for a derivative that both compute alike")
    import tensorflow as tf

    points = tf.Variable(cloud(1, 10, 3))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(interpolated(points, points, points) ** 2)
    assert np.isfinite(tape.gradient(loss, points).numpy()).all()
