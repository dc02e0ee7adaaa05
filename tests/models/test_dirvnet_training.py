"""DIRV-Net learns: its loss terms, training with and without truth, refinement of one pair."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy import ndimage

from zoo.data.chessboard import ChessboardPairs
from zoo.data.image import Image
from zoo.data.pair import Pair
from zoo.data.pairs import PairDataset
from zoo.data.phantoms import phantom_pair
from zoo.geometry import Grid
from zoo.losses import Dice, EndpointError, MeanSquaredError, one_hot
from zoo.losses.levels import Temperature, unit_weights
from zoo.models.dirvnet import DIRVNet
from zoo.ops.gradients import norm
from zoo.ops.sampling import warp
from zoo.ops.splatting import blur
from zoo.transform import Affine, Dense

SHAPE = (32, 32)
SMALL = {"filters": 3, "data_kernel": 1, "smoothness_kernel": 3, "knots": 9}
ONE = {"levels": 1, "units": 2, **SMALL}
LEARNER = {"levels": 1, "units": 3, "filters": 4, "data_kernel": 3, "smoothness_kernel": 3}


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def random(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def endpoint_error(model, images, known):
    difference = numpy(model(images)["displacement"]) - known
    return np.linalg.norm(difference, axis=-1).mean()


def compiled(model, rate=0.02, eagerly=False, **weights):
    model.compile(keras.optimizers.Adam(rate), loss_weights=weights, run_eagerly=eagerly)
    return model


def values(terms):
    return {name: float(value) for name, value in terms.items()}


@pytest.fixture(scope="module")
def textures():
    """Two batches; smooth textures instead of chesstextures, whose flat cells tell no motion."""
    batches = []
    for seed in (1, 2):
        _, known = ChessboardPairs(SHAPE, 8, 1, kind="smooth", magnitude=1.5, seed=seed)[0]
        moving = ndimage.gaussian_filter(random((8, *SHAPE, 1), seed), (0, 2, 2, 0))
        batches.append(({"fixed": numpy(warp(moving, known)), "moving": moving}, known))
    return batches


# ---- training


@pytest.fixture(scope="module")
def learned(textures):
    """The authors' network, filters kept in their set besides, after a short training."""
    keras.utils.set_random_seed(0)
    paper = {"start": "random", "momentum": None, "damping": None, "step": None}
    model = compiled(DIRVNet(unit_norm=True, knots=9, **paper, **LEARNER))
    history = model.fit(*textures[0], batch_size=8, epochs=60, verbose=0)
    return model, history.history


def test_learns_from_known_displacements(learned, textures):
    _, history = learned
    assert np.isfinite(history["loss"]).all()
    assert history["loss"][-1] <= 0.5 * history["loss"][0]
    # Random functions hardly move anything before.
    zero = np.linalg.norm(textures[0][1], axis=-1).mean() / np.sqrt(2)
    assert history["loss"][0] == pytest.approx(zero, rel=0.15)
    assert history["displacement"] == history["loss"]


def test_constraints_hold_after_training(learned):
    for unit in (unit for level in learned[0].units for unit in level):
        kernels = {name: numpy(getattr(unit, name).kernel) for name in ("data", "smoothness")}
        assert np.abs(kernels["smoothness"].mean((0, 1))).max() <= 1e-6
        assert np.abs(kernels["data"].mean((0, 1))).max() > 1e-3
        norms = np.sqrt(np.square(kernels["smoothness"]).sum((0, 1)))
        np.testing.assert_allclose(norms, 1, atol=1e-5)
        np.testing.assert_allclose(np.sqrt(np.square(kernels["data"]).sum((0, 1, 2))), 1, atol=1e-5)


def test_learns_from_images_alone(textures):
    keras.utils.set_random_seed(0)
    (images, _), (others, known) = textures
    # Steps that are too short at first, so that there is something to learn.
    model = DIRVNet(step=0.1, similarity="mse", knots=9, **LEARNER)
    compiled(model, smoothness=0.002)
    zero = np.linalg.norm(known, axis=-1).mean()
    assert endpoint_error(model, others, known) > 0.5 * zero
    history = model.fit(images, batch_size=8, epochs=60, verbose=0).history
    assert history["loss"][-1] <= 0.5 * history["loss"][0]
    assert set(history) >= {"similarity", "smoothness"} and not any(history["displacement"])
    assert endpoint_error(model, others, known) <= 0.4 * zero


def test_same_seed_same_training(textures):
    losses = []
    for _ in range(2):
        keras.utils.set_random_seed(4)
        model = compiled(DIRVNet(start="random", **ONE), eagerly=True)
        losses.append(model.fit(*textures[0], batch_size=8, epochs=3, verbose=0).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-6)
    assert len(set(losses[0])) == 3


def test_learns_in_space():
    keras.utils.set_random_seed(0)
    x, y = ChessboardPairs((9, 10, 11), 1, 1, cells=(3, 4), magnitude=1.0, kind="smooth")[0]
    model = compiled(DIRVNet(dims=3, **ONE), 0.01, eagerly=True)
    before = [numpy(weight) for weight in model.trainable_weights]
    losses = model.fit(x, y, epochs=3, verbose=0).history["loss"]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    for weight, old in zip(model.trainable_weights, before, strict=True):
        assert np.isfinite(numpy(weight)).all() and not np.array_equal(numpy(weight), old)


def test_features_are_trained(textures):
    images = textures[0][0]
    model = DIRVNet(features=1, similarity="mse", **ONE)
    compiled(model, eagerly=True)
    before = [numpy(weight) for weight in model.extractor.trainable_weights]
    model.fit(images, batch_size=8, verbose=0)
    assert len(before) == 3  # a bias of the last convolution would be the same in both images
    for weight, old in zip(model.extractor.trainable_weights, before, strict=True):
        assert not np.array_equal(numpy(weight), old), weight.path


def discs(shape=SHAPE):
    """A bright disc with a dark core, the same two voxels further, as images and as labels."""
    voxel = np.indices(shape)
    labels = []
    for middle in (14, 16):
        radius = np.hypot(voxel[0] - middle, voxel[1] - 15)
        labels.append(np.where(radius < 4, 7, np.where(radius < 9, 3, 0)))
    images = [np.where(each == 3, 1.0, 0.2 * (each == 7)) for each in labels]
    return Pair(*images, fixed_labels=labels[0], moving_labels=labels[1])


def test_learns_from_labels():
    pair = discs()
    model = DIRVNet(step=0.1, labels=(3, 7), **ONE)
    compiled(model, eagerly=True, similarity=0.0, smoothness=0.0, labels=1.0)
    history = model.fit(PairDataset(pair), epochs=12, verbose=0).history
    assert history["labels"] == history["loss"] and not any(history["similarity"])
    assert history["loss"][-1] < 0.75 * history["loss"][0]
    result = model.evaluate(pair)
    assert result["dice"] > result["initial_dice"]


# ---- loss terms


def test_displacement_term_is_the_endpoint_error():
    for rank in (2, 3):
        shape = (2, *(6, 7, 5)[:rank])
        known, found = random((*shape, rank)), random((*shape, rank), 1)
        images = {"fixed": random((*shape, 1)), "moving": random((*shape, 1), 1)}
        model = compiled(DIRVNet(dims=rank, **ONE))
        predicted = {"displacement": found, "moved": images["moving"]}
        error = np.linalg.norm(found - known, axis=-1).mean()
        (value,) = values(model.loss_terms(images, known, predicted)).values()
        assert value == pytest.approx(error / np.sqrt(rank), rel=1e-6)


def zero_trace(levels, units=1):
    """A trace that has not moved, as a training step hands it to the loss."""
    sizes = [32 // 2**halvings for halvings in reversed(range(levels))]
    return [
        {
            "fixed": np.ones((1, size, size, 1), "float32"),
            "moved": [np.zeros((1, size, size, 1), "float32")] * units,
            "displacements": [np.zeros((1, size, size, 2), "float32")] * units,
        }
        for size in sizes
    ]


def test_levels_measure_in_voxels_of_the_image():
    known = np.broadcast_to(np.float32([3, -1]), (1, *SHAPE, 2)).copy()
    images = {"fixed": known[..., :1], "moving": known[..., :1]}
    predicted = {"trace": zero_trace(3), "displacement": known}
    for weights in ((1, 0, 0), (0, 1, 0), (0, 0, 2), None):
        model = DIRVNet(levels=3, units=1, level_weights=weights, **SMALL)
        terms = values(compiled(model).loss_terms(images, known, predicted))
        assert terms == {"displacement": pytest.approx(np.sqrt(5), rel=1e-5)}


def test_levels_are_weighted_coarse_to_fine():
    trace = zero_trace(2)
    trace[0]["moved"] = [trace[0]["moved"][0] - 1]
    images = {side: np.zeros((1, *SHAPE, 1), "float32") for side in ("fixed", "moving")}
    for weights, expected in (((3, 1), (3 * 4 + 1) / 4), (None, (4 + 1) / 2)):
        model = DIRVNet(levels=2, units=1, level_weights=weights, similarity="mse", **SMALL)
        terms = compiled(model, smoothness=0.0).loss_terms(images, None, {"trace": trace})
        assert values(terms) == {"similarity": pytest.approx(expected)}


def test_which_terms_count():
    images = {side: np.zeros((1, *SHAPE, 1), "float32") for side in ("fixed", "moving")}
    known = np.zeros((1, *SHAPE, 2), "float32")
    predicted = {"trace": zero_trace(1), "displacement": known}

    def names(model, y, **weights):
        return set(compiled(model, **weights).loss_terms(images, y, predicted))

    plain, mixed = DIRVNet(**ONE), DIRVNet(mixed=True, **ONE)
    assert names(plain, known) == {"displacement"}
    assert names(plain, None) == names(mixed, None) == {"similarity", "smoothness"}
    assert names(plain, None, smoothness=0.0) == {"similarity"}
    assert names(mixed, known) == {"displacement", "similarity", "smoothness"}
    with pytest.raises(ValueError, match="the loss has no terms: .*'displacement': 0"):
        names(plain, known, displacement=0.0)
    images |= {f"{side}_labels": np.zeros((1, *SHAPE, 1)) for side in ("fixed", "moving")}
    with pytest.raises(ValueError, match="labels must name the label values"):
        names(plain, known, labels=1.0)


def test_label_term_is_dice():
    x = PairDataset(discs())[0][0]
    displacement = np.zeros((1, *SHAPE, 2), "float32")
    displacement[..., 0] = 1
    maps = [
        one_hot(x[f"{side}_labels"][..., 0].astype("int32"), (3, 7)) for side in ("fixed", "moving")
    ]
    expected = Dice(background=True)(maps[0], warp(maps[1], displacement))
    model = compiled(DIRVNet(labels=(3, 7), **ONE), labels=1.0)
    predicted = {"displacement": displacement, "moved": x["moving"]}
    terms = values(model.loss_terms(x, displacement, predicted))
    assert terms["labels"] == pytest.approx(float(expected), rel=1e-6) and terms["labels"] > 0.01


def test_masks_leave_out():
    mask = np.zeros((1, *SHAPE, 1), "float32")
    mask[:, 8:20, 5:25] = 1
    known, other = random((1, *SHAPE, 2)), random((1, *SHAPE, 2), 1)
    fixed, moving = random((1, *SHAPE, 1), 2), random((1, *SHAPE, 1), 3)
    model = DIRVNet(intensities="none", similarity="mse", mixed=True, **ONE)
    compiled(model, smoothness=0.0)

    def terms(fixed, found, **more):
        predicted = {"moved": warp(moving, found), "displacement": found}
        images = {"fixed": fixed, "moving": moving}
        return values(model.loss_terms(images | more, known, predicted))

    inside = terms(fixed, other, fixed_mask=mask)
    changed = np.where(mask > 0, fixed, 50), np.where(mask > 0, other, -9)
    assert terms(*changed, fixed_mask=mask) == pytest.approx(inside, rel=1e-6)
    assert terms(*changed) != pytest.approx(inside, rel=0.5)
    part = (slice(None), slice(8, 20), slice(5, 25))
    error = float(EndpointError()(known[part], other[part])) / np.sqrt(2)
    assert inside["displacement"] == pytest.approx(error, rel=1e-5)
    square = MeanSquaredError()(fixed[part], warp(moving, other)[part])
    assert inside["similarity"] == pytest.approx(float(square), rel=1e-5)


@pytest.mark.parametrize("intensities", ["pair", "standard"])
def test_terms_of_one_level_are_the_same_when_evaluated(intensities, textures):
    """In particular, the moved image is normalised as the moving one is."""
    images = {side: array.copy() for side, array in textures[0][0].items()}
    images["moving"][:, :2] = 3.0
    shift = np.zeros((8, *SHAPE, 2), "float32")
    shift[..., 0] = 4
    model = compiled(DIRVNet(intensities=intensities, similarity="mse", **ONE))
    fixed, moving = model._matched(images["fixed"], images["moving"])
    trace = [{"fixed": fixed, "moved": [warp(moving, shift)], "displacements": [shift]}]
    training = values(model.loss_terms(images, None, {"trace": trace, "displacement": shift}))
    predicted = {"moved": warp(images["moving"], shift), "displacement": shift}
    assert values(model.loss_terms(images, None, predicted)) == pytest.approx(training, rel=1e-4)


def test_not_a_number_is_not_hidden():
    lengths = numpy(norm(ops.convert_to_tensor([[3.0, 4.0], [np.nan, 0.0], [0.0, 0.0]])))
    np.testing.assert_array_equal(lengths, [5, np.nan, 0])
    known = np.zeros((1, *SHAPE, 2), "float32")
    found = known.copy()
    found[0, 3, 4, 1] = np.nan
    model = compiled(DIRVNet(similarity="mse", mixed=True, **ONE))
    images = {side: np.ones((1, *SHAPE, 1), "float32") for side in ("fixed", "moving")}
    predicted = {"displacement": found, "moved": images["moving"]}
    assert np.isnan(values(model.loss_terms(images, known, predicted))["displacement"])
    images["fixed"][0, 9, 9] = np.nan
    assert np.isnan(numpy(model(images)["displacement"])).any()


# ---- which units count


def test_unit_weights():
    np.testing.assert_array_equal(numpy(unit_weights(5, 0.0)), 1)
    np.testing.assert_allclose(numpy(unit_weights(5, 1.0)), np.exp([-4, -3, -2, -1, 0]), rtol=1e-6)
    trace = zero_trace(1, units=3)
    trace[0]["moved"] = [trace[0]["moved"][0] - shift for shift in (2, 1, 0)]
    images = {side: np.zeros((1, *SHAPE, 1), "float32") for side in ("fixed", "moving")}
    model = DIRVNet(levels=1, units=3, unit_loss="exponential", similarity="mse", **SMALL)
    compiled(model, smoothness=0.0)
    for temperature in (0.0, 1.0, 30.0):
        model.temperature.assign(temperature)
        weights = np.exp(-np.array([2, 1, 0]) * temperature)
        expected = (weights * (9, 4, 1)).sum() / weights.sum()
        terms = values(model.loss_terms(images, None, {"trace": trace}))
        assert terms == {"similarity": pytest.approx(expected, rel=1e-5)}


def test_temperature_rises_and_resumes(textures):
    images = {side: array[:4] for side, array in textures[0][0].items()}
    model = DIRVNet(unit_loss="exponential", similarity="mse", **ONE)
    compiled(model, eagerly=True)
    for steps, expected in ((3, 0.2 + 2 * 0.3), (2, 0.2 + 4 * 0.3)):
        callback = Temperature(start=0.2, increment=0.3, maximum=1.5)
        model.fit(images, batch_size=4, epochs=steps, callbacks=[callback], verbose=0)
        assert float(model.temperature) == pytest.approx(expected)
    callback.on_train_batch_begin(0)
    assert float(model.temperature) == 1.5
    default = Temperature()
    default.set_model(model)
    for steps, expected in ((0, 0.0), (10_000, 1.0), (20_000, 2.0), (50_000, 2.0)):
        model.optimizer.iterations.assign(steps)
        default.on_train_batch_begin(0)
        assert float(model.temperature) == pytest.approx(expected)
    assert not any("temperature" in weight.path for weight in model.trainable_weights)
    with pytest.raises(ValueError, match="Temperature needs a model with unit_loss='exponential'"):
        compiled(DIRVNet(**ONE)).fit(images, callbacks=[Temperature()], verbose=0)


# ---- one pair


@pytest.fixture(scope="module")
def refined():
    """A network after the refinement of one pair, what it said before, and that refinement."""
    pair, _, _ = phantom_pair(SHAPE, turn=4.0, stretch=0.03, shift=2.0)
    other, _, _ = phantom_pair(SHAPE, turn=3.0, shift=1.5, seed=1)
    model = DIRVNet(similarity="mse", **ONE)
    before = model.evaluate(pair), model.transform(other).displacement(), model.get_weights()
    history = model.fit(pair, epochs=40, verbose=0)
    return model, pair, other, before, history


def test_refinement_lowers_the_loss(refined):
    history = refined[-1]
    losses = history.history["loss"]
    assert len(losses) == 40 and history.epoch == list(range(40))
    # Half of the steps are those of the level of half the size.
    assert losses[19] < losses[0] and losses[39] < losses[20]


def test_refined_pair_is_registered_better(refined):
    model, pair, _, (before, _, weights), _ = refined
    after = model.evaluate(pair)
    assert after["tre_mm"] < 0.5 * before["tre_mm"] < 0.5 * before["initial_tre_mm"]
    assert after["ncc"] > before["ncc"] and after["folds_percent"] == 0
    assert isinstance(model.transform(pair), Dense)
    np.testing.assert_array_equal(
        model.predict(pair)["displacement"], model.transform(pair).displacement()
    )
    for weight, old in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_refinement_belongs_to_its_pair(refined):
    model, pair, other, (_, displacement, _), _ = refined
    np.testing.assert_allclose(model.transform(other).displacement(), displacement, atol=1e-5)
    # The same images again are the same pair, whatever comes with them.
    again = Pair(pair.fixed, pair.moving)
    same = model.transform(again).displacement()
    np.testing.assert_array_equal(same, model.transform(pair).displacement())
    moved = Image(pair.moving.array, Grid(SHAPE, 1.0, (0.5, 0.0)))
    assert not np.array_equal(model.transform(Pair(pair.fixed, moved)).displacement(), same)


def test_refinement_goes_on_and_takes_any_number_of_steps(refined):
    model, pair, _, _, first = refined
    before = model.transform(pair).displacement()
    history = model.fit(pair, epochs=1, verbose=0, learning_rate=1e-4)
    assert len(history.history["loss"]) == 1
    assert history.history["loss"][0] == pytest.approx(first.history["loss"][-1], rel=0.05)
    difference = np.abs(model.transform(pair).displacement() - before).max()
    assert 0 < difference < 1e-3
    with pytest.raises(TypeError, match="epoch"):
        model.fit(pair, epoch=3)


def test_pair_is_the_rest_after_a_transform():
    """An affine first, a network for the rest: the maps in a row are the whole."""
    pair, matrix, offset = phantom_pair((48, 40), turn=25.0, stretch=0.03, shift=6.0)
    masks = {"moving_mask": pair.moving.array[..., 0] > 0.1}
    labels = {"moving_labels": (pair.moving.array[..., 0] > 0.3).astype(int) * 5}
    pair = Pair(
        pair.fixed,
        Image(pair.moving.array, pair.moving.grid, "body"),
        fixed_landmarks=pair.fixed_landmarks,
        moving_landmarks=pair.moving_landmarks,
        **masks,
        **labels,
    )
    truth = Affine(matrix, offset, pair.fixed.grid)
    nearly = Affine(matrix, offset + (0.8, -0.5), pair.fixed.grid)
    rest = pair.aligned(nearly)
    assert rest.moving.grid == pair.fixed.grid and rest.moving.name == "body"
    np.testing.assert_allclose(nearly.pull(rest.moving_landmarks), pair.moving_landmarks)
    np.testing.assert_array_equal(rest.fixed_landmarks, pair.fixed_landmarks)
    assert rest.moving_labels.dtype == np.int32 and set(np.unique(rest.moving_labels)) == {0, 5}
    # Where labels and mask end, the image takes the values at which they were cut.
    for array, level in ((rest.moving_labels > 0, 0.3), (rest.moving_mask, 0.1)):
        assert np.mean(array == (rest.moving.array[..., 0] > level)) > 0.97
    settings = {"intensities": "pair", "momentum": 0.5, "smoothness": 0.02}
    network = DIRVNet(levels=2, units=10, **settings, **SMALL).transform(rest)
    whole = nearly @ network
    middle = np.random.default_rng(0).uniform(16, 24, (40, 2))
    np.testing.assert_allclose(whole.pull(middle), nearly.pull(network.pull(middle)))
    points = pair.fixed_landmarks
    error, start = (
        np.linalg.norm(transform.pull(points) - truth.pull(points), axis=1).mean()
        for transform in (whole, nearly)
    )
    # The mask leaves no outline, which would bring more.
    assert error < 0.5 * start
    exact = pair.aligned(truth)
    np.testing.assert_allclose(exact.moving_landmarks, exact.fixed_landmarks)
    inside = np.zeros((48, 40), bool)
    inside[14:34, 12:28] = True
    difference = np.abs(exact.moving.array - exact.fixed.array)[inside]
    assert difference.mean() < 0.01 and np.ptp(exact.fixed.array[inside]) > 0.3


@pytest.mark.parametrize("rank", [2, 3])
def test_cloud_is_the_rest_after_a_transform(rank):
    rng = np.random.default_rng(1)
    fixed = rng.normal(size=(30, rank))
    matrix = np.eye(rank) + 0.2 * rng.normal(size=(rank, rank))
    affine = Affine(matrix, rng.normal(size=rank))
    pair = Pair(
        fixed,
        affine.pull(fixed),
        moving_mask=np.arange(30) < 20,
        fixed_landmarks=fixed[:4],
        moving_landmarks=affine.pull(fixed[:4]),
        weights=np.linspace(0, 1, 30),
        name="cloud",
    )
    rest = pair.aligned(affine)
    np.testing.assert_allclose(rest.moving.points, fixed, atol=1e-9)
    np.testing.assert_allclose(rest.moving_landmarks, fixed[:4], atol=1e-9)
    for name in ("fixed", "name", "fixed_landmarks"):
        assert getattr(rest, name) is getattr(pair, name)
    for name in ("weights", "moving_mask"):
        np.testing.assert_array_equal(getattr(rest, name), getattr(pair, name))
    # What registers the rest, after the affine, is a map of the whole.
    further = Affine(np.eye(rank), np.full(rank, 0.1))
    whole = affine @ further
    np.testing.assert_allclose(
        further.move(rest.moving.points), whole.move(pair.moving.points), atol=1e-9
    )


def test_local_intensities_at_any_size_and_after_a_fit():
    model = compiled(DIRVNet(intensities="local", similarity="mse", **ONE))
    for shape in ((20, 24), (13, 9), (24, 5), (1, 7)):
        given = {side: random((1, *shape, 1), k) for k, side in enumerate(("fixed", "moving"))}
        # Keras lets go of the sizes in its graph after the first of them.
        assert np.allclose(
            model.predict(given, verbose=0)["displacement"],
            numpy(model(given)["displacement"]),
            atol=1e-4,
        )
    smooth = numpy(blur(random((1, 24, 24, 1), 5), 2.0))[0]
    moving = smooth * np.linspace(0.5, 2, 24, dtype="float32")[:, None, None]
    pair = Pair(*(Image(array, Grid((24, 24))) for array in (smooth, moving)))
    before = model.transform(pair).displacement()
    history = model.fit(pair, epochs=20, verbose=0).history["loss"]
    assert history[-1] < history[10]
    # The same tissue under another bias: what is compared is the same, so little moves.
    assert np.abs(model.transform(pair).displacement() - before).max() < 1.0
    model.forget()
    assert np.array_equal(model.transform(pair).displacement(), before)


def test_refinements_end_with_the_weights_they_started_from(tmp_path):
    model = compiled(DIRVNet(**ONE))
    pair = Pair(
        *(Image(numpy(blur(random((1, *SHAPE, 1), k), 2.0))[0], Grid(SHAPE)) for k in (5, 6))
    )
    before = model.transform(pair).displacement()
    model.fit(pair, epochs=4, verbose=0)
    assert not np.array_equal(model.transform(pair).displacement(), before)
    model.save_weights(tmp_path / "model.weights.h5")
    model.load_weights(tmp_path / "model.weights.h5")
    assert np.array_equal(model.transform(pair).displacement(), before)


def test_moving_mask_leaves_out():
    mask = np.zeros((1, *SHAPE, 1), "float32")
    mask[:, 8:20, 5:25] = 1
    model = compiled(DIRVNet(intensities="none", similarity="mse", **ONE), smoothness=0.0)
    still = np.zeros((1, *SHAPE, 2), "float32")
    fixed, moving = random((1, *SHAPE, 1), 2), random((1, *SHAPE, 1), 3)

    def similarity(**images):
        found = {"moved": images["moving"], "displacement": still}
        return values(model.loss_terms(images, None, found))["similarity"]

    inside = similarity(fixed=fixed, moving=moving, moving_mask=mask)
    expected = np.square(fixed - moving)[:, 8:20, 5:25].mean()
    assert inside == pytest.approx(expected, rel=1e-5)
