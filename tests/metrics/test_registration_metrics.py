"""Metrics of registration on cases with known answers."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from zoo.metrics import keras_metrics
from zoo.metrics.registration import (
    dice_scores,
    endpoint_error,
    fold_percentage,
    hausdorff95,
    relative_tre,
    sd_log_jacobian,
    summarise_relative_tre,
    target_registration_error,
)


def cube(shape, corner, size, label=1):
    labels = np.zeros(shape, int)
    labels[tuple(slice(start, start + size) for start in corner)] = label
    return labels


def test_target_registration_error_in_closed_form():
    fixed = np.zeros((4, 3))
    moved = np.array([[3, 4, 0], [0, 0, 1], [0, 2, 0], [0, 0, 0]])
    result = target_registration_error(fixed, moved)
    distances = np.array([5, 1, 2, 0])
    assert result["mean_mm"] == 2 and result["median_mm"] == 1.5 and result["max_mm"] == 5
    assert result["std_mm"] == pytest.approx(distances.std())
    assert result["p95_mm"] == pytest.approx(np.percentile(distances, 95))


def test_relative_error_and_robustness():
    fixed = np.random.default_rng(0).uniform(size=(6, 2)) * 300
    moved = fixed + (3, 4)
    result = relative_tre(fixed, moved, image_diagonal=np.hypot(300, 400))
    for name in ("mean", "median", "max"):
        assert result[name] == pytest.approx(0.01)
    assert "robustness" not in result
    initial = fixed + 10.0
    initial[:2] = fixed[:2]
    assert relative_tre(fixed, moved, 500, initial)["robustness"] == pytest.approx(4 / 6)
    worse = relative_tre(fixed, moved + 30, 500, initial)
    table = summarise_relative_tre([relative_tre(fixed, moved, 500, initial), worse])
    assert table["average_median"] == pytest.approx((0.01 + worse["median"]) / 2)
    assert table["robust_share"] == 0.5
    assert table["average_robustness"] == pytest.approx(2 / 6)


@pytest.mark.parametrize("rank", (2, 3))
def test_dice_and_hausdorff_of_shifted_cubes(rank):
    shape = (20,) * rank
    fixed = cube(shape, (4,) * rank, 10)
    moved = cube(shape, (5, *(4,) * (rank - 1)), 10)
    assert dice_scores(fixed, moved)["mean"] == pytest.approx(0.9)
    assert hausdorff95(fixed, moved, (1.0,) * rank)["labels"] == {1: 1.0}
    spacing = (2.5, *(1.0,) * (rank - 1))
    assert hausdorff95(fixed, moved, spacing)["mean"] == pytest.approx(2.5)
    assert hausdorff95(fixed, fixed, spacing)["mean"] == 0


def test_cubes_that_do_not_touch():
    fixed, moved = cube((30, 9), (0, 3), 3), cube((30, 9), (20, 3), 3)
    assert dice_scores(fixed, moved)["mean"] == 0
    # Three of eight border pixels are 20 away from the other square, the others less.
    assert hausdorff95(fixed, moved, (0.5, 0.5))["mean"] == pytest.approx(20 * 0.5)


def test_absent_labels_are_left_out():
    fixed, moved = cube((12, 12), (0, 0), 4, 3), cube((12, 12), (0, 2), 4, 3)
    moved[10:] = 8
    assert dice_scores(fixed, moved) == {"mean": 0.5, "labels": {3: 0.5}}
    assert set(hausdorff95(fixed, moved, (1, 1), labels=(3, 8, 99))["labels"]) == {3}
    assert np.isnan(dice_scores(fixed, np.zeros_like(fixed))["mean"])
    assert dice_scores(fixed, moved, labels=(0,))["labels"].keys() == {0}


def test_hausdorff_is_that_of_a_direct_search():
    from scipy.spatial.distance import cdist

    rng = np.random.default_rng(0)
    fixed, moved = (rng.uniform(size=(2, 14, 12)) > 0.7).astype(int)
    spacing = (0.7, 1.9)

    def border(mask):
        padded = np.pad(mask, 1)
        inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        return np.argwhere(mask & ~inner.astype(bool)) * spacing

    distances = cdist(border(fixed > 0), border(moved > 0))
    expected = max(np.percentile(distances.min(axis), 95) for axis in (0, 1))
    assert hausdorff95(fixed, moved, spacing)["mean"] == pytest.approx(expected)


def test_folds_and_the_two_definitions_of_sdlogj():
    determinant = np.array([[1.0, 2.0, -1.0, 0.0], [1.0, 1.0, 1.0, 0.5]])
    assert fold_percentage(determinant) == 25
    mask = np.array([[1, 1, 1, 0], [0, 0, 0, 1]])
    assert fold_percentage(determinant, mask) == 25
    mask[0, 2] = 0
    assert fold_percentage(determinant, mask) == 0
    assert sd_log_jacobian(determinant, mask, "positive") == pytest.approx(
        np.std([0, np.log(2), np.log(0.5)])
    )
    assert sd_log_jacobian(determinant) == pytest.approx(np.log(determinant + 3).std())
    assert np.isnan(sd_log_jacobian(-np.ones((2, 2)), definition="positive"))
    deep = np.array([1.0, -5.0])
    assert sd_log_jacobian(deep) == pytest.approx(np.std([np.log(4), np.log(1e-9)]))


@pytest.mark.parametrize("definition", ("clipped", "positive"))
def test_sdlogj_of_affine_fields_is_zero(definition):
    for value in (1.0, 0.2, 3.0):
        assert sd_log_jacobian(np.full((6, 6, 6), value), definition=definition) == pytest.approx(0)
    spoilt = np.ones((8, 8))
    spoilt[0] = 7
    assert sd_log_jacobian(spoilt, definition=definition, border=2) == 0


def test_endpoint_error_in_closed_form():
    u, v = np.zeros((2, 4, 5, 3)), np.zeros((2, 4, 5, 3))
    v[..., 0], v[..., 2] = 3, 4
    assert endpoint_error(u, v)["mean"] == endpoint_error(u, v)["max"] == 5
    assert endpoint_error(u, v, spacing=(2, 1, 2))["median"] == 10
    v[0] = 0
    mask = np.ones((2, 4, 5))
    mask[1] = 0
    assert endpoint_error(u, v, mask)["mean"] == 0


@pytest.mark.parametrize(
    "make, message",
    (
        (lambda: target_registration_error(np.zeros((2, 3)), np.zeros((3, 3))), "same shape"),
        (lambda: target_registration_error(np.zeros((0, 3)), np.zeros((0, 3))), "at least one"),
        (lambda: relative_tre(np.zeros((2, 2)), np.zeros((2, 2)), 0), "image_diagonal"),
        (lambda: summarise_relative_tre([]), "at least one pair"),
        (lambda: dice_scores(np.zeros((2, 2), int), np.zeros((2, 3), int)), "same shape"),
        (lambda: hausdorff95(np.ones((2, 2), int), np.ones((2, 2), int), (1,)), "spacing"),
        (lambda: fold_percentage(np.ones((2, 2)), np.ones(2)), "mask must have the shape"),
        (lambda: fold_percentage(np.ones((2, 2)), np.zeros((2, 2))), "none of its shape"),
        (lambda: sd_log_jacobian(np.ones((2, 2)), definition="log"), "definition must be one of"),
        (lambda: endpoint_error(np.ones((2, 2)), np.ones((2, 2)), spacing=(1,)), "spacing"),
    ),
)
def test_errors_name_the_argument(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_labels_must_be_integers():
    with pytest.raises(TypeError, match="fixed_labels must be integers"):
        dice_scores(np.ones((2, 2)), np.ones((2, 2), int))


# --- Keras ----------------------------------------------------------------------------------------


def result(metric, *updates):
    for update in updates:
        metric.update_state(*update)
    return float(metric.result())


@pytest.mark.parametrize("rank", (2, 3))
def test_keras_dice_is_the_mean_over_images_of_the_numpy_one(rank):
    shape = (8,) * rank
    first = np.stack([cube(shape, (0,) * rank, 4), cube(shape, (2,) * rank, 4, 2)])
    second = np.stack([cube(shape, (1,) * rank, 4), cube(shape, (2,) * rank, 4, 2)])
    maps = [np.eye(3, dtype="float32")[x] for x in (first, second)]
    expected = np.mean([dice_scores(a, b)["mean"] for a, b in zip(first, second, strict=True)])
    assert result(keras_metrics.Dice(), maps) == pytest.approx(expected)
    # Soft maps count by their largest channel, and images without a label do not count.
    empty = np.eye(3, dtype="float32")[np.zeros((1, *shape), int)]
    soft = [0.6 * x + 0.2 for x in maps]
    assert result(keras_metrics.Dice(), soft, (empty, empty)) == pytest.approx(expected)
    mask = (first == second).astype("float32")
    assert result(keras_metrics.Dice(), (*maps, mask)) == pytest.approx(1)


def test_keras_endpoint_and_landmark_errors():
    u, v = np.zeros((2, 4, 5, 2), "float32"), np.zeros((2, 4, 5, 2), "float32")
    v[1] = 3, 4
    assert result(keras_metrics.EndpointError(), (u, v)) == pytest.approx(2.5)
    assert result(keras_metrics.EndpointError(spacing=(2, 2)), (u, v)) == pytest.approx(5)
    mask = np.ones((2, 4, 5, 1))
    mask[1] = 0
    # The second image has no voxel left and does not count.
    assert result(keras_metrics.EndpointError(), (u, v, mask)) == 0
    fixed = np.zeros((1, 3, 3), "float32")
    moved = np.array([[[3, 4, 0], [0, 0, 1], [np.nan] * 3]], "float32")
    weights = np.array([[1, 1, 0]])
    metric = keras_metrics.TargetRegistrationError()
    assert result(metric, (fixed, moved, weights)) == pytest.approx(3)
    with pytest.raises(ValueError, match="sample_weight must be a mask"):
        metric.update_state(fixed, fixed, np.ones(1))


@pytest.mark.parametrize("rank", (2, 3))
def test_keras_fold_percentage_of_a_known_fold(rank):
    pytest.importorskip("zoo.ops.derivatives")
    grid = np.stack(np.meshgrid(*(np.arange(10.0),) * rank, indexing="ij"), -1)
    field = np.zeros((2, *grid.shape), "float32")
    field[1] = 0.1 * grid
    # The second half of the first image is reflected along its first axis.
    field[0, 5:, ..., 0] = -2 * (grid[5:, ..., 0] - 5)
    mask = np.zeros((2, *(10,) * rank))
    mask[:, 7:] = 1
    assert result(keras_metrics.FoldPercentage(), (None, field, mask)) == pytest.approx(50)
    mask[:] = 0
    mask[:, :4] = 1
    assert result(keras_metrics.FoldPercentage(), (None, field, mask)) == 0


def test_keras_metrics_serialise_and_work_in_compile():
    for metric in (
        keras_metrics.Dice(background=True),
        keras_metrics.EndpointError(spacing=(1.0, 2.0)),
        keras_metrics.TargetRegistrationError(),
        keras_metrics.FoldPercentage(),
    ):
        stored = json.loads(json.dumps(keras.metrics.serialize(metric)))
        again = keras.metrics.deserialize(stored)
        assert type(again) is type(metric) and again.name == metric.name
        assert json.dumps(again.get_config()) == json.dumps(metric.get_config())
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = keras.Sequential([keras.Input((6, 6, 2)), keras.layers.Conv2D(2, 1)])
        model.compile("sgd", "mse", metrics=[keras_metrics.EndpointError()])
    finally:
        keras.config.set_dtype_policy("float32")
    field = np.ones((3, 6, 6, 2), "float32")
    value = model.evaluate(field, field, verbose=0, return_dict=True)["endpoint_error"]
    pred = ops.convert_to_numpy(ops.cast(model(field), "float32"))
    assert value == pytest.approx(endpoint_error(pred, field)["mean"], rel=1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_no_field_without_folds(value):
    determinant = np.ones((4, 5))
    determinant[1, 2] = value
    for measure in (fold_percentage, sd_log_jacobian):
        with pytest.raises(ValueError, match="determinant must be finite; 1 of 20 values"):
            measure(determinant)
    mask = np.isfinite(determinant)
    assert fold_percentage(determinant, mask) == 0
    for bad in (determinant > 0, determinant + 0j):
        with pytest.raises(ValueError, match="determinant must hold real numbers"):
            fold_percentage(bad)
    with pytest.raises(ValueError, match="moved must hold real numbers, not complex128"):
        target_registration_error(np.ones((2, 3)), np.ones((2, 3)) + 1j)


def test_keras_folds_of_nan_are_nan():
    folds = keras_metrics.FoldPercentage()
    folds.update_state(None, np.full((1, 4, 5, 2), np.nan, np.float32))
    assert np.isnan(float(folds.result()))
