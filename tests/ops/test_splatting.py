"""Splatting against sampling, closed forms and finite differences; density and dense motion."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from scipy.ndimage import correlate1d

from zoo.layers import Rasteriser
from zoo.losses import Chamfer
from zoo.ops import splatting
from zoo.ops.sampling import sample
from zoo.ops.splatting import blur, density, normalised_splat, splat, to_normalised, to_voxels

SHAPES = [(7, 10), (5, 6, 9)]
STATUS = Path("/proc/self/status")


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def compiled(function):
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function)


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


def random(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def points(shape, batch=2, count=200, seed=1, margin=-2.0):
    """Random voxel coordinates at least `margin` inside of the outermost voxel centres."""
    low, high = margin, np.array(shape) - 1 - margin
    rng = np.random.default_rng(seed)
    return rng.uniform(low, high, (batch, count, len(shape))).astype("float32")


# ---- splat


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels", [1, 3, 6])
def test_is_the_transpose_of_sampling(shape, channels):
    where, values = points(shape), random((2, 200, channels))
    image = random((2, *shape, channels), 2)
    volume = numpy(splat(values, where, shape))
    assert volume.shape == (2, *shape, channels) and volume.dtype == np.float32
    sampled = numpy(sample(image, where, mode="zero"))
    for batch in range(2):
        left = np.sum(volume[batch].astype("float64") * image[batch])
        right = np.sum(values[batch].astype("float64") * sampled[batch])
        scale = np.sum(np.abs(values[batch] * sampled[batch]))
        assert abs(left - right) < 1e-6 * scale


@pytest.mark.parametrize("shape", SHAPES)
def test_mass_is_kept_inside_and_lost_outside(shape):
    inside, values = points(shape, margin=0.0), np.abs(random((2, 200, 1)))
    np.testing.assert_allclose(numpy(splat(values, inside, shape)).sum(), values.sum(), rtol=1e-5)
    masses = []
    for step in (0.0, 0.25, 0.5, 0.75, 1.0, 7.0):
        where = np.zeros((1, 1, len(shape)), "float32")
        where[..., -1] = shape[-1] - 1 + step
        masses.append(numpy(splat(np.ones((1, 1, 1)), where, shape)).sum())
    np.testing.assert_allclose(masses, [1, 0.75, 0.5, 0.25, 0, 0], atol=1e-6)


def test_points_outside_have_no_gradient():
    where = np.array([[[-1.2, 3.0], [2.0, 11.4], [-50.0, 1e9]]], "float32")
    weight = random((1, 7, 10, 1))
    to_values, to_points = gradients(
        lambda v, p: ops.sum(splat(v, p, (7, 10)) * weight), random((1, 3, 1)), where
    )
    assert not to_values.any() and not to_points.any()


def test_weights_at_voxels_edges_and_cells():
    one = np.ones((1, 1, 1), "float32")
    for where, expected in (((2, 3, 1), 1), ((2, 2.5, 1), 0.5), ((1.5, 2.5, 0.5), 0.125)):
        volume = numpy(splat(one, np.array([[where]], "float32"), (5, 6, 4)))
        found = np.argwhere(volume[0, ..., 0])
        assert len(found) == 1 / expected
        np.testing.assert_array_equal(volume[volume > 0], expected)
        assert np.all(np.abs(found - where) <= 0.5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_are_central_differences(shape, channels):
    where, values = points(shape, count=20), random((2, 20, channels))
    # Differences must not cross a voxel, where the derivative jumps.
    fraction = where - np.floor(where)
    where = (np.floor(where) + np.clip(fraction, 0.05, 0.95)).astype("float32")
    weight = random((2, *shape, channels), 2)
    to_values, to_points = gradients(
        lambda v, p: ops.sum(splat(v, p, shape) * weight), values, where
    )
    np.testing.assert_allclose(to_values, numpy(sample(weight, where, mode="zero")), atol=1e-6)

    def loss(where):
        return np.sum(numpy(splat(values, where, shape)).astype("float64") * weight)

    step = 2.0**-6
    for batch, point in ((0, 3), (1, 7), (1, 19)):
        for axis in range(len(shape)):
            ahead, behind = where.copy(), where.copy()
            ahead[batch, point, axis] += step
            behind[batch, point, axis] -= step
            difference = (loss(ahead) - loss(behind)) / (2 * step)
            assert abs(difference - to_points[batch, point, axis]) < 1e-3


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_of_each_argument_alone(shape):
    where, values = points(shape), random((2, 200, 1))
    both = gradients(lambda v, p: ops.sum(splat(v, p, shape) ** 2), values, where)
    only_values = gradients(lambda v: ops.sum(splat(v, where, shape) ** 2), values)
    only_points = gradients(lambda p: ops.sum(splat(values, p, shape) ** 2), where)
    np.testing.assert_allclose(only_values[0], both[0])
    np.testing.assert_allclose(only_points[0], both[1])


@pytest.mark.parametrize("shape", SHAPES)
def test_moving_points_by_a_voxel_moves_the_volume(shape):
    # Multiples of 2^-10 are shifted without rounding.
    where = np.round(points(shape, margin=1.0) * 1024).astype("float32") / 1024
    values = random((2, 200, 1))
    still = numpy(splat(values, where, shape))
    for axis in range(len(shape)):
        step = np.eye(len(shape), dtype="float32")[axis]
        moved = numpy(splat(values, where + step, shape))
        np.testing.assert_allclose(moved, np.roll(still, 1, axis + 1), atol=1e-6)


def test_order_splitting_batch_and_channels_do_not_matter():
    shape = (5, 6, 9)
    where, values = points(shape), random((2, 200, 3))
    expected = numpy(splat(values, where, shape))
    order = np.random.default_rng(5).permutation(200)
    shuffled = numpy(splat(values[:, order], where[:, order], shape))
    halves = np.concatenate([values, values], 1) / 2
    split = numpy(splat(halves, np.concatenate([where, where], 1), shape))
    alone = [numpy(splat(values[1:], where[1:], shape)), expected[1:]]
    channel = [numpy(splat(values[..., 1:2], where, shape)), expected[..., 1:2]]
    for one, other in ((shuffled, expected), (split, expected), alone, channel):
        np.testing.assert_allclose(one, other, atol=2e-6)


def test_compiled_is_eager_and_repeats_are_equal():
    shape = (5, 6, 9)
    where, values = points(shape), random((2, 200, 2))

    def loss(values, where):
        return ops.sum(splat(values, where, shape) ** 2)

    step = compiled(lambda v, p: splat(v, p, shape))
    np.testing.assert_allclose(step(values, where), splat(values, where, shape), atol=1e-6)
    first = gradients(loss, values, where)
    for one, other in zip(first, gradients(compiled(loss), values, where), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    for one, other in zip(first, gradients(loss, values, where), strict=True):
        np.testing.assert_array_equal(one, other)


def test_free_number_of_points_in_a_graph():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("graphs with free sizes exist in TensorFlow only")
    import tensorflow as tf

    specs = [tf.TensorSpec([None, None, 1]), tf.TensorSpec([None, None, 2])]
    step = tf.function(lambda v, p: splat(v, p, (7, 10)), input_signature=specs)
    for count in (1, 50):
        where, values = points((7, 10), count=count), random((2, count, 1))
        np.testing.assert_allclose(step(values, where), splat(values, where, (7, 10)), atol=1e-6)


def test_a_million_points():
    shape, count = (128, 128, 128), 1_000_000
    where = points(shape, 1, count, margin=0.0)
    volume = numpy(splat(np.ones((1, count, 1), "float32"), where, shape))
    assert abs(volume.sum(dtype="float64") / count - 1) < 1e-5


def peak_memory():
    """The most that this process has held so far, in GiB."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


def print_memory():
    """Prints what clouds of 100,000, then 300,000 points take beyond the imports, in GiB."""
    shape, imported = (128, 128, 128), peak_memory()
    for count in (100_000, 300_000):
        values, first, second = (
            random((1, count, size), seed) / 3 for seed, size in enumerate((1, 3, 3))
        )
        gradients(lambda v, p: ops.sum(splat(v, to_voxels(p, shape), shape) ** 2), values, first)
        gradients(Chamfer(), first, second)
        print(peak_memory() - imported)


@pytest.mark.skipif(not STATUS.exists(), reason="only Linux tells the peak of one program")
def test_memory_grows_no_faster_than_the_clouds():
    # In a process of its own, whose peak starts with the imports. All pairs would take 335 GiB.
    command = [sys.executable, "-c", "import test_splatting; test_splatting.print_memory()"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    few, many = map(float, done.stdout.split())
    assert many < 2
    assert many < 1.2 * 3 * few


@pytest.mark.parametrize(
    ("values", "where", "shape", "message"),
    [
        ((1, 4, 1), (1, 4, 3), (5, 6), r"coordinates must have the shape \[batch, n, 2\]"),
        ((1, 4), (1, 4, 2), (5, 6), "values must be"),
        ((1, 3, 1), (1, 4, 2), (5, 6), "values must be"),
        ((2, 4, 1), (1, 4, 2), (5, 6), "values must be"),
        ((1, 0, 1), (1, 0, 2), (5, 6), "at least one point"),
        ((1, 4, 1), (1, 4, 2), (5, 1), "sizes of at least 2"),
        ((1, 4, 1), (1, 4, 2), (5,), "two or three sizes"),
    ],
)
def test_splat_refuses(values, where, shape, message):
    with pytest.raises(ValueError, match=message):
        splat(np.zeros(values, "float32"), np.zeros(where, "float32"), shape)


def test_splat_refuses_nan():
    where = np.zeros((1, 3, 2), "float32")
    where[0, 1, 1] = np.nan
    with pytest.raises(ValueError, match="coordinates must be finite"):
        splat(np.ones((1, 3, 1)), where, (5, 6))


# ---- coordinates


def test_normalised_coordinates():
    shape = (4, 6, 9)
    corners = np.array([[-1.0, -1, -1], [1, 1, 1], [0, 0, 0]])
    voxels = numpy(to_voxels(corners, shape))
    np.testing.assert_allclose(voxels, [[-0.5] * 3, [3.5, 5.5, 8.5], [1.5, 2.5, 4]])
    np.testing.assert_allclose(numpy(to_normalised(voxels, shape)), corners, atol=1e-6)
    first_centre = numpy(to_normalised(np.zeros((1, 3)), shape))
    np.testing.assert_allclose(first_centre, [[1 / 4 - 1, 1 / 6 - 1, 1 / 9 - 1]], atol=1e-6)


# ---- blur


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("sigma", [0.7, 1.5, 4.0])
def test_blur_agrees_with_scipy(shape, channels, sigma):
    volume = random((2, *shape, channels))
    expected, radius = volume, int(np.ceil(1.5 * sigma))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    for axis in range(len(shape)):
        expected = correlate1d(expected, taps / taps.sum(), axis=axis + 1, mode="nearest")
    np.testing.assert_allclose(numpy(blur(volume, sigma)), expected, atol=1e-6)


def test_blur_of_a_voxel_has_five_taps_and_keeps_the_sum():
    volume = np.zeros((1, 11, 11, 11, 1), "float32")
    volume[0, 5, 5, 5] = 1
    blurred = numpy(blur(volume, 0.7))
    assert np.count_nonzero(blurred) == 5**3
    assert abs(blurred.sum() - 1) < 1e-6
    np.testing.assert_array_equal(numpy(blur(volume, 0)), volume)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_of_the_blur_is_its_transpose(shape):
    volume, other = random((2, *shape, 2)), random((2, *shape, 2), 1)
    (gradient,) = gradients(lambda v: ops.sum(blur(v, 1.5) * other), volume)
    np.testing.assert_allclose(
        np.sum(gradient * volume), np.sum(numpy(blur(volume, 1.5)) * other), rtol=1e-4, atol=1e-4
    )


# ---- density


@pytest.mark.parametrize(
    ("squash", "gain", "function"),
    [
        ("tanh", None, lambda v: 2 / (1 + np.exp(-v / 2)) - 1),
        ("tanh", 0.05, lambda v: np.tanh(0.05 * v)),
        ("sigmoid", None, lambda v: 1 / (1 + np.exp(-v))),
        ("sigmoid", 0.5, lambda v: 1 / (1 + np.exp(-v / 2))),
        ("scaled", None, lambda v: 5 * np.tanh(v / 5)),
        (None, None, lambda v: v),
    ],
)
def test_density_is_splat_blur_squash(squash, gain, function):
    shape = (5, 6, 9)
    cloud = np.random.default_rng(0).uniform(-1.1, 1.1, (2, 300, 3)).astype("float32")
    weights = np.random.default_rng(1).uniform(0, 3, (2, 300)).astype("float32")
    volume = numpy(blur(splat(weights[..., None], to_voxels(cloud, shape), shape), 0.7))
    result = numpy(density(cloud, shape, weights, 0.7, squash, gain))
    np.testing.assert_allclose(result, function(volume.astype("float64")), rtol=1e-5, atol=1e-6)


def test_tanh_caps_crowded_voxels():
    few, many = np.zeros((1, 100, 3)), np.zeros((1, 1000, 3))
    images = [numpy(density(cloud, (9, 9, 9), sigma=0.7)).max() for cloud in (few, many)]
    assert images[1] / images[0] - 1 < 0.02


def test_the_layer_is_the_function_in_float32():
    cloud = random((2, 50, 3)) / 3
    weights = np.abs(random((2, 50), 1))
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_float16")
        layer = Rasteriser((5, 6, 9), sigma=1.0, squash="scaled", gain=0.1)
        image = layer(cloud, weights)
    finally:
        keras.config.set_dtype_policy(before)
    assert layer.compute_output_shape(cloud.shape) == tuple(image.shape) == (2, 5, 6, 9, 1)
    assert keras.backend.standardize_dtype(image.dtype) == "float32"
    expected = density(cloud, (5, 6, 9), weights, 1.0, "scaled", 0.1)
    np.testing.assert_allclose(image, expected, atol=1e-6)
    copy = Rasteriser.from_config(layer.get_config())
    np.testing.assert_array_equal(copy(cloud), layer(cloud))
    assert copy.get_config() == layer.get_config()


def test_the_layer_in_a_saved_model(tmp_path):
    inputs = keras.Input((None, 2))
    model = keras.Model(inputs, Rasteriser((7, 10))(inputs))
    model.save(tmp_path / "model.keras")
    cloud = random((2, 50, 2)) / 3
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(cloud), density(cloud, (7, 10)), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (5,)}, "two or three sizes"),
        ({"shape": (5, 1, 3)}, "sizes of at least 2"),
        ({"sigma": -1.0}, "sigma must (not be negative|be at least 0)"),
        ({"squash": "relu"}, "squash must be one of"),
        ({"gain": 0.0}, "gain must be positive"),
    ],
)
def test_the_layer_refuses_options(options, message):
    with pytest.raises(ValueError, match=message):
        Rasteriser(**{"shape": (5, 6)} | options)


@pytest.mark.parametrize(
    ("weights", "message"),
    [(np.ones((1, 3)), "weights must have the shape"), (-np.ones((1, 4)), "not be negative")],
)
def test_density_refuses_weights(weights, message):
    with pytest.raises(ValueError, match=message):
        density(np.zeros((1, 4, 2), "float32"), (5, 6), weights)


# ---- dense motion


@pytest.mark.parametrize("shape", [(17, 22), (12, 16, 9)])
@pytest.mark.parametrize("count", [1, 5, 300])
def test_a_constant_spreads_everywhere(shape, count):
    where, constant = points(shape, 2, count, margin=0.5), np.array([[3.0, -1.0]], "float32")
    values = np.broadcast_to(constant, (2, count, 2))
    field = numpy(normalised_splat(values, where, shape))
    np.testing.assert_allclose(field, np.broadcast_to(constant, (2, *shape, 2)), rtol=1e-4)


def test_a_linear_motion_is_reproduced_inside():
    shape = (24, 28, 32)
    where = points(shape, 1, 20_000, margin=-0.5)
    matrix = 0.2 * random((3, 3))
    centre = (np.array(shape) - 1) / 2
    field = numpy(normalised_splat((where - centre) @ matrix.T, where, shape))[0]
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    error = np.linalg.norm(field - (grid - centre) @ matrix.T, axis=-1)[(slice(6, -6),) * 3]
    extent = np.linalg.norm((grid - centre) @ matrix.T, axis=-1).max()
    assert error.max() < 0.02 * extent


def test_gaps_take_values_between_those_around_them():
    where = np.array([[[4.0, 4.0], [4.0, 60.0]]], "float32")
    values = np.array([[[0.0], [1.0]]], "float32")
    field = numpy(normalised_splat(values, where, (9, 65)))[0, :, :, 0]
    assert field[4, 4] < 0.05 and field[4, 60] > 0.95
    assert np.all(np.diff(field[4]) > -1e-3)
    assert field.min() >= 0 and field.max() <= 1 + 1e-6


def test_weights_of_dense_motion():
    where = np.full((1, 2, 2), 4.0, "float32")
    values = np.array([[[0.0], [1.0]]], "float32")
    field = numpy(normalised_splat(values, where, (9, 9), weights=np.array([[1.0, 3.0]])))
    np.testing.assert_allclose(field, 0.75, rtol=1e-4)
    outside = numpy(normalised_splat(values, where + 100, (9, 9)))
    np.testing.assert_array_equal(outside, 0)


def test_dense_motion_is_differentiable():
    shape = (8, 9)
    where, values = points(shape, 1, 6, margin=1.0), random((1, 6, 2))
    weight = random((1, *shape, 2), 3)

    def loss(values, where):
        return ops.sum(normalised_splat(values, where, shape, sigma=1.0) * weight)

    to_values, to_points = gradients(loss, values, where)
    assert np.isfinite(to_points).all()
    # Linear in the values.
    np.testing.assert_allclose(np.sum(to_values * values), float(loss(values, where)), rtol=1e-4)
    step = np.float32(2.0**-7)
    ahead, behind = where.copy(), where.copy()
    ahead[0, 2, 1] += step
    behind[0, 2, 1] -= step
    difference = (float(loss(values, ahead)) - float(loss(values, behind))) / (2 * step)
    np.testing.assert_allclose(difference, to_points[0, 2, 1], rtol=0.02, atol=1e-2)


def test_dense_motion_refuses_a_floor_of_zero():
    with pytest.raises(ValueError, match="floor must be positive"):
        normalised_splat(np.ones((1, 1, 1)), np.ones((1, 1, 2)), (4, 4), floor=0)


# ---- distance volume


def test_distance_volume_in_normalised_units():
    shape = (8, 4)
    cloud = np.asarray(to_normalised(np.array([[[2.0, 1.0], [30.0, 1.2]]]), shape))
    volume = splatting.distance_volume(cloud, shape)
    assert volume.shape == (1, 8, 4, 1) and volume.dtype == np.float32
    grid = np.stack(np.meshgrid(np.arange(8), np.arange(4), indexing="ij"), -1)
    offsets = (grid[:, :, None] - np.array([[2, 1], [7, 1]])) * 2 / np.array(shape)
    expected = np.linalg.norm(offsets, axis=-1).min(-1)
    np.testing.assert_allclose(volume[0, ..., 0], expected, atol=1e-6)
