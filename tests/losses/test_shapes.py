"""Losses of sampled shapes against brute force and closed forms."""

import keras
import numpy as np
import pytest
from keras import ops

from zoo.losses import Correspondence, FeatureChamfer, NormalChamfer, Sinkhorn, Varifold
from zoo.ops import neighbours

LOSSES = {
    "correspondence": (Correspondence(), 3),
    "features": (FeatureChamfer(), 5),
    "normals": (NormalChamfer(), 6),
    "sinkhorn": (Sinkhorn(), 3),
    "varifold": (Varifold(sigma=0.5), 6),
}


def table(count, components=3, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (1, count, components)).astype(np.float32)


def oriented(count, seed=0) -> np.ndarray:
    rows = table(count, 6, seed)
    rows[..., 3:] /= np.linalg.norm(rows[..., 3:], axis=-1, keepdims=True)
    return rows


def test_feature_chamfer_agrees_with_brute_force():
    target, source = table(40, 5, 1), table(30, 5, 2)
    apart = ((source[0][:, None] - target[0][None]) ** 2).sum(-1)
    there, back = apart.argmin(1), apart.argmin(0)
    way = ((source[0] - target[0][there])[:, :3] ** 2).sum(-1).mean()
    way += ((target[0] - source[0][back])[:, :3] ** 2).sum(-1).mean()
    assert abs(float(FeatureChamfer()(target, source)) - way) < 1e-5


def test_feature_chamfer_in_blocks_is_the_same(monkeypatch):
    target, source = table(300, 5, 1), table(200, 5, 2)
    whole = float(FeatureChamfer()(target, source))
    monkeypatch.setattr(neighbours, "DENSE", 1000)
    assert abs(float(FeatureChamfer()(target, source)) - whole) < 1e-6


def test_features_choose_the_partner_and_positions_the_distance():
    # Two limbs next to each other; each has come nearer to the other one's place.
    target = np.array([[[0.0, 0, 0, -1], [1.0, 0, 0, 1]]], np.float32)
    source = np.array([[[0.9, 0, 0, -1], [0.1, 0, 0, 1]]], np.float32)
    swapped, right = (FeatureChamfer()(target * s, source * s) for s in (1, (1, 1, 1, 0)))
    assert abs(float(swapped) - 2 * 0.81) < 1e-5 and abs(float(right) - 2 * 0.01) < 1e-5


@pytest.mark.parametrize("loss", LOSSES)
def test_equal_shapes_have_no_distance_and_finite_gradients(loss):
    function, components = LOSSES[loss]
    rows = oriented(50) if components == 6 else table(50, components)
    variable = keras.Variable(rows)
    value = function(rows, variable.value)
    # Of single precision, as the difference of numbers of order one.
    assert abs(float(value)) < 2e-6
    moved = rows + np.float32(0.2) * (np.arange(components) < 3)
    assert float(function(rows, moved)) > 0.01


@pytest.mark.parametrize("loss", ["features", "normals", "sinkhorn", "varifold"])
def test_the_order_of_rows_means_nothing_and_half_weights_count_half(loss):
    function, components = LOSSES[loss]
    make = oriented if components == 6 else lambda n, seed: table(n, components, seed)
    target, source = make(40, seed=1), make(30, seed=2)
    value = float(function(target, source))
    order = np.random.default_rng(0).permutation(30)
    assert abs(float(function(target, source[:, order])) - value) < 1e-5 * max(1, value)
    twice = np.concatenate([source, source], axis=1)
    half = np.full((1, 60), 0.5, np.float32)
    assert abs(float(function(target, twice, half)) - value) < 1e-4 * max(1, value)


@pytest.mark.parametrize("loss", LOSSES)
def test_rows_of_weight_zero_have_no_effect(loss):
    function, components = LOSSES[loss]
    rows = oriented(30) if components == 6 else table(30, components)
    moved = (rows * 1.1).astype(np.float32)
    weights = np.ones((1, 30), np.float32)
    weights[0, 20:] = 0
    both = (weights, weights) if loss != "correspondence" else weights
    expected = float(function(rows[:, :20], moved[:, :20]))
    spoiled = moved.copy()
    spoiled[0, 20:] = np.nan
    assert abs(float(function(rows, spoiled, both)) - expected) < 1e-5 * max(1, expected)


def test_normals_tell_the_sides_of_a_sheet_apart():
    up = np.array([[[0, 0, 0.0, 0, 0, 1], [0, 0, 0.1, 0, 0, -1]]], np.float32)
    flipped = up * np.array([1, 1, 1, -1, -1, -1], np.float32)
    assert float(NormalChamfer(weight=0.1)(up, flipped)) > 0.01
    assert float(NormalChamfer(weight=0.1, orientation="unoriented")(up, flipped)) < 1e-6


def test_sinkhorn_of_a_shift_is_half_its_squared_length():
    cloud = table(400, 3, 1) * 0.5
    shift = np.array([0.4, 0.0, 0.3], np.float32)
    value = float(Sinkhorn(blur=0.05)(cloud, cloud + shift))
    assert abs(value - 0.125) < 0.05 * 0.125
    assert float(Sinkhorn()(table(50, seed=1), table(70, seed=2))) > 0


def test_sinkhorn_gradient_agrees_with_differences():
    target, source = table(25, 3, 1) * 0.5, table(20, 3, 2) * 0.5
    loss = Sinkhorn(blur=0.1, steps=60)
    variable = keras.Variable(source)
    gradient = gradient_of(lambda: loss(target, variable.value), variable)
    for row in (0, 7):
        sides = np.zeros_like(source)
        sides[0, row, 1] = 1e-2
        change = float(loss(target, source + sides) - loss(target, source - sides)) / 2e-2
        assert abs(change - gradient[0, row, 1]) < 0.05 * np.abs(gradient).max()


def test_mass_farther_than_the_reach_is_left_alone():
    cloud = table(100, 3, 1) * 0.2
    outlier = np.concatenate([cloud, np.full((1, 1, 3), 5.0, np.float32)], axis=1)
    balanced = float(Sinkhorn(extent=10.0)(cloud, outlier))
    unbalanced = float(Sinkhorn(extent=10.0, reach=0.3)(cloud, outlier))
    assert balanced > 0.3 and unbalanced < 0.3**2 / 2 * 4 / 101


def test_varifolds_forget_orientation_and_currents_do_not():
    rows = oriented(40)
    flipped = rows * np.array([1, 1, 1, -1, -1, -1], np.float32)
    assert abs(float(Varifold(sigma=0.5)(rows, flipped))) < 1e-3
    assert float(Varifold(sigma=0.5, kernel="linear")(rows, flipped)) > 1


def test_a_face_in_two_halves_is_the_same_varifold():
    whole = np.array([[[0.0, 0, 0, 0, 0, 0.02]]], np.float32)
    halves = np.array([[[0.01, 0, 0, 0, 0, 0.01], [-0.01, 0, 0, 0, 0, 0.01]]], np.float32)
    own = 0.02**2
    assert abs(float(Varifold(sigma=0.5)(whole, halves))) < 0.01 * own


def test_a_large_varifold_is_added_up_in_blocks(monkeypatch):
    import zoo.losses.shapes as shapes

    first, second = oriented(60, 1), oriented(50, 2)
    loss = Varifold(sigma=0.5)
    whole = float(loss(first, second))
    monkeypatch.setattr(shapes, "BLOCK", 16)
    assert abs(float(loss(first, second)) - whole) < 1e-4 * whole
    transport = Sinkhorn()
    small = float(transport(first[..., :3], second[..., :3]))
    monkeypatch.setattr(shapes, "BLOCK", 2048)
    assert abs(float(transport(first[..., :3], second[..., :3])) - small) < 1e-5


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_come_back_from_their_config(loss):
    function, components = LOSSES[loss]
    again = keras.losses.deserialize(keras.losses.serialize(function))
    assert again.get_config() == function.get_config()
    rows = oriented(20, 1) if components == 6 else table(20, components, 1)
    other = oriented(20, 2) if components == 6 else table(20, components, 2)
    assert float(again(rows, other)) == pytest.approx(float(function(rows, other)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FeatureChamfer(rank=4), "rank must be one of"),
        (lambda: NormalChamfer(weight=-1), "weight must not be negative"),
        (lambda: Sinkhorn(blur=0), "blur must be positive"),
        (lambda: Varifold(kernel="cubic"), "kernel must be one of"),
        (lambda: FeatureChamfer()(table(5, 2), table(5, 2)), "y_true must have the shape"),
        (lambda: NormalChamfer()(table(5, 5), table(5, 5)), "y_true must have the shape"),
        (lambda: FeatureChamfer()(table(5, 4), table(5, 5)), "as many components"),
        (lambda: Correspondence()(table(5), table(6)), "same shape"),
        (lambda: FeatureChamfer()(table(5), np.full((1, 5, 3), np.nan)), "finite"),
    ],
)
def test_bad_input_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def gradient_of(function, variable) -> np.ndarray:
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(variable.value)
            value = function()
        return ops.convert_to_numpy(tape.gradient(value, variable.value))
    import jax

    def pure(value):
        with keras.StatelessScope(state_mapping=[(variable, value)]):
            return function()

    return np.asarray(jax.grad(pure)(variable.value))
