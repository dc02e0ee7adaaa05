"""PointPWC-Net: its size, and what it must not depend on."""

import keras
import numpy as np
import pytest
from keras import ops

from zoo.models.pointpwc import AUTHORS, PAPER, PointPWC, PointPWCNet


def clouds(count=256, seed=0):
    random = np.random.default_rng(seed)
    return [random.normal(size=(1, count, 3)).astype(np.float32) for _ in range(2)]


def made(**options):
    keras.utils.set_random_seed(1)
    network = PointPWCNet(**{"width": 4, **options})
    network.build()
    return network


def flow(network, moving, fixed):
    return ops.convert_to_numpy(network(moving, fixed)["flows"][0])


@pytest.mark.parametrize("config", [PAPER, AUTHORS])
def test_the_published_network_has_its_number_of_parameters(config):
    assert PointPWC(**config).count_params() == 7_717_292


def test_levels_have_fewer_and_fewer_of_the_clouds_own_points():
    moving, fixed = clouds(300)
    found = made()(moving, fixed)
    for cloud, chosen in ((moving, found["chosen"]), (fixed, found["targets"])):
        assert chosen[0] is None and [len(each[0]) for each in chosen[1:]] == [75, 19, 10]
        for finer, coarser in zip(chosen[1:], chosen[2:], strict=False):
            assert set(np.asarray(coarser)[0]) <= set(np.asarray(finer)[0])
        assert np.asarray(chosen[1])[0, 0] == 0 and cloud.shape[1] == 300
    assert [each.shape[1] for each in found["flows"]] == [300, 75, 19, 10]


def test_the_order_of_points_does_not_matter():
    moving, fixed = clouds()
    network = made()
    wanted = flow(network, moving, fixed)
    random = np.random.default_rng(3)
    # Farthest points begin at the first one, which has to stay.
    orders = [np.concatenate([[0], 1 + random.permutation(255)]) for _ in range(2)]
    found = flow(network, moving[:, orders[0]], fixed[:, orders[1]])
    np.testing.assert_allclose(found, wanted[:, orders[0]], atol=1e-4)


def test_without_coordinates_as_features_only_differences_of_places_matter():
    moving, fixed = clouds()
    network, shift = made(features="ones"), np.array([3.0, -2.0, 5.0], np.float32)
    np.testing.assert_allclose(
        flow(network, moving + shift, fixed + shift), flow(network, moving, fixed), atol=1e-3
    )


def test_a_flow_that_is_bounded_stays_within_one():
    moving, fixed = clouds(64)
    assert np.abs(flow(made(output="tanh"), 50 * moving, 50 * fixed)).max() <= 1.0


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("count", [1, 5, 33])
def test_clouds_of_any_size_are_taken(dims, count):
    random = np.random.default_rng(0)
    moving = random.normal(size=(2, count, dims)).astype(np.float32)
    fixed = random.normal(size=(2, 2 * count + 1, dims)).astype(np.float32)
    found = flow(made(dims=dims), moving, fixed)
    assert found.shape == moving.shape and np.isfinite(found).all()


def test_both_ways_to_search_give_the_same():
    moving, fixed = clouds(100)
    trees, blocks = made(search="tree"), made(search="blocks")
    np.testing.assert_allclose(flow(trees, moving, fixed), flow(blocks, moving, fixed), atol=1e-4)


@pytest.mark.parametrize(
    ("options", "words"), [({"features": "colours"}, "features"), ({"output": "relu"}, "output")]
)
def test_bad_arguments_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        PointPWC(**options)
