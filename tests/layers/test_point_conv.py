"""Layers of networks of points, against their sums written out."""

import keras
import numpy as np
import pytest
from keras import ops

from zoo.layers.edge_conv import EdgeConv, GraphDescriptors
from zoo.layers.point_conv import (
    CostVolume,
    FarthestPointSampling,
    InverseDistanceUpsampling,
    NearestGrouping,
    PointConv,
    WeightNet,
)

LAYERS = (
    FarthestPointSampling(7),
    NearestGrouping(5),
    InverseDistanceUpsampling(2),
    WeightNet(6, (3,)),
    PointConv(9, 4),
    CostVolume(8, 6),
    EdgeConv((4, 5), 3, "layer"),
    GraphDescriptors(4, 8, 3, "none"),
)


def made(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def array(tensor):
    return ops.convert_to_numpy(tensor)


def leaky(values, slope=0.1):
    return np.where(values > 0, values, slope * values)


def nearest(queries, points, k):
    return np.argsort(np.linalg.norm(queries[:, None] - points, axis=-1), axis=1)[:, :k]


def weighted(net, offsets):
    for step in net.steps:
        offsets = np.maximum(offsets @ array(step.kernel) + array(step.bias), 0)
    return offsets


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_layers_come_back_from_their_configuration(layer):
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()


@pytest.mark.parametrize("dims", [2, 3])
def test_point_conv_is_its_sum(dims):
    points, features, centres = made(30, dims), made(30, 4, seed=1), made(12, dims, seed=2)
    layer = PointConv(6, 5)
    found = array(layer(points[None], features[None], centres[None]))[0]
    for row, centre, index in zip(found, centres, nearest(centres, points, 5), strict=True):
        offsets = points[index] - centre
        vectors = np.concatenate([offsets, features[index]], axis=1)
        weights = weighted(layer.weight_net, offsets)
        flat = sum(np.outer(v, w) for v, w in zip(vectors, weights, strict=True)).ravel()
        wanted = leaky(flat @ array(layer.linear.kernel) + array(layer.linear.bias))
        np.testing.assert_allclose(row, wanted, atol=1e-5)


def test_cost_volume_is_its_two_sums():
    points, other = made(20, 3), made(25, 3, seed=1)
    features, other_features = made(20, 4, seed=2), made(25, 5, seed=3)
    layer = CostVolume(6, 7)
    found = array(layer(points[None], features[None], other[None], other_features[None]))[0]
    costs = []
    for point, own, index in zip(points, features, nearest(points, other, 7), strict=True):
        offsets = other[index] - point
        seen = np.concatenate([np.tile(own, (7, 1)), other_features[index], offsets], axis=1)
        for step in layer.compare:
            seen = leaky(seen @ array(step.kernel) + array(step.bias))
        costs.append((weighted(layer.across, offsets) * seen).sum(axis=0))
    costs = np.stack(costs)
    for row, point, index in zip(found, points, nearest(points, points, 7), strict=True):
        weights = weighted(layer.within, points[index] - point)
        np.testing.assert_allclose(row, (weights * costs[index]).sum(axis=0), rtol=1e-4, atol=1e-4)


def test_edge_conv_is_the_largest_of_its_edges():
    features = made(15, 4)
    layer = EdgeConv((6, 5), 4, "none")
    found = array(layer(features[None]))[0]
    for row, own, index in zip(found, features, nearest(features, features, 4), strict=True):
        edges = np.concatenate([features[index] - own, np.tile(own, (4, 1))], axis=1)
        for step in layer.steps:
            edges = leaky(edges @ array(step.kernel), 0.2)
        np.testing.assert_allclose(row, edges.max(axis=0), atol=1e-5)


def test_the_graph_network_of_the_paper_has_its_number_of_parameters():
    layer = GraphDescriptors()
    layer.build((None, None, 67))
    assert sum(np.prod(weight.shape) for weight in layer.trainable_weights) == 60_560


def test_masked_points_have_no_say():
    points, features = made(1, 30, 3), made(1, 30, 4, seed=1)
    mask = (np.arange(30) < 20)[None].astype(np.float32)
    layer = PointConv(6, 25)  # more than there are
    wanted = array(layer(points[:, :20], features[:, :20]))
    points[:, 20:], features[:, 20:] = 1e3, 1e3
    np.testing.assert_allclose(
        array(layer(points, features, valid=mask))[:, :20], wanted, rtol=1e-4, atol=1e-4
    )


def test_sampling_grouping_and_upsampling_fit_each_other():
    points, features = made(2, 40, 3), made(2, 40, 4, seed=1)
    chosen, index = FarthestPointSampling(10)(points)
    picked = np.take_along_axis(points, array(index)[..., None], axis=1)
    np.testing.assert_array_equal(array(chosen), picked)
    offsets, grouped, shares = NearestGrouping(3)(chosen, points, features)
    # The nearest point of a chosen one is itself.
    np.testing.assert_allclose(array(offsets)[:, :, 0], 0, atol=1e-6)
    own = np.take_along_axis(features, array(index)[..., None], axis=1)
    np.testing.assert_allclose(array(grouped)[:, :, 0], own)
    assert array(shares).all()
    raised = array(InverseDistanceUpsampling()(points, chosen, own))
    np.testing.assert_allclose(
        np.take_along_axis(raised, array(index)[..., None], axis=1), own, atol=1e-4
    )


def test_a_model_of_ones_own_trains_and_is_saved(tmp_path):
    points = keras.Input((24, 2))
    chosen, _ = FarthestPointSampling(6)(points)
    features = PointConv(5, 4)(points, points, chosen)
    model = keras.Model(points, keras.layers.Dense(1)(features))
    model.compile("adam", "mse")
    clouds, wanted = made(4, 24, 2), made(4, 6, 1)
    losses = model.fit(clouds, wanted, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    model.save(tmp_path / "mine.keras")
    again = keras.saving.load_model(tmp_path / "mine.keras")
    np.testing.assert_allclose(again.predict(clouds, verbose=0), model.predict(clouds, verbose=0))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PointConv(0), "filters"),
        (lambda: PointConv(4, 0), "neighbours"),
        (lambda: PointConv(4, 4, "guess"), "method"),
        (lambda: CostVolume(4, -1), "neighbours"),
        (lambda: EdgeConv((4,), 3, "loud"), "normalisation"),
        (lambda: FarthestPointSampling(0), "count"),
        (lambda: FarthestPointSampling(3, "sky"), "method"),
    ],
)
def test_bad_arguments_are_named(make, words):
    with pytest.raises((ValueError, TypeError), match=words):
        make()
