"""Length, energy and resampling of paths against closed forms."""

import numpy as np
import pytest

from zoo.registration.paths import path_energy, path_length, resampled

X = np.random.default_rng(0).normal(size=(20, 3))


def test_constant_speed_has_the_length_of_the_root_of_twice_the_energy():
    path = np.stack([X + t * np.array([0.3, 0, 0.4]) for t in np.linspace(0, 1, 6)])
    assert path_length(path) == pytest.approx(0.5)
    assert path_energy(path) == pytest.approx(0.125)


def test_uneven_speed_costs_more_than_its_length_and_resampling_mends_it():
    path = np.stack([X + t**2 * np.array([1.0, 0, 0]) for t in np.linspace(0, 1, 11)])
    assert path_length(path) < np.sqrt(2 * path_energy(path)) - 0.05
    even = resampled(path, 6)
    steps = np.linalg.norm(np.diff(even[:, 0], axis=0), axis=1)
    np.testing.assert_allclose(steps, 0.2)
    assert np.array_equal(even[0], path[0]) and np.array_equal(even[-1], path[-1])


def test_a_path_that_rests_stays_where_it_is():
    assert np.array_equal(resampled(np.stack([X, X]), 3), np.stack([X, X, X]))


@pytest.mark.parametrize("path", [X, X[None], np.full((2, 3, 3), np.nan)])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(ValueError, match="path must"):
        path_length(path)
