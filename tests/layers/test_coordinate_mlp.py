"""Networks of coordinates: sines, Fourier features, codes, and derivatives that are exact."""

import keras
import numpy as np
import pytest
from keras import ops

from zoo.layers import CoordinateMLP

SIREN = {"activation": "sin", "initialisation": "siren", "skips": (), "width": 16, "depth": 3}
VARIANTS = {
    "plain": {**SIREN, "frequency": 10.0},
    "softplus": {**SIREN, "activation": "softplus", "beta": 5.0, "initialisation": "he"},
    "leaky_relu": {**SIREN, "activation": "leaky_relu", "initialisation": "he"},
    "features": {**SIREN, "features": 6, "first_frequency": 1.0, "features_scale": 0.3},
    "concatenation": {**SIREN, "codes": 5, "features": 4, "features_scale": 0.3},
    "skips": {**SIREN, "codes": 5, "skips": (2,)},
    "modulation": {**SIREN, "codes": 5, "conditioning": "modulation", "frequency": 4.0},
}


def array(tensor):
    return ops.convert_to_numpy(tensor)


def network(inputs=3, **config) -> CoordinateMLP:
    keras.utils.set_random_seed(1)
    layer = CoordinateMLP(**config)
    layer.build((None, inputs))
    return layer


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def test_the_initialisation_of_siren():
    layer = network(width=256, depth=3, skips=(), activation="sin", initialisation="siren")
    limits = [1 / 3] + [np.sqrt(6 / 256) / 30] * 3
    for linear, limit in zip(layer.linear, limits, strict=True):
        kernel, bias = map(array, (linear.kernel, linear.bias))
        assert 0.9 * limit < np.abs(kernel).max() <= limit
        assert np.abs(bias).max() <= 1 / np.sqrt(kernel.shape[0])
    # Sines keep their spread from layer to layer, which is what the limits are for.
    hidden = drawn(4000, 3)
    for index, linear in enumerate(layer.linear[:-1]):
        hidden = array(ops.sin(30 * linear(hidden)))
        assert 0.55 < hidden.std() < 0.85, index


def test_fourier_features_are_drawn_once_and_stored(tmp_path):
    layer = network(2, **VARIANTS["features"])
    points = drawn(9, 2)
    assert array(layer.matrix).shape == (2, 6) and layer.linear[0].kernel.shape[0] == 12
    assert all(weight is not layer.matrix for weight in layer.trainable_weights)
    inputs = keras.Input((2,))
    model = keras.Model(inputs, CoordinateMLP(**VARIANTS["features"])(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(model(points)), array(loaded(points)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_derivatives_are_those_of_differences(variant):
    config = VARIANTS[variant]
    layer, points = network(3, **config), drawn(20, 3)
    # The code depends on the point, as one that is sampled from a grid does.
    turn = drawn(3, config.get("codes", 0), seed=2)
    coded = config.get("codes", 0) > 0

    def field(at):
        return array(layer(at, at @ turn if coded else None)).astype(np.float64)

    identity = np.broadcast_to(np.eye(3, dtype=np.float32), (20, 3, 3))
    code = (points @ turn, identity @ turn) if coded else (None, None)
    value, change = layer.trace(points, identity, *code)
    np.testing.assert_allclose(array(value), field(points), atol=1e-6)
    step = 2e-3
    found = np.stack(
        [(field(points + e) - field(points - e)) / (2 * step) for e in step * identity[0]], axis=1
    )
    bent = variant == "leaky_relu"  # a difference over a kink is neither slope
    off = np.abs(array(change) - found).max(axis=(1, 2)) / np.abs(found).max()
    assert np.quantile(off, 0.8 if bent else 1.0) < 1e-2, off


@pytest.mark.parametrize("variant", ["concatenation", "skips", "modulation"])
def test_parts_of_a_code_broadcast(variant):
    layer = network(2, **VARIANTS[variant])
    points, common, local = drawn(1, 7, 2), drawn(4, 1, 2, seed=1), drawn(4, 7, 3, seed=2)
    whole = np.concatenate([np.repeat(common, 7, axis=1), local], axis=-1)
    expected = array(layer(np.repeat(points, 4, axis=0), whole))
    tangents = np.broadcast_to(np.eye(2, dtype=np.float32), (1, 7, 2, 2))
    changes = drawn(4, 7, 2, 3, seed=3)
    value, change = layer.trace(points, tangents, [common, local], [None, changes])
    np.testing.assert_allclose(array(value), expected, atol=1e-5)
    padded = np.concatenate([np.zeros((4, 7, 2, 2), np.float32), changes], axis=-1)
    repeated = np.repeat(points, 4, axis=0), np.repeat(tangents, 4, axis=0)
    np.testing.assert_allclose(
        array(change), array(layer.trace(*repeated, whole, padded)[1]), atol=1e-4
    )


def test_the_first_part_of_the_code_comes_first():
    layer = network(2, **VARIANTS["modulation"])
    kernel = array(layer.modulation[0].kernel)
    kernel[:2] = 0.0
    layer.modulation[0].kernel.assign(kernel)
    points, local = drawn(1, 7, 2), drawn(1, 7, 3, seed=2)
    one, other = (array(layer(points, [drawn(1, 1, 2, seed=s), local])) for s in (5, 6))
    np.testing.assert_array_equal(one, other)


def test_the_modulated_network_of_the_paper_has_its_parameters():
    layer = network(
        3,
        width=128,
        depth=3,
        skips=(),
        outputs=3,
        activation="sin",
        initialisation="siren",
        first_frequency=1.0,
        features=128,
        codes=64,
        conditioning="modulation",
        zero_start=True,
    )
    counts = [
        sum(each.count_params() for each in part) for part in (layer.modulation, layer.linear)
    ]
    assert counts == [74_112, 66_307]
    assert sum(np.prod(weight.shape) for weight in layer.trainable_weights) == 140_419
    assert not array(layer(drawn(5, 3), drawn(5, 64))).any()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"activation": "cosine"}, "activation must be one of"),
        ({"conditioning": "film"}, "conditioning must be one of"),
        ({"frequency": 0}, "frequency must be positive"),
        ({"features": -1}, "features must be at least 0"),
        ({"codes": 3, "conditioning": "modulation"}, "skips must be empty"),
    ],
)
def test_wrong_arguments_are_named(config, words):
    with pytest.raises(ValueError, match=words):
        CoordinateMLP(**config)


def test_a_code_of_another_length_is_named():
    layer = network(2, **VARIANTS["concatenation"])
    with pytest.raises(ValueError, match=r"codes=5 components, not \[4\]"):
        layer(drawn(3, 2), drawn(3, 4))
    with pytest.raises(ValueError, match=r"codes=5 components, not \[\]"):
        layer(drawn(3, 2))
