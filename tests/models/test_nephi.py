"""NePhi: start, Jacobians, objective, fits of a pair, networks, storage, bad input."""

import keras
import numpy as np
import pytest
from keras import ops

import zoo
from zoo.data.image import Image
from zoo.data.outlines import ShapePairs, shape_pairs
from zoo.data.pair import Pair
from zoo.geometry import Grid
from zoo.layers.pair_encoder import PairEncoder
from zoo.models.nephi import PAPER, NePhi, paper_counts
from zoo.registration.drawn import Draws

TINY = {
    "size": 16,
    "encoder_width": 2,
    "normalisation": "group",
    "global_codes": 3,
    "local_codes": 4,
    "width": 12,
    "features": 6,
    "points": 400,
    "probes": 16,
    "cells": 4,
}
SHIFT = np.array([2.5, -1.5])


def array(tensor):
    return ops.convert_to_numpy(tensor)


def made(dims=2, **config) -> NePhi:
    keras.utils.set_random_seed(3)
    return NePhi(dims, **{**TINY, **config})


def shaken(model: NePhi, size=0.02) -> NePhi:
    """The model with last layers that are not zero any more."""
    random = np.random.default_rng(0)
    for each in (*model.maps.forwards, *model.maps.backwards):
        for weight in each.network.linear[-1].weights:
            weight.assign(random.normal(size=weight.shape) * size)
    return model


def images(batch=2, shape=(14, 17), seed=0) -> dict:
    random = np.random.default_rng(seed)
    sides = ("fixed", "moving")
    return {side: random.random((batch, *shape, 1)).astype(np.float32) for side in sides}


def blob(points, centre):
    away = (points - centre) / [7.0, 4.0]
    return np.exp(-(away**2).sum(axis=-1)) + 0.3 * np.exp(-((points - centre - 4) ** 2).sum(-1) / 9)


def shifted_pair() -> Pair:
    """Images of one blob on two grids; fixed points are pulled by `SHIFT`."""
    fixed, moving = Grid((30, 28), 1.0, (-15, -14)), Grid((24, 40), (1.5, 0.8), (-18, -16))
    marks = np.random.default_rng(0).uniform(-6, 6, (20, 2))
    return Pair(
        Image(blob(fixed.coordinates(), (0, 0))[..., None], fixed),
        Image(blob(moving.coordinates(), SHIFT)[..., None], moving),
        fixed_landmarks=marks,
        moving_landmarks=marks + SHIFT,
    )


@pytest.fixture(scope="module")
def fitted():
    """A pair, a model that was fitted to it, and its history."""
    pair, model = shifted_pair(), made(encoder=False, width=32, features=16)
    model.compile(keras.optimizers.Adam(3e-3, global_clipnorm=1.0))
    return pair, model, model.fit(pair, epochs=15, verbose=0).history


# The start


@pytest.mark.parametrize("config", [{}, {"encoder": False}, {"steps": 2}, {"dims": 3}])
def test_a_new_model_is_the_identity(config):
    model = made(**config)
    data = images(shape=(9, 7, 8) if config.get("dims") == 3 else (14, 17))
    outputs = model(data)
    assert not array(outputs["displacement"]).any()
    np.testing.assert_allclose(array(outputs["moved"]), data["moving"], atol=1e-6)
    terms = model.loss_terms(data, None, model(data, training=True))
    assert float(terms["consistency"]) == 0
    assert 0.5 < float(terms["similarity"]) < 1.5  # of noise and other noise


def test_the_network_of_the_paper_has_its_parameters():
    with keras.device("cpu"):
        model = NePhi(3, **PAPER)
    count = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert count == 3_266_974
    assert model.encoders[0].cells == (22, 22, 22)
    assert paper_counts((175,) * 3) == {"points": 100_000, "probes": 500}
    assert paper_counts((512,) * 2) == {"points": 5242, "probes": 26}
    assert paper_counts((128,) * 2) == {"points": 327, "probes": 10}


@pytest.mark.parametrize(
    ("size", "stages", "cells", "parameters"),
    [
        ((50, 50), 6, (13, 13), 473_208),
        ((64, 64), 6, (16, 16), 473_208),
        ((128, 128), 6, (16, 16), 674_424),
        ((64, 64, 64), 6, (16, 16, 16), 1_268_376),
        ((96, 96, 96), 6, (12, 12, 12), 1_740_952),
    ],
)
def test_the_encoder_has_the_sizes_of_the_source(size, stages, cells, parameters):
    encoder = PairEncoder(size)
    encoder.build((None, *size, 2))
    count = sum(int(np.prod(weight.shape)) for weight in encoder.trainable_weights)
    assert (len(encoder.filters), encoder.cells, count) == (stages, cells, parameters)


@pytest.mark.parametrize("normalisation", ["batch", "group", "none"])
def test_the_encoder_gives_the_grid_that_it_promises(normalisation):
    encoder = PairEncoder((21, 16), 2, 3, 5, normalisation)
    vector, grid = encoder(images(shape=(21, 16))["fixed"].repeat(2, axis=-1))
    assert vector.shape == (2, 3) and tuple(grid.shape) == (2, *encoder.cells, 5)


# Maps and their derivatives


@pytest.mark.parametrize(("dims", "steps"), [(2, 1), (2, 2), (3, 1)])
def test_jacobians_are_those_of_differences(dims, steps):
    model = shaken(made(dims, encoder=False, steps=steps, frequency=4.0))
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(dims, dims)))[0]
    grid = Grid((12, 15, 11)[:dims], (1.0, 2.0, 0.7)[:dims], 5.0, turn)
    values = np.random.default_rng(0).random((*grid.shape, 1))
    pair = Pair(Image(values, grid), Image(values[::-1].copy(), grid))
    model.fitted = True
    transform = model.transform(pair)
    indices = np.random.default_rng(2).uniform(0.5, np.array(grid.shape) - 1.5, (30, dims))
    points, step = grid.to_world(indices), 2e-3
    columns = [
        (transform.pull(points + e) - transform.pull(points - e)) / (2 * step)
        for e in step * np.eye(dims)
    ]
    found, exact = np.stack(columns, axis=-1), transform.jacobian(points)
    # Across a face of the grid of codes a difference is neither slope.
    off = np.abs(found - exact).max(axis=(1, 2))
    assert np.quantile(off, 0.9) < 2e-3, off
    assert np.abs(exact - np.eye(dims)).max() > 0.01


def test_the_displacement_goes_on_outside_of_the_images():
    model, pair = shaken(made(encoder=False)), shifted_pair()
    model.fitted = True
    transform = model.transform(pair)
    edge, out = np.array([[-15.0, 3.0]]), np.array([[-40.0, 3.0]])
    np.testing.assert_allclose(transform.pull(out) - out, transform.pull(edge) - edge, atol=1e-6)
    np.testing.assert_allclose(transform.jacobian(out)[0, :, 0], [1, 0], atol=1e-6)


def test_a_field_is_the_same_by_chunks_and_at_any_resolution():
    model, pair = shaken(made(encoder=False)), shifted_pair()
    model.fitted = True
    transform, grid = model.transform(pair), pair.fixed.grid
    whole = array(model(pair.arrays())["displacement"])[0]
    np.testing.assert_allclose(transform.displacement(), whole, atol=1e-5)
    codes = list(zip(model.codes[0::2], model.codes[1::2], strict=True))
    _, fine = model.maps.dense(codes, (2 * 150 - 1, 2 * 160 - 1))  # several chunks
    _, coarse = model.maps.dense(codes, (150, 160))
    np.testing.assert_allclose(array(fine)[:, ::2, ::2] / 2, array(coarse), atol=1e-4)
    finer = grid.resampled(shape=(60, 56))
    there = finer.to_world(np.argwhere(np.ones((3, 3))) * 7)
    np.testing.assert_allclose(
        transform.pull(there) - there,
        finer.vectors_to_world(transform.displacement(finer)[:21:7, :21:7].reshape(-1, 2)),
        atol=1e-4,
    )


# What is minimised


@pytest.mark.parametrize("dims", [2, 3])
def test_consistency_of_affine_maps(dims):
    draws = Draws(dims, "ncc", 16, 8, keras.random.SeedGenerator(0))
    matrix = np.eye(dims) + 0.3 * np.random.default_rng(0).normal(size=(dims, dims))
    matrix = matrix.astype(np.float32)

    def one_way(points, tangents, back):
        step = np.eye(dims, dtype=np.float32) if back else matrix.T
        return ops.matmul(points, step), ops.matmul(tangents, step)

    def both_ways(points, tangents, back):
        step = np.linalg.inv(matrix).T if back else matrix.T
        return ops.matmul(points, step), ops.matmul(tangents, step)

    expected = ((matrix - np.eye(dims)) ** 2).mean()
    assert float(draws.inconsistency(draws.turns(one_way))) == pytest.approx(expected, rel=1e-4)
    assert float(draws.inconsistency(draws.turns(both_ways))) == pytest.approx(0, abs=1e-8)


def test_points_are_drawn_anew_and_stay_in_the_box():
    draws = Draws(2, "ncc", 500, 8, keras.random.SeedGenerator(0))
    first, second = (array(draws.draw(None)) for _ in range(2))
    assert first.shape == (1, 500, 2) and np.abs(first).max() <= 1
    assert not np.array_equal(first, second)
    patches = Draws(2, "lncc", 500, 8, keras.random.SeedGenerator(0))
    drawn = array(patches.draw(images(1, (40, 30))["fixed"])).reshape(6, 9, 9, 2)
    assert np.abs(drawn).max() <= 1 + 1e-6
    np.testing.assert_allclose(np.diff(drawn[..., 0], axis=1), 2 / 39, atol=1e-6)
    np.testing.assert_allclose(np.diff(drawn[..., 1], axis=2), 2 / 29, atol=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("similarity", ["ncc", "mse", "mi", "lncc", "mind"])
def test_every_similarity_is_least_where_images_agree(similarity, dims):
    model = made(dims, encoder=False, similarity=similarity, points=1400)
    one, other = images(1, (16, 15, 14)[:dims]).values()
    same, unlike = (
        float(model.loss_terms(data, None, model(data, training=True))["similarity"])
        for data in ({"fixed": one, "moving": one}, {"fixed": one, "moving": other})
    )
    assert np.isfinite([same, unlike]).all() and same < unlike
    assert similarity == "mi" or same == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("similarity", ["ncc", "mse", "lncc"])
def test_what_lies_outside_of_the_masks_does_not_count(similarity):
    model = made(encoder=False, similarity=similarity)
    data = images(1, (20, 20))
    mask = np.zeros((1, 20, 20, 1), np.float32)
    mask[:, 3:15, 4:16] = 1
    other = {side: np.where(mask > 0, image, 9.0) for side, image in data.items()}
    # Neither mask reaches further than linear interpolation does.
    inner = np.zeros_like(mask)
    inner[:, 4:14, 5:15] = 1
    masks = {"fixed_mask": inner, "moving_mask": inner}
    values = []
    for batch in (data, other):
        model.random.state.assign(np.array([5, 0], np.uint32))
        ready = {**batch, **masks}
        values.append(model.loss_terms(ready, None, model(ready, training=True)))
    first, second = (float(each["similarity"]) for each in values)
    assert first > 0.01 and first == pytest.approx(second, rel=0.15)


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_constant_images_give_finite_losses_and_weights(value):
    model = made(similarity="ncc")
    model.compile(run_eagerly=True)
    data = {side: np.full((2, 16, 16, 1), value, np.float32) for side in ("fixed", "moving")}
    history = model.fit(data, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


# One pair


def test_a_known_shift_is_found(fitted):
    pair, model, history = fitted
    assert history["loss"][-1] < 0.3 * history["loss"][0] and not model.doubts
    measured = model.evaluate(pair)
    assert measured["initial_tre_mm"] == pytest.approx(np.linalg.norm(SHIFT))
    assert measured["tre_mm"] < 0.5 and measured["folds_percent"] == 0


def test_the_way_back_is_learned_and_the_inverse_is_exact(fitted):
    pair, model, _ = fitted
    transform = model.transform(pair)
    assert transform.consistency(pair.fixed_landmarks).mean() < 0.3
    back = transform.counterpart(pair.moving.grid)
    left = back.pull(pair.moving_landmarks) - pair.fixed_landmarks
    assert np.linalg.norm(left, axis=1).mean() < 0.5
    assert back.fixed_grid == pair.moving.grid
    assert transform.inverse_error(pair.moving_landmarks).max() < 1e-4
    np.testing.assert_allclose(
        back.counterpart().pull(pair.fixed_landmarks), transform.pull(pair.fixed_landmarks)
    )


def test_a_fitted_model_is_stored_and_its_field_written(fitted, tmp_path):
    pair, model, _ = fitted
    expected = model.transform(pair).pull(pair.fixed_landmarks)
    model.save(tmp_path / "model.keras")
    loaded = zoo.load(tmp_path / "model.keras")
    found = loaded.transform(pair).pull(pair.fixed_landmarks)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    model.transform(pair).save(tmp_path / "warp.nii.gz")
    written = zoo.Transform.load(tmp_path / "warp.nii.gz").pull(pair.fixed_landmarks)
    np.testing.assert_allclose(written, expected, atol=0.05)


def test_a_fit_repeats_and_leaves_earlier_transforms_as_they_were(fitted):
    pair, model, history = fitted
    before = model.transform(pair)
    expected = before.pull(pair.fixed_landmarks)
    again = model.fit(pair, epochs=15, verbose=0).history
    np.testing.assert_allclose(again["loss"], history["loss"], rtol=1e-2)
    np.testing.assert_array_equal(before.pull(pair.fixed_landmarks), expected)
    anew = model.transform(pair).pull(pair.fixed_landmarks)
    np.testing.assert_allclose(anew, expected, atol=0.02)


def test_a_fit_that_helps_nothing_is_dropped():
    (pair,) = shape_pairs(1, 24)
    model = made(encoder=False, blurs=(1.0, 0.0))
    model.compile(run_eagerly=True)
    same = Pair(pair.fixed, pair.fixed)
    with pytest.warns(UserWarning, match="no more alike"):
        model.fit(same, epochs=2, steps_per_epoch=2, verbose=0)
    assert model.doubts
    assert not model.transform(same).displacement().any()


# Networks


@pytest.fixture(scope="module")
def network():
    model = made(steps=2, points=200)
    model.compile(keras.optimizers.Adam(3e-3, global_clipnorm=1.0), run_eagerly=True)
    (batch,) = ShapePairs(20, "solid", 4, 1, 40)[0]
    before = model.evaluate(batch, verbose=0, return_dict=True)
    model.fit(batch, batch_size=4, epochs=8, verbose=0)
    return model, before, model.evaluate(batch, verbose=0, return_dict=True)


def test_training_lowers_what_evaluation_measures(network):
    _, before, after = network
    assert set(after) >= {"loss", "similarity", "consistency", "codes"}
    assert np.isfinite(list(after.values())).all()
    assert after["similarity"] < before["similarity"] and after["loss"] < before["loss"]


@pytest.mark.parametrize("refine", ["codes", "both"])
def test_a_fit_to_a_pair_leaves_the_network_as_it_is(network, refine):
    model, *_ = network
    model.forget()
    (pair,) = shape_pairs(1, 26, seed=4)
    weights, start = model.get_weights(), model.transform(pair)
    options = {"steps_per_epoch": 4, "learning_rate": 1e-2, "refine": refine}
    model.fit(pair, epochs=1, verbose=0, **options)
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    points = np.random.default_rng(0).uniform(5, 20, (9, 2))
    found = model.transform(pair)
    assert not model.doubts and not np.allclose(found.pull(points), start.pull(points), atol=1e-3)
    before, after = model.discrepancies(pair, [start, found])
    assert after < before
    now, known = model.alone(pair).maps.get_weights(), model.maps.get_weights()
    changed = not all(map(np.array_equal, now, known))
    assert changed == (refine != "codes")
    model.forget()
    np.testing.assert_allclose(model.transform(pair).pull(points), start.pull(points), atol=1e-5)


# Bad input


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"dims": 4}, "dims must be one of"),
        ({"size": (16, 16, 16)}, "size must be a number or 2 of them"),
        ({"cells": (4,), "encoder": False}, "cells must be a number or 2 of them"),
        ({"similarity": "dice"}, "similarity must be one of"),
        ({"normalisation": "layer"}, "normalisation must be one of"),
        ({"blurs": ()}, "blurs must hold at least one"),
        ({"blurs": (-1.0,)}, "blurs must not be negative"),
        ({"points": 3}, "points must be at least 16"),
        ({"steps": 0}, "steps must be at least 1"),
    ],
)
def test_wrong_arguments_are_named(config, words):
    with pytest.raises(ValueError, match=words):
        made(**config)


def test_wrong_data_are_named():
    model = made()
    one, other = images(1)["fixed"], images(1, (9, 9))["fixed"]
    with pytest.raises(ValueError, match="fixed and moving of one size"):
        model.predict({"fixed": one, "moving": other}, verbose=0)
    with pytest.raises(ValueError, match="finite"):
        model.predict({"fixed": one * np.nan, "moving": one}, verbose=0)
    with pytest.raises(ValueError, match="2 spatial axes"):
        model.fit(images(1, (8, 8, 8)), verbose=0)
    (pair,) = shape_pairs(1, 16)
    with pytest.raises(ValueError, match="refine must be one of"):
        model.fit(pair, refine="encoder", verbose=0)
    with pytest.raises(TypeError, match="without an encoder"):
        made(encoder=False).fit(images(1), verbose=0)
    with pytest.raises(ValueError, match="2 dimensions"):
        made(3).transform(pair)
    for encoder, words in ((False, "has not been fitted"), (True, "has not been trained")):
        with pytest.warns(UserWarning, match=words):
            assert not made(encoder=encoder).transform(pair).displacement().any()
