"""Spatial transformer, integration, pyramids and B-splines against closed forms."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy.linalg import expm
from scipy.ndimage import affine_transform, gaussian_filter

from zoo.layers import bspline
from zoo.layers.bspline import BSplineAdjoint, BSplineExpand, bspline_adjoint, bspline_expand
from zoo.layers.coordinate_mlp import CoordinateMLP
from zoo.layers.integration import Compose, ScalingAndSquaring
from zoo.layers.pyramid import (
    ImagePyramid,
    UpsampleDisplacement,
    downsample,
    downsample_displacement,
    image_pyramid,
    upsample_displacement,
)
from zoo.layers.residual_flow import ResidualFlow
from zoo.layers.spatial_transformer import SpatialTransformer
from zoo.ops.sampling import compose, warp

SHAPES = [(11, 14), (9, 6, 7)]


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def random(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def grid(shape):
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).astype("float32")


def linear_field(shape, seed=0):
    """A displacement `[1, *shape, rank]` that is an affine function of position, and that map."""
    rank = len(shape)
    matrix, offset = random((rank, rank), seed) * 0.2, random(rank, seed + 1)
    return (grid(shape) @ matrix.T + offset)[None], lambda points: points @ matrix.T + offset


# ---- spatial transformer


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", ["border", "zero"])
def test_affine_agrees_with_scipy_and_with_the_dense_field(shape, mode):
    rank = len(shape)
    image = random((2, *shape, 1))
    matrix = np.concatenate(
        [np.eye(rank) + 0.2 * random((2, rank, rank), 1), random((2, rank, 1), 2)], -1
    ).astype("float32")
    result = numpy(SpatialTransformer(mode=mode)((image, matrix)))
    for batch in range(2):
        expected = affine_transform(
            image[batch, ..., 0].astype("float64"),
            matrix[batch, :, :-1],
            matrix[batch, :, -1],
            order=1,
            mode={"border": "nearest", "zero": "grid-constant"}[mode],
        )
        np.testing.assert_allclose(result[batch, ..., 0], expected, atol=1e-4)
    dense = np.einsum("bij,...j->b...i", matrix[..., :-1], grid(shape)) - grid(shape)
    dense = dense + matrix[..., -1].reshape(2, *(1,) * rank, rank)
    moved = numpy(SpatialTransformer(mode=mode)((image, dense.astype("float32"))))
    np.testing.assert_allclose(moved, result, atol=1e-4)


def test_transformer_in_a_model_learns_a_shift():
    for jit in (False, True):
        moving = gaussian_filter(random((24, 25)), 2)[None, ..., None]
        moving /= moving.std()
        fixed = numpy(warp(moving, np.full((1, 24, 25, 2), (1.0, -0.5), "float32")))

        class Shift(keras.layers.Layer):
            def build(self, _):
                self.offset = self.add_weight(shape=(2,), initializer="zeros")

            def call(self, image):
                return ops.zeros((*ops.shape(image)[:-1], 2)) + self.offset

        inputs = keras.Input((None, None, 1))
        model = keras.Model(inputs, SpatialTransformer()([inputs, Shift()(inputs)]))
        assert model.output_shape == (None, None, None, 1)
        model.compile(keras.optimizers.Adam(0.1), "mse", jit_compile=jit)
        model.fit(moving, fixed, epochs=100, verbose=0)
        np.testing.assert_allclose(numpy(model.weights[0]), [1.0, -0.5], atol=0.05)


def test_float32_under_mixed_precision():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        image = np.zeros((1, 2100, 3, 1), "float32")
        image[0, 2049] = 1
        field = np.zeros((1, 2100, 3, 2), "float32")
        moved = SpatialTransformer()((image, field + np.array([0.25, 0], "float32")))
        assert keras.backend.standardize_dtype(moved.dtype) == "float32"
        np.testing.assert_allclose(numpy(moved)[0, 2048:2050, 0, 0], [0.25, 0.75])
        inputs = keras.Input((8, 8, 2))
        for layer in (ScalingAndSquaring(2), BSplineAdjoint(2), ImagePyramid(1)):
            output = layer(inputs)
            output = output[0] if isinstance(output, list | tuple) else output
            assert keras.backend.standardize_dtype(output.dtype) == "float32"
    finally:
        keras.config.set_dtype_policy(policy)


@pytest.mark.parametrize("made", [ResidualFlow, SpatialTransformer, CoordinateMLP, ImagePyramid])
def test_another_dtype_is_refused(made):
    forms = (None, "float32", np.float32, keras.DTypePolicy("float32"))
    forms += (made().get_config()["dtype"],)
    for form in forms:
        assert made(dtype=form).dtype_policy.name == "float32"
    policy = keras.saving.serialize_keras_object(keras.DTypePolicy("mixed_float16"))
    for form in ("float64", "mixed_float16", keras.DTypePolicy("bfloat16"), policy, {}, 3, True):
        with pytest.raises(ValueError, match="dtype must be 'float32' or None, not .*: coord"):
            made(dtype=form)


def test_layers_of_a_mixed_model_come_back_as_they_were():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        config = keras.saving.serialize_keras_object(ResidualFlow(2, 1, 4))
        again = keras.saving.deserialize_keras_object(config)
        assert again.dtype_policy.name == "float32"
    finally:
        keras.config.set_dtype_policy(policy)


LAYERS = [
    (SpatialTransformer("nearest", "zero"), [(8, 9, 1), (8, 9, 2)]),
    (SpatialTransformer(), [(8, 9, 10, 1), (3, 4)]),
    (ScalingAndSquaring(3), (8, 9, 2)),
    (Compose(), [(8, 9, 2), (8, 9, 2)]),
    (ImagePyramid(2, 0.7), (8, 9, 1)),
    (UpsampleDisplacement(), [(4, 5, 2), (8, 9, 1)]),
    (BSplineExpand((2, 4), 1), [(5, 3, 2), (8, 9, 1)]),
    (BSplineAdjoint(3, 3), (8, 9, 2)),
]


@pytest.mark.parametrize(("layer", "shapes"), LAYERS, ids=lambda value: type(value).__name__)
def test_config_round_trip_and_static_shapes(layer, shapes, tmp_path):
    config = layer.get_config()
    again = type(layer).from_config(config)
    assert again.get_config() == config
    several = isinstance(shapes, list)
    inputs = [keras.Input(shape) for shape in shapes] if several else keras.Input(shapes)
    model = keras.Model(inputs, again(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    data = [random((2, *s), n) for n, s in enumerate(shapes)] if several else random((2, *shapes))
    tree = keras.tree.flatten
    for symbol, one, other in zip(
        tree(model.output), tree(model(data)), tree(loaded(data)), strict=True
    ):
        assert tuple(symbol.shape[1:]) == tuple(one.shape[1:])
        np.testing.assert_array_equal(numpy(one), numpy(other))


# ---- integration


@pytest.mark.parametrize("shape", SHAPES)
def test_constant_velocity_is_a_translation(shape):
    velocity = np.zeros((2, *shape, len(shape)), "float32")
    velocity[0, ..., 0], velocity[1, ..., -1] = 2.5, -7.25
    np.testing.assert_allclose(numpy(ScalingAndSquaring()(velocity)), velocity, atol=1e-5)


@pytest.mark.parametrize("shape", [(33, 35), (25, 26, 27)])
def test_linear_velocity_is_a_matrix_exponential(shape):
    rank, centre = len(shape), (np.array(shape) - 1) / 2
    generator = np.random.default_rng(0).normal(size=(rank, rank)) * 0.12
    velocity = ((grid(shape) - centre) @ generator.T)[None].astype("float32")
    expected = ((grid(shape) - centre) @ (expm(generator) - np.eye(rank)).T)[None]
    inside = (slice(None), *(slice(6, -6) for _ in shape))
    errors = []
    for steps in (5, 7, 9):
        result = numpy(ScalingAndSquaring(steps)(velocity))
        errors.append(np.abs(result - expected)[inside].max())
    assert errors[1] < 0.01
    assert errors[1] < 0.3 * errors[0] and errors[2] < 0.3 * errors[1]
    back = numpy(ScalingAndSquaring(9)(velocity, inverse=True))
    expected = ((grid(shape) - centre) @ (expm(-generator) - np.eye(rank)).T)[None]
    np.testing.assert_allclose(back[inside], expected[inside], atol=5e-3)


@pytest.mark.parametrize("shape", [(48, 50), (28, 30, 29)])
def test_inverse_consistency(shape):
    rank = len(shape)
    velocity = [gaussian_filter(random(shape, axis), 5, mode="constant") for axis in range(rank)]
    velocity = np.stack(velocity, -1)[None]
    velocity *= 3 / np.abs(velocity).max()
    layer = ScalingAndSquaring()
    there, back = layer(velocity), layer(velocity, inverse=True)
    assert np.abs(numpy(there)).max() > 2
    inside = (slice(None), *(slice(4, -4) for _ in shape))
    for pair in ((there, back), (back, there)):
        error = np.linalg.norm(numpy(Compose()(pair))[inside], axis=-1)
        assert error.mean() < 0.03 and error.max() < 0.15


@pytest.mark.parametrize("shape", [(48, 50), (28, 30, 29)])
def test_a_small_velocity_and_its_negative_are_inverse(shape):
    velocity = [gaussian_filter(random(shape, axis), 4) for axis in range(len(shape))]
    velocity = np.stack(velocity, -1)[None]
    velocity /= np.abs(velocity).max()
    layer = ScalingAndSquaring()
    both = Compose()((layer(velocity), layer(-velocity)))
    inside = (slice(None), *(slice(4, -4) for _ in shape))
    assert np.abs(numpy(layer(velocity))).max() > 0.7
    assert np.linalg.norm(numpy(both)[inside], axis=-1).max() < 0.02


def test_compose_is_the_function():
    first, second = random((1, 8, 9, 2)), random((1, 8, 9, 2), 1)
    np.testing.assert_array_equal(numpy(Compose()((first, second))), numpy(compose(first, second)))


# ---- pyramids


@pytest.mark.parametrize("shape", [(33, 40), (17, 20, 21)])
def test_coarse_voxel_lies_on_every_second_voxel(shape):
    rank = len(shape)
    ramp = grid(shape) @ np.arange(1.0, rank + 1).astype("float32")
    levels = image_pyramid(ramp[None, ..., None], 2)
    coarse = numpy(levels[1])[0, ..., 0]
    assert coarse.shape == tuple((size + 1) // 2 for size in shape)
    expected = ramp[(slice(None, None, 2),) * rank]
    inside = (slice(2, -2),) * rank
    np.testing.assert_allclose(coarse[inside], expected[inside], rtol=1e-5)
    impulse = np.zeros((1, *shape, 1), "float32")
    impulse[(0, *(8,) * rank, 0)] = 1
    blurred = numpy(downsample(impulse))[0, ..., 0]
    assert np.unravel_index(blurred.argmax(), blurred.shape) == (4,) * rank


@pytest.mark.parametrize("shape", [(33, 40), (4, 3, 1), (1, 2), (2, 5, 3)])
def test_constants_stay_and_sizes_are_free(shape):
    image = np.full((1, *shape, 2), 7.0, "float32")
    for level in image_pyramid(image, 4):
        np.testing.assert_allclose(numpy(level), 7, atol=1e-5)
    assert level.shape == (1, *(-(-size // 8) for size in shape), 2)


def test_blur_is_the_gaussian_of_scipy_and_removes_high_frequencies():
    image = random((30, 31))
    expected = gaussian_filter(image, 1.0, mode="mirror", truncate=3.0)[::2, ::2]
    result = numpy(downsample(image[None, ..., None]))[0, ..., 0]
    np.testing.assert_allclose(result, expected, atol=1e-5)
    stripes = np.broadcast_to((-1.0) ** np.arange(30)[:, None], (30, 31))
    assert np.abs(numpy(downsample(stripes[None, ..., None]))).max() < 0.02
    kept = numpy(downsample(image[None, ..., None], sigma=0))[0, ..., 0]
    np.testing.assert_array_equal(kept, image[::2, ::2])


@pytest.mark.parametrize("shape", [(12, 15), (9, 8, 11)])
def test_linear_displacements_are_the_same_on_every_level(shape):
    field, function = linear_field(shape)
    coarse = downsample_displacement(field)
    points = 2 * grid(tuple(coarse.shape[1:-1]))
    np.testing.assert_allclose(2 * numpy(coarse)[0], function(points), atol=1e-4)
    np.testing.assert_allclose(numpy(upsample_displacement(coarse, shape)), field, atol=1e-4)


def test_pyramids_of_images_and_displacements_agree():
    smooth = gaussian_filter(random((40, 44)), 5)[None, ..., None] * 20
    field = np.stack([gaussian_filter(random((40, 44), n), 8) for n in (1, 2)], -1)[None]
    field *= 4 / np.abs(field).max()
    before = numpy(downsample(warp(smooth, field)))
    after = numpy(warp(downsample(smooth), downsample_displacement(field)))
    inside = (slice(None), slice(4, -4), slice(4, -4))
    error = np.abs(before - after)[inside].max()
    still = np.abs(before - numpy(downsample(smooth)))[inside].max()
    assert error < 0.06 * still


# ---- B-splines


@pytest.mark.parametrize("order", bspline.ORDERS)
@pytest.mark.parametrize(
    ("shape", "spacing"), [((16, 21), 4), ((9, 13, 10), (2, 3, 4)), ((5, 1), 3), ((7, 8), 1)]
)
def test_bsplines(order, shape, spacing):
    rank = len(shape)
    points = bspline.control_shape(shape, spacing, order)
    steps = np.array([spacing] * rank if isinstance(spacing, int) else spacing)
    ones = numpy(bspline_expand(np.ones((1, *points, 2)), shape, spacing, order))
    np.testing.assert_allclose(ones, np.ones((1, *shape, 2)), atol=1e-6)
    _, function = linear_field(shape)
    control = function((grid(points) - (order - 1) / 2) * steps)[None]
    result = numpy(bspline_expand(control, shape, spacing, order))
    np.testing.assert_allclose(result[0], function(grid(shape)), atol=2e-5)
    control, field = random((2, *points, 3)), random((2, *shape, 3), 1)
    left = np.sum(numpy(bspline_expand(control, shape, spacing, order)) * field, dtype="float64")
    adjoint = numpy(bspline_adjoint(field, spacing, order))
    assert adjoint.shape == control.shape
    right = np.sum(control * adjoint, dtype="float64")
    assert abs(left - right) < 1e-5 * np.linalg.norm(control) * np.linalg.norm(adjoint)


def test_linear_bsplines_interpolate_and_their_adjoint_sums_a_cell():
    control = random((1, 5, 6, 1))
    dense = numpy(bspline_expand(control, (17, 21), 4, 1))
    np.testing.assert_allclose(dense[:, ::4, ::4], control, atol=1e-6)
    for shape, spacing in (((17, 21), 4), ((9, 13, 17), 4)):
        total = numpy(bspline_adjoint(np.ones((1, *shape, 1)), spacing, 1))
        inside = total[(slice(None), *(slice(1, -1) for _ in shape))]
        np.testing.assert_allclose(inside, spacing ** len(shape), atol=1e-4)
    assert bspline.control_shape((64, 63), 4, 1) == (17, 17)


def test_cubic_bsplines_are_smooth():
    dense = numpy(bspline_expand(random((1, 8, 8, 1)), (41, 41), 8, 3))[0, ..., 0]
    third = np.abs(np.diff(dense, 3, axis=0)).max()
    assert third < 3 * 6 / 8**3 * 2


# ---- bad input

PLANE, FLOW = np.ones((1, 5, 6, 1)), np.zeros((1, 5, 6, 2))


def built(layer):
    """The layer after a good call, when Keras no longer asks it to build itself."""
    layer((FLOW, FLOW))
    return layer


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SpatialTransformer("cubic"), "order must be"),
        (lambda: SpatialTransformer(mode="wrap"), "mode must be"),
        (lambda: SpatialTransformer()((np.ones((1, 5, 6, 1)), np.ones((1, 3, 4)))), "affine"),
        (lambda: SpatialTransformer()((np.ones((1, 5, 6, 1)), np.ones((1, 5, 6, 3)))), "displac"),
        (lambda: SpatialTransformer()(np.ones((1, 5, 6, 1))), "must be called with"),
        (lambda: built(SpatialTransformer())(np.ones((1, 5, 6, 1))), "called with .moving, disp"),
        (lambda: built(SpatialTransformer())((PLANE, np.ones((1, 5, 6, 3)))), "displacement must"),
        (lambda: built(SpatialTransformer())((PLANE[:0], FLOW)), "moving and .* same batch size"),
        (lambda: built(SpatialTransformer())((1j * PLANE, FLOW)), "moving must hold real numbers"),
        (lambda: built(SpatialTransformer())((PLANE[:, :0], FLOW)), "moving must not be empty"),
        (lambda: built(Compose())((FLOW, FLOW[:0])), "second must not be empty"),
        (lambda: built(Compose())((FLOW, 1j * FLOW)), "second must hold real numbers"),
        (lambda: UpsampleDisplacement()((FLOW, 1j * PLANE)), "reference must hold real numbers"),
        (lambda: BSplineExpand()((FLOW, np.ones((3, 4)))), "reference must have"),
        (lambda: ScalingAndSquaring(-1), "steps must be at least 0, not -1"),
        (lambda: ScalingAndSquaring()(np.ones((1, 5, 6, 3))), "velocity must be"),
        (lambda: Compose()((np.ones((1, 5, 6, 3)), np.ones((1, 5, 6, 2)))), "first must be"),
        (lambda: Compose()((np.ones((1, 5, 6, 2)), np.ones((1, 5, 6, 7, 3)))), "same rank"),
        (lambda: ImagePyramid(0), "levels must be at least 1"),
        (lambda: downsample(np.ones((1, 5, 1))), "image must be"),
        (lambda: downsample(np.ones((1, 5, 6, 1)), -1), "sigma must not be negative"),
        (lambda: upsample_displacement(np.ones((1, 5, 6, 2)), (10, 13)), "shape must be twice"),
        (lambda: BSplineExpand(0), "spacing must be"),
        (lambda: BSplineExpand(2, 2), "order must be"),
        (lambda: bspline_expand(np.ones((1, 4, 4, 2)), (9, 9), 4, 1), r"control must have \(3, 3"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
