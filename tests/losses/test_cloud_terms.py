"""Terms of clouds that are registered: known values, and what may be left out of the graph."""

import numpy as np
import pytest
from keras import ops

from zoo.losses import Chamfer
from zoo.losses.cloud_terms import (
    CloudTerm,
    DensityImages,
    DistanceVolumes,
    NearestPoints,
    across_structures,
    search_tree,
)


def clouds(n=300, m=250, rank=3):
    rng = np.random.default_rng(0)
    return (rng.uniform(-0.8, 0.8, (count, rank)).astype(np.float32) for count in (n, m))


def value(term, moved):
    term.search(moved)
    return float(term(term.select(ops.convert_to_tensor(moved[None]))))


@pytest.mark.parametrize("rank", [2, 3])
def test_nearest_points_are_the_squared_chamfer_distance(rank):
    fixed, moving = clouds(rank=rank)
    term = NearestPoints(fixed, np.ones(len(moving)), 0.1)
    expected = float(Chamfer("squared")(fixed[None], moving[None])) / 0.1**2
    assert value(term, moving) == pytest.approx(expected, rel=1e-4)


def test_weights_count():
    fixed, moving = clouds()
    weights = np.linspace(0, 1, len(moving))
    term = NearestPoints(fixed, weights, 0.1)
    there, _ = search_tree(fixed).query(moving)
    back, who = search_tree(moving).query(fixed)
    expected = (weights * there**2).sum() / weights.sum()
    expected += (weights[who] * back**2).sum() / weights[who].sum()
    assert value(term, moving) == pytest.approx(expected / 0.1**2, rel=1e-4)


def test_only_rows_with_a_share_are_selected():
    fixed, moving = clouds(2000, 1500)
    term = NearestPoints(fixed, np.ones(len(moving)), 0.1, points=100, reach=1.5, seed=3)
    drawn = value(term, moving)
    selected = ops.convert_to_numpy(term.select(moving[None]))[0]
    assert selected.shape == (200, 3)
    # By hand: the same draws, all rows.
    rng = np.random.default_rng(3)
    first, second = int(rng.integers(1500)), int(rng.integers(2000))
    queries = moving[np.arange(first, first + 100) % 1500]
    targets = fixed[np.arange(second, second + 100) % 2000]
    expected = 0.0
    for distances in (search_tree(fixed).query(queries)[0], search_tree(moving).query(targets)[0]):
        scale = max(1.5 * np.median(distances), 2.0 * 0.1)
        expected += (distances**2 / (1 + (distances / scale) ** 2) ** 2).mean()
    assert drawn == pytest.approx(expected / 0.1**2, rel=1e-3)


def test_noise_tells_how_far_apart_the_clouds_are():
    fixed, _ = clouds()
    term = NearestPoints(fixed, np.ones(len(fixed)), 0.1)
    for shift, expected in ((0.0, 0.1**2), (5.0, 1.0)):
        term.search(fixed + np.float32(shift))
        assert float(term.noise) == pytest.approx(expected)


def test_a_tree_may_be_given():
    fixed, moving = clouds()
    trees = (None, search_tree(fixed))
    terms = [NearestPoints(fixed, np.ones(len(moving)), 0.1, tree=tree) for tree in trees]
    terms[0].search(moving)
    terms[1].search(moving, search_tree(moving))
    values = [float(term(term.select(moving[None]))) for term in terms]
    assert values[0] == values[1]


@pytest.mark.parametrize("power", [1, 2])
def test_density_images_vanish_for_equal_clouds(power):
    fixed, moving = clouds()
    term = DensityImages(fixed, np.ones(len(fixed)), 0.1, rasters=(16, 24), power=power)
    assert value(term, fixed) == pytest.approx(0, abs=1e-6)
    other = DensityImages(fixed, np.ones(len(moving)), 0.1, rasters=(16, 24), power=power)
    assert value(other, moving) > 0.1


def test_distance_volumes_are_mean_distances():
    fixed, moving = clouds()
    term = DistanceVolumes(fixed, np.ones(len(moving)), 0.1, rasters=(64,))
    expected = search_tree(fixed).query(moving)[0].mean() / 0.1
    assert value(term, moving) == pytest.approx(expected, rel=0.1)


def test_a_term_has_to_be_called():
    fixed, moving = clouds()
    with pytest.raises(NotImplementedError, match="CloudTerm does not define call"):
        CloudTerm(fixed, np.ones(len(moving)), 0.1)(moving[None])


def test_a_curve_draws_across_itself_and_hardly_along():
    line = np.linspace(-1, 1, 200)[:, None].astype(np.float32) * np.float32([1, 0, 0])
    line += np.random.default_rng(0).normal(0, 0.001, line.shape).astype(np.float32)
    tree = search_tree(line)
    across = across_structures(line, tree)
    ways = np.abs(across[50:150] @ np.float32([1, 0, 0]))
    assert ways[:, 0].mean() < 0.15 and ways[:, 1:].mean() < 0.05
    assert np.abs(across[50:150] @ np.float32([0, 1, 0]))[:, 1].mean() > 0.5
    term = NearestPoints(line, np.ones(2), 0.01, tree=tree, across=across)
    moved = np.float32([[0.003, 0.05, 0], [0.503, 0, 0.05]])
    term.search(moved)
    way = (ops.convert_to_numpy(term.goal)[0] - moved) / np.float32([1, 0.05, 0.05])
    assert np.abs(way[:, 0]).max() < 0.2 and way[0, 1] < -0.5 and way[1, 2] < -0.5


def test_a_scale_leaves_neighbours_out():
    fixed = np.float32([[0, 0, 0], [1, 0, 0]])
    moved = np.float32([[0.1, 0, 0], [1, 0.9, 0]])
    values = []
    for scale in (None, 0.25):
        term = NearestPoints(fixed, np.ones(2), 1.0, reach=1.5, scale=scale)
        term.search(moved)
        values.append(ops.convert_to_numpy(term.share)[0, :, 0])
    assert values[0][1] > 0.5 * values[0][0]
    assert values[1][1] < 0.05 * values[1][0]
