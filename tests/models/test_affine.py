"""Affine registration: known maps are found again, on images and on clouds."""

import warnings

import keras
import numpy as np
import pytest
import scipy.linalg
from keras import ops

from zoo.data.image import Image
from zoo.data.pair import Pair
from zoo.data.scan import Scan
from zoo.geometry import Grid
from zoo.models import affine
from zoo.models.affine import AffineRegistration
from zoo.ops import closest_points
from zoo.transform import Affine


def turn(degrees, rank=2):
    """A rotation in the plane, or about an oblique axis in space."""
    generator = np.array([[0, -1], [1, 0]])
    if rank == 3:
        x, y, z = np.array([1, 2, 3]) / np.sqrt(14)
        generator = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return scipy.linalg.expm(np.deg2rad(degrees) * generator)


def blobs(points, centre, width):
    """A smooth scene without symmetry, defined everywhere: values `[...]` in about [0, 1.5]."""
    rank = points.shape[-1]
    rng = np.random.default_rng(3)
    total = 0.0
    for weight in (1.0, 0.8, 0.6, 0.4, 0.3):
        place = centre + rng.uniform(-0.6, 0.6, rank) * width
        total = total + weight * np.exp(
            -(((points - place) / (rng.uniform(0.25, 0.5, rank) * width)) ** 2).sum(-1)
        )
    return total


def scene(rank, matrix, shift=0.0, contrast=lambda values: values):
    """A pair on unlike oblique, anisotropic grids, and the map `pull` between its images."""
    if rank == 2:
        fixed_grid = Grid((56, 40), (1.0, 1.4), (5, -9), turn(20))
        moving_grid = Grid((50, 64), (1.3, 0.9), (2, -15), turn(-15))
    else:
        fixed_grid = Grid((28, 24, 14), (1.0, 1.2, 2.2), (5, -9, 3), turn(20, 3))
        moving_grid = Grid((24, 30, 18), (1.3, 1.0, 1.8), (3, -10, 2), turn(-15, 3))
    centre = fixed_grid.centre
    truth = Affine(matrix, centre + shift - np.asarray(matrix) @ centre, fixed_grid)
    width = fixed_grid.extent.min() / 2
    fixed = Image(blobs(fixed_grid.coordinates(), centre, width), fixed_grid)
    points = moving_grid.coordinates()
    unmoved = truth.move(points.reshape(-1, rank)).reshape(points.shape)
    moving = Image(contrast(blobs(unmoved, centre, width)), moving_grid)
    return Pair(fixed, moving), truth


def worst(found, truth, grid):
    """The largest error at the corners of the middle half of a grid, in its smallest voxels."""
    corners = grid.centre + (grid.corners() - grid.centre) / 2
    errors = np.linalg.norm(found.pull(corners) - truth.pull(corners), axis=1)
    return errors.max() / grid.spacing.min()


def register(pair, **options):
    model = AffineRegistration(dims=pair.rank, **options)
    history = model.fit(pair, verbose=0)
    return model, model.transform(pair), history


SHEAR = {
    2: [[1.08, 0.1], [-0.02, 0.94]],
    3: [[1.06, 0.05, 0], [-0.04, 0.95, 0.08], [0.03, 0, 1.05]],
}


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("kind", ["rigid", "similarity", "affine"])
def test_known_maps_of_images_are_found(rank, kind):
    matrix = turn(10, rank) * (1.0 if kind == "rigid" else 1.08)
    matrix = matrix @ np.array(SHEAR[rank]) if kind == "affine" else matrix
    pair, truth = scene(rank, matrix, shift=np.arange(1, rank + 1))
    _, found, _ = register(pair, kind=kind, levels=2, start="identity")
    assert worst(found, truth, pair.fixed.grid) < 0.3
    product = found.matrix.T @ found.matrix
    if kind == "rigid":
        np.testing.assert_allclose(product, np.eye(rank), atol=1e-4)
        assert np.linalg.det(found.matrix) == pytest.approx(1, abs=1e-5)
    if kind == "similarity":
        np.testing.assert_allclose(product / product[0, 0], np.eye(rank), atol=1e-4)


@pytest.mark.parametrize(
    "contrast", [lambda v: 1 - v, lambda v: np.abs(v - 0.5)], ids=["inverted", "folded"]
)
def test_mutual_information_aligns_unlike_contrasts(contrast):
    pair, truth = scene(2, turn(8), (2, -1), contrast)
    errors = {
        loss: worst(
            register(pair, kind="rigid", loss=loss, levels=1, start="identity")[1],
            truth,
            pair.fixed.grid,
        )
        for loss in ("mi", "ncc")
    }
    assert errors["mi"] < 0.5
    assert errors["ncc"] > 4 * errors["mi"]


def test_local_correlation():
    pair, truth = scene(2, turn(8), (2, -1), lambda values: 3 * values + 100)
    _, found, _ = register(pair, kind="rigid", loss="lncc", levels=1, start="identity")
    # Windows at the border of the overlap see half of what they should.
    assert worst(found, truth, pair.fixed.grid) < 1


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_masked_voxels_do_not_count(side):
    pair, truth = scene(2, turn(6), (1, 1))
    images = {"fixed": pair.fixed, "moving": pair.moving}
    spoilt = images[side].array.copy()
    # A bright bar, which an unmasked registration would drag along.
    spoilt[:, 26:34] = 4.0
    mask = np.ones(images[side].shape, bool)
    mask[:, 24:36] = False
    images[side] = Image(spoilt, images[side].grid)
    options = {"kind": "rigid", "levels": 1, "start": "identity"}
    open_error, masked_error = (
        worst(register(Pair(**images, **masks), **options)[1], truth, pair.fixed.grid)
        for masks in ({}, {f"{side}_mask": mask})
    )
    assert masked_error < 0.5
    assert open_error > 3 * masked_error


def test_moments_catch_an_offset_that_the_identity_does_not():
    x = Grid((60, 60)).coordinates()
    blob = [np.exp(-(((x - c) / [4, 6]) ** 2).sum(-1)) for c in ([15, 14], [45, 42])]
    pair = Pair(*(Image(each, Grid((60, 60))) for each in blob))
    truth = Affine(np.eye(2), [30, 28])
    errors = {
        start: np.linalg.norm(
            register(pair, kind="rigid", start=start, levels=1)[1].pull([[15.0, 14]]) - [45, 42]
        )
        for start in ("identity", "moments", "auto")
    }
    assert errors["moments"] < 0.3 and errors["auto"] < 0.3 < errors["identity"]
    assert truth.pull([[15.0, 14]]) == pytest.approx(np.array([[45, 42]]))


def test_a_large_turn_is_caught_by_the_starts():
    pair, truth = scene(2, turn(38))
    _, found, _ = register(pair, kind="rigid", levels=2)
    assert worst(found, truth, pair.fixed.grid) < 0.3


def test_results_in_every_form_and_twice_the_same():
    pair, truth = scene(2, turn(8), (2, -1))
    landmarks = pair.fixed.grid.centre + np.random.default_rng(0).uniform(-8, 8, (5, 2))
    pair = Pair(
        pair.fixed,
        pair.moving,
        fixed_landmarks=landmarks,
        moving_landmarks=truth.pull(landmarks),
    )
    model, found, history = register(pair, kind="rigid", levels=2)
    assert found.fixed_grid == pair.fixed.grid
    assert set(history.history) == {"loss", "similarity"}
    assert len(history.history["loss"]) == 10 + 5
    outputs = model.predict(pair)
    assert outputs["moved"].shape == (56, 40, 1)
    assert outputs["displacement"].shape == (56, 40, 2)
    measured = model.evaluate(pair)
    assert measured["tre_mm"] < 0.2 < measured["initial_tre_mm"]
    assert measured["ncc"] > max(0.99, measured["initial_ncc"])
    assert measured["folds_percent"] == 0
    rate = float(ops.convert_to_numpy(model.optimizer.learning_rate))
    model.fit(pair, verbose=0)
    again = model.transform(pair)
    np.testing.assert_allclose(again.matrix, found.matrix, atol=1e-5)
    np.testing.assert_allclose(again.offset, found.offset, atol=1e-4)
    assert float(ops.convert_to_numpy(model.optimizer.learning_rate)) == pytest.approx(rate)


def test_the_call_agrees_with_the_transform():
    pair, _ = scene(3, turn(10, 3), (1, 2, 3))
    model, found, _ = register(pair, levels=1, voxels=500)
    batch, grid = model._level(pair, 0)
    outputs = model(batch | {"to_index": model._to_index(grid)[None]})
    fixed_grid = affine._at_most(pair.fixed.grid, 500)
    expected = grid.to_index(found.pull(fixed_grid.coordinates().reshape(-1, 3)))
    start = np.stack(np.meshgrid(*map(np.arange, fixed_grid.shape), indexing="ij"), axis=-1)
    moved = ops.convert_to_numpy(outputs["displacement"])[0] + start
    np.testing.assert_allclose(moved.reshape(-1, 3), expected, atol=1e-3)


# Clouds


def cloud(count=400, rank=3):
    """Points without symmetry."""
    rng = np.random.default_rng(1)
    points = rng.normal(size=(count, rank)) * [4.0, 2.0, 1.0][:rank]
    points[: count // 4, 0] += 9
    points[: count // 8, 1] += 5
    return points


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("kind", ["rigid", "similarity", "affine"])
@pytest.mark.parametrize("degrees", [15, 150])
def test_known_maps_of_clouds_are_found_exactly(rank, kind, degrees):
    matrix = turn(degrees, rank) * (1.0 if kind == "rigid" else 1.2)
    shear = np.eye(rank) + 0.4 * (np.array(SHEAR[rank]) - np.eye(rank))
    matrix = matrix @ shear if kind == "affine" else matrix
    truth = Affine(matrix, np.arange(rank) * 10)
    fixed = cloud(rank=rank)
    moving = np.random.default_rng(2).permutation(truth.pull(fixed))
    model, found, _ = register(Pair(Scan(fixed), Scan(moving)), kind=kind)
    np.testing.assert_allclose(found.matrix, truth.matrix, atol=1e-4)
    np.testing.assert_allclose(found.pull(fixed), truth.pull(fixed), atol=1e-3)
    assert found.fixed_grid is None
    moved = ops.convert_to_numpy(model({"moving": moving[None]})["moved"])[0]
    np.testing.assert_allclose(moved, found.move(moving), atol=1e-3)


def test_trimming_tolerates_outliers():
    fixed = cloud()
    truth = Affine(turn(15, 3), [3, 1, 2])
    outliers = np.random.default_rng(4).uniform(20, 60, (30, 3))
    pair = Pair(Scan(fixed), Scan(np.concatenate([truth.pull(fixed), outliers])))
    errors = {
        trim: np.linalg.norm(
            register(pair, kind="rigid", trim=trim)[1].pull(fixed) - truth.pull(fixed), axis=1
        ).max()
        for trim in (0.8, 1.0)
    }
    assert errors[0.8] < 1e-3 < 0.5 < errors[1.0]


def test_points_outside_of_their_mask_do_not_count():
    fixed = cloud()
    truth = Affine(turn(15, 3), [3, 1, 2])
    moving = truth.pull(fixed)
    moving[:100] += 30
    mask = np.arange(400) >= 100
    pair = Pair(Scan(fixed), Scan(moving), fixed_mask=mask, moving_mask=mask)
    _, found, _ = register(pair, kind="rigid")
    np.testing.assert_allclose(found.pull(fixed), truth.pull(fixed), atol=1e-3)


def test_a_cloud_does_not_shrink_onto_a_part_of_the_other():
    rng = np.random.default_rng(5)
    fixed, moving = (cloud() + rng.normal(0, 0.2, (400, 3)) for _ in range(2))
    _, found, _ = register(Pair(Scan(fixed), Scan(moving)), kind="affine")
    np.testing.assert_allclose(np.linalg.svd(found.matrix)[1], 1, atol=0.15)


def test_clouds_are_predicted_and_measured():
    fixed = cloud()
    moving = Affine(turn(40, 3), [3, 1, 2]).pull(fixed)
    pair = Pair(Scan(fixed), Scan(moving), fixed_landmarks=fixed, moving_landmarks=moving)
    model, found, history = register(pair, kind="rigid")
    assert model.predict(pair)["moved"] == pytest.approx(found.move(moving))
    measured = model.evaluate(pair)
    assert measured["chamfer"] < 1e-3 < measured["initial_chamfer"]
    assert measured["tre_mm"] < 1e-3 < measured["initial_tre_mm"]
    assert history.history["loss"][-1] < 1e-3


@pytest.mark.parametrize("kind", ["similarity", "affine"])
@pytest.mark.parametrize("factor", [0.01, 0.1, 10, 1000])
def test_clouds_of_very_different_sizes(kind, factor):
    fixed = cloud()
    truth = Affine(factor * turn(20, 3), [3, 1, 2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the pair: unlike units
        pair = Pair(Scan(fixed), Scan(truth.pull(fixed)))
    _, found, _ = register(pair, kind=kind)
    np.testing.assert_allclose(found.matrix / factor, truth.matrix / factor, atol=1e-4)


def test_a_part_of_a_cloud_keeps_its_scale():
    fixed = cloud(rank=2)
    truth = Affine(turn(10), [3, 1])
    pair = Pair(Scan(fixed), Scan(truth.pull(fixed[fixed[:, 0] > -2])))
    _, found, _ = register(pair, kind="similarity", trim=0.7)
    np.testing.assert_allclose(np.linalg.svd(found.matrix)[1], 1, atol=0.05)


def test_a_collapsed_cloud_is_refused(monkeypatch):
    monkeypatch.setattr(closest_points, "_fit_points", lambda *_: (1e-5 * np.eye(3), np.zeros(3)))
    pair = Pair(Scan(cloud()), Scan(cloud() + 1))
    with pytest.raises(ValueError, match="collapses"):
        AffineRegistration(kind="affine").fit(pair)


@pytest.mark.parametrize("kind", affine.KINDS)
def test_clouds_far_from_the_origin_lose_no_digits(kind):
    centre = np.array([5e5, 5.2e6, 300])
    fixed = cloud()
    truth = Affine(turn(15, 3), [3, 1, 2])
    moving = truth.pull(fixed)
    pair = Pair(Scan(fixed + centre), Scan(moving + 2 * centre))
    model, found, _ = register(pair, kind=kind)
    np.testing.assert_allclose(found.pull(pair.fixed.points), pair.moving.points, atol=1e-4)
    np.testing.assert_allclose(found.move(pair.moving.points), pair.fixed.points, atol=1e-4)


def test_weights_of_points_count():
    fixed = cloud()
    truth = Affine(turn(15, 3), [3, 1, 2])
    moving = truth.pull(fixed)
    moving[:40] += 1.5
    weights = np.ones(400)
    errors = []
    for weight in (1.0, 0.01, 0.0):
        weights[:40] = weight
        pair = Pair(Scan(fixed), Scan(moving), weights=weights)
        _, found, _ = register(pair, kind="rigid", trim=1.0)
        errors.append(np.linalg.norm(found.pull(fixed) - truth.pull(fixed), axis=1).max())
    assert errors[0] > 5 * errors[1]
    # Without the points there are holes, which pull at the points of the other cloud.
    assert errors[2] < errors[0]


@pytest.mark.parametrize(
    ("points", "kind", "message"),
    [
        ([[0, 0, 0], [1, 0, 0]], "rigid", "fixed: the 2 points.*span 1 of 3.*at least 3 points"),
        (np.c_[cloud(50, 2), np.zeros(50)], "affine", "fixed: the 50 points.*span 2 of 3.*span 3"),
        (np.outer(np.arange(9.0), [1, 2, 3]), "similarity", "span 1 of 3"),
    ],
)
def test_clouds_that_leave_the_map_open_are_refused(points, kind, message):
    model = AffineRegistration(kind=kind)
    with pytest.raises(ValueError, match=message):
        model.fit(Pair(Scan(np.array(points, float)), Scan(cloud())))


def test_flat_clouds_align_rigidly():
    fixed = np.c_[cloud(100, 2), np.zeros(100)]
    truth = Affine(turn(20, 3), [3, 1, 2])
    _, found, _ = register(Pair(Scan(fixed), Scan(truth.pull(fixed))), kind="rigid")
    np.testing.assert_allclose(found.pull(fixed), truth.pull(fixed), atol=1e-3)


# Fits, one after the other, and what Keras may ask of them


def test_nothing_remains_of_the_fit_before():
    pair, _ = scene(2, turn(8), (2, -1))
    points = cloud(rank=2)
    clouds = Pair(Scan(points), Scan(Affine(1.3 * turn(100), [50, 20]).pull(points)))
    options = {"kind": "similarity", "levels": 1, "start": "identity", "voxels": 500}
    _, fresh, _ = register(pair, **options)
    model, of_clouds, _ = register(clouds, **options)
    model.fit(pair, verbose=0)
    np.testing.assert_allclose(model.transform(pair).matrix, fresh.matrix, atol=1e-5)
    np.testing.assert_allclose(model.transform(pair).offset, fresh.offset, atol=1e-4)
    model.fit(clouds)
    np.testing.assert_array_equal(model.transform(clouds).matrix, of_clouds.matrix)


def test_many_levels_end():
    pair, _ = scene(3, np.eye(3))
    model = AffineRegistration(levels=7)
    model.fit(pair, epochs=1, steps_per_epoch=1, verbose=0)
    assert np.isfinite(model.transform(pair).matrix).all()


def test_images_far_from_the_origin_lose_no_digits():
    pair, truth = scene(2, turn(8), (2, -1))
    options = {"kind": "rigid", "levels": 1, "start": "centres"}
    _, near, _ = register(pair, **options)
    shift = np.array([5e5, 5.2e6])
    images = [
        Image(
            each.array,
            Grid(each.grid.shape, each.grid.spacing, each.grid.origin + shift, each.grid.direction),
        )
        for each in (pair.fixed, pair.moving)
    ]
    _, far, _ = register(Pair(*images), **options)
    points = pair.fixed.grid.corners()
    np.testing.assert_allclose(far.pull(points + shift) - shift, near.pull(points), atol=0.1)


def test_epochs_are_counted_over_the_levels(tmp_path):
    pair, _ = scene(2, turn(8))
    begun = []
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    watch = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: begun.append("train"))
    watch.on_epoch_begin = lambda epoch, logs=None: begun.append(epoch)
    model = AffineRegistration(dims=2, levels=2, voxels=500, start="identity")
    options = {"epochs": 4, "steps_per_epoch": 2, "verbose": 0}
    history = model.fit(pair, callbacks=[log, watch], **options)
    assert begun == ["train", 0, 1, 2, 3, 4, 5]
    assert history.epoch == [0, 1, 2, 3, 4, 5]
    rows = (tmp_path / "log.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == history.epoch
    # One callback need not come in a list, and may stop the training.
    stop = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", epoch == 1)
    )
    assert model.fit(pair, callbacks=stop, **options).epoch == [0, 1]


def test_a_learning_rate_schedule_stays():
    pair, truth = scene(2, turn(8), (2, -1))
    model = AffineRegistration(dims=2, kind="rigid", levels=1, start="identity")
    schedule = keras.optimizers.schedules.ExponentialDecay(0.02, 30, 0.9)
    model.compile(keras.optimizers.Adam(schedule))
    model.fit(pair, verbose=0)
    assert worst(model.transform(pair), truth, pair.fixed.grid) < 0.5


def test_an_optimiser_whose_state_is_not_zero_at_first_begins_anew():
    pair, truth = scene(2, turn(8), (2, -1))
    model = AffineRegistration(dims=2, kind="rigid", levels=2, start="identity")
    model.compile(keras.optimizers.Nadam(0.02))
    model.fit(pair, verbose=0)
    assert worst(model.transform(pair), truth, pair.fixed.grid) < 0.5


def test_an_unfitted_model_says_so_once():
    pair, _ = scene(2, np.eye(2))
    model = AffineRegistration(dims=2, kind="rigid", levels=1, voxels=500, start="identity")
    with pytest.warns(UserWarning, match="has not been fitted"):
        model.predict(pair)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.transform(pair)
        other = AffineRegistration(dims=2, kind="rigid", levels=1, voxels=500, start="identity")
        other.fit(pair, epochs=1, steps_per_epoch=1, verbose=0)
        other.transform(pair)


# Parts and bad input


@pytest.mark.parametrize(("rank", "counts"), [(2, (1, 2, 4)), (3, (3, 4, 9))])
def test_generators_and_their_exponential(rank, counts):
    for kind, count in zip(affine.KINDS, counts, strict=True):
        generators = affine._generators(rank, kind)
        assert generators.shape == (count, rank, rank)
        weights = np.random.default_rng(0).uniform(-1, 1, count).astype(np.float32)
        expected = scipy.linalg.expm(np.tensordot(weights, generators, 1))
        found = affine._exponential(ops.convert_to_tensor(weights), generators)
        np.testing.assert_allclose(ops.convert_to_numpy(found), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": 4}, "dims must be one of"),
        ({"kind": "projective"}, "kind must be one of.*projective"),
        ({"loss": "ssd"}, "loss must be one of.*ssd"),
        ({"start": "random"}, "start must be one of.*random"),
        ({"levels": 0}, "levels must be at least 1"),
        ({"voxels": 10}, "voxels must be at least 100"),
        ({"trim": 0}, "trim must be in"),
    ],
)
def test_arguments_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        AffineRegistration(**options)


def test_a_pair_of_another_rank_is_refused():
    pair, _ = scene(2, np.eye(2))
    for method in ("fit", "transform", "predict", "evaluate"):
        with pytest.raises(ValueError, match="2 dimensions.*dims=3"):
            getattr(AffineRegistration(dims=3), method)(pair)


@pytest.mark.parametrize("x", [None, Scan(cloud()), np.zeros((4, 4)), [1, 2], "pair"])
def test_what_is_no_pair_is_refused(x):
    with pytest.raises(TypeError, match=f"x must be a zoo.Pair.*not {type(x).__name__}"):
        AffineRegistration(dims=3).fit(x)


# Real data


def test_histology_error_is_halved(data):
    from zoo.data.benchmarks import histology_pair

    folder = data("birl_histology/lesions")
    names = [folder / f"Izd2-29-041-w35_{stain}" for stain in ("HE", "proSPC")]
    pair = histology_pair(*(n.with_suffix(suffix) for suffix in (".jpg", ".csv") for n in names))
    model, _, _ = register(pair, voxels=20_000, levels=2)
    measured = model.evaluate(pair)
    assert measured["median_rtre"] < 0.2 * measured["initial_median_rtre"]


def test_lung_keypoints_come_near_the_best_affine_map(data):
    from zoo.data.benchmarks import lung_keypoints

    pair = lung_keypoints(data("l2r_lungct_keypoints/keypoints/case_020.csv"))
    known = np.concatenate([pair.fixed_landmarks, np.ones((len(pair.fixed), 1))], axis=1)
    solution = np.linalg.lstsq(known, pair.moving_landmarks, rcond=None)[0]
    best = np.linalg.norm(known @ solution - pair.moving_landmarks, axis=1).mean()
    model, _, _ = register(pair)
    assert model.evaluate(pair)["tre_mm"] < 1.1 * best
