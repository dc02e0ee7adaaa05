"""Filters, activation functions and fields of experts against closed forms and differences."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy import ndimage

from zoo.layers import activations
from zoo.layers.activations import PiecewiseLinear, RadialBasis
from zoo.layers.fields_of_experts import FieldsOfExperts, FilterConstraint
from zoo.ops.correlation import PADDINGS, correlate, correlate_adjoint
from zoo.ops.gradients import value_and_gradient

KINDS = [(kind, mode) for kind in (PiecewiseLinear, RadialBasis) for mode in kind.extrapolations]
SHAPES = [(7, 10, 2), (1, 2, 1), (5, 3, 1, 2)]


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def random(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def gradient(function, array):
    """Gradient of a scalar function."""

    def compute(array):
        return value_and_gradient(function, array)[1]

    if keras.backend.backend() == "jax":
        import jax

        # Otherwise JAX compiles every operation of its own.
        compute = jax.jit(compute)
    return numpy(compute(ops.convert_to_tensor(array)))


def learned(kind, mode, filters=3, nodes=9, limits=(-1.0, 1.5), seed=3):
    """An activation with random weights."""
    layer = kind(nodes, limits, extrapolation=mode)
    layer.build((None, filters))
    layer.knots.assign(random((nodes, filters), seed))
    return layer


def column(values, filters=3):
    return np.repeat(np.asarray(values, "float32")[:, None], filters, 1)


# ---- activation functions


@pytest.mark.parametrize("mode", PiecewiseLinear.extrapolations)
def test_piecewise_linear_is_the_interpolation_of_numpy(mode):
    layer = learned(PiecewiseLinear, mode)
    knots, nodes = numpy(layer.knots), layer.positions
    np.testing.assert_allclose(numpy(layer(column(nodes))), knots, atol=1e-5)
    x = np.linspace(-3, 3, 101)
    expected = np.stack([np.interp(x, nodes, knots[:, k]) for k in range(3)], -1)
    if mode == "linear":
        first, last = (knots[1] - knots[0]), (knots[-1] - knots[-2])
        expected += np.minimum(x + 1, 0)[:, None] * first / layer.spacing
        expected += np.maximum(x - 1.5, 0)[:, None] * last / layer.spacing
    np.testing.assert_allclose(numpy(layer(column(x))), expected, atol=2e-5)


@pytest.mark.parametrize("mode", PiecewiseLinear.extrapolations)
def test_a_line_is_reproduced(mode):
    layer = PiecewiseLinear(slope=0.3, extrapolation=mode)
    x = np.linspace(-2, 2, 57)
    expected = 0.3 * (np.clip(x, -1, 1) if mode == "constant" else x)
    np.testing.assert_allclose(numpy(layer(column(x))), column(expected), atol=1e-6)
    assert layer.spacing == 2 / 23 and numpy(layer.knots).shape == (24, 3)


def test_monotone_knots_give_monotone_functions():
    layer = learned(PiecewiseLinear, "linear")
    layer.knots.assign(np.sort(random((9, 3)), 0))
    assert np.all(np.diff(numpy(layer(column(np.linspace(-2, 2, 200)))), axis=0) >= -1e-6)


def test_radial_basis_is_its_formula():
    layer = learned(RadialBasis, "decay", nodes=31)
    x = np.linspace(-3, 4, 97)
    basis = np.exp(-0.5 * ((x[:, None] - layer.positions) / layer.spacing) ** 2)
    np.testing.assert_allclose(numpy(layer(column(x))), basis @ numpy(layer.knots), atol=1e-5)


def test_radial_basis_inside_of_its_limits():
    layer = RadialBasis(31, (-2, 2), initializer="ones")
    inner = numpy(layer(column(np.linspace(-1, 1, 50))))
    assert np.ptp(inner) < 0.01 * inner.mean()
    line = RadialBasis(31, (-2, 2), slope=0.3)
    np.testing.assert_allclose(
        numpy(line(column(line.positions))), column(0.3 * line.positions), atol=1e-5
    )
    between = np.linspace(-1.5, 1.5, 50)
    np.testing.assert_allclose(numpy(line(column(between))), column(0.3 * between), atol=2e-3)


@pytest.mark.parametrize("kind", [PiecewiseLinear, RadialBasis])
def test_extrapolation(kind):
    edges, outside = column([-1, 1.5]), column([-4, 4])
    flat, line = learned(kind, "constant"), learned(kind, "linear")
    np.testing.assert_allclose(numpy(flat(outside)), numpy(flat(edges)), atol=1e-5)
    free = learned(kind, kind.extrapolations[-1])
    slopes = gradient(lambda x: ops.sum(free(x)), edges)
    expected = numpy(line(edges)) + slopes * (outside - edges)
    np.testing.assert_allclose(numpy(line(outside)), expected, atol=1e-4)
    middle = column(np.linspace(-0.9, 1.4, 30))
    np.testing.assert_allclose(numpy(flat(middle)), numpy(line(middle)), atol=1e-6)


@pytest.mark.parametrize(("kind", "mode"), KINDS)
def test_gradients_of_activations(kind, mode):
    layer = learned(kind, mode)
    # Differences must not cross a node, where the derivative of a piecewise line jumps.
    cells = np.random.default_rng(0).integers(-5, 14, (40, 3))
    offsets = np.random.default_rng(1).uniform(0.1, 0.9, (40, 3))
    x = (-1 + layer.spacing * (cells + offsets)).astype("float32")
    weights = random(x.shape, 1)
    slope = gradient(lambda x: ops.sum(layer(x) * weights), x)
    step = np.float32(2e-3)
    expected = (numpy(layer(x + step)) - numpy(layer(x - step))) / (2 * step) * weights
    np.testing.assert_allclose(slope, expected, atol=5e-3)

    # The function is linear in its weights, so any step is exact.
    function = activations._evaluator(kind, -1.0, layer.spacing, mode)
    knots, change = random((9, 3), 4), random((9, 3), 5)
    got = gradient(
        lambda knots: ops.sum(function(ops.convert_to_tensor(x), knots) * weights), knots
    )
    values = [numpy(function(*map(ops.convert_to_tensor, (x, k)))) for k in (knots, knots + change)]
    expected = np.sum((values[1] - values[0]) * weights, dtype="float64")
    assert np.sum(got * change) == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_knots_gradient_is_the_hat_weights():
    function = activations._evaluator(PiecewiseLinear, -1.0, 0.25, "constant")
    for x, expected in ((0.1, {4: 0.6, 5: 0.4}), (7.0, {8: 1.0}), (-7.0, {0: 1.0})):
        point = ops.convert_to_tensor([[x]], "float32")
        got = gradient(lambda knots, point=point: ops.sum(function(point, knots)), random((9, 1)))
        hats = np.zeros((9, 1))
        hats[list(expected), 0] = list(expected.values())
        np.testing.assert_allclose(got, hats, atol=1e-6)


def test_activations_can_be_differentiated_twice():
    function = activations._evaluator(PiecewiseLinear, -1.0, 0.25, "constant")
    x, weights = ops.convert_to_tensor([[0.1], [7.0]]), ops.convert_to_tensor([[2.0], [3.0]])

    def slopes(knots):
        return value_and_gradient(lambda x: ops.sum(function(x, knots)), x)[1]

    # The slope at 0.1 is that of the cell between the knots 4 and 5; at 7 there is none.
    expected = np.zeros((9, 1))
    expected[4:6, 0] = -2 / 0.25, 2 / 0.25
    got = gradient(lambda knots: ops.sum(slopes(knots) * weights), random((9, 1)))
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize(("kind", "mode"), KINDS)
def test_potential_is_the_integral(kind, mode):
    layer = learned(kind, mode)
    x = column(np.linspace(-2.5, 3, 301))
    np.testing.assert_allclose(
        gradient(lambda x: ops.sum(layer.potential(x)), x), numpy(layer(x)), atol=2e-5
    )
    step = np.float32(1e-2)
    rise = numpy(layer.potential(x + step)) - numpy(layer.potential(x - step))
    mean = sum(numpy(layer(x + share * step)) for share in np.linspace(-1, 1, 21)) / 21
    np.testing.assert_allclose(rise / (2 * step), mean, atol=5e-3)
    np.testing.assert_allclose(numpy(layer.potential(np.zeros((1, 3)))), 0, atol=1e-6)


def test_not_a_number_stays_one():
    for kind, mode in KINDS:
        x = np.array([[0.1, np.nan, 0.2]], "float32")
        assert np.isnan(numpy(learned(kind, mode)(x))).tolist() == [[False, True, False]]


# ---- filters


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("separate", [False, True])
def test_filters_agree_with_scipy(shape, padding, separate):
    channels, image = shape[-1], random((2, *shape))
    layer = FieldsOfExperts(4, 5, padding=padding, separate=separate)
    got, kernel = numpy(layer.responses(image)), numpy(layer.kernel)
    mode = {"symmetric": "reflect", "zero": "constant"}[padding]
    for batch in range(2):
        by_channel = np.array(
            [
                [
                    ndimage.correlate(image[batch, ..., c], kernel[..., c, k], mode=mode)
                    for k in range(4)
                ]
                for c in range(channels)
            ]
        )
        expected = by_channel.reshape(-1, *shape[:-1]) if separate else by_channel.sum(0)
        np.testing.assert_allclose(got[batch], np.moveaxis(expected, 0, -1), atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("size", "separate"), [(3, False), (7, True), ((2, 1, 4), False)])
def test_adjoint(shape, padding, size, separate):
    size = size if isinstance(size, int) else size[: len(shape) - 1]
    layer = FieldsOfExperts(5, size, padding=padding, separate=separate)
    image = random((2, *shape))
    forth = numpy(layer.responses(image))
    responses = random(forth.shape, 1)
    back = numpy(layer.adjoint(responses))
    assert back.shape == image.shape
    left, right = (np.sum(a * b, dtype="float64") for a, b in ((forth, responses), (image, back)))
    assert abs(left - right) < 1e-5 * np.linalg.norm(forth) * np.linalg.norm(responses)
    # The derivative with respect to the image, which is written by hand, is the adjoint as well.
    pulled = gradient(lambda image: ops.sum(layer.responses(image) * responses), image)
    np.testing.assert_allclose(pulled, back, atol=1e-5)
    pushed = gradient(lambda z: ops.sum(layer.adjoint(z) * image), responses)
    np.testing.assert_allclose(pushed, forth, atol=1e-5)


@pytest.mark.parametrize("padding", PADDINGS)
def test_gradients_of_the_kernel(padding):
    image, responses = random((2, 6, 5, 2)), random((2, 6, 5, 3), 1)
    kernel, other = random((3, 4, 2, 3), 2), random((3, 4, 2, 3), 3)
    x, z = map(ops.convert_to_tensor, (image, responses))
    expected = np.sum(numpy(correlate(x, ops.convert_to_tensor(other), padding)) * responses)
    for function in (
        lambda kernel: ops.sum(correlate(x, kernel, padding) * responses),
        lambda kernel: ops.sum(correlate_adjoint(z, kernel, padding) * image),
    ):
        # Both are linear in the kernel.
        got = np.sum(gradient(function, kernel) * other)
        assert got == pytest.approx(expected, rel=1e-4)


def test_initial_filters():
    keras.utils.set_random_seed(7)
    for rank, size, expected in ((2, 7, 0.0505), (2, 5, 0.0707), (3, 7, 0.0818), (3, 5, 0.1145)):
        layer = FieldsOfExperts(16, size)
        layer.build((None,) * (rank + 1) + (16,))
        assert np.std(numpy(layer.kernel)) == pytest.approx(expected, rel=0.05)
    for shape, filters, separate in (((9, 9, 1), 24, 0), ((9, 9, 2), 48, 0), ((9, 9, 2), 24, 1)):
        layer = FieldsOfExperts(filters, 5, kernel_initializer="dct", separate=bool(separate))
        layer.build((None, *shape))
        flat = numpy(layer.kernel)
        flat = flat[..., 0, :].reshape(-1, filters) if separate else flat.reshape(-1, filters)
        np.testing.assert_allclose(flat.T @ flat, np.eye(filters), atol=1e-5)
        np.testing.assert_allclose(numpy(layer.responses(np.ones((1, *shape)))), 0, atol=1e-5)


@pytest.mark.parametrize("separate", [False, True])
def test_constraints_hold_at_the_start_and_after_an_update(separate):
    layer = FieldsOfExperts(6, 3, zero_mean=True, unit_norm=True, separate=separate)
    inputs = keras.Input((None, None, 2))
    model = keras.Model(inputs, layer(inputs))
    model.compile(keras.optimizers.Adam(0.05), "mse")
    axes = (0, 1) if separate else (0, 1, 2)

    def check():
        kernel = numpy(layer.kernel)
        assert np.abs(kernel.mean((0, 1))).max() <= 1e-6
        assert np.abs(np.sqrt(np.sum(kernel**2, axes)) - 1).max() <= 1e-5
        return kernel

    before = check()
    model.fit(random((4, 8, 9, 2)), random((4, 8, 9, 2), 1), batch_size=2, verbose=0)
    assert np.abs(check() - before).max() > 0.01
    image = random((1, 8, 9, 2))
    np.testing.assert_allclose(numpy(layer(image + 3)), numpy(layer(image)), atol=1e-5)
    only = numpy(FilterConstraint(unit_norm=False)(ops.convert_to_tensor(before + 1)))
    np.testing.assert_allclose(only, before, atol=1e-6)


# ---- the layer


@pytest.mark.parametrize(
    ("kind", "mode", "shape", "padding"),
    [
        *((*kind, (9, 7, 1), "zero") for kind in KINDS),
        (PiecewiseLinear, "linear", (5, 4, 6, 2), "symmetric"),
        (RadialBasis, "constant", (5, 4, 6, 2), "symmetric"),
    ],
)
def test_output_is_the_gradient_of_the_energy(kind, mode, shape, padding):
    rank = len(shape) - 1
    separate = rank == 3
    activation = learned(kind, mode, filters=4 * (shape[-1] if separate else 1))
    layer = FieldsOfExperts(
        4, (3, 5, 2)[:rank], activation, "dct", padding=padding, separate=separate
    )
    image = random((2, *shape))
    output = numpy(layer(image))
    expected = gradient(lambda image: ops.sum(layer.energy(image)), image)
    assert np.abs(output - expected).max() <= 1e-4 * np.abs(output).max()
    assert layer.energy(image).shape == (2,)
    alone = np.concatenate([numpy(layer(image[:1])), numpy(layer(image[1:]))])
    np.testing.assert_allclose(alone, output, atol=1e-5)


def test_energy_rises_along_the_output():
    layer = FieldsOfExperts(4, 3, learned(RadialBasis, "decay", 4))
    image, step = random((1, 8, 8, 1)), np.float32(1e-2)
    direction = random((1, 8, 8, 1), 1)
    energies = [float(layer.energy(image + sign * step * direction)[0]) for sign in (1, -1)]
    slope = np.sum(numpy(layer(image)) * direction)
    assert (energies[0] - energies[1]) / (2 * step) == pytest.approx(slope, rel=1e-2)


def test_untrained_layer_descends_and_leaves_zero_alone():
    layer = FieldsOfExperts(8, 5, PiecewiseLinear(extrapolation="linear"))
    image = random((1, 9, 9, 1))
    assert np.sum(numpy(layer(image)) * image) > 0
    np.testing.assert_allclose(numpy(layer(0 * image)), 0, atol=1e-7)


def test_transposed_image_and_filters():
    layer, turned = (FieldsOfExperts(4, (3, 5)[::way]) for way in (1, -1))
    image = random((1, 6, 9, 1))
    output = numpy(layer(image))
    turned.build((1, 9, 6, 1))
    turned.kernel.assign(np.swapaxes(numpy(layer.kernel), 0, 1))
    np.testing.assert_allclose(
        numpy(turned(np.swapaxes(image, 1, 2))), np.swapaxes(output, 1, 2), atol=1e-5
    )


def test_parameters_of_a_variational_unit():
    for rank, expected in ((2, 2736), (3, 13024)):
        data, regulariser = FieldsOfExperts(16, 7), FieldsOfExperts(16, 5, separate=True)
        data.build((None,) * (rank + 1) + (1,))
        regulariser.build((None,) * (rank + 1) + (rank,))
        assert data.count_params() + regulariser.count_params() == expected


@pytest.mark.parametrize("shape", [(11, 8, 1), (6, 5, 7, 2)])
def test_training_reaches_every_weight_of_a_shared_layer(shape):
    inputs = keras.Input((*[None] * (len(shape) - 1), shape[-1]))
    layer = FieldsOfExperts(4, 3, PiecewiseLinear(5), separate=len(shape) == 4)
    once = inputs - layer(inputs)
    model = keras.Model(inputs, once - layer(once))
    assert len(model.weights) == 2
    model.compile("sgd", "mse")
    before = [numpy(weight) for weight in model.weights]
    model.fit(random((4, *shape)), random((4, *shape), 1), batch_size=4, verbose=0)
    for weight, old in zip(model.weights, before, strict=True):
        # The outermost knots of a rare filter may see no value.
        assert np.mean(numpy(weight) != old) > 0.9 and np.isfinite(numpy(weight)).all()
    other = tuple(size + 3 for size in shape[:-1])
    assert model.predict(random((1, *other, shape[-1])), verbose=0).shape == (1, *other, shape[-1])


LAYERS = [
    FieldsOfExperts(3, (2, 5), RadialBasis(7, (-2, 3), "ones", 0.2, "decay"), "dct", "zero", True),
    FieldsOfExperts(2, 3, None, keras.initializers.RandomNormal(0.0, 0.1), unit_norm=True),
    FieldsOfExperts(2, 3, separate=True, zero_mean=True),
    PiecewiseLinear(5, (0, 1), keras.initializers.TruncatedNormal(0.0, 0.01), 0.1, "linear"),
    RadialBasis(),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_round_trip(layer, tmp_path):
    config = layer.get_config()
    again = type(layer).from_config(config)
    assert again.get_config() == config
    inputs = keras.Input((8, 9, 2))
    model = keras.Model(inputs, again(inputs))
    assert model.output_shape == (None, 8, 9, 2)
    model.save(tmp_path / "model.keras")
    image = random((2, 8, 9, 2))
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded(image)), numpy(model(image)))


def test_float32_under_mixed_precision():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        layer = FieldsOfExperts(4, 3)
        image = random((1, 8, 8, 1)) * 1e-6
        output = layer(ops.convert_to_tensor(image))
        assert keras.backend.standardize_dtype(output.dtype) == "float32"
        assert 0 < np.abs(numpy(output)).max() < 1e-5
    finally:
        keras.config.set_dtype_policy(policy)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PiecewiseLinear(1), "nodes must be at least 2, not 1"),
        (lambda: PiecewiseLinear(limits=(1, 1)), "limits must be"),
        (lambda: PiecewiseLinear(extrapolation="decay"), "extrapolation must be one of"),
        (lambda: RadialBasis(limits=(0, np.inf)), "limits must be"),
        (lambda: FieldsOfExperts(0), "filters must be at least 1, not 0"),
        (lambda: FieldsOfExperts(kernel_size=(3, 0)), "kernel_size must be"),
        (lambda: FieldsOfExperts(kernel_size=1, zero_mean=True), "2 for a filter of zero mean"),
        (lambda: FieldsOfExperts(padding="wrap"), "padding must be one of"),
        (lambda: correlate(*np.ones((2, 1, 3, 3, 1)), "wrap"), "padding must be one of"),
        (lambda: FieldsOfExperts(activation="relu"), "activation must be a Layer"),
        (lambda: FieldsOfExperts()(np.ones((1, 5, 1))), "2 or 3 spatial axes"),
        (lambda: FieldsOfExperts(kernel_size=(3, 3))(np.ones((1, 5, 5, 5, 1))), "1 or 3 sizes"),
        (lambda: FieldsOfExperts(9, 3, None, "dct")(np.ones((1, 5, 5, 1))), "at most 8"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
