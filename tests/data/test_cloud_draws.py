"""Clouds as batches: drawn pairs, and deformed copies with a known flow."""

import numpy as np
import pytest

from zoo.data.cloud_draws import CloudDraws, DeformedClouds
from zoo.data.pair import Pair
from zoo.data.scan import Scan


def cloud(count=100, dims=3, seed=0):
    return 40 * np.random.default_rng(seed).normal(size=(count, dims)) + 500


def pairs():
    return [Pair(Scan(cloud(50 + k)), Scan(cloud(90, seed=9))) for k in range(3)]


def test_draws_are_points_of_the_clouds_and_depend_on_seed_epoch_and_index():
    given = pairs()
    data = CloudDraws(given, 40, 1, steps=4)
    (batch,) = data[2]
    assert set(batch) == {"fixed", "moving"} and batch["fixed"].shape == (1, 40, 3)
    drawn = {tuple(row) for row in batch["moving"][0]}
    assert len(drawn) == 40 and drawn <= {tuple(r) for r in given[0].moving.points.astype("f4")}
    again = CloudDraws(given, 40, 1, steps=4)
    np.testing.assert_array_equal(again[2][0]["fixed"], batch["fixed"])
    again.epoch = 1
    assert (again[2][0]["fixed"] != batch["fixed"]).any()


def test_a_small_cloud_is_padded_under_a_mask():
    (batch,) = CloudDraws(pairs(), 60, 3)[0]
    mask = batch["fixed_mask"]
    assert sorted(mask[:, :, 0].sum(axis=1)) == [50, 51, 52] and "moving_mask" not in batch
    assert batch["fixed"].shape == (3, 52, 3) and np.isfinite(batch["fixed"]).all()


def test_masked_points_are_never_drawn():
    given = pairs()[0]
    mask = np.arange(len(given.fixed.points)) < 10
    masked = Pair(given.fixed, given.moving, fixed_mask=mask)
    (batch,) = CloudDraws([masked], 40)[0]
    assert batch["fixed"].shape[1] == 10


@pytest.mark.parametrize("dims", [2, 3])
def test_deformed_clouds_have_a_smooth_flow_that_ends_on_the_other_side(dims):
    points = cloud(4000, dims)
    data = DeformedClouds([points], 2000, steps=6)
    sides = []
    for index in range(6):
        inputs, flow = data[index]
        moving, ends = inputs["moving"][0], (inputs["moving"] + flow)[0]
        own = {tuple(row) for row in points.astype("f4")}
        sides.append(sum(tuple(row) in own for row in inputs["fixed"][0]) > 0)
        assert 0 < np.linalg.norm(flow, axis=-1).mean() < 40
        # Near points move alike.
        near = np.argsort(np.linalg.norm(moving - moving[0], axis=1))[1:4]
        assert np.linalg.norm(flow[0, near] - flow[0, 0], axis=1).max() < 40
        apart = np.linalg.norm(ends[:, None] - inputs["fixed"][0], axis=-1).min(axis=1)
        assert np.median(apart) < 12
    assert len(set(sides)) == 2, "either side is deformed now and then"


def test_no_point_of_a_deformed_cloud_has_a_partner():
    points = cloud(200)
    inputs, flow = DeformedClouds([points], 100)[0]
    ends = (inputs["moving"] + flow)[0]
    apart = np.linalg.norm(ends[:, None] - inputs["fixed"][0], axis=-1)
    assert apart.min() > 1e-3


def test_noise_moves_the_points_and_not_where_they_end():
    points = cloud(2000)
    still, noisy = (DeformedClouds([points], 500, noise=each)[0] for each in (0.0, 0.05))
    moved = np.linalg.norm(still[0]["moving"] - noisy[0]["moving"], axis=-1).mean()
    ends = [inputs["moving"] + flow for inputs, flow in (still, noisy)]
    assert moved > 1.0
    np.testing.assert_allclose(*ends, atol=1e-3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CloudDraws([], 40), "pairs is empty"),
        (lambda: CloudDraws(pairs(), 1), "points"),
        (lambda: DeformedClouds([]), "clouds is empty"),
        (lambda: DeformedClouds([cloud(10)]), "at least 16 points"),
        (lambda: DeformedClouds([cloud()], noise=-1.0), "noise"),
        (lambda: DeformedClouds([cloud()], cell=0.0), "cell"),
        (lambda: DeformedClouds([cloud()], global_shift=2.0), "global_shift"),
    ],
)
def test_bad_arguments_are_named(make, words):
    with pytest.raises((ValueError, TypeError), match=words):
        make()
