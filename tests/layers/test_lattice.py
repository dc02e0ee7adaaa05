"""Displacements on a lattice: constants stay, means smooth, points read them."""

import numpy as np
import pytest
from keras import ops

from zoo.layers.lattice import displacement_at, smoothed_lattice


@pytest.mark.parametrize("rank", [2, 3])
def test_constants_stay_and_are_read_everywhere(rank):
    constant = np.arange(1, rank + 1, dtype=np.float32)
    field = smoothed_lattice(np.broadcast_to(constant, (1, *[8] * rank, rank)).copy(), 5)
    np.testing.assert_allclose(
        ops.convert_to_numpy(field)[0], np.broadcast_to(constant, field.shape[1:]), rtol=1e-5
    )
    # Beyond the box as at its border.
    points = np.random.default_rng(0).uniform(-2, 2, (1, 9, rank)).astype(np.float32)
    found = ops.convert_to_numpy(displacement_at(field, points))[0]
    np.testing.assert_allclose(found, np.broadcast_to(constant, (9, rank)), rtol=1e-5)


def test_two_means_are_a_tent():
    control = np.zeros((1, 15, 15, 2), np.float32)
    control[0, 7, 7] = 1.0
    field = ops.convert_to_numpy(smoothed_lattice(control, 3))[0, ..., 0]
    tent = np.zeros(15)
    tent[5:10] = np.array([1, 2, 3, 2, 1]) / 9
    np.testing.assert_allclose(field, np.outer(tent, tent), atol=1e-6)


def test_a_velocity_is_integrated():
    control = np.zeros((1, 12, 12, 2), np.float32)
    control[..., 0] = 0.1
    still, flow = (ops.convert_to_numpy(smoothed_lattice(control, 1, v)) for v in (False, True))
    np.testing.assert_allclose(flow, still, atol=1e-5)
