"""Spatial derivatives of images and displacements by finite differences."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from keras import ops

from zoo.ops import kernels
from zoo.ops.arguments import between, one_of
from zoo.ops.array_arguments import real_tensor

SCHEMES = ("central", "forward")


def differences(field, axis: int):
    """Forward differences `field[i + 1] - field[i]` along one spatial axis.

    Args:
        field: tensor `[batch, *spatial, channels]`.
        axis: spatial axis, from 0.

    Returns:
        float32 tensor with one voxel less along that axis.

    Raises:
        ValueError: when there is no such spatial axis.
    """
    rank = spatial_rank(field)
    between("axis", axis, 0, rank - 1)
    field = ops.cast(field, "float32")
    return _part(field, axis + 1, 1, None) - _part(field, axis + 1, None, -1)


def spatial_gradient(field, spacing: Sequence[float] | None = None, scheme: str = "central"):
    """Derivative of every channel along every spatial axis, on the grid of the field.

    "central" takes half the difference of the two neighbours, and at the border the one-sided
    difference; "forward" takes the next voxel minus this one, and at the end this one minus the
    previous one. Both are exact for linear functions, everywhere. Along an axis of one voxel the
    derivative is zero.

    Args:
        field: tensor `[batch, *spatial, channels]` of rank 2 or 3.
        spacing: distance between voxels along each axis; one when not given.
        scheme: "central" or "forward".

    Returns:
        float32 tensor `[batch, *spatial, channels, rank]`, in units of the field per unit of
        `spacing` (per voxel without it).

    Raises:
        ValueError: for an unknown scheme, a rank other than 2 and 3, or a spacing that does not
            have one positive number per axis.
    """
    rank = spatial_rank(field)
    one_of("scheme", scheme, SCHEMES)
    return _kernel(_gradient, _spacing(spacing, rank), scheme)(ops.cast(field, "float32"))


def jacobian(displacement, spacing: Sequence[float] | None = None, scheme: str = "central"):
    """Spatial Jacobian of a displacement, `J[i, j] = d u_i / d x_j`, without the identity.

    Args:
        displacement: tensor `[batch, *spatial, rank]`, in voxels, or in the units of `spacing`
            when that is given.
        spacing: distance between voxels along each axis; leave it out for voxels.
        scheme: "central" or "forward", see `spatial_gradient`.

    Returns:
        float32 tensor `[batch, *spatial, rank, rank]`.

    Raises:
        ValueError: as `spatial_gradient`, or when the number of components is not the rank.
    """
    _displacement_rank(displacement)
    return spatial_gradient(displacement, spacing, scheme)


def jacobian_determinant(
    displacement, spacing: Sequence[float] | None = None, scheme: str = "central"
):
    """Determinant of the Jacobian of `x + u(x)`: local change of volume, not positive at folds.

    Args:
        displacement: tensor `[batch, *spatial, rank]`, in voxels, or in the units of `spacing`
            when that is given. Both describe the same map and give the same determinant.
        spacing: distance between voxels along each axis; leave it out for voxels.
        scheme: "central" or "forward", see `spatial_gradient`.

    Returns:
        float32 tensor `[batch, *spatial]`.

    Raises:
        ValueError: as `jacobian`.
    """
    spacing = _spacing(spacing, _displacement_rank(displacement))
    one_of("scheme", scheme, SCHEMES)
    return _kernel(_determinant, spacing, scheme)(ops.cast(displacement, "float32"))


def second_differences(field, spacing: Sequence[float] | None = None):
    """Second derivatives of every channel, for the bending energy.

    `field[i + 1] - 2 field[i] + field[i - 1]` along one axis, and the central difference of the
    central difference along two. The field is continued linearly beyond its border, so that an
    affine field has no second derivative anywhere, and no field has one across its own border.

    Args:
        field: tensor `[batch, *spatial, channels]` of rank 2 or 3.
        spacing: distance between voxels along each axis; one when not given.

    Returns:
        float32 tensor `[batch, *spatial, channels, rank, rank]`, symmetric in its last two axes.

    Raises:
        ValueError: for a rank other than 2 and 3, or a spacing that does not fit.
    """
    rank = spatial_rank(field)
    return _kernel(_second, _spacing(spacing, rank))(ops.cast(field, "float32"))


@functools.lru_cache(maxsize=64)
def _kernel(function, *arguments):
    # Op by op each slice is a pass over memory: six times slower, its gradient as well.
    return kernels.kernel(lambda field: function(field, *arguments))


def _gradient(field, spacing, scheme):
    parts = []
    for axis, step in enumerate(spacing, start=1):
        extended = _extended(field, axis)
        after = _part(extended, axis, 2, None)
        if scheme == "central":
            part = 0.5 * (after - _part(extended, axis, None, -2))
        else:
            part = after - _part(extended, axis, 1, -1)
        parts.append(part / step)
    return ops.stack(parts, axis=-1)


def _second(field, spacing):
    rank = len(spacing)
    parts = {}
    for axis in range(rank):
        extended = _extended(field, axis + 1)
        before = _part(extended, axis + 1, None, -2)
        after = _part(extended, axis + 1, 2, None)
        parts[axis, axis] = (after - 2.0 * field + before) / spacing[axis] ** 2
        central = (after - before) / (2.0 * spacing[axis])
        for other in range(axis + 1, rank):
            mixed = _extended(central, other + 1)
            mixed = _part(mixed, other + 1, 2, None) - _part(mixed, other + 1, None, -2)
            parts[axis, other] = parts[other, axis] = mixed / (2.0 * spacing[other])
    rows = [ops.stack([parts[i, j] for j in range(rank)], axis=-1) for i in range(rank)]
    return ops.stack(rows, axis=-2)


def _determinant(displacement, spacing, scheme):
    matrix = _gradient(displacement, spacing, scheme)
    rank = matrix.shape[-1]
    m = [[matrix[..., i, j] + float(i == j) for j in range(rank)] for i in range(rank)]
    if rank == 2:
        return m[0][0] * m[1][1] - m[0][1] * m[1][0]
    return (
        m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1])
        - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
        + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
    )


def spatial_rank(field, name: str = "field", last: str = "channels") -> int:
    """Number of spatial axes of `[batch, *spatial, last]`.

    Args:
        field: tensor or array of any rank.
        name: what the caller calls the field, for the error.
        last: what its last axis holds, for the error.

    Raises:
        ValueError: unless that is 2 or 3.
    """
    rank = len(real_tensor(name, field).shape) - 2
    if rank not in (2, 3):
        raise ValueError(
            f"{name} must have the shape [batch, *spatial, {last}] with 2 or 3 spatial axes, "
            f"not {tuple(field.shape)}."
        )
    return rank


def _displacement_rank(displacement) -> int:
    rank = spatial_rank(displacement, "displacement")
    if displacement.shape[-1] != rank:
        raise ValueError(
            f"displacement must have {rank} components for {rank} spatial axes, "
            f"not {displacement.shape[-1]} (shape {tuple(displacement.shape)})."
        )
    return rank


def _spacing(spacing, rank: int) -> tuple[float, ...]:
    if spacing is None:
        return (1.0,) * rank
    values = tuple(float(value) for value in spacing)
    if len(values) != rank or not all(value > 0 for value in values):
        raise ValueError(f"spacing must be {rank} positive numbers, not {spacing}.")
    return values


def _part(field, axis: int, start, stop):
    return field[(slice(None),) * axis + (slice(start, stop),)]


def _extended(field, axis: int):
    """Continues the field by one voxel at both ends of an axis, linearly."""
    first, last = _part(field, axis, None, 1), _part(field, axis, -1, None)
    if field.shape[axis] == 1:
        return ops.concatenate([first, field, last], axis=axis)
    second, penultimate = _part(field, axis, 1, 2), _part(field, axis, -2, -1)
    if field.shape[axis] is None:
        # In a graph with free sizes there may be only one voxel.
        size = ops.shape(field)[axis]
        second, penultimate = (
            ops.take(field, ops.reshape(index, [1]), axis=axis)
            for index in (ops.minimum(1, size - 1), ops.maximum(size - 2, 0))
        )
    before = 2.0 * first - second
    after = 2.0 * last - penultimate
    return ops.concatenate([before, field, after], axis=axis)
