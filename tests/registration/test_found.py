"""What fits found is remembered by the content of a pair, and only for a few."""

import numpy as np
import pytest

from zoo.data.image import Image
from zoo.data.pair import Pair
from zoo.data.scan import Scan
from zoo.geometry import Grid
from zoo.registration.found import Found, fingerprint


def images(seed=0, origin=(0.0, 0.0)):
    rng = np.random.default_rng(seed)
    arrays = (rng.uniform(size=(5, 6, 1)).astype(np.float32) for _ in range(2))
    return Pair(*(Image(array, Grid((5, 6), 1.0, origin)) for array in arrays))


def clouds(seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    return Pair(Scan(rng.normal(size=(9, 3))), Scan(rng.normal(size=(8, 3)) + shift))


@pytest.mark.parametrize("make", [images, clouds])
def test_the_same_content_is_the_same_pair(make):
    found = Found()
    found.keep(make(), "this")
    assert found.get(make()) == "this"
    assert found.get(make(seed=1)) is None
    found.keep(make(), "better")
    assert found.get(make()) == "better"
    found.clear()
    assert found.get(make()) is None


def test_place_and_order_count():
    assert fingerprint(images()) != fingerprint(images(origin=(0.5, 0.0)))
    assert fingerprint(clouds()) != fingerprint(clouds(shift=1e-9))
    pair = clouds()
    assert fingerprint(pair) != fingerprint(Pair(pair.moving, pair.fixed))


def test_the_oldest_is_dropped():
    found = Found(kept=2)
    for seed in range(3):
        found.keep(images(seed), seed)
    assert [found.get(images(seed)) for seed in range(3)] == [None, 1, 2]
