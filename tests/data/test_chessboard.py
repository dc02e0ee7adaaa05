"""Chessboards and random fields: their properties, and ground truth that is exact."""

import numpy as np
import pytest
from scipy import ndimage

from zoo.data.chessboard import Chessboard, ChessboardPairs
from zoo.data.fields import (
    affine_field,
    inverse_affine,
    inverse_field,
    noise_field,
    positions,
    random_affine,
    random_field,
    sample_linear,
    smooth_field,
)
from zoo.metrics.registration import fold_percentage
from zoo.ops.derivatives import jacobian_determinant
from zoo.ops.sampling import warp

SHAPES = [(40, 56), (64, 64), (20, 24, 28)]
STILL = {"translations": 0, "rotations": 0, "shears": 0, "scales": 1, "origin": 0}


def interpolated(image, displacement):
    """`image` `[*s]` at `x + u(x)`, by SciPy, with the values of the border outside."""
    where = np.indices(image.shape) + np.moveaxis(displacement, -1, 0).astype(np.float64)
    return ndimage.map_coordinates(image, where, output=np.float64, order=1, mode="nearest")


def steepest(field):
    """Largest difference of a component between neighbours."""
    return max(np.abs(np.diff(field, axis=axis)).max() for axis in range(field.ndim - 1))


# Chessboards


@pytest.mark.parametrize("shape", SHAPES)
def test_cells_and_levels(shape):
    edges = set()
    for seed in range(40):
        board = Chessboard(shape, seed=seed)
        edges.add(board.edge)
        assert board.levels.shape == tuple(size // board.edge for size in shape)
        assert board.levels.min() >= 0 and board.levels.max() <= 254
        np.testing.assert_array_equal(board.levels, np.rint(board.levels))
    assert edges == {6, 7, 8, 9}
    assert {Chessboard(shape, (3, 6), seed=seed).edge for seed in range(40)} == {3, 4, 5, 6}


@pytest.mark.parametrize("shape", SHAPES)
def test_picture_is_constant_in_cells_and_the_last_takes_the_rest(shape):
    board = Chessboard(shape, seed=3)
    picture = board(positions(shape)) * 255
    cell = [np.minimum(np.arange(size) // board.edge, size // board.edge - 1) for size in shape]
    np.testing.assert_allclose(picture, board.levels[np.ix_(*cell)], atol=1e-9)


def test_even_and_odd_cells_each_blend_four_corners():
    levels = Chessboard((128, 96), seed=1).levels
    # The mixed second difference of a bilinear function is constant; levels are rounded down.
    for row, column in ((0, 0), (0, 1)):
        own = levels[row::2, column::2]
        mixed = np.diff(np.diff(own, axis=0), axis=1)
        assert np.ptp(mixed) <= 8 * 4
    neighbours = np.abs(np.diff(levels, axis=0)).mean()
    assert neighbours > 2 * np.abs(levels[2:] - levels[:-2]).mean()


def test_images_of_a_single_cell():
    board = Chessboard((5, 30), (6, 6), seed=2)
    assert board.levels.shape == (1, 5) and np.isfinite(board.levels).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_formula_is_the_linear_interpolation_of_the_picture(shape):
    board = Chessboard(shape, seed=4)
    points = np.random.default_rng(0).uniform(-5, np.array(shape) + 5, (2000, len(shape)))
    picture = board(positions(shape))
    expected = ndimage.map_coordinates(picture, points.T, order=1, mode="nearest")
    np.testing.assert_allclose(board(points), expected, atol=1e-12)


# Fields


@pytest.mark.parametrize("shape", SHAPES)
def test_affine_without_motion_and_with_translation_alone(shape):
    field = random_field(shape, "affine", affine=STILL)
    assert field.shape == (*shape, len(shape)) and np.abs(field).max() <= 1e-6
    field = random_field(shape, "affine", affine=STILL | {"translations": (-2, 2)})
    np.testing.assert_allclose(field, np.broadcast_to(field.flat[: len(shape)], field.shape))
    assert 0 < np.abs(field).max() <= 2


@pytest.mark.parametrize("shape", SHAPES)
def test_affine_inverse_composed_with_the_map_is_the_identity(shape):
    for seed in range(5):
        matrix, offset = random_affine(shape, seed=seed)
        pulled = affine_field(shape, *inverse_affine(matrix, offset))
        there = positions(shape) + pulled
        np.testing.assert_allclose(there @ matrix.T + offset, positions(shape), atol=1e-9)
        np.testing.assert_array_equal(pulled, random_field(shape, "affine", seed=seed))


@pytest.mark.parametrize("shape", [(64, 48), (30, 40, 50)])
def test_affine_parts_are_in_their_ranges(shape):
    rank = len(shape)
    turns, sheared, low, high = [], [], [], []
    for seed in range(60):
        matrix, _ = random_affine(shape, **STILL | {"rotations": (-1.5, 1.5)}, seed=seed)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(rank), atol=1e-12)
        turns.append(np.rad2deg(np.arcsin(matrix[1, 0])))
        matrix, _ = random_affine(shape, **STILL | {"shears": (-0.04, 0.04)}, seed=seed)
        np.testing.assert_array_equal(np.diag(matrix), 1)
        sheared.extend(matrix[~np.eye(rank, dtype=bool)])
        options = {"scales": ((0.98, 1.04), (0.96, 1.02)), "origin": (-2, 2)}
        matrix, offset = random_affine(shape, **STILL | options, seed=seed)
        np.testing.assert_array_equal(matrix, np.diag(np.diag(matrix)))
        low.append(np.diag(matrix).min())
        high.append(np.diag(matrix).max())
        # The point that stays is at most two voxels from the centre along each axis.
        fixed = np.linalg.solve(np.eye(rank) - matrix, offset)
        assert np.abs(fixed - (np.array(shape) - 1) / 2).max() <= 2 + 1e-6
    assert 1.2 < np.abs(turns).max() <= 1.6 and 0.035 < np.abs(sheared).max() <= 0.04
    assert 0.96 <= min(low) < 0.97 and 1.03 < max(high) <= 1.04
    # One of the two ranges serves all axes.
    assert all(a >= 0.98 or b <= 1.02 for a, b in zip(low, high, strict=True))


@pytest.mark.parametrize("shape", SHAPES)
def test_smooth_field_reaches_its_magnitude(shape):
    for seed, magnitude in enumerate((0.1, 2.5, 6.0)):
        field = smooth_field(shape, magnitude, seed=seed)
        assert field.shape == (*shape, len(shape))
        assert np.abs(field).max() == pytest.approx(magnitude)
    assert not smooth_field(shape, 0.0).any()


def test_smooth_fields_are_smooth_unfolded_and_centred():
    fields = np.stack([smooth_field((64, 64), 1.0, seed=seed) for seed in range(300)])
    assert max(steepest(field) for field in fields) <= 0.2
    assert np.mean([steepest(field) for field in fields]) == pytest.approx(0.12, abs=0.01)
    lengths = np.linalg.norm(fields, axis=-1)
    assert lengths.mean() == pytest.approx(0.44, abs=0.02)
    determinants = np.asarray(jacobian_determinant(4 * fields[:50]))
    assert fold_percentage(determinants) == 0
    means = fields.mean(axis=(1, 2))
    assert (np.abs(means.mean(axis=0)) < 3 * means.std(axis=0) / len(fields) ** 0.5).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_combined_is_the_sum_and_noise_is_truncated(shape):
    rng = np.random.default_rng(7)
    linear = affine_field(shape, *inverse_affine(*random_affine(shape, seed=rng)))
    smooth = smooth_field(shape, rng.uniform(0.1, 6.0), seed=rng)
    np.testing.assert_array_equal(random_field(shape, seed=7), linear + smooth)
    assert np.abs(noise_field(shape)).max() == pytest.approx(0.005)
    noise = random_field(shape, "noise", noise=0.1, seed=3)
    np.testing.assert_array_equal(noise, noise_field(shape, 0.1, seed=3))


@pytest.mark.parametrize("shape", [(64, 48), (40, 44, 48)])
def test_numerical_inverse(shape):
    for seed in range(3):
        field = random_field(shape, magnitude=3.0, seed=seed)
        inverse = inverse_field(field)
        inner = (slice(6, -6),) * len(shape)
        left = (inverse + sample_linear(field, positions(shape) + inverse))[inner]
        right = (field + sample_linear(inverse, positions(shape) + field))[inner]
        assert np.linalg.norm(left, axis=-1).max() <= 1e-3
        assert np.linalg.norm(right, axis=-1).mean() <= 0.1


# Pairs


@pytest.mark.parametrize("kind", ["affine", "smooth", "combined", "noise"])
@pytest.mark.parametrize("shape", SHAPES)
def test_pull_back_is_exact(shape, kind):
    pairs = ChessboardPairs(shape, batch_size=3, steps=1, kind=kind, seed=5)
    images, displacement = pairs[0]
    fixed, moving = images["fixed"], images["moving"]
    assert fixed.shape == moving.shape == (3, *shape, 1)
    assert displacement.shape == (3, *shape, len(shape))
    assert {fixed.dtype, moving.dtype, displacement.dtype} == {np.dtype(np.float32)}
    assert fixed.min() >= 0 and fixed.max() <= 254 / 255
    for k in range(3):
        pulled = interpolated(moving[k, ..., 0], displacement[k])
        np.testing.assert_allclose(pulled, fixed[k, ..., 0], atol=1e-6)
    np.testing.assert_allclose(np.asarray(warp(moving, displacement)), fixed, atol=2e-5)


def test_moving_is_the_undeformed_board():
    pairs = ChessboardPairs(batch_size=2, steps=1, images=2, seed=3)
    images, displacement = pairs[0]
    for k in range(2):
        board = Chessboard((64, 64), seed=(3, k))
        np.testing.assert_allclose(images["moving"][k, ..., 0], board(positions((64, 64))), 1e-6)
        there = positions((64, 64)) + displacement[k]
        np.testing.assert_allclose(images["fixed"][k, ..., 0], board(there), atol=1e-5)


def test_the_other_base_inverts_the_field():
    options = {"batch_size": 4, "images": 4, "magnitude": 3.0}
    images, displacement = ChessboardPairs(base="fixed", **options)[0]
    swapped, drawn = ChessboardPairs(**options)[0]
    np.testing.assert_array_equal(images["fixed"], swapped["moving"])
    np.testing.assert_allclose(images["moving"], swapped["fixed"], atol=1e-6)
    # Warping an image that was interpolated before leaves an error at every edge.
    before = np.abs(images["fixed"] - images["moving"])[:, 6:-6, 6:-6].mean()
    after = images["fixed"] - np.asarray(warp(images["moving"], displacement))
    assert np.abs(after[:, 6:-6, 6:-6]).mean() <= 0.4 * before
    for given, applied in zip(displacement, drawn, strict=True):
        left = given + sample_linear(applied, positions((64, 64)) + given)
        assert np.linalg.norm(left, axis=-1)[6:-6, 6:-6].mean() <= 0.1


def test_batches_depend_on_seed_epoch_and_index_only():
    def flat(batch):
        return [batch[0]["fixed"], batch[0]["moving"], batch[1]]

    def equal(a, b):
        return all(np.array_equal(x, y) for x, y in zip(flat(a), flat(b), strict=True))

    pairs = ChessboardPairs((24, 32), batch_size=2, steps=3, seed=1)
    assert len(pairs) == 3
    first, later = pairs[0], pairs[2]
    again = ChessboardPairs((24, 32), batch_size=2, steps=3, seed=1)
    assert equal(again[2], later) and equal(again[0], first)
    assert not equal(first, later)
    again.epoch = 1
    assert not equal(again[0], first)
    assert not equal(ChessboardPairs((24, 32), batch_size=2, seed=2)[0], first)
    more = ChessboardPairs((24, 32), batch_size=5, seed=1)[0]
    np.testing.assert_array_equal(more[1][:2], first[1])


def test_boards_that_are_used_again_get_new_fields():
    pairs = ChessboardPairs((24, 24), batch_size=2, steps=4, images=3)
    boards = np.concatenate([pairs[k][0]["moving"] for k in range(4)])
    np.testing.assert_array_equal(boards[:3], boards[3:6])
    assert len(np.unique(boards, axis=0)) == 3
    pairs.epoch = 1
    np.testing.assert_array_equal(pairs[0][0]["moving"], boards[:2])
    fields = np.concatenate([pairs[k][1] for k in range(4)])
    assert len(np.unique(fields, axis=0)) == 8


def test_still_pairs_and_poison():
    still = ChessboardPairs((24, 24), batch_size=20, still=0.5)[0][1]
    largest = np.abs(still).max(axis=(1, 2, 3))
    quiet = largest <= 0.0051
    assert 4 <= quiet.sum() <= 16 and (largest[~quiet] > 0.05).all()
    images, displacement = ChessboardPairs((24, 24), batch_size=4, poison=1.0)[0]
    clean, same = ChessboardPairs((24, 24), batch_size=4, poison=0.0)[0]
    np.testing.assert_array_equal(displacement, same)
    change = np.abs(images["fixed"] - clean["fixed"]).max() * 255
    assert 0 < change <= 2 * 0.005 * 255


@pytest.mark.parametrize(
    ("kind", "published"), [("affine", 1.56), ("smooth", 1.49), ("combined", 2.185)]
)
def test_zero_field_as_in_the_calibration(kind, published):
    # The published figures are means over 40 pairs, which scatter by about 0.1 (one deviation).
    errors = ChessboardPairs(batch_size=40, steps=3, kind=kind, seed=11).zero_errors()
    assert errors["epe"] == pytest.approx(published, abs=0.25)
    assert errors["rms_component"] == pytest.approx(errors["epe"] / 2**0.5)
    if kind == "combined":
        assert errors["intensity"] == pytest.approx(17.3, abs=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (64,)}, "shape must be two or three"),
        ({"cells": (1, 4)}, "cells must be two sizes in order, from 2 on, not"),
        ({"kind": "rigid"}, "kind must be one of .'affine', 'smooth'"),
        ({"base": "both"}, "base must be"),
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"images": 0}, "images must be at least 1 or None, not 0"),
        ({"still": 1.5}, "still must lie between 0 and 1, not 1.5"),
        ({"magnitude": (6, 1)}, "magnitude must be a number or two in order, from 0 on"),
        ({"magnitude": -1}, "magnitude must be a number or two in order, from 0 on"),
        ({"noise": -1}, "noise must not be negative"),
        ({"affine": {"scales": (0, 1)}}, "scales must be a number or two"),
        ({"affine": {"rotations": (1, 2, 3)}}, "rotations must be a number or two"),
        ({"smooth": {"kernels": ((4, 1.0),)}}, "kernels must be odd"),
        ({"smooth": {"knots": (1, 5)}}, "knots must be two numbers"),
        ({"smooth": {"margin": -1}}, "margin must not be negative"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ChessboardPairs(**options)
