"""Spatial derivatives against closed forms."""

import numpy as np
import pytest
from keras import ops

from zoo.ops.derivatives import (
    SCHEMES,
    differences,
    jacobian,
    jacobian_determinant,
    second_differences,
    spatial_gradient,
)

SHAPES = [(7, 10), (5, 6, 9)]


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def grid(shape):
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).astype("float64")


def affine_field(shape, matrix):
    """Displacement of `x -> matrix x`."""
    return (grid(shape) @ (matrix - np.eye(len(shape))).T)[None].astype("float32")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_affine_maps_are_exact_up_to_the_border(shape, scheme):
    matrix = np.eye(len(shape)) + 0.2 * np.random.default_rng(0).normal(size=(len(shape),) * 2)
    field = affine_field(shape, matrix)
    result = numpy(jacobian(field, scheme=scheme))
    expected = np.broadcast_to(matrix - np.eye(len(shape)), result.shape)
    np.testing.assert_allclose(result, expected, atol=1e-5)
    determinant = numpy(jacobian_determinant(field, scheme=scheme))
    assert determinant.shape == (1, *shape) and determinant.dtype == np.float32
    np.testing.assert_allclose(determinant, np.linalg.det(matrix), rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_units(shape):
    rank = len(shape)
    spacing = np.array([0.5, 2.0, 3.0])[:rank]
    field = np.random.default_rng(1).normal(size=(1, *shape, rank)).astype("float32")
    world = jacobian_determinant(field * spacing.astype("float32"), spacing)
    np.testing.assert_allclose(numpy(world), numpy(jacobian_determinant(field)), atol=1e-4)


def test_named_cases():
    zero = np.zeros((1, 8, 9, 2), "float32")
    np.testing.assert_array_equal(numpy(jacobian_determinant(zero)), 1)
    stretch = zero.copy()
    stretch[..., 0] = 0.1 * np.arange(8)[None, :, None]
    np.testing.assert_allclose(numpy(jacobian_determinant(stretch)), 1.1, atol=1e-6)
    angle = np.deg2rad(30)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    rotated = numpy(jacobian_determinant(affine_field((12, 13), rotation)))
    np.testing.assert_allclose(rotated, 1, atol=1e-3)
    mirrored = affine_field((8, 9), np.diag([-1.0, 1.0]))
    assert (numpy(jacobian_determinant(mirrored)) < 0).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_differences_of_a_parabola(scheme):
    image = np.broadcast_to(np.arange(6.0)[:, None] ** 2, (6, 5))[None, ..., None]
    along = numpy(spatial_gradient(image, scheme=scheme))[0, :, 0, 0, 0]
    expected = [1, 2, 4, 6, 8, 9] if scheme == "central" else [1, 3, 5, 7, 9, 9]
    np.testing.assert_allclose(along, expected)
    assert not numpy(spatial_gradient(image, scheme=scheme))[..., 1].any()
    np.testing.assert_allclose(numpy(differences(image, 0))[0, :, 0, 0], [1, 3, 5, 7, 9])
    assert differences(image, 1).shape == (1, 6, 4, 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_second_differences_of_a_quadratic_form(shape):
    rank = len(shape)
    form = np.random.default_rng(2).normal(size=(rank, rank))
    form = form + form.T
    points = grid(shape)
    image = 0.5 * np.einsum("...i,ij,...j->...", points, form, points)[None, ..., None]
    result = numpy(second_differences(image))
    assert result.shape == (1, *shape, 1, rank, rank)
    inside = result[(slice(None), *(slice(1, -1) for _ in shape))]
    np.testing.assert_allclose(inside, np.broadcast_to(form, inside.shape), atol=2e-4)
    np.testing.assert_array_equal(result, np.swapaxes(result, -1, -2))
    scaled = numpy(second_differences(image, [2.0] * rank))
    np.testing.assert_allclose(scaled, result / 4, atol=1e-5)
    affine = affine_field(shape, np.eye(rank) + 0.3)
    assert np.abs(numpy(second_differences(affine))).max() < 1e-5


def test_axis_of_one_voxel_has_no_derivative():
    image = np.random.default_rng(3).normal(size=(1, 1, 6, 2)).astype("float32")
    for scheme in SCHEMES:
        result = numpy(spatial_gradient(image, scheme=scheme))
        assert not result[..., 0].any() and result[..., 1].any()
    assert not numpy(second_differences(image))[..., 0, :].any()
    assert jacobian_determinant(image).shape == (1, 1, 6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: jacobian(np.zeros((1, 5, 6, 3))), "2 components"),
        (lambda: jacobian_determinant(np.zeros((1, 5, 2))), "displacement must have the shape"),
        (lambda: spatial_gradient(np.zeros((1, 5, 1))), "field must have the shape"),
        (lambda: spatial_gradient(np.zeros((1, 5, 6, 1)), scheme="sobel"), "scheme must be"),
        (lambda: spatial_gradient(np.zeros((1, 5, 6, 1)), [1.0]), "spacing must be 2 positive"),
        (lambda: spatial_gradient(np.zeros((1, 5, 6, 1)), [1, 0]), "spacing must be 2 positive"),
        (lambda: differences(np.zeros((1, 5, 6, 1)), 2), "axis must lie between 0 and 1"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
