"""The multi-resolution hash grid: interpolation, derivatives, hashing and closed levels."""

import keras
import numpy as np
import pytest
from keras import ops

from zoo.layers.hash_grid import HashGrid

SMALL = {"levels": 3, "coarsest": 2, "finest": 8, "entries": 2**10, "box": 1.0}


def built(dims=3, **config):
    grid = HashGrid(dims, **{**SMALL, **config})
    grid.build()
    rng = np.random.default_rng(0)
    grid.table.assign(rng.normal(size=grid.table.shape))
    return grid


def points(count, dims, seed=1):
    return np.random.default_rng(seed).uniform(-1, 1, (count, dims)).astype("float32")


@pytest.mark.parametrize("dims", [2, 3])
def test_a_linear_function_at_the_nodes_is_itself_between_them(dims):
    grid = built(dims, levels=1, coarsest=4, finest=4, features=1)
    axes = np.meshgrid(*[np.linspace(-1, 1, 5)] * dims, indexing="ij")
    slopes = np.array([1.0, -2.0, 0.5])[:dims]
    # The first axis runs fastest in the table.
    values = sum(slope * axis for slope, axis in zip(slopes, axes, strict=True)).T.reshape(-1, 1)
    grid.table.assign(values)
    queries = points(100, dims)
    found, turns = grid.trace(queries)
    np.testing.assert_allclose(found[:, 0], queries @ slopes, atol=1e-5)
    np.testing.assert_allclose(turns[:, :, 0], np.tile(slopes, (100, 1)), atol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_derivatives_agree_with_differences(dims):
    grid = built(dims, entries=64)  # fine levels are hashed
    assert grid.hashed.any() and not grid.hashed.all()
    queries, step = points(200, dims), 1e-3
    _, turns = grid.trace(queries)
    places = (queries[:, None] + 1) / 2 * grid.cells[:, None]
    inside = (np.abs(places - np.round(places)) > 0.02).all(axis=(1, 2))  # away from faces
    for axis in range(dims):
        offset = step * np.eye(dims, dtype="float32")[axis]
        ahead, behind = grid(queries + offset), grid(queries - offset)
        difference = ops.convert_to_numpy(ahead - behind) / (2 * step)
        np.testing.assert_allclose(turns[:, axis][inside], difference[inside], atol=0.02)


def test_calling_and_tracing_agree_and_the_border_goes_on():
    grid = built()
    queries = 1.5 * points(50, 3)
    found = ops.convert_to_numpy(grid(queries))
    assert found.shape == (50, grid.outputs)
    np.testing.assert_allclose(found, grid.trace(queries)[0], atol=1e-5)
    np.testing.assert_allclose(found, grid(np.clip(queries, -1, 1)), atol=1e-5)


def test_every_place_is_within_the_table():
    grid = built(entries=64, finest=200)
    for level in range(3):
        cells = int(grid.cells[level])
        nodes = np.random.default_rng(0).integers(0, cells + 1, (500, 3)).astype("int32")
        spread = np.broadcast_to(nodes[:, None, None], (500, 3, 1, 3))
        indices = ops.convert_to_numpy(grid._indices(spread))[:, level, 0] - grid.starts[level]
        assert indices.min() >= 0 and indices.max() < (
            64 if grid.hashed[level] else (cells + 1) ** 3
        )
        assert len(np.unique(indices)) > 20


def test_closed_levels_are_not_seen():
    grid = built()
    grid.limit(0.5)  # cells are 1, 1/2 and 1/4 wide
    found, turns = grid.trace(points(20, 3))
    assert np.abs(found[:, :4]).min() > 0
    assert not np.any(found[:, 4:]) and not np.any(turns[:, :, 4:])
    grid.limit(100.0)
    assert ops.convert_to_numpy(grid.open).tolist() == [1.0, 0.0, 0.0]


def test_it_comes_back_from_its_configuration():
    grid = built(features=4)
    again = HashGrid.from_config(grid.get_config())
    again.build()
    again.set_weights(grid.get_weights())
    np.testing.assert_array_equal(again(points(5, 3)), grid(points(5, 3)))


def test_gradients_reach_the_table():
    grid = built()
    model = keras.Sequential([grid, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    before = ops.convert_to_numpy(grid.table).copy()
    model.fit(points(100, 3), np.ones((100, 1)), verbose=0)
    assert np.abs(ops.convert_to_numpy(grid.table) - before).max() > 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"entries": 100}, "entries must be a power of two, not 100"),
        ({"finest": 1}, "finest must be at least coarsest=2, not 1"),
        ({"dims": 4}, "dims"),
        ({"levels": 0}, "levels"),
        ({"box": 0.0}, "box"),
    ],
)
def test_it_refuses(config, message):
    with pytest.raises(ValueError, match=message):
        HashGrid(**{**SMALL, **config})
