"""Losses of images, labels, landmarks and fields: closed forms, masks, gradients, both ranks."""

import functools
import json
from itertools import product

import keras
import numpy as np
import pytest
from keras import ops
from scipy.ndimage import gaussian_filter

from zoo import losses
from zoo.losses import windows

SHAPES = {2: (13, 10), 3: (9, 8, 7)}


def image(shape, seed=0, channels=1, sigma=1.0, batch=1):
    """Smooth noise in [0, 1], `[batch, *shape, channels]`."""
    noise = np.random.default_rng(seed).normal(size=(batch, *shape, channels))
    noise = gaussian_filter(noise, (0, *(sigma,) * len(shape), 0))
    return ((noise - noise.min()) / np.ptp(noise)).astype("float32")


def box(shape, margin=2, batch=1):
    mask = np.zeros((batch, *shape), "float32")
    mask[(slice(None), *(slice(margin, -margin),) * len(shape))] = 1
    return mask


@functools.cache
def differentiated(loss, compiled):
    """`loss(y_true, y_pred, mask)` and its gradient by `y_pred`, on the backend of this run."""
    if keras.backend.backend() == "jax":
        import jax

        both = jax.value_and_grad(loss, argnums=1)
        return jax.jit(both) if compiled else both
    import tensorflow as tf

    def both(y_true, y_pred, mask):
        with tf.GradientTape() as tape:
            tape.watch(y_pred)
            value = loss(y_true, y_pred, mask)
        return value, tape.gradient(value, y_pred)

    return tf.function(both) if compiled else both


def value_and_gradient(loss, y_true, y_pred, mask=None, compiled=None):
    """Value and gradient as numpy; compiled unless asked otherwise on JAX, where eager is slow."""
    compiled = keras.backend.backend() == "jax" if compiled is None else compiled
    mask = None if mask is None else ops.cast(mask, "float32")
    tensors = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred), mask
    value, gradient = differentiated(loss, compiled)(*tensors)
    return float(value), ops.convert_to_numpy(gradient)


def call(loss, *arguments, **keywords):
    return float(loss(*arguments, **keywords))


IMAGE_LOSSES = {
    "mse": lambda: losses.MeanSquaredError(),
    "ncc": lambda: losses.NCC(),
    "ncc_squared": lambda: losses.NCC(squared=True),
    "lncc": lambda: losses.LNCC(window=3, epsilon=1e-2),
    "lncc_signed": lambda: losses.LNCC(window=5, epsilon=1e-2, squared=False),
    "mi": lambda: losses.MutualInformation(bins=12, value_range=(-0.2, 1.2)),
    "mi_gaussian": lambda: losses.MutualInformation(
        bins=10, window="gaussian", sigma=1.0, value_range=(-0.2, 1.2)
    ),
    "mind": lambda: losses.MIND(radius=1, dilation=1),
}
FIELD_LOSSES = {
    "diffusion": lambda: losses.Diffusion(),
    "bending": lambda: losses.Bending(),
    "total_variation": lambda: losses.TotalVariation(epsilon=0.1),
    "total_variation_separate": lambda: losses.TotalVariation(isotropic=False, epsilon=0.1),
}


def inputs(name, rank, seed=0, batch=1):
    """Two inputs of a loss, and the loss."""
    shape = SHAPES[rank]
    if name in IMAGE_LOSSES:
        pair = [image(shape, seed + k, batch=batch) for k in (0, 1)]
        return *pair, IMAGE_LOSSES[name]()
    if name in FIELD_LOSSES:
        field = 3 * image(shape, seed, rank, batch=batch)
        return np.zeros_like(field), field, FIELD_LOSSES[name]()
    if name == "endpoint_error":
        return *(image(shape, seed + k, rank, batch=batch) for k in (0, 1)), losses.EndpointError()
    return *(image(shape, seed + k, 3, batch=batch) for k in (0, 1)), losses.Dice()


EVERY = [*IMAGE_LOSSES, *FIELD_LOSSES, "endpoint_error", "dice"]
both_ranks = pytest.mark.parametrize("rank", (2, 3))


@both_ranks
@pytest.mark.parametrize("name", EVERY)
def test_gradient_is_that_of_finite_differences(name, rank):
    fixed, moved, loss = inputs(name, rank)
    value, gradient = value_and_gradient(loss, fixed, moved)
    assert np.isfinite(value)
    direction = image(SHAPES[rank], 7, moved.shape[-1]) - 0.5
    # The minimum over the pairs has kinks, which a shorter step meets less often.
    step = 3e-4 if name == "mind" else 2e-3
    slope = (
        call(loss, fixed, moved + step * direction) - call(loss, fixed, moved - step * direction)
    ) / (2 * step)
    assert (gradient * direction).sum() == pytest.approx(slope, rel=2e-2, abs=2e-4)


@both_ranks
@pytest.mark.parametrize("name", EVERY)
def test_masked_out_voxels_have_no_influence(name, rank):
    fixed, moved, loss = inputs(name, rank)
    mask = box(SHAPES[rank])
    value, gradient = value_and_gradient(loss, fixed, moved, mask)
    outside = mask[..., None] == 0
    assert np.all(gradient[np.broadcast_to(outside, gradient.shape)] == 0)
    assert np.abs(gradient).max() > 0
    for filling in (1e3 * image(SHAPES[rank], 5, moved.shape[-1]), np.nan, np.inf):
        spoilt = np.where(outside, filling, moved).astype("float32")
        reference = np.where(outside, -filling, fixed).astype("float32")
        again, repeated = value_and_gradient(loss, reference, spoilt, mask)
        assert call(loss, reference, spoilt, mask[..., None] > 0) == pytest.approx(
            again, rel=1e-5, abs=1e-6
        )
        assert again == pytest.approx(value, rel=1e-5, abs=1e-6)
        np.testing.assert_allclose(repeated, gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", EVERY)
def test_mask_of_ones_empty_mask_and_weights_of_items(name):
    fixed, moved, loss = inputs(name, 2, batch=2)
    value = call(loss, fixed, moved)
    assert call(loss, fixed, moved, np.ones(moved.shape[:-1])) == pytest.approx(value, rel=1e-4)
    empty = call(loss, fixed, moved, np.zeros(moved.shape[:-1]))
    assert np.isfinite(empty)
    first = call(loss, fixed[:1], moved[:1])
    assert call(loss, fixed, moved, np.array([2.0, 0.0])) == pytest.approx(first, rel=1e-4)
    loss.reduction = None
    assert tuple(loss(fixed, moved).shape) == (2,)


@both_ranks
@pytest.mark.parametrize("name", EVERY)
def test_constant_inputs_give_finite_values_and_gradients(name, rank):
    fixed, moved, loss = inputs(name, rank)
    for first, second in (
        (fixed, np.full_like(moved, 0.3)),
        (np.full_like(fixed, 0.3), moved),
        (np.full_like(fixed, 0.3), np.full_like(moved, 0.3)),
        (np.zeros_like(fixed), np.zeros_like(moved)),
    ):
        value, gradient = value_and_gradient(loss, first, second)
        assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize("name", EVERY)
def test_compiled_equals_eager_and_half_precision_input_is_computed_in_float32(name):
    fixed, moved, loss = inputs(name, 3)
    mask = box(SHAPES[3])
    value, gradient = value_and_gradient(loss, fixed, moved, mask, compiled=False)
    again, repeated = value_and_gradient(loss, fixed, moved, mask, compiled=True)
    assert again == pytest.approx(value, rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(repeated, gradient, rtol=1e-3, atol=1e-6)
    keras.config.set_dtype_policy("mixed_float16")
    try:
        _, _, under_policy = inputs(name, 3)
        result = under_policy(ops.cast(fixed, "float16"), ops.cast(moved, "float16"))
    finally:
        keras.config.set_dtype_policy("float32")
    assert keras.backend.standardize_dtype(result.dtype) == "float32"
    expected = call(loss, fixed, moved)
    assert float(result) == pytest.approx(expected, rel=2e-2, abs=2e-3)


def test_spatial_shape_may_be_unknown_when_traced():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("only TensorFlow traces unknown shapes")
    import tensorflow as tf

    for name in EVERY:
        fixed, moved, loss = inputs(name, 2)
        shape = [None, None, None, moved.shape[-1]]
        spec = [tf.TensorSpec(shape), tf.TensorSpec(shape), tf.TensorSpec([None, None, None])]
        traced = tf.function(loss, input_signature=spec)
        mask = box(SHAPES[2])
        expected = call(loss, fixed, moved, mask)
        assert float(traced(fixed, moved, mask)) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", [*EVERY, "landmark_error"])
def test_serialisation_round_trip(name):
    loss = losses.LandmarkError(squared=True) if name == "landmark_error" else inputs(name, 2)[2]
    stored = json.loads(json.dumps(keras.losses.serialize(loss)))
    again = keras.losses.deserialize(stored)
    assert type(again) is type(loss)
    config = json.loads(json.dumps(loss.get_config()))
    assert json.loads(json.dumps(again.get_config())) == config
    assert type(loss)(**config).get_config() == again.get_config()


def test_penalty_trains_through_compile():
    model = keras.Sequential([keras.Input((6, 6, 2)), keras.layers.Conv2D(2, 1)])
    model.compile("sgd", loss=losses.Diffusion())
    field = image((6, 6), 0, 2)
    before = model.evaluate(field, np.zeros_like(field), verbose=0)
    model.fit(field, np.zeros_like(field), sample_weight=np.ones((1, 6, 6)), epochs=5, verbose=0)
    assert model.evaluate(field, np.zeros_like(field), verbose=0) < before


# --- similarity ---------------------------------------------------------------------------------


@both_ranks
@pytest.mark.parametrize("name", IMAGE_LOSSES)
def test_equal_images_are_the_optimum(name, rank):
    fixed, moved, loss = inputs(name, rank)
    equal = call(loss, fixed, fixed)
    assert equal < call(loss, fixed, moved)
    if name not in ("lncc", "lncc_signed", "mi", "mi_gaussian"):
        assert equal == pytest.approx(0, abs=1e-6)
    if name.startswith("lncc"):
        assert 0 < equal < 0.2


@both_ranks
def test_mean_squared_error_is_the_formula(rank):
    first, second = (image(SHAPES[rank], k, channels=2) for k in (0, 1))
    loss = losses.MeanSquaredError()
    assert call(loss, first, second) == pytest.approx(np.square(first - second).mean(), rel=1e-5)
    weights = np.random.default_rng(0).uniform(size=first.shape[:-1])
    expected = (np.square(first - second).mean(-1) * weights).sum() / weights.sum()
    assert call(loss, first, second, weights) == pytest.approx(expected, rel=1e-5)


@both_ranks
@pytest.mark.parametrize("gain, offset", ((3.0, 0.0), (0.01, 5.0), (200.0, -1000.0)))
def test_correlations_ignore_gain_and_offset(rank, gain, offset):
    fixed, moved = (image(SHAPES[rank], k) for k in (0, 1))
    for name in ("ncc", "ncc_squared", "lncc", "lncc_signed", "mind"):
        loss = IMAGE_LOSSES[name]()
        expected = call(loss, fixed, moved)
        assert call(loss, fixed, gain * moved + offset) == pytest.approx(expected, rel=5e-3), name
        assert call(loss, gain * fixed + offset, moved) == pytest.approx(expected, rel=5e-3), name


def test_inverted_contrast_has_its_sign():
    fixed = image((12, 12))
    assert call(losses.NCC(), fixed, 1 - fixed) == pytest.approx(2, abs=1e-5)
    assert call(losses.NCC(squared=True), fixed, 1 - fixed) == pytest.approx(0, abs=1e-5)
    assert call(losses.LNCC(window=5, squared=False), fixed, 1 - fixed) > 1.9
    assert call(losses.LNCC(window=5), fixed, 1 - fixed) < 0.05
    assert call(losses.MIND(1, 1), fixed, 1 - fixed) == pytest.approx(0, abs=1e-5)


@both_ranks
@pytest.mark.parametrize("masked", (False, True))
def test_ncc_is_that_of_simpleitk(rank, masked):
    sitk = pytest.importorskip("SimpleITK")
    fixed, moved = (image(SHAPES[rank], k) for k in (0, 1))
    mask = box(SHAPES[rank])
    method = sitk.ImageRegistrationMethod()
    method.SetInitialTransform(sitk.Transform(rank, sitk.sitkIdentity))
    method.SetMetricAsCorrelation()
    if masked:
        method.SetMetricFixedMask(sitk.GetImageFromArray(mask[0].astype("uint8")))
    method.SetInterpolator(sitk.sitkLinear)
    value = method.MetricEvaluate(*(sitk.GetImageFromArray(x[0, ..., 0]) for x in (fixed, moved)))
    # ITK's metric is minus the squared coefficient.
    ours = call(losses.NCC(squared=True), fixed, moved, mask if masked else None)
    assert ours == pytest.approx(1 + value, rel=1e-3)


def direct_lncc(first, second, mask, size, epsilon):
    """LNCC of single-channel arrays by a loop over the voxels."""

    def moments(a, b, inside):
        a, b = a[inside], b[inside]
        return (a * b).mean() - a.mean() * b.mean()

    variances = [moments(x, x, mask) for x in (first, second)]
    reach, values = size // 2, []
    for index in np.argwhere(mask):
        span = tuple(slice(max(i - reach, 0), i + reach + 1) for i in index)
        a, b, inside = first[span], second[span], mask[span]
        cross = moments(a, b, inside) ** 2
        values.append(
            cross
            / (moments(a, a, inside) + epsilon * variances[0])
            / (moments(b, b, inside) + epsilon * variances[1])
        )
    return 1 - np.mean(values)


@both_ranks
@pytest.mark.parametrize("masked", (False, True))
def test_lncc_is_that_of_a_direct_loop(rank, masked):
    fixed, moved = (image(SHAPES[rank], k) for k in (0, 1))
    mask = box(SHAPES[rank]) if masked else np.ones((1, *SHAPES[rank]))
    arrays = (fixed[0, ..., 0].astype(float), moved[0, ..., 0].astype(float))
    for size, epsilon in ((3, 1e-2), (5, 1e-4)):
        expected = direct_lncc(*arrays, mask[0] > 0, size, epsilon)
        loss = losses.LNCC(window=size, epsilon=epsilon)
        assert call(loss, fixed, moved, mask if masked else None) == pytest.approx(
            expected, abs=1e-4
        )


def test_lncc_channels_are_averaged_and_windows_may_differ_between_axes():
    fixed, moved = (image((9, 11), k, channels=2) for k in (0, 1))
    loss = losses.LNCC(window=(3, 5))
    single = [call(loss, fixed[..., c : c + 1], moved[..., c : c + 1]) for c in (0, 1)]
    assert call(loss, fixed, moved) == pytest.approx(np.mean(single), rel=1e-4)
    with pytest.raises(ValueError, match="window must hold one size or 3"):
        loss(image((5, 5, 5)), image((5, 5, 5)))


@pytest.mark.parametrize("sizes", ((3, 5), (1, 9), (7, 1), (17, 15)))
def test_every_way_to_sum_a_box_agrees(sizes, monkeypatch):
    values = image((12, 14))[..., 0]
    expected = np.zeros_like(values)
    for i, j in product(range(12), range(14)):
        rows, columns = (
            slice(max(k - size // 2, 0), k + size // 2 + 1)
            for k, size in zip((i, j), sizes, strict=True)
        )
        expected[0, i, j] = values[0, rows, columns].sum()
    for on_cpu, longest in ((True, 256), (True, 4), (False, 256)):
        monkeypatch.setattr(windows, "tensorflow_on_cpu", lambda on_cpu=on_cpu: on_cpu)
        monkeypatch.setattr(windows, "LONGEST_MATRIX_AXIS", longest)
        result = windows.box_sum(ops.convert_to_tensor(values), sizes)
        np.testing.assert_allclose(ops.convert_to_numpy(result), expected, rtol=1e-4, atol=1e-4)


# --- mutual information --------------------------------------------------------------------------


def direct_information(first, second, bins, limits, sigma=None, weights=None):
    """Mutual information by an explicit sum over voxels, in float64."""

    def parzen(values):
        position = 2 + (values - limits[0]) / (limits[1] - limits[0]) * (bins - 5)
        t = np.abs(position[:, None] - np.arange(bins))
        if sigma is not None:
            return np.exp(-(t**2) / (2 * sigma**2))
        inner = 2 / 3 - t**2 + t**3 / 2
        return np.where(t < 1, inner, np.where(t < 2, (2 - t) ** 3 / 6, 0))

    weights = np.ones(first.size) if weights is None else weights
    joint = np.zeros((bins, bins))
    for a, b, w in zip(parzen(first), parzen(second), weights, strict=True):
        joint += w * np.outer(a, b)
    joint /= joint.sum()
    product = np.outer(joint.sum(1), joint.sum(0))
    filled = joint > 0
    return (joint[filled] * np.log(joint[filled] / product[filled])).sum()


@both_ranks
@pytest.mark.parametrize("sigma", (None, 1.0))
@pytest.mark.parametrize("masked", (False, True))
def test_mutual_information_is_the_direct_sum(rank, sigma, masked, monkeypatch):
    # A small block makes the loop run several times with an incomplete last block.
    monkeypatch.setattr("zoo.losses.mutual_information.CHUNK", 50)
    fixed, moved = (image(SHAPES[rank], k) for k in (0, 1))
    mask = box(SHAPES[rank]) * image(SHAPES[rank], 3)[..., 0] if masked else None
    loss = losses.MutualInformation(
        bins=12,
        window="bspline" if sigma is None else "gaussian",
        sigma=sigma or 0.6,
        value_range=(-0.1, 1.1),
    )
    arrays = (x.ravel().astype(float) for x in (fixed, moved))
    weights = None if mask is None else mask.ravel()
    expected = direct_information(*arrays, 12, (-0.1, 1.1), sigma, weights)
    assert call(loss, fixed, moved, mask) == pytest.approx(-expected, rel=1e-4, abs=1e-6)
    _, gradient = value_and_gradient(loss, fixed, moved, mask)
    monkeypatch.setattr("zoo.losses.mutual_information.CHUNK", 8192)
    # A new object, because what was compiled for the first one has its block size.
    loss = losses.MutualInformation.from_config(loss.get_config())
    _, whole = value_and_gradient(loss, fixed, moved, mask)
    np.testing.assert_allclose(gradient, whole, rtol=1e-3, atol=1e-7)


def test_mutual_information_falls_with_the_shift_as_simpleitks_do():
    sitk = pytest.importorskip("SimpleITK")
    big = image((60, 60), sigma=3.0)[0, ..., 0]
    fixed = big[10:50, 10:50]
    curves = {"ours": [], "mattes": [], "joint": []}
    for shift in range(6):
        moved = np.cos(3 * big[10 + shift : 50 + shift, 10:50])
        pair = [x.astype("float32") for x in (fixed, moved)]
        curves["ours"].append(
            call(losses.MutualInformation(bins=24), *(x[None, ..., None] for x in pair))
        )
        for name in ("mattes", "joint"):
            method = sitk.ImageRegistrationMethod()
            method.SetInitialTransform(sitk.Transform(2, sitk.sitkIdentity))
            if name == "mattes":
                method.SetMetricAsMattesMutualInformation(24)
            else:
                method.SetMetricAsJointHistogramMutualInformation(24)
            curves[name].append(method.MetricEvaluate(*map(sitk.GetImageFromArray, pair)))
    for name, curve in curves.items():
        assert np.all(np.diff(curve) > 0), name
    # Mattes uses the same B-spline in one image and a box in the other.
    np.testing.assert_allclose(curves["ours"], curves["mattes"], rtol=0.35)


def test_mutual_information_of_a_sample_is_close_and_repeatable():
    fixed = image((64, 64), sigma=3.0)
    moved = np.roll(fixed, 2, axis=1)
    sampled = losses.MutualInformation(samples=2000, seed=1)
    value = call(sampled, fixed, moved)
    assert value == call(sampled, fixed, moved)
    assert value == pytest.approx(call(losses.MutualInformation(), fixed, moved), rel=0.15)
    assert call(losses.MutualInformation(), fixed, np.full_like(fixed, 2.0)) == pytest.approx(
        0, abs=1e-5
    )


# --- labels, landmarks, fields --------------------------------------------------------------------


def test_dice_of_known_overlaps():
    first, second = np.zeros((2, 1, 8, 8), int)
    first[0, :4, :4], second[0, 2:6, :4] = 1, 1
    first[0, 6:, 6:], second[0, 6:, 6:] = 7, 7
    maps = [losses.one_hot(x[..., None], (0, 1, 7, 9)) for x in (first, second)]
    # Halves overlap for label 1, all of label 7, and nobody has label 9.
    assert call(losses.Dice(), *maps) == pytest.approx(1 - (0.5 + 1.0) / 2, abs=1e-6)
    assert call(losses.Dice(), maps[0], maps[0]) == pytest.approx(0, abs=1e-6)
    mask = np.zeros((1, 8, 8))
    mask[0, 2:4] = 1
    assert call(losses.Dice(), *maps, mask) == pytest.approx(0, abs=1e-6)
    absent = np.zeros((1, 8, 8, 2), "float32")
    assert call(losses.Dice(), absent, absent) == 0
    assert call(losses.Dice(background=True), absent[..., :1] + 1, absent[..., :1]) == 1


def test_one_hot_counts_from_zero_and_refuses_floats():
    maps = ops.convert_to_numpy(losses.one_hot(np.array([[0, 2], [1, 5]]), 3))
    assert maps.dtype == "float32" and maps.shape == (2, 2, 3)
    assert maps[1, 1].sum() == 0 and maps[0, 1].tolist() == [0, 0, 1]
    with pytest.raises(TypeError, match="labels must be integers"):
        losses.one_hot(np.zeros((2, 2)), 3)
    with pytest.raises(ValueError, match="distinct labels"):
        losses.one_hot(np.zeros((2, 2), int), (1, 1))


@both_ranks
def test_landmark_error_in_closed_form(rank):
    fixed = np.random.default_rng(0).normal(size=(2, 5, rank)).astype("float32")
    offset = np.zeros(rank, "float32")
    offset[:2] = 3, 4
    assert call(losses.LandmarkError(), fixed, fixed + offset) == pytest.approx(5, rel=1e-5)
    squared = losses.LandmarkError(squared=True)
    assert call(squared, fixed, fixed + offset) == pytest.approx(25, rel=1e-5)
    value, gradient = value_and_gradient(losses.LandmarkError(), fixed, fixed)
    assert value == 0 and np.all(gradient == 0)
    padded = fixed + offset
    padded[:, 3:] = np.nan
    weights = np.array([[1, 1, 1, 0, 0]] * 2)
    loss = losses.LandmarkError()
    value, gradient = value_and_gradient(loss, fixed, padded, weights)
    assert value == pytest.approx(5, rel=1e-5) and np.isfinite(gradient).all()


def positions(shape):
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)[None].astype("float32")


@both_ranks
def test_penalties_in_closed_form(rank):
    x = positions(SHAPES[rank])
    matrix = np.random.default_rng(0).normal(size=(rank, rank)).astype("float32")
    affine = x @ matrix + 3.0
    square = np.square(matrix).sum()
    for mask in (None, box(SHAPES[rank])):
        assert call(losses.Diffusion(), affine, sample_weight=mask) == pytest.approx(
            square, rel=1e-4
        )
        assert call(losses.Bending(), affine, sample_weight=mask) == pytest.approx(0, abs=1e-6)
    constant = np.full_like(x, 2.5)
    for name in FIELD_LOSSES:
        assert call(FIELD_LOSSES[name](), None, constant) == pytest.approx(0, abs=1e-6)
    # u_0 = x_0^2 / 2 + 3 x_0 x_1 has u_00 = 1 and u_01 = 3.
    curved = np.zeros_like(x)
    curved[..., 0] = x[..., 0] ** 2 / 2 + 3 * x[..., 0] * x[..., 1]
    assert call(losses.Bending(), curved) == pytest.approx(1 + 2 * 9, rel=1e-4)
    # A step of 2 voxels along the first axis.
    step = np.zeros_like(x)
    step[:, 4:, ..., 0] = 2
    share = 1 / SHAPES[rank][0]
    assert call(losses.TotalVariation(epsilon=0), step) == pytest.approx(2 * share, rel=1e-5)
    separate = losses.TotalVariation(isotropic=False, epsilon=0)
    assert call(separate, step) == pytest.approx(2 * share, rel=1e-5)
    _, gradient = value_and_gradient(losses.TotalVariation(epsilon=0), constant, constant)
    assert np.all(gradient == 0)


@both_ranks
def test_spacing_gives_penalties_of_the_same_field_in_other_units(rank):
    x = positions(SHAPES[rank])
    spacing = (0.5, 2.0, 1.5)[:rank]
    matrix = np.random.default_rng(1).normal(size=(rank, rank)).astype("float32")
    world = (x * spacing) @ matrix
    field = world / spacing
    assert call(losses.Diffusion(spacing), field) == pytest.approx(
        np.square(matrix).sum(), rel=1e-4
    )
    bowl = np.zeros_like(x)
    bowl[..., 1] = np.square(x[..., 0] * spacing[0]) / spacing[1]
    assert call(losses.Bending(spacing), bowl) == pytest.approx(4, rel=1e-4)
    assert call(losses.EndpointError(spacing), 0 * x, 0 * x + 1) == pytest.approx(
        np.linalg.norm(spacing), rel=1e-5
    )
    with pytest.raises(ValueError, match="spacing must hold"):
        losses.Diffusion((1.0,) * (5 - rank))(field)


def test_thin_axes_are_left_out():
    field = image((6, 1, 5), 0, 3)
    for name in FIELD_LOSSES:
        value, gradient = value_and_gradient(FIELD_LOSSES[name](), field, field)
        assert np.isfinite(value) and np.isfinite(gradient).all()
    single = image((1, 1), 0, 2)
    assert call(losses.Diffusion(), single) == call(losses.Bending(), single) == 0


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, message",
    (
        (lambda: losses.LNCC(window=4), "window must be odd and at least 3, not 4"),
        (lambda: losses.LNCC(epsilon=0), "epsilon must be positive"),
        (lambda: losses.MutualInformation(bins=5), "bins must be at least 6"),
        (lambda: losses.MutualInformation(window="box"), "window must be one of"),
        (lambda: losses.MutualInformation(sigma=0.1), "sigma must be at least 0.5"),
        (lambda: losses.MutualInformation(samples=0), "samples must be at least 1 or None, not 0"),
        (lambda: losses.MutualInformation(value_range=(1, 1)), "value_range must be"),
        (lambda: losses.MIND(dilation=0), "dilation must be at least 1"),
        (lambda: losses.MIND()(image((2, 9)), image((2, 9))), "longer than dilation=2"),
        (lambda: losses.Diffusion((1.0, -1.0)), "spacing must hold"),
        (lambda: losses.TotalVariation(epsilon=-1), "epsilon must not be negative"),
        (lambda: losses.NCC()(image((4, 4)), image((4, 5))), "must have the same shape"),
        (lambda: losses.NCC()(image((4, 4)), image((4, 4, 4))), "must have the same shape"),
        (lambda: losses.NCC()(np.zeros((4, 4)), np.zeros((4, 4))), "2 or 3 spatial axes"),
        (lambda: losses.NCC()(image((4, 4)), image((4, 4)), np.ones((1, 4, 3))), "sample_weight"),
        (lambda: losses.Diffusion()(image((4, 4), channels=3)), "one component for each"),
        (lambda: losses.Dice()(image((4, 4)), image((4, 4))), "besides the background"),
        (lambda: losses.LandmarkError()(np.zeros((1, 4, 4)), np.zeros((1, 4, 4))), "2 or 3"),
    ),
)
def test_errors_name_the_argument(make, message):
    with pytest.raises(ValueError, match=message):
        make()
