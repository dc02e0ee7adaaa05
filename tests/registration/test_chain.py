"""A chain aligns, registers the rest and composes; what makes things worse is left out."""

import warnings

import keras
import numpy as np
import pytest

import zoo
from zoo.data.phantoms import phantom_pair
from zoo.data.vessels import vessel_pair
from zoo.models.affine import AffineRegistration
from zoo.models.dirvnet import DIRVNet
from zoo.registration.chain import Chain
from zoo.transform import Affine, Composed

ALIGN = {"dims": 2, "kind": "rigid", "levels": 2, "voxels": 1500, "start": "identity"}
NETWORK = {"dims": 2, "levels": 2, "units": 3, "filters": 4, "data_kernel": 3}
SMALL = {"divroc.stages": [{"lattice": 16, "pool": 5, "steps": 30}], "divroc.held_out": 0.0}


@pytest.fixture(scope="module")
def images():
    return phantom_pair((48, 40), turn=12.0, stretch=0.1, shift=3.0)[0]


@pytest.fixture(scope="module")
def fitted(images):
    keras.utils.set_random_seed(0)
    chain = Chain(AffineRegistration(**ALIGN), DIRVNet(**NETWORK))
    history = chain.fit(images, verbose=0)
    return chain, history


def test_images_are_aligned_and_then_deformed(images, fitted):
    chain, history = fitted
    first, second = chain.first, chain.second
    start = first.transform(images)
    by_hand = start @ second.transform(images.aligned(start))
    whole = chain.transform(images)
    assert isinstance(whole, Composed)
    points = images.fixed_landmarks
    np.testing.assert_allclose(whole.pull(points), by_hand.pull(points), atol=1e-4)
    errors = [zoo.registration.measure(each, images)["tre_mm"] for each in (start, whole)]
    assert errors[1] < errors[0] and chain.evaluate(images)["tre_mm"] == pytest.approx(errors[1])
    # The network is left as it is; only the alignment has been fitted.
    assert history.epoch == list(range(15))


def test_a_network_is_refined_when_asked(images, fitted):
    chain, _ = fitted
    before = chain.transform(images)
    history = chain.fit(images, epochs=6, verbose=0)
    assert history.epoch == list(range(15 + 6))
    assert chain.transform(images) is not before


def test_clouds_by_name_and_one_file(tmp_path):
    pair = vessel_pair(3, "E", 2000)
    chain = zoo.create("affine+divroc", **SMALL)
    assert isinstance(chain, Chain) and chain.takes == ("clouds",) and chain.needs_fit
    with pytest.warns(UserWarning, match="has not been fitted"):
        chain.transform(pair)
    chain.fit(pair, verbose=0)
    first = zoo.registration.measure(chain.first.transform(pair), pair)["tre_mm"]
    assert chain.evaluate(pair)["tre_mm"] < 0.7 * first
    chain.save(tmp_path / "chain.keras")
    points = pair.moving.points[:50]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for loaded in (
            zoo.load(tmp_path / "chain.keras"),
            zoo.load(chain.save_preset(tmp_path / "chain")),
        ):
            moved = loaded.transform(pair).move(points)
            np.testing.assert_allclose(moved, chain.transform(pair).move(points), atol=1e-4)
    moved = keras.ops.convert_to_numpy(chain(points[None].astype("float32"))["moved"])[0]
    np.testing.assert_allclose(moved, chain.transform(pair).move(points), atol=1e-2)


class Worse(DIRVNet):
    """Answers with a displacement that fits nothing."""

    def map_of(self, pair):
        return Affine(np.eye(2), [9.0, -7.0], pair.fixed.grid)


def test_what_makes_things_worse_is_left_out(images):
    chain = Chain(AffineRegistration(**ALIGN), Worse(**NETWORK))
    with pytest.warns(UserWarning, match="Worse makes .* less alike.*that of AffineR"):
        chain.fit(images, verbose=0)
    start = chain.first.transform(images)
    np.testing.assert_array_equal(chain.transform(images).matrix, start.matrix)


def test_chains_of_chains_and_arguments_by_name():
    chain = zoo.create("affine+affine+dirvnet", dims=2, **{"affine.kind": "rigid"})
    assert isinstance(chain.first, Chain) and chain.first.second.kind == "rigid"
    assert chain.second.dims == 2
    config = chain.get_config()
    assert Chain.from_config(config).get_config() == config
    chain = zoo.load("affine+dirvnet.chessboard2d", **{"affine.kind": "similarity"})
    assert chain.first.dims == 2 and chain.first.kind == "similarity"
    assert chain.second.get_preset_config() == zoo.load("dirvnet.chessboard2d").get_preset_config()


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ValueError, match="images of 3 and clouds of 3|same pairs"):
        zoo.create("dirvnet+divroc", dims=3)
    with pytest.raises(ValueError, match="same pairs.*of 2.*of 3"):
        Chain(AffineRegistration(dims=2), AffineRegistration(dims=3))
    with pytest.raises(TypeError, match="second must be a registration.*not int"):
        Chain("affine", 3)
    with pytest.raises(TypeError, match="first must be a registration.*not IGR"):
        Chain("igr", "affine")
    with pytest.raises(TypeError, match=r"none of \['affine', 'dirvnet'\] has.*kinds"):
        zoo.create("affine+dirvnet", kinds="rigid")
    with pytest.raises(TypeError, match="x must be a zoo.Pair"):
        zoo.create("affine+affine").fit(np.zeros((2, 3)))
