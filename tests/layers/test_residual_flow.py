"""The residual flow: identity, order of the integrators, exact inverse, Jacobian, Lipschitz."""

import keras
import numpy as np
import pytest
from keras import ops

from zoo.layers import ResidualFlow
from zoo.layers.residual_flow import kinetic_energy, spectral_bound


def numpy(tensor) -> np.ndarray:
    return ops.convert_to_numpy(tensor)


def points(count=200, dims=3, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, dims)).astype(np.float32)


def flow(strength=0.1, seed=3, **options) -> ResidualFlow:
    """A flow that moves points by about `strength`."""
    layer = ResidualFlow(**{"blocks": 5, "width": 32, **options})
    layer.build()
    layer.restart(seed)
    random = np.random.default_rng(seed)
    layer.third.assign(strength * random.normal(size=layer.third.shape))
    return layer


def linear(matrix, **options) -> ResidualFlow:
    """A flow whose velocity is `matrix x`: relu(x) - relu(-x) is x."""
    dims = len(matrix)
    layer = ResidualFlow(dims, width=2 * dims, nonlinearities=1, **options)
    layer.build()
    eye = np.eye(dims)
    layer.first.assign(np.broadcast_to(np.hstack([eye, -eye]), layer.first.shape))
    layer.first_bias.assign(np.zeros(layer.first_bias.shape))
    layer.second.assign(np.broadcast_to(np.eye(2 * dims), layer.second.shape))
    layer.third.assign(np.broadcast_to(np.vstack([matrix.T, -matrix.T]), layer.third.shape))
    return layer


def test_a_new_flow_is_the_identity_with_finite_gradients():
    layer = ResidualFlow()
    x = ops.convert_to_tensor(points()[None])
    assert np.array_equal(numpy(layer(x)), numpy(x))
    path, _ = layer.trace(x)
    assert float(kinetic_energy(path)[0]) == 0.0
    _, jacobian = layer.jacobian(x)
    np.testing.assert_allclose(np.linalg.det(numpy(jacobian)), 1.0)


@pytest.mark.parametrize(("width", "count"), [(128, 17_408), (800, 646_400)])
def test_the_count_of_parameters(width, count):
    layer = ResidualFlow(blocks=1, width=width)
    layer.build()
    assert layer.count_params() == count


def test_with_one_nonlinearity_the_last_matrices_are_one():
    layer = flow(nonlinearities=1, blocks=1)
    merged = numpy(layer.second[0]) @ numpy(layer.third[0])
    bias = numpy(layer.second_bias[0]) @ numpy(layer.third[0])
    x = points()
    inner = np.maximum(x @ numpy(layer.first[0]) + numpy(layer.first_bias[0]), 0)
    np.testing.assert_allclose(
        numpy(layer.velocity(ops.convert_to_tensor(x), 0)[0]), inner @ merged + bias, atol=1e-5
    )


@pytest.mark.parametrize("blocks", [1, 5, 20])
def test_a_translation_costs_half_its_squared_length(blocks):
    shift = np.array([0.3, -0.2, 0.1], np.float32)
    layer = ResidualFlow(blocks=blocks, width=4)
    layer.build()
    # The last hidden unit is always one.
    layer.second.assign(np.zeros(layer.second.shape))
    layer.second_bias.assign(np.broadcast_to([0, 0, 0, 1.0], layer.second_bias.shape))
    third = np.zeros(layer.third.shape, np.float32)
    third[:, 3] = shift
    layer.third.assign(third)
    for count in (7, 100):
        x = ops.convert_to_tensor(points(count)[None])
        path, _ = layer.trace(x)
        np.testing.assert_allclose(numpy(path[-1] - x)[0], np.tile(shift, (count, 1)), atol=1e-6)
        assert abs(float(kinetic_energy(path)[0]) - (shift**2).sum() / 2) < 1e-6


@pytest.mark.parametrize(
    ("integrator", "factor", "tolerance"),
    [("euler", 2, 0.2), ("midpoint", 4, 0.5), ("rk4", 16, 3)],
)
def test_the_order_of_the_integrators_on_a_rotation(integrator, factor, tolerance):
    angle = 2.0  # radians: with a smaller one the error of rk4 drowns in float32
    turn = np.array([[0, -angle], [angle, 0]])
    exact = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    x = points(100, 2)
    errors = []
    for substeps in (1, 2):
        blocks = 2 if integrator == "rk4" else 20
        layer = linear(turn, blocks=blocks, integrator=integrator, substeps=substeps)
        errors.append(np.linalg.norm(numpy(layer(x[None]))[0] - x @ exact.T, axis=1).mean())
    assert abs(errors[0] / errors[1] - factor) < tolerance, errors


@pytest.mark.parametrize("activation", ["relu", "softplus", "tanh", "sin"])
@pytest.mark.parametrize("integrator", ["euler", "midpoint", "rk4"])
def test_the_jacobian_agrees_with_differences(activation, integrator):
    layer = flow(activation=activation, integrator=integrator, blocks=3)
    x, step = points(50), 1e-3
    _, jacobian = layer.jacobian(ops.convert_to_tensor(x))
    sides = step * np.eye(3, dtype=np.float32)
    columns = [numpy(layer((x + e)[None]) - layer((x - e)[None]))[0] / (2 * step) for e in sides]
    off = np.abs(numpy(jacobian) - np.stack(columns, axis=-1)).max(axis=(1, 2))
    # A difference may straddle a kink of the rectifier.
    assert np.quantile(off, 0.8) < 2e-3, off


def test_an_expansion_by_two_has_the_determinant_eight():
    layer = linear(np.log(2.0) * np.eye(3), blocks=10, integrator="rk4")
    _, jacobian = layer.jacobian(ops.convert_to_tensor(points()))
    np.testing.assert_allclose(np.linalg.det(numpy(jacobian)), 8.0, rtol=1e-4)


def test_a_step_that_folds_is_seen():
    layer = linear(np.diag([-2.0, 0.0, 0.0]), blocks=1)
    _, jacobian = layer.jacobian(ops.convert_to_tensor(points()))
    assert (np.linalg.det(numpy(jacobian)) < 0).all()
    assert float(layer.sampled_lipschitz(ops.convert_to_tensor(points()))[0]) >= 1


@pytest.mark.parametrize("integrator", ["euler", "rk4"])
def test_the_inverse_is_exact_where_turning_the_sign_is_not(integrator):
    layer = flow(0.2, integrator=integrator)
    x = points(1000)
    moved, jacobian = layer.jacobian(ops.convert_to_tensor(x))
    assert (np.linalg.det(numpy(jacobian)) > 0).all()
    assert np.abs(numpy(moved) - x).max() > 0.1
    assert np.abs(numpy(layer.invert(moved)) - x).max() < 1e-5
    backwards = moved
    for block in reversed(range(layer.blocks)):
        backwards = backwards - layer.increment(backwards, block)[0]
    assert np.abs(numpy(backwards) - x).max() > 1e-3


def test_the_inverse_of_steps_that_fixed_points_do_not_undo():
    layer = linear(np.array([[0, -1.5], [1.5, 0]]), blocks=1)
    x = points(100, 2)
    assert float(layer.sampled_lipschitz(ops.convert_to_tensor(x))[0]) > 1
    moved = layer(x[None])[0]
    assert np.abs(numpy(layer.invert(moved)) - x).max() < 1e-5
    assert np.abs(numpy(layer.invert(moved, steps=(30, 0))) - x).max() > 1


def test_the_product_of_norms_bounds_the_sampled_lipschitz_number():
    layer = flow(0.3)
    sampled = numpy(layer.sampled_lipschitz(ops.convert_to_tensor(points(500))))
    assert (sampled <= numpy(layer.product_lipschitz()) + 1e-6).all()


def test_the_spectral_bound_is_a_tight_bound():
    for shape in ((3, 40), (40, 40), (40, 3)):
        matrix = np.random.default_rng(1).normal(size=shape).astype(np.float32)
        norm = np.linalg.norm(matrix, 2)
        bound = float(spectral_bound(ops.convert_to_tensor(matrix)))
        assert norm <= bound * (1 + 1e-5) and bound < 1.08 * norm


def test_a_bound_on_the_lipschitz_number_is_kept():
    layer = flow(5.0, lipschitz=0.5)
    assert numpy(layer.product_lipschitz()).max() <= 0.5 + 1e-4
    assert numpy(flow(5.0).product_lipschitz()).max() > 1
    x = points()
    moved = layer(x[None])[0]
    assert np.abs(numpy(layer.invert(moved)) - x).max() < 1e-5


def test_several_clouds_at_once_are_as_one_by_one():
    layer = flow()
    x = points(30).reshape(3, 10, 3)
    together = numpy(layer(x))
    for one, all_ in zip(x, together, strict=True):
        np.testing.assert_allclose(numpy(layer(one[None]))[0], all_, atol=1e-6)


def test_codes_make_other_flows_of_the_same_weights():
    layer = flow(codes=4)
    x = np.repeat(points(20)[None], 2, axis=0)
    codes = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    moved = numpy(layer(x, codes))
    assert np.abs(moved[0] - moved[1]).max() > 1e-3
    np.testing.assert_allclose(numpy(layer(x[1:], codes[1:])), moved[1:], atol=1e-6)
    back = layer.invert(ops.convert_to_tensor(moved[1]), codes[1])
    np.testing.assert_allclose(numpy(back), x[1], atol=1e-5)


def test_the_layer_comes_back_from_a_file(tmp_path):
    inputs = keras.Input((None, 2))
    model = keras.Model(inputs, ResidualFlow(2, blocks=2, width=8, activation="tanh")(inputs))
    model.layers[-1].third.assign(np.ones(model.layers[-1].third.shape))
    model.save(tmp_path / "flow.keras")
    loaded = keras.saving.load_model(tmp_path / "flow.keras")
    x = points(10, 2)[None]
    np.testing.assert_allclose(numpy(loaded(x)), numpy(model(x)), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dims": 4}, "dims must be one of"),
        ({"blocks": 0}, "blocks must be at least 1"),
        ({"nonlinearities": 3}, "nonlinearities must be one of"),
        ({"activation": "gelu"}, "activation must be one of"),
        ({"lipschitz": 1.5}, "lipschitz must lie between"),
        ({"codes": -1}, "codes must be at least 0"),
    ],
)
def test_bad_arguments_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        ResidualFlow(**options)
