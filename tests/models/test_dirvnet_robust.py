"""DIRV-Net by default: on intensities of any kind, and never worse than nothing."""

import warnings

import numpy as np
import pytest
from keras import ops
from scipy import ndimage

from zoo.data.pair import Pair
from zoo.models.dirvnet import DIRVNet

SMALL = {"levels": 2, "units": 4, "filters": 3, "data_kernel": 1, "smoothness_kernel": 3}
SHAPE = (40, 36)


def texture(seed=0, sigma=3.0, shape=SHAPE):
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = ndimage.gaussian_filter(noise, sigma, mode="wrap")
    return (smooth / smooth.std()).astype(np.float32)


def waves(shape=SHAPE):
    """A displacement that is known, `[*shape, 2]` in voxels, and nowhere folds."""
    x, y = np.meshgrid(*map(np.arange, shape), indexing="ij")
    return np.stack([1.5 * np.sin(y / 7.0), 1.5 * np.cos(x / 8.0)], -1).astype(np.float32)


def moved(image, displacement):
    """The image at `x + displacement(x)`: what a moving image shows on the fixed grid."""
    grid = np.stack(np.meshgrid(*map(np.arange, image.shape), indexing="ij"))
    places = grid + np.moveaxis(displacement, -1, 0)
    return ndimage.map_coordinates(image, places, order=1, mode="nearest").astype(np.float32)


@pytest.fixture(scope="module")
def images():
    moving = texture()
    return moved(moving, waves()), moving


@pytest.fixture(scope="module")
def model():
    return DIRVNet(**SMALL)


def found(model, fixed, moving, **masks):
    batch = {"fixed": fixed, "moving": moving} | masks
    batch = {key: np.asarray(values, "float32")[None, ..., None] for key, values in batch.items()}
    return ops.convert_to_numpy(model(batch)["displacement"])[0]


def error(displacement):
    inside = (slice(5, -5),) * 2
    return np.linalg.norm(displacement - waves(), axis=-1)[inside].mean()


def test_a_known_map_is_found(model, images):
    assert error(found(model, *images)) <= 0.4 <= 0.3 * error(np.zeros((*SHAPE, 2)))


@pytest.mark.parametrize(
    "other", [lambda x: 0.01 * x, lambda x: 1e4 * x, lambda x: x + 1000, lambda x: x + 0.05 * x**2]
)
def test_each_image_has_its_own_gain_and_offset(model, images, other):
    fixed, moving = images
    plain, changed = found(model, fixed, moving), found(model, other(fixed), moving)
    assert error(changed) <= error(plain) + 0.2


def test_a_few_wild_values_do_no_harm(model, images):
    fixed, moving = images
    wild = moving.copy()
    wild[3, 4] = 1e6
    assert error(found(model, fixed, wild)) <= error(found(model, fixed, moving)) + 0.1


def test_masked_voxels_exert_no_force(model, images):
    fixed, moving = images
    mask = np.ones(SHAPE)
    mask[10:18, 12:20] = 0
    results = []
    for value in (0.0, 50.0):
        wrong = fixed.copy()
        wrong[mask == 0] = value
        results.append(found(model, wrong, moving, fixed_mask=mask, moving_mask=np.ones(SHAPE)))
    np.testing.assert_allclose(results[0], results[1], atol=1e-3)
    assert error(results[0]) <= 0.6


def test_levels_too_small_for_shapes_do_nothing():
    fixed, moving = texture(1, shape=(20, 18)), texture(2, shape=(20, 18))
    levels = DIRVNet(**SMALL | {"levels": 3}).trace(
        {"fixed": fixed[None, ..., None], "moving": moving[None, ..., None]}
    )
    moves = [np.abs(ops.convert_to_numpy(level["displacements"][-1])).max() for level in levels]
    assert moves[0] == 0 and moves[-1] > 0


def test_judged_levels_never_raise_the_energy(images):
    from zoo.layers.unrolled import energy

    fixed, moving = (image[None, ..., None] for image in images)
    overshooting = DIRVNet(**SMALL, step=3.0)
    for level in overshooting.trace({"fixed": fixed, "moving": moving}):
        last = level["moved"][-1], level["displacements"][-1]
        assert np.isfinite(ops.convert_to_numpy(last[1])).all()
        assert float(energy(level["fixed"], *last)[0]) <= 2.0


# ---- a pair: what is kept, and what is said


def test_a_pair_without_doubts(model, images):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        transform = model.transform(Pair(*images))
    assert model.doubts == []
    assert error(transform.displacement()) <= 0.4
    assert (transform.jacobian_determinant() > 0).all()


@pytest.mark.parametrize("what", ["noise", "inverted"])
def test_images_that_support_no_deformation_stay_where_they_are(model, images, what):
    fixed, moving = images
    random = np.random.default_rng(0)
    other = {"noise": random.normal(size=SHAPE).astype(np.float32), "inverted": -moving}[what]
    with pytest.warns(UserWarning, match="the images do not support|no deformation was found"):
        transform = model.transform(Pair(fixed, other))
    np.testing.assert_array_equal(transform.displacement(), 0)
    assert len(model.doubts) == 1
    model.transform(Pair(*images))
    assert model.doubts == []


def test_equal_images_are_no_reason_to_doubt(model, images):
    transform = model.transform(Pair(images[0], images[0]))
    assert model.doubts == []
    np.testing.assert_allclose(transform.displacement(), 0, atol=1e-3)


def test_a_fit_does_no_harm_and_its_doubts_are_remembered(images):
    model = DIRVNet(**SMALL)
    pair = Pair(*images)
    before = error(model.transform(pair).displacement())
    model.compile()
    model.fit(pair, epochs=4, learning_rate=1000.0, verbose=0)
    assert error(model.transform(pair).displacement()) <= before + 0.05
    assert len(model.doubts) == 1 and "no deformation was found" in model.doubts[0]


def test_padding_of_ct_exerts_no_force(model):
    air = np.clip(texture(3, 4.0), 0, None) * 400 - 1000
    fixed = moved(air, waves())
    x, y = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    outside = (x - 20) ** 2 + (y - 18) ** 2 > 17**2
    padded = [np.where(outside, -3024.0, image).astype(np.float32) for image in (fixed, air)]
    fields = [model.transform(Pair(*pair)).displacement() for pair in ((fixed, air), padded)]
    inside = (x - 20) ** 2 + (y - 18) ** 2 < 12**2
    wrong = [np.linalg.norm(field - waves(), axis=-1)[inside].mean() for field in fields]
    assert wrong[1] <= wrong[0] + 0.3
