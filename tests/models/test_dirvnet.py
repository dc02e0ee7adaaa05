"""DIRV-Net as it is before training: its descent, symmetries, options and refusals.

Where the acceptance checks of the method are kept:

    1        test_dirvnet::test_equal_images_stay_as_they_are
    2-4      test_sampling::test_integer_translations_are_exact_and_pull_back, test_far_outside,
             test_bright_line_moves_against_the_displacement
    5-8      test_spatial_layers::test_linear_bsplines_interpolate_and_their_adjoint_sums_a_cell,
             test_bsplines
    9, 10    test_fields_of_experts::test_output_is_the_gradient_of_the_energy, test_adjoint
    11, 12   test_dirvnet::test_force_is_the_gradient_of_the_squared_difference,
             test_force_points_along_the_shift
    13-15    test_fields_of_experts::test_piecewise_linear_is_the_interpolation_of_numpy,
             test_radial_basis_inside_of_its_limits, test_potential_is_the_integral
    16, 17   test_dirvnet::test_numbers_of_parameters, test_random_start
    18       test_dirvnet_training::test_constraints_hold_after_training
    19, 20   test_spatial_layers::test_constants_stay_and_sizes_are_free,
             test_linear_displacements_are_the_same_on_every_level
    21       does not apply: images of any size are taken, see 22
    22       test_dirvnet::test_any_size
    23-28    test_dirvnet::test_plain_descent_never_rises, test_translations_are_recovered,
             test_affine_fields, test_untrained_network_registers,
             test_momentum_helps_plain_descent, test_swapped_components_do_harm
    29       a long training, which the preset's figures report; 54 needs data
    30, 31   test_dirvnet_training::test_learns_from_known_displacements,
             test_learns_from_images_alone
    32       test_dirvnet::test_every_level_improves
    33-35    test_dirvnet_training::test_unit_weights, test_temperature_rises_and_resumes,
             test_levels_measure_in_voxels_of_the_image,
             test_displacement_term_is_the_endpoint_error
    36, 37   test_dirvnet::test_transposed_images, test_flipped_images,
             test_constants_change_nothing, test_images_of_a_batch_are_independent
    38       test_dirvnet_training::test_same_seed_same_training
    39-43    test_chessboard
    44, 45   test_dirvnet::test_further_passes, test_sampling::test_composition_is_that_of_the_maps
    46-49    test_registration_metrics, test_derivatives
    50       test_dirvnet::test_keras_file_restores_every_option, test_contract
    51       test_dirvnet::test_shifts_in_space, test_dirvnet_training::test_learns_in_space
    52       informative only: nothing here asserts a speed
    53       test_dirvnet::test_more_units_than_trained
"""

import inspect

import keras
import numpy as np
import pytest
from keras import ops
from scipy import ndimage

import zoo.layers.variational_unit as variational_unit
from zoo.data.chessboard import ChessboardPairs
from zoo.data.pair import Pair
from zoo.layers.bspline import bspline_expand, control_shape
from zoo.models.dirvnet import DIRVNet
from zoo.ops.gradients import value_and_gradient
from zoo.ops.sampling import warp
from zoo.transform import Dense, Velocity

# Only the first filters act before training, so with these few the result is that of the defaults.
SMALL = {"filters": 3, "data_kernel": 1, "smoothness_kernel": 3}
ONE = {"levels": 1, "units": 1, **SMALL}
# A descent on squared differences of 0..1 as textbooks have it, on which truths are known; what is
# done by default beyond that is tested in test_dirvnet_robust.
CLASSIC = {
    "levels": 3,
    "units": 7,
    "data_kernel": 7,
    "momentum": 0.5,
    "smoothness": 0.02,
    "intensities": "pair",
}
PLAIN = {"momentum": None, "damping": None}
# Kernels are compiled for every shape of a batch, so tests share a few.
ODD, VOLUME = (33, 25), (20, 18, 22)


def classic(**options):
    return DIRVNet(**CLASSIC | options)


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def field(model, images):
    return numpy(model(images)["displacement"])


def lengths(displacement):
    """Mean length of each displacement of a batch, in voxels."""
    return np.linalg.norm(displacement, axis=-1).mean(tuple(range(1, displacement.ndim - 1)))


def interior(array, width):
    return array[(slice(None), *(slice(width, -width),) * (array.ndim - 2))]


def textures(shape, sigma, count=1, seed=0):
    noise = np.random.default_rng(seed).normal(size=(count, *shape))
    smooth = ndimage.gaussian_filter(noise, (0, *(sigma,) * len(shape)))
    return (smooth / smooth.std())[..., None].astype("float32")


def shifted(moving, shifts):
    """Images `moving(x + shift)`, to be registered; interpolated linearly, as the network does."""
    shifts = np.asarray(shifts, "float32")
    rank = shifts.shape[-1]
    constant = np.broadcast_to(
        shifts.reshape(-1, *(1,) * rank, rank), (*moving.shape[:-1], rank)
    ).copy()
    return {"fixed": numpy(warp(moving, constant)), "moving": moving}, constant


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return classic(**SMALL)


@pytest.fixture(scope="module")
def boards():
    return ChessboardPairs((64, 64), batch_size=6, steps=1, seed=5)[0]


@pytest.fixture(scope="module")
def trace(network, boards):
    return network.trace(boards[0])


# ---- the unit


def data_step(rank):
    """A function of (control, moved, fixed): the gradient that one unit of the network follows."""
    (units,) = classic(dims=rank, smoothness=0.0, step=1e-4, **PLAIN, **ONE).units

    def force(control, moved, fixed):
        # Short steps are not cut at half the spacing.
        return numpy(control - units[0](control, control, moved, fixed)) / 1e-4

    return force


def cosine(first, second):
    first, second = (interior(array, 2).ravel() for array in (first, second))
    return first @ second / np.linalg.norm(first) / np.linalg.norm(second)


@pytest.mark.parametrize("shape", [(56, 48), VOLUME])
def test_force_is_the_gradient_of_the_squared_difference(shape):
    moving, other = textures(shape, 3, 2)[:, None]
    fixed = moving + 0.3 * other
    points = control_shape(shape, 4, order=1)
    control = (
        np.random.default_rng(1).uniform(-0.5, 0.5, (1, *points, len(shape))).astype("float32")
    )

    def energy(control):
        moved = warp(moving, bspline_expand(control, shape, 4, order=1))
        return 0.5 * ops.sum(ops.square(moved - fixed))

    expected = numpy(value_and_gradient(energy, ops.convert_to_tensor(control))[1])
    moved = warp(moving, bspline_expand(control, shape, 4, order=1))
    force = data_step(len(shape))(control, moved, fixed)
    assert cosine(force, expected) >= 0.99
    assert np.linalg.norm(force) == pytest.approx(np.linalg.norm(expected), rel=0.1)
    assert cosine(np.roll(force, 1, -1), expected) < 0.7


@pytest.mark.parametrize("rank", [2, 3])
def test_force_points_along_the_shift(rank):
    shape, force = ((96, 96), (24, 26, 28))[rank - 2], data_step(rank)
    moving = textures(shape, 3 if rank == 2 else 2, 4)
    points = (4, *control_shape(shape, 4, order=1), rank)
    for axis in range(rank):
        images, _ = shifted(moving, np.eye(rank)[[axis] * 4])
        total = interior(force(np.zeros(points, "float32"), moving, images["fixed"]), 2)
        total = total.sum(tuple(range(1, rank + 1)))
        # Steps go against the force.
        assert (total[:, axis] < 0).all()
        across = np.abs(np.delete(total, axis, 1)).max(1)
        assert (np.abs(total[:, axis]) > 4 * across).all(), (axis, total)


def test_flat_images_make_no_force():
    flat = np.full((1, 20, 20, 1), 0.5, "float32")
    unit = classic(**ONE).units[0][0]
    control = np.zeros((1, 6, 6, 2), "float32")
    np.testing.assert_array_equal(numpy(unit(control, control, flat, flat + 1)), 0)


# ---- untrained, the network is a descent


@pytest.mark.parametrize(
    ("shape", "options"),
    [(ODD, {}), (ODD, {"passes": 2}), (VOLUME, {"velocity": True})],
)
def test_equal_images_stay_as_they_are(shape, options):
    image = np.random.default_rng(0).uniform(size=(4 - len(shape), *shape, 1))
    image = image.astype("float32")
    model = classic(dims=len(shape), levels=2, units=2, **SMALL, **options)
    outputs = model({"fixed": image, "moving": image})
    np.testing.assert_array_equal(numpy(outputs["displacement"]), 0)
    np.testing.assert_array_equal(numpy(outputs["moved"]), image)


def test_untrained_network_registers(network, boards, trace):
    images, known = boards
    found = numpy(trace[-1]["displacements"][-1])
    error = lengths(found - known)
    assert error.mean() <= 0.3 and error.max() <= 0.45, error
    assert error.mean() <= 0.15 * lengths(known).mean()
    outputs = network(images)
    np.testing.assert_allclose(numpy(outputs["displacement"]), found, atol=1e-5)
    assert np.abs(numpy(outputs["moved"]) - images["fixed"]).mean() * 255 <= 0.4
    fixed, moving = network._matched(images["fixed"], images["moving"])
    final, initial = (
        np.square(numpy(image) - numpy(fixed)).sum((1, 2, 3))
        for image in (trace[-1]["moved"][-1], moving)
    )
    assert (final <= 0.002 * initial).all()


def test_small_untrained_network_is_the_default_one(boards):
    full, small = (
        field(classic(levels=1, units=3, **options), boards[0]) for options in ({}, SMALL)
    )
    assert np.abs(full).max() > 1
    np.testing.assert_allclose(small, full, atol=1e-4)


def test_every_level_improves(boards, trace):
    from zoo.layers.pyramid import downsample_displacement

    known = [boards[1]]
    for _ in trace[1:]:
        known.append(numpy(downsample_displacement(known[-1])))
    errors = []
    for halvings, level in zip((2, 1, 0), trace, strict=True):
        units = [numpy(each) - known[halvings] for each in level["displacements"]]
        errors.append([2**halvings * lengths(each).mean() for each in units])
    assert all(level[-1] < level[0] for level in errors), errors
    coarse, middle, fine = np.mean(errors, axis=1)
    assert coarse > middle > fine


def test_affine_fields(network):
    images, known = ChessboardPairs((64, 64), 6, 1, kind="affine", seed=6)[0]
    error = lengths(field(network, images) - known)
    assert error.mean() <= 0.25 and error.mean() <= 0.12 * lengths(known).mean()


def test_plain_descent_never_rises(boards):
    for level in classic(**PLAIN, **SMALL).trace(boards[0]):
        fixed = numpy(level["fixed"])
        squares = [np.square(numpy(moved) - fixed).sum((1, 2, 3)) for moved in level["moved"]]
        assert (np.diff(squares, axis=0) <= 0).all()


def test_momentum_helps_plain_descent(boards):
    images, known = boards
    without, heavy = (
        lengths(field(classic(**{**PLAIN, "momentum": beta}, **SMALL), images) - known).mean()
        for beta in (None, 0.8)
    )
    assert heavy <= 0.7 and heavy <= 0.8 * without


def test_preconditioned_steps_do_not_depend_on_the_contrast(boards):
    model = classic(intensities="none", **SMALL)
    fainter = {side: 0.25 * array for side, array in boards[0].items()}
    np.testing.assert_allclose(field(model, fainter), field(model, boards[0]), atol=1e-3)


def test_swapped_components_do_harm(boards, monkeypatch):
    """The negative control: what the authors' code does, and the checks above would notice."""
    gradient = variational_unit.spatial_gradient
    monkeypatch.setattr(
        variational_unit, "spatial_gradient", lambda image: ops.flip(gradient(image), -1)
    )
    images, known = boards
    assert lengths(field(classic(**SMALL), images) - known).mean() > lengths(known).mean()


def test_translations_are_recovered():
    images, known = shifted(
        textures((64, 64), 3, 6), [(1, 0), (0, 1), (2.5, -1.5), (4, 3), (-3, 0.5), (-0.5, -2)]
    )
    error = interior(field(classic(units=20, **SMALL), images) - known, 16)
    assert (lengths(error) <= 0.02).all()
    assert np.linalg.norm(error, axis=-1).max() <= 0.15


@pytest.mark.parametrize("axis", [0, 2])
def test_shifts_in_space(axis):
    images, known = shifted(textures(VOLUME, 2), 1.5 * np.eye(3)[[axis]])
    found = field(classic(dims=3, levels=2, **SMALL), images)
    assert found.shape == known.shape
    assert lengths(interior(found - known, 5)) <= 0.15


# ---- symmetries


def test_transposed_images(network, boards, trace):
    turned = {side: array.swapaxes(1, 2) for side, array in boards[0].items()}
    back = field(network, turned).swapaxes(1, 2)[..., ::-1]
    np.testing.assert_allclose(back, numpy(trace[-1]["displacements"][-1]), atol=1e-4)


def test_flipped_images(network, boards, trace):
    # On an odd number of voxels the control points lie symmetrically, on an even one they do not.
    odd, _ = ChessboardPairs(ODD, 2, 1, magnitude=2.0, seed=5)[0]
    straight = field(network, odd), numpy(trace[-1]["displacements"][-1])
    assert np.abs(straight[0]).max() > 1
    back = []
    for images in (odd, boards[0]):
        flipped = {side: array[:, ::-1] for side, array in images.items()}
        back.append(field(network, flipped)[:, ::-1] * (-1, 1))
    np.testing.assert_allclose(back[0], straight[0], atol=1e-3)
    assert np.abs(interior(back[1] - straight[1], 8)).mean() <= 0.05


def test_constants_change_nothing(boards):
    model = classic(intensities="none", **SMALL)
    brighter = {side: array + 0.5 for side, array in boards[0].items()}
    np.testing.assert_allclose(field(model, brighter), field(model, boards[0]), atol=1e-4)


def test_images_of_a_batch_are_independent(network, boards, trace):
    others = {}
    for seed, (side, array) in enumerate(boards[0].items()):
        others[side] = np.random.default_rng(seed).normal(size=array.shape).astype("float32")
        others[side][4] = array[2]
    expected = numpy(trace[-1]["displacements"][-1])[2]
    np.testing.assert_allclose(field(network, others)[4], expected, atol=1e-5)


def test_any_size(network):
    images, known = shifted(textures(ODD, 3, 2), [[0.0, 1.0], [-1.0, 0.5]])
    assert lengths(interior(field(network, images) - known, 6)).max() <= 0.1
    images, known = shifted(textures((1, 12), 3), [[0.0, 1.0]])
    found = field(network, images)
    assert found.shape == known.shape and 0.5 < found[..., 1].mean() < 1.5
    np.testing.assert_array_equal(found[..., 0], 0)


# ---- options


def test_numbers_of_parameters():
    paper = {"step": None, **PLAIN}
    assert classic(levels=1, units=1, **paper).count_params() == 2737
    assert classic(levels=1, units=7, filters=16, **paper).count_params() == 19159
    assert classic(dims=3, levels=1, units=1, **paper).count_params() == 13025
    # Momentum from the second unit on, damping in each.
    assert classic(levels=1, units=7).count_params() == 19159 + 6 + 7
    shared = classic(levels=2, units=4, share_units=2, share_levels=True)
    assert shared.count_params() == 2 * (2737 + 2)


def test_random_start():
    keras.utils.set_random_seed(1)
    model = classic(levels=2, start="random", step=None, zero_mean=False, **PLAIN)
    units = [unit for level in model.units for unit in level]
    steps = np.array([float(unit.step) for unit in units])
    assert steps.min() >= 0 and steps.max() <= 0.1 and np.ptp(steps) > 0.05
    for part, spread in (("data", 0.0505), ("smoothness", 0.0707)):
        kernels = np.stack([numpy(getattr(unit, part).kernel) for unit in units])
        assert kernels.std() == pytest.approx(spread, rel=0.05)
        knots = np.stack([numpy(getattr(unit, part).activation.knots) for unit in units])
        # Drawn again beyond two standard deviations of 0.01.
        assert np.abs(knots).max() <= 0.02 and knots.std() == pytest.approx(0.0088, rel=0.05)
    images, _ = ChessboardPairs(ODD, 2, 1)[0]
    still = classic(levels=1, units=2, start="random", step=None, **PLAIN, **SMALL)
    assert 0 < np.abs(field(still, images)).max() < 1


def test_first_filters_copy_and_take_differences():
    unit = classic(dims=3, levels=1, units=1, filters=4, smoothness=0.5).units[0][0]
    residual = textures((9, 8, 7), 1)
    np.testing.assert_allclose(numpy(unit.data(residual)), residual, atol=1e-5)
    # Quadratic energies of forward differences: the gradient is minus the Laplacian.
    control = np.zeros((1, 7, 7, 7, 3), "float32")
    control[0, 3, 3, 3] = (1, -1, 2)
    smooth = numpy(unit.smoothness(control)) / 0.5
    np.testing.assert_allclose(smooth[0, 3, 3, 3], (6, -6, 12), rtol=1e-4)
    for axis in range(3):
        np.testing.assert_allclose(
            np.take(smooth[0], 4, axis)[3, 3], (-1, 1, -2), rtol=1e-4, err_msg=str(axis)
        )
    np.testing.assert_allclose(numpy(unit.smoothness(np.ones_like(control))), 0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "factor"),
    [
        ({"activation": "rbf"}, 1.1),
        ({"intensities": "image"}, 1.1),
        ({"padding": "zero"}, 1.3),
        ({"unit_norm": True}, 1.3),
        ({"spacing": 3}, 2.0),
        ({"velocity": True}, 2.0),
    ],
)
def test_options_that_hardly_change_the_descent(options, factor, boards, trace):
    images, known = boards
    standard = lengths(numpy(trace[-1]["displacements"][-1]) - known).mean()
    model = classic(**SMALL, **options)
    assert lengths(field(model, images) - known).mean() <= factor * standard


def test_intensities():
    """What gains, offsets and outliers of one image do under each normalisation."""
    images, known = shifted(textures(ODD, 3, 2), [[1.0, -0.5]] * 2)
    darker = {"fixed": images["fixed"], "moving": 0.2 * images["moving"] - 7}
    for mode in ("image", "standard"):
        model = classic(levels=2, units=4, intensities=mode, **SMALL)
        np.testing.assert_allclose(field(model, darker), field(model, images), atol=2e-3)
        moved = numpy(model(darker)["moved"])
        assert moved.max() < -6, "moved keeps the intensities of the moving image"
    both = {side: 300 * array - 1000 for side, array in images.items()}
    model = classic(levels=2, units=4, intensities="pair", **SMALL)
    np.testing.assert_allclose(field(model, both), field(model, images), atol=2e-3)
    assert lengths(interior(field(model, both) - known, 6)).max() <= 0.15


def test_further_passes(network, boards, trace):
    images, known = boards
    once = numpy(trace[-1]["displacements"][-1])
    outputs = {name: numpy(each) for name, each in classic(passes=3, **SMALL)(images).items()}
    more = outputs["displacement"]
    moved = numpy(warp(images["moving"], more))
    np.testing.assert_allclose(outputs["moved"], moved, atol=1e-5)
    spread = [
        (numpy(warp(images["moving"], each)) - images["fixed"]).std((1, 2, 3))
        for each in (once, more)
    ]
    assert (spread[1] <= spread[0] + 1e-6).all() and spread[1].mean() < spread[0].mean()
    assert lengths(more - known).mean() < lengths(once - known).mean()


def test_passes_that_do_harm_are_left_out():
    """A network whose steps lead away: passes count for no image, the first one aside."""
    images, _ = shifted(textures(ODD, 2, 2), [(1.0, 0.0)] * 2)
    fields = []
    for passes in (1, 3):
        model = classic(levels=1, units=1, passes=passes, **SMALL)
        unit = model.units[0][0]
        unit.data.activation.knots.assign(-unit.data.activation.knots)
        fields.append(field(model, images))
    assert fields[0][..., 0].mean() < -0.1
    np.testing.assert_array_equal(*fields)


def test_more_units_than_trained(boards):
    images, known = boards
    few, many = (classic(units=units, share_units=units, **SMALL) for units in (4, 8))
    for unit in (level[0] for level in few.units):
        unit.step.assign(0.8)
        unit.momentum.assign(0.3)
    many.set_weights(few.get_weights())
    before, after = (lengths(field(model, images) - known).mean() for model in (few, many))
    assert after <= 1.1 * before and before < 0.5


def test_shared_units_are_the_same_object():
    model = classic(levels=2, units=5, share_units=2, **SMALL)
    for level in model.units:
        assert [level.index(unit) for unit in level] == [0, 0, 2, 2, 4]
    assert model.units[0][0] is not model.units[1][0]
    shared = classic(levels=3, units=2, share_levels=True, **SMALL)
    assert all(level[1] is shared.units[0][1] for level in shared.units)
    assert shared.units[0][0].momentum is None and shared.units[0][1].momentum is not None


@pytest.mark.parametrize("velocity", [False, True])
def test_transform_is_the_displacement_on_the_fixed_grid(velocity):
    images, _ = ChessboardPairs(ODD, 1, 1, magnitude=4.0, seed=3)[0]
    pair = Pair(*(images[side][0] for side in ("fixed", "moving")))
    model = classic(levels=2, units=3, velocity=velocity, **SMALL)
    transform, outputs = model.transform(pair), model(images)
    assert transform.fixed_grid == pair.fixed.grid
    assert set(model.signature()[1]) == set(outputs)
    assert np.abs(transform.displacement()).max() > 1
    found = numpy(outputs["displacement"])[0]
    np.testing.assert_allclose(transform.displacement(), found, atol=1e-3)
    if not velocity:
        assert isinstance(transform, Dense)
        predicted = model.predict(pair)
        np.testing.assert_array_equal(predicted["displacement"], transform.displacement())
        return
    assert isinstance(transform, Velocity)
    assert (transform.jacobian_determinant() > 0).all()
    points = np.random.default_rng(0).uniform(8, 17, (50, 2))
    assert transform.inverse_error(points).mean() < 0.1


def test_features_are_matched_beside_the_intensities():
    keras.utils.set_random_seed(2)
    model = classic(levels=2, units=4, features=2, **SMALL)
    images, known = shifted(textures(ODD, 3, 2), [[1.0, -0.5]] * 2)
    outputs = model(images)
    assert outputs["moved"].shape == (2, *ODD, 1)
    fixed, moving = map(numpy, model._matched(images["fixed"], images["moving"]))
    np.testing.assert_array_equal(numpy(model.trace(images)[-1]["fixed"]), fixed)
    for image in (fixed, moving):
        assert image.shape == (2, *ODD, 3) and image[..., 1:].std() > 0
        np.testing.assert_allclose(image[..., 1:], numpy(model.extractor(image[..., :1])))
    error = interior(numpy(outputs["displacement"]) - known, 6)
    assert (lengths(error) < 0.5 * lengths(known)).all()


def test_keras_file_restores_every_option(tmp_path):
    options = {
        "dims": 3,
        "channels": 2,
        "levels": 2,
        "units": 3,
        "filters": 4,
        "data_kernel": 3,
        "smoothness_kernel": 2,
        "spacing": 2,
        "share_units": 2,
        "share_levels": True,
        "momentum": 0.3,
        "damping": 0.2,
        "step": 0.7,
        "smoothness": 0.3,
        "start": "random",
        "activation": "rbf",
        "knots": 9,
        "data_limits": (-2.0, 1.5),
        "smoothness_limits": (-3.0, 2.5),
        "extrapolation": "constant",
        "padding": "zero",
        "zero_mean": False,
        "unit_norm": True,
        "velocity": True,
        "features": 1,
        "intensities": "standard",
        "passes": 1,  # no other with a velocity
        "similarity": "ncc",
        "penalty": "bending",
        "labels": (1, 4),
        "mixed": True,
        "level_weights": (0.5, 1.0),
        "unit_loss": "exponential",
    }
    parameters = inspect.signature(DIRVNet).parameters
    assert set(options) == set(parameters) - {"kwargs"}
    same = [name for name, value in options.items() if value == parameters[name].default]
    assert same == ["passes"]
    model = classic(**options)
    for number, weight in enumerate(model.weights):
        weight.assign(weight + 0.01 * (number + 1))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.options == model.options
    assert {name: loaded.get_config()[name] for name in options} == options
    images = {
        side: np.random.default_rng(seed).normal(size=(1, 7, 8, 6, 2)).astype("float32")
        for seed, side in enumerate(("fixed", "moving"))
    }
    for name, output in model(images).items():
        np.testing.assert_allclose(numpy(loaded(images)[name]), numpy(output), atol=1e-6)


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": 4}, "dims must be one of .2, 3., not 4"),
        ({"start": "zero"}, "start must be one of"),
        ({"activation": "relu"}, "activation must be one of"),
        ({"extrapolation": "decay"}, "extrapolation must be one of"),
        ({"padding": "same"}, "padding must be one of"),
        ({"intensities": "z"}, "intensities must be one of"),
        ({"similarity": "ssd"}, "similarity must be one of"),
        ({"penalty": "l2"}, "penalty must be one of"),
        ({"unit_loss": "all"}, "unit_loss must be one of"),
        *(
            ({name: 0}, f"{name} must be at least 1, not 0")
            for name in ("channels", "levels", "units", "spacing", "share_units", "passes")
        ),
        ({"dims": 3, "filters": 2}, "filters must be at least 3"),
        ({"channels": 2, "features": 3, "filters": 4}, "filters must be at least 5"),
        ({"levels": 3, "level_weights": (1, 2)}, "level_weights must hold 3 numbers"),
        ({"velocity": True, "passes": 2}, "passes must be 1 with velocity"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        classic(**options)


def test_pairs_that_do_not_fit(network):
    rng = np.random.default_rng(0)
    volumes, pictures = ([rng.uniform(size=(6, 7, size)) for _ in "ab"] for size in (8, 3))
    for pair, message in (
        (Pair(*volumes), "have 3 dimensions and 1 channels.*dims=2 and channels=1"),
        (Pair(*pictures), "have 2 dimensions and 3 channels"),
        (Pair(rng.uniform(size=(9, 2)), rng.uniform(size=(8, 2))), "not of clouds"),
    ):
        for function in (network.transform, network.predict, network.evaluate, network.fit):
            with pytest.raises(ValueError, match=message):
                function(pair)
    with pytest.raises(TypeError, match="pair must be a zoo.Pair of images, not ndarray"):
        network.transform(volumes[0])
