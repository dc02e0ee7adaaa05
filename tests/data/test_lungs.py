"""Generated lungs that breathe: exact maps, kept mass, landmarks and lobes."""

from functools import lru_cache

import numpy as np
import pytest

from zoo.data.lung_anatomy import LOBES
from zoo.data.lung_motion import LungMotion
from zoo.data.lungs import LungPairs, lung_case, lung_pair, to_box, to_world
from zoo.metrics.registration import dice_scores
from zoo.registration.measure import measure
from zoo.transform import Dense, Mapped


@lru_cache(maxsize=1)
def case():
    return lung_case(1)


def test_the_motion_is_inverted_exactly_and_ends_at_the_border():
    motion = LungMotion(np.random.default_rng(0), 1.0)
    points = np.random.default_rng(1).uniform(-1, 1, (500, 3))
    assert np.abs(motion.exhaled(motion.inhaled(points)) - points).max() < 1e-6
    points[np.arange(500), np.arange(500) % 3] = np.sign(points[:, 0])
    np.testing.assert_array_equal(motion.inhaled(points), points)


def test_the_volume_is_the_determinant():
    motion = LungMotion(np.random.default_rng(3))
    points, step = np.random.default_rng(1).uniform(-0.9, 0.9, (200, 3)), 1e-5
    sides = step * np.eye(3)
    columns = [
        (motion.inhaled(points + e) - motion.inhaled(points - e)) / (2 * step) for e in sides
    ]
    _, volume = motion.inhaled_with_volume(points)
    np.testing.assert_allclose(volume, np.linalg.det(np.stack(columns, axis=-1)), rtol=1e-3)
    assert volume.min() > 0


def test_landmarks_move_as_those_of_patients():
    assert 15 < case().initial_error < 30
    assert len(case().inhale_landmarks) == 100
    pair = case().pair()
    exact = Mapped(case().pull, case().move, pair.fixed.grid)
    assert measure(exact, pair)["tre_mm"] < 1e-3
    np.testing.assert_allclose(
        case().move(case().inhale_landmarks), case().exhale_landmarks, atol=1e-6
    )


def test_the_field_registers_the_volumes_up_to_interpolation():
    pair = case().pair(masks=False)
    transform = Dense(case().displacement, pair.fixed.grid)
    measured = measure(transform, pair)
    assert measured["tre_mm"] < 0.2 and measured["dice"] > 0.92
    assert measured["folds_percent"] == 0 and case().determinant.min() > 0
    inside = case().exhale_lobes > 0
    moved = transform.warp(pair.moving).array[..., 0] * case().determinant.clip(0.3, 3.0)
    moved, exhaled = moved.clip(0, 1)[inside], pair.fixed.array[..., 0][inside]
    assert np.corrcoef(moved, exhaled)[0, 1] > 0.98
    assert np.sqrt(np.mean((moved - exhaled) ** 2)) < 0.04


def test_lobes_and_density_are_those_of_a_lung():
    shares = np.bincount(case().inhale_lobes.ravel(), minlength=6)[1:]
    assert len(shares) == len(LOBES) and (shares / shares.sum()).min() > 0.05
    # The lungs are larger and thinner in inhalation, and begin well apart.
    volume = [np.count_nonzero(labels) for labels in (case().inhale_lobes, case().exhale_lobes)]
    assert 1.3 < volume[0] / volume[1] < 1.8
    phases = ("inhale", "exhale")
    means = [
        getattr(case(), phase).array[getattr(case(), f"{phase}_lobes") > 0].mean()
        for phase in phases
    ]
    assert 0.18 < means[0] < 0.26 and 0.28 < means[1] < 0.40
    start = dice_scores(case().exhale_lobes, case().inhale_lobes)["mean"]
    assert 0.5 < start < 0.75


def test_the_same_seed_gives_the_same_lung_and_masks_belong_to_it():
    one, same, other = (lung_pair(seed, 16) for seed in (4, 4, 5))
    for name in ("fixed", "moving"):
        np.testing.assert_array_equal(getattr(one, name).array, getattr(same, name).array)
        assert not np.array_equal(getattr(one, name).array, getattr(other, name).array)
        np.testing.assert_array_equal(
            getattr(one, f"{name}_mask"), getattr(one, f"{name}_labels") > 0
        )


def test_batches_depend_on_seed_epoch_and_index():
    data, same = (LungPairs((4, 5), 12, batch_size=3, steps=2, seed=1) for _ in range(2))
    (batch,) = data[1]
    assert batch["fixed"].shape == batch["moving"].shape == (3, 12, 12, 12, 1)
    np.testing.assert_array_equal(batch["fixed"], same[1][0]["fixed"])
    same.epoch = 1
    assert not np.array_equal(batch["fixed"], same[1][0]["fixed"])
    with pytest.raises(ValueError, match="cases must hold at least one"):
        LungPairs(())


def test_the_frame_is_that_of_patients():
    # LPS: the right lung has negative x, the apex is up.
    grid, labels = case().inhale.grid, case().inhale_lobes
    where = {name: grid.coordinates()[labels == k + 1].mean(axis=0) for k, name in enumerate(LOBES)}
    assert where["right upper"][0] < 0 < where["left upper"][0]
    assert where["right upper"][2] > where["right middle"][2] > where["right lower"][2]
    assert where["left lower"][1] > where["left upper"][1]
    points = np.random.default_rng(0).uniform(-100, 100, (5, 3))
    np.testing.assert_allclose(to_world(to_box(points)), points)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"size": 7}, "size must be at least 8"),
        ({"amplitude": -1.0}, "amplitude must not be negative"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_wrong_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        lung_case(**arguments)
