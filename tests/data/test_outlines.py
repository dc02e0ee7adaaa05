"""Triangles and circles: the numbers of the published generator."""

import numpy as np
import pytest

from zoo.data.outlines import ShapePairs, draw_shapes, shape_pairs, triangles_and_circles
from zoo.metrics.registration import dice_scores


def test_the_shapes_are_those_of_the_sources():
    shapes = draw_shapes(6000, seed=1)
    first = [shapes[name][0] for name in ("x", "y", "radius")]
    np.testing.assert_allclose(first, [0.52511, 0.59727, 0.20860], atol=1e-5)
    assert not shapes["triangle"][0]
    assert shapes["triangle"].mean() == pytest.approx(0.4885, abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "gain", "mean", "deviation", "total"),
    [("solid", 2, -0.59483, 0.75697, -1835.82), ("hollow", 1, 0.07317, 0.20854, 157.34)],
)
def test_the_pictures_are_those_of_the_sources(kind, gain, mean, deviation, total):
    # Filled shapes run from -1 to 1 there.
    pictures = gain * triangles_and_circles(6000, 50, kind).astype(np.float64) - (gain - 1)
    assert pictures.mean() == pytest.approx(mean, abs=1e-4)
    assert pictures.std() == pytest.approx(deviation, abs=1e-4)
    assert pictures[0].sum() == pytest.approx(total, abs=1e-2)


@pytest.mark.parametrize(("kind", "expected"), [("solid", 0.516), ("hollow", 0.175)])
def test_how_much_random_pairs_overlap(kind, expected):
    labels = triangles_and_circles(2000, 50, kind, seed=5)[..., 0] > 0.2
    first, second = labels[0::2], labels[1::2]
    both = (first & second).sum(axis=(1, 2))
    dice = 2 * both / (first.sum(axis=(1, 2)) + second.sum(axis=(1, 2)))
    assert dice.mean() == pytest.approx(expected, abs=0.02)


def test_batches_depend_on_seed_epoch_and_index():
    data, same = (ShapePairs(16, "hollow", 3, 2, 20, seed=4) for _ in range(2))
    (batch,) = data[1]
    assert batch["fixed"].shape == batch["moving"].shape == (3, 16, 16, 1)
    assert batch["fixed"].dtype == np.float32
    np.testing.assert_array_equal(batch["moving"], same[1][0]["moving"])
    same.epoch = 1
    assert not np.array_equal(batch["moving"], same[1][0]["moving"])


def test_pairs_for_measuring_have_labels():
    first, second = shape_pairs(2, 32)
    assert not np.array_equal(first.fixed.array, second.fixed.array)
    assert set(np.unique(first.fixed_labels)) == {0, 1}
    assert 0 <= dice_scores(first.fixed_labels, first.moving_labels)["mean"] <= 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"count": 0}, "count must be at least 1"),
        ({"count": 1, "size": 1}, "size must be at least 2"),
        ({"count": 1, "kind": "dotted"}, "kind must be one of"),
        ({"count": 1, "seed": -1}, "seed must be"),
    ],
)
def test_wrong_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        triangles_and_circles(**arguments)
