"""Sampling, warping and composition against scipy, closed forms and finite differences."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy.ndimage import map_coordinates

from zoo.ops import sampling
from zoo.ops.sampling import compose, identity_coordinates, sample, warp

SHAPES = [(7, 10), (5, 6, 9)]


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def gradients(function, *arrays):
    """Gradients of a scalar function with respect to all of its arguments."""
    tensors = [ops.convert_to_tensor(array) for array in arrays]
    if keras.backend.backend() == "jax":
        import jax

        return [numpy(g) for g in jax.grad(function, tuple(range(len(tensors))))(*tensors)]
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = function(*tensors)
    return [numpy(g) for g in tape.gradient(value, tensors)]


def random(shape, seed=0, dtype="float32"):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def positions(shape, batch=2, count=200, seed=1):
    """Random positions inside and outside of a grid."""
    generator = np.random.default_rng(seed)
    size = np.array(shape)
    return generator.uniform(-3, size + 2, (batch, count, len(shape))).astype("float32")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("order", sampling.ORDERS)
@pytest.mark.parametrize("mode", sampling.MODES)
@pytest.mark.parametrize("channels", [1, 6])
def test_agrees_with_scipy(shape, order, mode, channels):
    image, where = random((2, *shape, channels)), positions(shape)
    result = numpy(sample(image, where, order, mode))
    assert result.shape == (2, 200, channels) and result.dtype == np.float32
    scipy_mode = {"border": "nearest", "zero": "grid-constant"}[mode]
    for batch in range(2):
        for channel in range(channels):
            expected = map_coordinates(
                image[batch, ..., channel],
                where[batch].T,
                order=int(order == "linear"),
                mode=scipy_mode,
            )
            np.testing.assert_allclose(result[batch, :, channel], expected, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", sampling.MODES)
@pytest.mark.parametrize("channels", [2, 5])
def test_gradients_are_those_of_a_sum_of_differences(shape, mode, channels):
    image, where = random((2, *shape, channels)), positions(shape, count=20)
    # Differences must not cross a voxel, where the derivative jumps.
    fraction = where - np.floor(where)
    where = (np.floor(where) + np.clip(fraction, 0.05, 0.95)).astype("float32")
    weight = random((2, 20, channels), 2)
    to_image, to_positions = gradients(
        lambda i, p: ops.sum(sample(i, p, mode=mode) * weight), image, where
    )

    def loss(i, p):
        return float(np.sum(numpy(sample(i, p, mode=mode)).astype("float64") * weight))

    # The sampling is linear in the image, hence <gradient, d> is the loss of d, exactly.
    direction = random(image.shape, 3)
    np.testing.assert_allclose(np.sum(to_image * direction), loss(direction, where), rtol=2e-4)
    step = 2.0**-6
    for batch, point in ((0, 3), (1, 7), (1, 19)):
        for axis in range(len(shape)):
            ahead, behind = where.copy(), where.copy()
            ahead[batch, point, axis] += step
            behind[batch, point, axis] -= step
            difference = (loss(image, ahead) - loss(image, behind)) / (2 * step)
            assert abs(difference - to_positions[batch, point, axis]) < 2e-3


@pytest.mark.parametrize("relative", [False, True])
def test_gradient_of_each_argument_alone(relative):
    image, field = random((1, 6, 7, 1)), random((1, 6, 7, 2), 1)
    function = warp if relative else sample
    both = gradients(lambda i, f: ops.sum(function(i, f) ** 2), image, field)
    only_image = gradients(lambda i: ops.sum(function(i, field) ** 2), image)
    only_field = gradients(lambda f: ops.sum(function(image, f) ** 2), field)
    np.testing.assert_allclose(only_image[0], both[0])
    np.testing.assert_allclose(only_field[0], both[1])


@pytest.mark.parametrize("shape", SHAPES)
def test_scattering_channels_one_by_one_or_together_is_the_same(shape, monkeypatch):
    image, field = random((2, *shape, 2)), random((2, *shape, len(shape)), 1) * 3
    gradient = random(image.shape, 2)
    options = {"mode": "zero", "relative": True}
    tensors = [ops.convert_to_tensor(array) for array in (image, field, gradient)]
    rows = numpy(sampling._to_image(*tensors, **options))
    monkeypatch.setattr(sampling, "FEW_CHANNELS", 0)
    np.testing.assert_allclose(
        numpy(sampling._to_image(*tensors, **options)), rows, rtol=1e-4, atol=1e-5
    )


def test_nearest_passes_the_gradient_to_the_image_only():
    image, where = random((1, 5, 6, 1)), np.array([[[1.4, 2.6], [1.2, 3.3], [9.0, 0.0]]], "float32")
    to_image, to_where = gradients(lambda i, p: ops.sum(sample(i, p, "nearest")), image, where)
    expected = np.zeros((1, 5, 6, 1), "float32")
    expected[0, 1, 3], expected[0, 4, 0] = 2, 1
    np.testing.assert_array_equal(to_image, expected)
    assert not to_where.any()
    zero = gradients(lambda i: ops.sum(sample(i, where, "nearest", "zero")), image)[0]
    assert zero.sum() == 2


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("order", sampling.ORDERS)
@pytest.mark.parametrize("mode", sampling.MODES)
def test_identity_is_exact(shape, order, mode):
    image = random((2, *shape, 2))
    zero = np.zeros((2, *shape, len(shape)), "float32")
    np.testing.assert_array_equal(numpy(warp(image, zero, order, mode)), image)
    grid = numpy(identity_coordinates(shape))
    assert grid.shape == (*shape, len(shape))
    where = np.broadcast_to(grid, zero.shape)
    np.testing.assert_array_equal(numpy(sample(image, where, order, mode)), image)


@pytest.mark.parametrize("shape", SHAPES)
def test_integer_translations_are_exact_and_pull_back(shape):
    image = random((1, *shape, 1))
    for axis in range(len(shape)):
        field = np.zeros((1, *shape, len(shape)), "float32")
        field[..., axis] = 3
        moved = np.moveaxis(numpy(warp(image, field))[0, ..., 0], axis, 0)
        source = np.moveaxis(image[0, ..., 0], axis, 0)
        np.testing.assert_array_equal(moved[:-3], source[3:])
        for row in moved[-3:]:
            np.testing.assert_array_equal(row, source[-1])
        moved = np.moveaxis(numpy(warp(image, field, mode="zero"))[0, ..., 0], axis, 0)
        assert not moved[-3:].any()


@pytest.mark.parametrize("rank", [2, 3])
def test_bright_line_moves_against_the_displacement(rank):
    for axis in range(rank):
        image = np.zeros((1, *(16,) * rank, 1), "float32")
        np.moveaxis(image[0, ..., 0], axis, 0)[10] = 1
        field = np.zeros((1, *(16,) * rank, rank), "float32")
        field[..., axis] = 3
        moved = np.moveaxis(numpy(warp(image, field))[0, ..., 0], axis, 0)
        assert (moved[7] == 1).all() and moved.sum() == moved[7].size


def test_far_outside():
    image = random((1, 6, 7, 1))
    field = np.zeros((1, 6, 7, 2), "float32")
    field[..., 1] = 1000
    border = numpy(warp(image, field))
    np.testing.assert_array_equal(border, np.repeat(image[:, :, -1:], 7, axis=2))
    assert not numpy(warp(image, field, mode="zero")).any()
    for value in (np.inf, -np.inf, 1e30):
        assert np.isfinite(numpy(warp(image, np.full_like(field, value)))).all()


@pytest.mark.parametrize("order", sampling.ORDERS)
@pytest.mark.parametrize("mode", sampling.MODES)
def test_nan_stays_where_it_is(order, mode):
    image, field = random((1, 6, 7, 1)), np.zeros((1, 6, 7, 2), "float32")
    field[0, 2, 3, 0] = np.nan
    moved = numpy(warp(image, field, order, mode))
    kept = np.ones((6, 7), bool)
    kept[2, 3] = False
    np.testing.assert_array_equal(moved[0][kept], image[0][kept])
    if order == "linear":
        assert np.isnan(moved[0, 2, 3, 0])
    gradients(lambda i, f: ops.sum(warp(i, f, order, mode)), image, field)


@pytest.mark.parametrize("mode", sampling.MODES)
@pytest.mark.parametrize("shape", [(1, 5), (1, 1), (4, 1, 3)])
def test_axes_of_one_voxel(shape, mode):
    image, where = random((1, *shape, 1)), positions(shape, 1, 50)
    scipy_mode = {"border": "nearest", "zero": "grid-constant"}[mode]
    expected = map_coordinates(image[0, ..., 0], where[0].T, order=1, mode=scipy_mode)
    np.testing.assert_allclose(numpy(sample(image, where, mode=mode))[0, :, 0], expected, atol=1e-6)
    weight = random((1, 50, 1), 3)
    (to_image,) = gradients(lambda i: ops.sum(sample(i, where, mode=mode) * weight), image)
    np.testing.assert_allclose(np.sum(to_image * image), np.sum(expected * weight[0, :, 0]), 1e-3)


def test_batches_are_independent_and_grids_may_differ():
    image, field = random((3, 6, 7, 2)), random((3, 4, 9, 2), 1)
    together = numpy(warp(image, field))
    assert together.shape == (3, 4, 9, 2)
    for one in range(3):
        alone = numpy(warp(image[one : one + 1], field[one : one + 1]))
        np.testing.assert_allclose(alone, together[one : one + 1], atol=1e-6)


def test_half_precision_and_integers_are_computed_in_float32():
    image = (np.arange(300 * 4) % 251).reshape(1, 300, 4, 1)
    field = np.full((1, 300, 4, 2), 0.25, "float32")
    expected = numpy(warp(image.astype("float32"), field))
    for dtype in ("uint8", "int32", "float16"):
        result = warp(ops.convert_to_tensor(image.astype(dtype)), field.astype("float16"))
        assert keras.backend.standardize_dtype(result.dtype) == "float32"
        np.testing.assert_array_equal(numpy(result), expected)


def affine_field(shape, matrix, offset):
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return (grid @ (matrix - np.eye(len(shape))).T + offset)[None].astype("float32")


@pytest.mark.parametrize("shape", [(21, 23), (15, 16, 17)])
def test_composition_is_that_of_the_maps(shape):
    rank, centre = len(shape), (np.array(shape) - 1) / 2
    generator = np.random.default_rng(4)
    maps = []
    for _ in range(3):
        matrix = np.eye(rank) + 0.03 * generator.normal(size=(rank, rank))
        maps.append((matrix, centre - matrix @ centre + 0.3 * generator.normal(size=rank)))
    fields = [affine_field(shape, *one) for one in maps]
    inside = (slice(None), *(slice(4, -4) for _ in shape))
    (a, s), (b, t) = maps[:2]
    expected = affine_field(shape, a @ b, a @ t + s)
    result = numpy(compose(fields[0], fields[1]))
    np.testing.assert_allclose(result[inside], expected[inside], atol=1e-4)
    left = numpy(compose(compose(fields[0], fields[1]), fields[2]))
    right = numpy(compose(fields[0], compose(fields[1], fields[2])))
    np.testing.assert_allclose(left[inside], right[inside], atol=1e-4)


def test_composition_order_zero_and_translations():
    image = random((1, 12, 13, 1))
    first, second = random((1, 12, 13, 2), 1), np.zeros((1, 12, 13, 2), "float32")
    np.testing.assert_array_equal(numpy(compose(first, second)), first)
    np.testing.assert_array_equal(numpy(compose(second, first)), first)
    second[..., 0], second[..., 1] = 2, -1
    once = numpy(warp(warp(image, first), second))
    # Where the translation leaves the grid, clamping twice is not clamping once.
    inside = (slice(None), slice(0, -2), slice(1, None))
    both = numpy(warp(image, compose(first, second)))
    np.testing.assert_allclose(both[inside], once[inside], atol=1e-5)
    third = np.zeros_like(second) + np.array([0.5, 4], "float32")
    np.testing.assert_array_equal(
        numpy(compose(second, third)), np.broadcast_to([2.5, 3.0], second.shape)
    )


def test_free_sizes_in_a_graph():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("graphs with free sizes exist in TensorFlow only")
    import tensorflow as tf

    traces = []

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, None, 1], tf.float32),
            tf.TensorSpec([None, None, None, 2], tf.float32),
        ]
    )
    def step(image, field):
        traces.append(1)
        with tf.GradientTape() as tape:
            tape.watch([image, field])
            loss = tf.reduce_sum(warp(image, field, mode="zero") ** 2)
        return loss, *tape.gradient(loss, [image, field])

    for shape in ((5, 6), (1, 7), (9, 4)):
        image, field = random((2, *shape, 1)), random((2, *shape, 2), 1)
        expected = gradients(lambda i, f: ops.sum(warp(i, f, mode="zero") ** 2), image, field)
        for ours, other in zip(step(image, field)[1:], expected, strict=True):
            np.testing.assert_allclose(numpy(ours), other, atol=1e-4)
    assert len(traces) == 1


def test_traced_once_per_shape():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("TensorFlow counts traces")
    import functools

    from zoo.ops import kernels

    traces = []

    def counted(image, field):
        traces.append(1)
        return sampling._forward(image, field, mode="border", relative=True)

    kernel = kernels.kernel(functools.partial(counted))
    for _ in range(3):
        kernel(ops.ones((1, 4, 5, 1)), ops.zeros((1, 4, 5, 2)))
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("image", "field", "options", "message"),
    [
        ((1, 5, 1), (1, 5, 1), {}, "image must have the shape"),
        ((1, 5, 6, 1), (1, 5, 6, 3), {}, "2 components.*not 3"),
        ((1, 5, 6, 7, 1), (1, 5, 6, 3), {}, "3 spatial axes"),
        ((2, 5, 6, 1), (3, 5, 6, 2), {}, "batch size, not 2 and 3"),
        ((1, 0, 6, 1), (1, 5, 6, 2), {}, "must not be empty"),
        ((1, 5, 6, 1), (1, 5, 6, 2), {"order": "cubic"}, "order must be"),
        ((1, 5, 6, 1), (1, 5, 6, 2), {"mode": "wrap"}, "mode must be"),
    ],
)
def test_bad_input(image, field, options, message):
    with pytest.raises(ValueError, match=message):
        warp(np.zeros(image, "float32"), np.zeros(field, "float32"), **options)
