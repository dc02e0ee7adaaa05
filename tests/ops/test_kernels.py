"""Kernels: one graph for all small sizes, XLA for large ones and in graphs, the same numbers."""

import keras
import numpy as np
import pytest
from keras import ops

from zoo.ops import kernels
from zoo.ops.gradients import value_and_gradient
from zoo.ops.sampling import sample

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="jax compiles every size by itself"
)


def image(*shape):
    return ops.convert_to_tensor(np.random.default_rng(len(shape)).normal(size=shape), "float32")


@on_tensorflow
def test_all_small_sizes_share_a_graph():
    traced = []

    def function(values):
        traced.append(tuple(values.shape))
        return values * 2.0

    doubled = kernels.kernel(function)
    for size in (3, 4, 70):
        assert np.array_equal(doubled(image(1, size, 5, 2)), 2 * np.asarray(image(1, size, 5, 2)))
    assert traced == [(None, None, None, 2)]


@on_tensorflow
def test_large_arrays_and_graphs_are_compiled_for_their_size(monkeypatch):
    import tensorflow as tf

    traced = []

    def function(values):
        traced.append(tuple(values.shape))
        return values * 2.0

    doubled = kernels.kernel(function)
    tf.function(doubled, autograph=False)(image(1, 6, 2))
    monkeypatch.setattr(kernels, "SMALL", 11)
    doubled(image(1, 6, 2))
    doubled(image(1, 5, 2))
    assert traced == [(1, 6, 2), (None, None, 2)]


@on_tensorflow
def test_sizes_of_parameters_are_known():
    seen = []

    def function(values, weights):
        seen.append((tuple(values.shape), tuple(weights.shape)))
        return values @ weights

    times = kernels.kernel(function, parameters=[1])
    times(image(4, 3), image(3, 2))
    times(image(5, 3), image(3, 2))
    assert seen == [((None, 3), (3, 2))]


@on_tensorflow
def test_plain_and_compiled_have_one_value_and_one_gradient(monkeypatch):
    picture, places = image(2, 7, 6, 3), 3.0 + image(2, 11, 2)

    def loss(values, positions):
        return ops.sum(ops.sin(sample(values, positions)))

    def both():
        return [
            np.asarray(value_and_gradient(lambda x: loss(x, places), picture)[1]),
            np.asarray(value_and_gradient(lambda x: loss(picture, x), places)[1]),
            np.asarray(sample(picture, places)),
        ]

    plain = both()
    monkeypatch.setattr(kernels, "SMALL", 0)
    for one, other in zip(plain, both(), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)
