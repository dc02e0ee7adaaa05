"""Smooth displacements on a lattice over the box [-1, 1]: parameters, averaged, interpolated."""

from __future__ import annotations

import numpy as np
from keras import ops

from zoo.layers.integration import ScalingAndSquaring
from zoo.ops.sampling import sample
from zoo.ops.splatting import to_voxels

SQUARINGS = 6


def smoothed_lattice(control, pool: int, velocity: bool = False):
    """The displacement of parameters on a lattice: twice their mean over `pool` neighbours.

    Args:
        control: tensor `[1, *lattice, rank]`, the same number of points along each axis.
        pool: neighbours over which parameters are averaged, twice; fewer at the border.
        velocity: the mean is a stationary velocity, to be integrated.

    Returns:
        Tensor of the same shape, in units of half the box.
    """
    return pooled(control, pooling(control.shape[1], pool), velocity)


def pooled(control, matrix, velocity: bool = False):
    """`smoothed_lattice` with a matrix of `pooling`, which graphs for several widths share.

    Args:
        control: tensor `[1, *lattice, rank]`, the same number of points along each axis.
        matrix: float32 `[lattice, lattice]`.
        velocity: see `smoothed_lattice`.
    """
    letters = "xyz"[: control.shape[-1]]
    for axis in letters:
        rest = letters.replace(axis, "n")
        control = ops.einsum(f"n{axis},b{letters}c->b{rest}c", matrix, control)
    if not velocity:
        return control
    unit = ops.cast(ops.shape(control)[1], "float32") / 2
    return ScalingAndSquaring(SQUARINGS)(control * unit) / unit


def roughness(field, steps):
    """`zoo.losses.Diffusion` of a displacement, by matrices.

    Their derivatives are products as well, which without XLA takes half the time of differences
    of slices.

    Args:
        field: tensor `[1, *lattice, rank]`, in any unit, the same number of points along each axis.
        steps: float32 `[lattice - 1, lattice]`, from `differences`.
    """
    letters = "xyz"[: field.shape[-1]]
    total = 0.0
    for axis in letters:
        slope = ops.einsum(f"n{axis},b{letters}c->b{letters.replace(axis, 'n')}c", steps, field)
        total = total + ops.mean(ops.sum(ops.square(slope), axis=-1))
    return total


def differences(size: int) -> np.ndarray:
    """Each point of a lattice but the last subtracted from the next, `[size - 1, size]`."""
    return np.diff(np.eye(size, dtype=np.float32), axis=0)


def displacement_at(field, points):
    """The displacement `[1, n, rank]` of points in the box; beyond it that of the border.

    Args:
        field: tensor `[1, *lattice, rank]`.
        points: tensor `[1, n, rank]`, in units of half the box and from its centre.
    """
    return sample(field, to_voxels(points, ops.shape(field)[1:-1]))


def pooling(size: int, width: int) -> np.ndarray:
    """Two means over `width` neighbours each, fewer at the border, as a matrix `[size, size]`."""
    place = np.arange(size)
    near = (np.abs(place[:, None] - place) <= width // 2).astype(np.float64)
    once = near / near.sum(axis=1, keepdims=True)
    return (once @ once).astype(np.float32)
