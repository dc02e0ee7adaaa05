"""Convolutions by matrix products are those of the backend, and so are their gradients."""

import numpy as np
import pytest
from keras import ops

from zoo.ops.convolution import strided_convolution
from zoo.ops.gradients import value_and_gradient


def of_the_backend(values, kernel, stride):
    padded = ops.pad(values, [(0, 0), *[(1, 1)] * (len(kernel.shape) - 2), (0, 0)])
    return ops.conv(padded, kernel, stride, "valid", data_format="channels_last")


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(7, 10), (5, 6, 9), (1, 4, 3)])
def test_values_and_gradients_are_those_of_the_backend(shape, stride):
    random = np.random.default_rng(0)
    values = random.normal(size=(2, *shape, 3)).astype("float32")
    kernel = random.normal(size=(*(3,) * len(shape), 3, 4)).astype("float32")
    for function in (
        lambda f, of: value_and_gradient(lambda x: ops.sum(f(x, kernel, stride) ** 2), of[0]),
        lambda f, of: value_and_gradient(lambda k: ops.sum(f(values, k, stride) ** 2), of[1]),
    ):
        found = function(strided_convolution, (values, kernel))
        wanted = function(of_the_backend, (values, kernel))
        for one, other in zip(found, wanted, strict=True):
            one, other = map(ops.convert_to_numpy, (one, other))
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3 * np.abs(other).max())
