"""Losses of point clouds against brute force, closed forms and finite differences."""

import keras
import numpy as np
import pytest
from keras import ops

from zoo import losses
from zoo.ops.neighbours import nearest_indices
from zoo.ops.splatting import distance_volume

METHODS = ["tree", "blocks"]


def cloud(count, seed=0, batch=2, rank=3):
    shape = (batch, count, rank)
    return np.random.default_rng(seed).uniform(-0.7, 0.7, shape).astype("float32")


def value_and_gradient(loss, y_true, y_pred, weights=None, compiled=False):
    """Value and gradient by `y_pred`, as numpy, on the backend of this run."""
    y_pred = ops.convert_to_tensor(y_pred)
    if keras.backend.backend() == "jax":
        import jax

        both = jax.value_and_grad(lambda y: loss(y_true, y, weights))
        value, gradient = (jax.jit(both) if compiled else both)(y_pred)
    else:
        import tensorflow as tf

        def both(y_pred):
            with tf.GradientTape() as tape:
                tape.watch(y_pred)
                value = loss(y_true, y_pred, weights)
            return value, tape.gradient(value, y_pred)

        value, gradient = (tf.function(both) if compiled else both)(y_pred)
    return float(value), ops.convert_to_numpy(gradient)


def check_gradient(loss, y_true, y_pred, weights=None, step=1e-3, tolerance=0.02):
    """Compares one directional derivative with a central difference."""
    _, gradient = value_and_gradient(loss, y_true, y_pred, weights)
    direction = np.random.default_rng(9).choice([-1, 1], y_pred.shape).astype("float32")
    # Only few points move, so that rounding in the sum does not hide the difference.
    direction[:, 5:] = 0
    ahead = float(loss(y_true, y_pred + step * direction, weights))
    behind = float(loss(y_true, y_pred - step * direction, weights))
    scale = np.abs(gradient * direction).sum()
    assert abs(np.sum(gradient * direction) - (ahead - behind) / (2 * step)) < tolerance * scale


def nearest(queries, points):
    """Distances `[b, n]` and indices by brute force, in float64."""
    queries, points = queries.astype("float64"), points.astype("float64")
    distances = np.linalg.norm(queries[:, :, None] - points[:, None], axis=-1)
    return distances.min(-1), distances.argmin(-1)


LOSSES = {
    "density": lambda: losses.DensityDistance(((8, 8, 8), (16, 12, 16)), sigma=1.0),
    "density_l2": lambda: losses.DensityDistance((12, 14, 16), squash="scaled", power=2),
    "chamfer": lambda: losses.Chamfer("geman_mcclure", 0.2, trim=0.5),
}
OPTIONS = {
    losses.DensityDistance: {
        "shapes": ((8, 9), (16, 17)),
        "sigma": 1.0,
        "squash": "scaled",
        "gain": 0.1,
        "power": 2,
        "shape_weights": (1.0, 2.0),
        "balanced": True,
    },
    losses.Chamfer: {
        "penalty": "huber",
        "scale": 0.5,
        "trim": 2.0,
        "sides": "moved",
        "method": "blocks",
    },
    losses.DistanceTransform: {"penalty": "huber", "scale": 0.5, "trim": 2.0},
    losses.Smoothness: {"neighbours": 3, "squared": True, "method": "blocks"},
    losses.Curvature: {"neighbours": 4, "interpolated": 3, "epsilon": 1e-6, "method": "blocks"},
}


@pytest.mark.parametrize("loss", OPTIONS)
def test_configuration_is_complete(loss):
    options = OPTIONS[loss] | {"reduction": None, "name": "other"}
    config = keras.saving.serialize_keras_object(loss(**options))
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.get_config() == options


# ---- both clouds alike


@pytest.mark.parametrize("name", LOSSES)
def test_zero_for_equal_clouds_and_symmetric(name):
    loss, first, second = LOSSES[name](), cloud(80), cloud(60, 1)
    assert abs(float(loss(first, first[:, ::-1].copy()))) < 1e-6
    value = float(loss(first, second))
    assert value > 1e-3
    np.testing.assert_allclose(float(loss(second, first)), value, rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_points_of_weight_zero_have_no_effect(name):
    loss, first, second = LOSSES[name](), cloud(40), cloud(30, 1)
    expected, wanted = value_and_gradient(loss, first, second)
    rubbish = np.full((2, 10, 3), np.nan, "float32")
    rubbish[0] = second[0, :10] + 0.01
    padded = np.concatenate([rubbish, second], 1)
    padded_true = np.concatenate([first, rubbish], 1)
    weights = np.concatenate([np.zeros((2, 10)), np.ones((2, 30))], 1)
    true_weights = np.concatenate([np.ones((2, 40)), np.zeros((2, 10))], 1)
    for compiled in (False, True):
        value, gradient = value_and_gradient(
            loss, padded_true, padded, (weights, true_weights), compiled
        )
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        np.testing.assert_allclose(gradient[:, 10:], wanted, atol=1e-6)
        assert not gradient[:, :10].any()


@pytest.mark.parametrize("name", LOSSES)
def test_a_weight_of_two_is_a_point_twice(name):
    loss, first, second = LOSSES[name](), cloud(40, batch=1), cloud(30, 1, batch=1)
    weights = np.where(np.arange(30) < 7, 2.0, 1.0)[None]
    value = float(loss(first, second, weights))
    twice = np.concatenate([second, second[:, :7]], 1)
    np.testing.assert_allclose(value, float(loss(first, twice)), rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_compiled_is_eager_and_items_are_independent(name):
    first, second = cloud(40), cloud(30, 1)
    loss = LOSSES[name]()
    value, gradient = value_and_gradient(loss, first, second)
    other, other_gradient = value_and_gradient(loss, first, second, compiled=True)
    np.testing.assert_allclose(other, value, rtol=1e-5)
    np.testing.assert_allclose(other_gradient, gradient, atol=1e-6)
    alone = [value_and_gradient(loss, first[i : i + 1], second[i : i + 1]) for i in range(2)]
    np.testing.assert_allclose(np.mean([one[0] for one in alone]), value, rtol=1e-5)
    joined = np.concatenate([one[1] for one in alone]) / 2
    np.testing.assert_allclose(joined, gradient, atol=1e-6)
    factors = np.array([1.0, 0.0], "float32")
    np.testing.assert_allclose(float(loss(first, second, factors)), alone[0][0] / 2, rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_translations_raise_the_loss_and_point_back(name):
    # Voxels of the 16 x 16 x 16 image are 1/8 wide.
    density = losses.DensityDistance((16, 16, 16), sigma=1.5)
    loss = density if name == "density" else LOSSES[name]()
    first = cloud(60, batch=1) * np.float32(0.8)
    direction = np.array([2.0, -1.0, 0.5]) / np.linalg.norm([2.0, -1.0, 0.5])
    values = [0.0]
    for voxels in (0.25, 0.5, 1.0, 2.0):
        moved = (first + direction * voxels / 8).astype("float32")
        value, gradient = value_and_gradient(loss, first, moved)
        assert value > values[-1]
        values.append(value)
        if name == "density" and voxels <= 1.5:
            mean = gradient.mean((0, 1))
            assert mean @ direction / np.linalg.norm(mean) > 0.9


@pytest.mark.parametrize("rank", [2, 3])
def test_training_step_of_a_model(rank):
    target = cloud(60, batch=1, rank=rank) * np.float32(0.7)
    for loss in (losses.Chamfer(), losses.DensityDistance((12,) * rank, sigma=1.5)):
        inputs = keras.Input((60, rank))
        outputs = keras.layers.Dense(rank, kernel_initializer="identity")(inputs)
        model = keras.Model(inputs, outputs)
        model.compile("adam", loss, jit_compile=False)
        before = model.train_on_batch(target + 0.1, target)
        for _ in range(3):
            after = model.train_on_batch(target + 0.1, target)
        assert after < before


# ---- density


def test_density_distance_of_far_points_in_closed_form():
    shape = (8, 8)
    first = np.zeros((1, 1, 2), "float32") - 0.625 + 0.25
    second = -first
    value = float(losses.DensityDistance(shape, sigma=0, squash=None)(first, second))
    np.testing.assert_allclose(value, 2 / 64, rtol=1e-5)
    squares = float(losses.DensityDistance(shape, sigma=0, squash=None, power=2)(first, second))
    # Both lie on voxel centres: 0.375 is (2 * 5 + 1) / 8 - 1.
    np.testing.assert_allclose(squares, 2 / 64, rtol=1e-5)


def test_several_images_are_averaged_with_their_weights():
    first, second, shapes = cloud(40), cloud(30, 1), ((8, 8, 8), (6, 12, 16))
    one, other = (float(losses.DensityDistance(shape)(first, second)) for shape in shapes)
    value = float(losses.DensityDistance(shapes, shape_weights=(1, 3))(first, second))
    np.testing.assert_allclose(value, 0.25 * one + 0.75 * other, rtol=1e-5)


def test_balanced_clouds_have_equal_mass():
    first, second = cloud(40), np.repeat(cloud(40), 3, axis=1)
    loss = losses.DensityDistance((8, 8, 8), balanced=True)
    assert abs(float(loss(first, second))) < 1e-6
    assert float(losses.DensityDistance((8, 8, 8))(first, second)) > 1e-3
    weights = np.full((2, 120), 5.0)
    assert abs(float(loss(first, second, weights))) < 1e-6


def test_density_gradient():
    loss = losses.DensityDistance((10, 11, 12), sigma=1.0, power=2)
    # A small step, which few points take across a voxel.
    check_gradient(loss, cloud(40), cloud(30, 1), step=1e-3, tolerance=0.05)


# ---- chamfer


PENALTIES = {
    "linear": lambda d, s: d,
    "squared": lambda d, s: d**2,
    "huber": lambda d, s: np.where(d <= s, d**2, 2 * s * d - s**2),
    "charbonnier": lambda d, s: np.sqrt(d**2 + s**2) - s,
    "geman_mcclure": lambda d, s: s**2 * d**2 / (d**2 + s**2),
}


@pytest.mark.parametrize("penalty", PENALTIES)
def test_chamfer_is_brute_force(penalty):
    method = "auto"
    first, second = cloud(50), cloud(70, 1)
    scale, trim = 0.1, 0.3
    function = PENALTIES[penalty]
    sides = {
        "moved": function(nearest(second, first)[0], scale).mean(),
        "target": function(nearest(first, second)[0], scale).mean(),
    }
    sides["both"] = sum(sides.values())
    for side, expected in sides.items():
        loss = losses.Chamfer(penalty, scale, sides=side, method=method)
        np.testing.assert_allclose(float(loss(first, second)), expected, rtol=1e-5)
    trimmed = losses.Chamfer(penalty, scale, trim, sides="moved", method=method)
    expected = function(np.minimum(nearest(second, first)[0], trim), scale).mean()
    np.testing.assert_allclose(float(trimmed(first, second)), expected, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_chamfer_gradient_in_closed_form(method):
    first, second = cloud(50), cloud(70, 1)
    there, back = nearest(second, first)[1], nearest(first, second)[1]
    expected = np.zeros((2, 70, 3))
    for batch in range(2):
        expected[batch] += 2 * (second[batch] - first[batch, there[batch]]) / 70
        pulls = 2 * (second[batch, back[batch]] - first[batch]) / 50
        np.add.at(expected[batch], back[batch], pulls)
    _, gradient = value_and_gradient(losses.Chamfer(method=method), first, second)
    np.testing.assert_allclose(gradient, expected / 2, atol=1e-6)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_chamfer_gradient_is_a_difference(penalty):
    check_gradient(losses.Chamfer(penalty, 0.1, trim=0.35), cloud(50), cloud(70, 1), step=1e-4)


def test_equal_points_have_no_gradient():
    for penalty in PENALTIES:
        first = cloud(20)
        _, gradient = value_and_gradient(losses.Chamfer(penalty), first, first)
        np.testing.assert_array_equal(gradient, 0)


def test_trimmed_points_have_no_gradient():
    first = cloud(30, batch=1)
    second = np.concatenate([first + 0.01, first[:, :1] + 5], 1)
    loss = losses.Chamfer("linear", trim=1.0, sides="moved")
    value, gradient = value_and_gradient(loss, first, second)
    assert not gradient[0, -1].any() and gradient[0, :-1].any()
    np.testing.assert_allclose(value, (30 * 0.01 * 3**0.5 + 1) / 31, rtol=1e-3)


def test_a_cloud_without_weight_has_no_loss():
    first, second = cloud(20), cloud(30, 1)
    zeros = np.zeros((2, 20), "float32")
    value, gradient = value_and_gradient(losses.Chamfer(), first, second, (None, zeros))
    assert value == 0 and not gradient.any()


@pytest.mark.parametrize("method", METHODS)
def test_padding_is_nobodys_neighbour(method):
    points, queries = cloud(40), cloud(10, 1)
    padded = np.concatenate([np.full((2, 3, 3), np.nan, "float32"), points], 1)
    found = ops.convert_to_numpy(nearest_indices(queries, padded, 4, method))
    distances = np.linalg.norm(queries[:, :, None] - points[:, None], axis=-1)
    np.testing.assert_array_equal(found - 3, np.argsort(distances, -1)[..., :4])


# ---- distance transform


def test_distance_transform_reads_the_distance():
    shape, target = (40, 44, 48), cloud(30, batch=1)
    volume = distance_volume(target, shape)
    moved = cloud(100, 1, batch=1)
    value = float(losses.DistanceTransform()(volume, moved))
    assert abs(value - nearest(moved, target)[0].mean()) < 0.5 * np.linalg.norm(2 / np.array(shape))
    check_gradient(losses.DistanceTransform("squared"), volume, moved, step=1e-4, tolerance=0.05)


def test_distance_transform_beyond_the_volume_pulls_back():
    volume = distance_volume(np.zeros((1, 1, 2), "float32"), (9, 9))
    loss = losses.DistanceTransform()
    value, gradient = value_and_gradient(loss, volume, np.array([[[3.0, 0.0]]], "float32"))
    np.testing.assert_allclose(value, 3.0, rtol=1e-5)
    np.testing.assert_allclose(gradient[0, 0, 0], 1.0, rtol=1e-5)


# ---- smoothness and curvature


@pytest.mark.parametrize("method", METHODS)
def test_smoothness_is_brute_force(method):
    source, flow = cloud(40), cloud(40, 1)
    distances = np.linalg.norm(source[:, :, None] - source[:, None], axis=-1)
    index = np.argsort(distances, -1)[..., 1:6]
    others = np.stack([flow[batch][index[batch]] for batch in range(2)])
    lengths = np.linalg.norm(others - flow[:, :, None], axis=-1)
    for squared, expected in ((False, lengths), (True, lengths**2)):
        loss = losses.Smoothness(5, squared, method)
        np.testing.assert_allclose(float(loss(source, flow)), expected.mean(), rtol=1e-5)
        check_gradient(loss, source, flow)
    constant = np.broadcast_to(np.float32([1, 2, 3]), flow.shape)
    assert float(losses.Smoothness()(source, constant)) == 0


def test_smoothness_is_masked():
    source, flow = cloud(40), cloud(40, 1)
    padded = [np.concatenate([np.full((2, 6, 3), np.nan, "f4"), one], 1) for one in (source, flow)]
    mask = np.arange(46) >= 6
    value = float(losses.Smoothness()(*padded, np.stack([mask, mask])))
    np.testing.assert_allclose(value, float(losses.Smoothness()(source, flow)), rtol=1e-5)


def test_curvature():
    target, loss = cloud(60), losses.Curvature(neighbours=4, interpolated=3)
    shift = np.float32([0.3, -0.2, 0.1])
    # A target that is the moved source itself has the same curvature, wherever both lie.
    assert float(loss((target + shift, target), target + shift)) < 1e-9
    # Twice as large, the Laplacian coordinates are twice as long.
    distances = np.linalg.norm(target[:, :, None] - target[:, None], axis=-1)
    index = np.argsort(distances, -1)[..., 1:5]
    others = np.stack([target[batch][index[batch]] for batch in range(2)])
    laplacian = (others - target[:, :, None]).mean(2)
    moved = 2 * target
    value = float(losses.Curvature(4, interpolated=1)((moved, target), target))
    places = nearest(target, moved)[1]
    wanted = 2 * np.stack([laplacian[batch][places[batch]] for batch in range(2)])
    np.testing.assert_allclose(value, ((laplacian - wanted) ** 2).sum(-1).mean(), rtol=1e-4)


def test_curvature_gradient_and_padding():
    target, source, moved = cloud(40), cloud(30, 1), cloud(30, 2)
    loss = losses.Curvature(neighbours=4, interpolated=3, epsilon=1e-3)
    check_gradient(loss, (target, source), moved, step=1e-4)
    value, gradient = value_and_gradient(loss, (target, source), moved)
    padding = np.full((2, 5, 3), np.nan, "float32")
    target, source, moved = (
        np.concatenate([one, padding], axis=1) for one in (target, source, moved)
    )
    weights = tuple(np.repeat(np.arange(n + 5)[None] < n, 2, axis=0) for n in (30, 40))
    other, other_gradient = value_and_gradient(loss, (target, source), moved, weights, True)
    np.testing.assert_allclose(other, value, rtol=1e-5)
    np.testing.assert_allclose(other_gradient[:, :30], gradient, atol=1e-6)


# ---- bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: losses.Chamfer("cubic"), "penalty must be one of"),
        (lambda: losses.Chamfer(scale=0), "scale must be positive"),
        (lambda: losses.Chamfer(trim=-1.0), "trim must be positive"),
        (lambda: losses.Chamfer(sides="left"), "sides must be one of"),
        (lambda: losses.Chamfer(method="octree"), "method must be one of"),
        (lambda: losses.DensityDistance((8, 1)), "sizes of at least 2"),
        (lambda: losses.DensityDistance(((8, 8), (8, 8, 8))), "one rank"),
        (lambda: losses.DensityDistance((8, 8), power=3), r"power must be one of \(1, 2\), not 3"),
        (lambda: losses.DensityDistance((8, 8), sigma=-1), "sigma must not be negative"),
        (lambda: losses.DensityDistance((8, 8), squash="cap"), "squash must be one of"),
        (lambda: losses.DensityDistance((8, 8), shape_weights=(1, 2)), "1 positive numbers"),
        (lambda: losses.Smoothness(0), "neighbours must be at least 1, not 0"),
        (lambda: losses.Curvature(interpolated=0), "interpolated must be at least 1, not 0"),
        (lambda: losses.Curvature(epsilon=0), "epsilon must be positive"),
    ],
)
def test_options_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


NAN = np.full((1, 20, 3), np.nan, "float32")


@pytest.mark.parametrize(
    ("loss", "arguments", "message"),
    [
        (losses.Chamfer(), (cloud(5, batch=1)[0], cloud(5)), r"y_true must have the shape"),
        (losses.Chamfer(), (cloud(5), cloud(0)), "y_pred must not be empty"),
        (losses.Chamfer(), (cloud(5, batch=1), cloud(5)), "one batch size and rank"),
        (losses.Chamfer(), (cloud(5), cloud(5, rank=2)), "one batch size and rank"),
        (losses.Chamfer(), (cloud(5, batch=1), NAN), "must be finite"),
        (losses.Chamfer(), (cloud(5), cloud(5), np.ones((2, 4))), "sample_weight must be"),
        (losses.Chamfer(), (cloud(5), cloud(5), -np.ones((2, 5))), "not be negative"),
        (losses.Chamfer(), (cloud(5), cloud(5), (None, np.ones(2))), "weights of y_true must"),
        (losses.Chamfer(), (cloud(5), cloud(5), (None,)), "not a tuple of 1"),
        (losses.DensityDistance((8, 8)), (cloud(5), cloud(5)), r"\[batch, n, 2\]"),
        (losses.Smoothness(8), (cloud(8), cloud(8)), r"at least neighbours \+ 1 = 9 points, not 8"),
        (losses.Smoothness(2), (cloud(8), cloud(7)), "same shape"),
        (losses.Curvature(), (cloud(20), cloud(20)), r"tuple \(target, source\)"),
        (losses.Curvature(), ((cloud(8), cloud(20)), cloud(20)), "target must hold at least"),
        (losses.DistanceTransform(), (cloud(5), cloud(5)), "y_true must have the shape"),
        (losses.DistanceTransform(), (np.zeros((1, 4, 4, 2)), cloud(5)), "one channel"),
    ],
)
def test_clouds_are_checked(loss, arguments, message):
    with pytest.raises(ValueError, match=message):
        loss(*arguments)
