"""Images at another number of voxels, and samples with their derivatives."""

import keras
import numpy as np
import pytest
from keras import ops

from zoo.ops.resizing import resized
from zoo.ops.sampling import sample, sample_with_slopes


def array(tensor):
    return ops.convert_to_numpy(tensor)


def ramp(*shape):
    """A linear function of the place between the outermost voxels, `[1, *shape, 1]`."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return sum(k * axis for k, axis in enumerate(axes, 1)).astype(np.float32)[None, ..., None]


@pytest.mark.parametrize(("before", "after"), [((9, 7), (17, 13)), ((4, 5, 6), (7, 9, 11))])
def test_more_voxels_are_interpolated_linearly(before, after):
    np.testing.assert_allclose(array(resized(ramp(*before), after)), ramp(*after), atol=1e-5)


def test_the_same_number_changes_nothing():
    image = np.random.default_rng(0).normal(size=(2, 6, 5, 3)).astype(np.float32)
    assert array(resized(image, (6, 5))) is not None
    np.testing.assert_array_equal(array(resized(image, (6, 5))), image)


def test_fewer_voxels_are_means():
    board = (np.indices((33, 33)).sum(axis=0) % 2).astype(np.float32)[None, ..., None]
    found = array(resized(board, (9, 9)))[0, 1:-1, 1:-1, 0]
    np.testing.assert_allclose(found, 0.5, atol=1e-5)
    np.testing.assert_allclose(array(resized(ramp(33, 17), (9, 9)))[0, 4, 4, 0], 0, atol=1e-5)
    assert array(resized(board, (1, 1))).shape == (1, 1, 1, 1)


def test_sizes_may_be_unknown():
    inputs = keras.Input((None, None, 1))
    model = keras.Model(inputs, keras.layers.Lambda(lambda x: resized(x, (4, 5)))(inputs))
    for shape in ((3, 9), (8, 2)):
        assert model.predict(ramp(*shape), verbose=0).shape == (1, 4, 5, 1)


def test_a_shape_of_another_rank_is_named():
    with pytest.raises(ValueError, match="shape must have 2 axes"):
        resized(ramp(3, 4), (2, 2, 2))


@pytest.mark.parametrize("shape", [(5, 6), (4, 5, 3)])
def test_samples_with_slopes_are_those_of_differences(shape):
    random, rank = np.random.default_rng(0), len(shape)
    image = random.normal(size=(2, *shape, 3)).astype(np.float32)
    where = random.uniform(-0.5, np.array(shape) - 0.5, (2, 30, rank)).astype(np.float32)
    where[np.abs(where - np.rint(where)) < 0.05] += 0.1  # clear of the faces of cells
    values, slopes = map(array, sample_with_slopes(image, where))
    np.testing.assert_allclose(values, array(sample(image, where)), atol=1e-6)
    for axis, step in enumerate(1e-2 * np.eye(rank, dtype=np.float32)):
        ends = [array(sample(image, where + sign * step)) for sign in (1, -1)]
        np.testing.assert_allclose(slopes[:, :, axis], (ends[0] - ends[1]) / 2e-2, atol=2e-3)
