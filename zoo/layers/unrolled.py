"""The descent of a variational registration network, level by level of an image pyramid."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from keras import ops

from zoo.layers.bspline import bspline_expand, control_shape
from zoo.layers.intensities import locally_normalised
from zoo.layers.pyramid import image_pyramid, upsample_displacement
from zoo.ops.derivatives import jacobian_determinant, spatial_gradient
from zoo.ops.sampling import warp

SMALLEST = 12  # voxels along the longest side of a coarse level; smaller ones show no shapes
SHARES = (1.0, 0.5, 0.25)  # of what a level has found that are tried when it is judged
FOLDING = 10.0  # how much dearer a map is for the share of its volume that folds


def descend(
    units: Sequence[Sequence[Callable]],
    fixed,
    moving,
    masks: tuple = (None, None),
    *,
    spacing: int,
    integrate: Callable | None = None,
    local: float | None = None,
    careful: bool = False,
    judged: bool = False,
) -> list[dict]:
    """Registers a batch by variational units.

    Args:
        units: of each level, coarse to fine, see `zoo.layers.variational_unit.VariationalUnit`.
        fixed: `[batch, *spatial, channels]`.
        moving: likewise.
        masks: of the fixed and of the moving image, `[batch, *spatial, 1]` or None: residuals
            count where both are one.
        spacing: voxels of a level between control points.
        integrate: makes displacements of velocities.
        local: normalise the images of every level around every voxel, with this standard deviation
            of what lies around, in voxels.
        careful: units see the gradients of both images, and levels that are too small for shapes
            do nothing.
        judged: of what a level has found, keep for each image the share with the lowest
            `energy`, perhaps nothing.

    Returns:
        For each level a dict of the `fixed` image and, for each unit, the `moved` image, the
        `fields` that its control points interpolate to and the `displacements` that these make,
        in voxels of the level.
    """
    rank = len(fixed.shape) - 2
    levels = zip(
        units, _pyramid(fixed, masks[0], len(units)), _pyramid(moving, masks[1], len(units)),
        strict=True,
    )  # fmt: skip
    trace, control = [], None
    for chain, (fixed, fixed_mask), (moving, moving_mask) in levels:
        if local is not None:
            fixed = locally_normalised(fixed, fixed_mask, local)
            moving = locally_normalised(moving, moving_mask, local)
        shape = ops.shape(fixed)[1:-1]
        points = control_shape(shape, spacing, order=1)
        if control is None:
            control = ops.zeros((ops.shape(fixed)[0], *points, rank))
        else:
            control = finer(control, points)
        gradient = spatial_gradient(fixed) if careful else None

        def at(control, shape=shape, fixed_mask=fixed_mask, moving=moving, mask=moving_mask):
            field = bspline_expand(control, shape, spacing, order=1)
            displacement = field if integrate is None else integrate(field)
            weight = _counting(fixed_mask, mask, displacement)
            return field, displacement, warp(moving, displacement), weight

        start = previous = control
        _, displacement, moved, weight = at(control)
        level = {"fixed": fixed, "moved": [], "fields": [], "displacements": []}
        for unit in chain:
            new = unit(control, previous, moved, fixed, gradient, weight)
            if careful and chain is not units[-1]:
                size = ops.max(ops.stack([ops.cast(n, "int32") for n in shape]))
                new = ops.where(size >= SMALLEST, new, start)
            control, previous = new, control
            field, displacement, moved, weight = at(control)
            _append(level, field, displacement, moved)
        if judged:
            control = _best(start, control, at, fixed)
            for values in (level[key] for key in ("fields", "displacements", "moved")):
                values.pop()
            _append(level, *at(control)[:3])
        trace.append(level)
    return trace


def energy(fixed, moved, displacement, weight=None):
    """How bad a map is, `[batch]`: squared residuals in both spaces, and dearer where it folds.

    A residual in the fixed space alone favours maps that widen what fits and skip what does not.
    The volume that a voxel takes in the moving space, the determinant, weighs it there; what is
    skipped lies within voxels of large determinants.

    Args:
        fixed: `[batch, *spatial, channels]`.
        moved: likewise.
        displacement: `[batch, *spatial, rank]` in voxels.
        weight: `[batch, *spatial, 1]`, where residuals count; None is everywhere.
    """
    axes = tuple(range(1, len(fixed.shape) - 1))
    determinant = jacobian_determinant(displacement)
    share = (1.0 + ops.clip(determinant, 0.0, 10.0)) / 2.0
    if weight is not None:
        share = share * weight[..., 0]
    squares = ops.mean(ops.square(moved - fixed), axis=-1)
    residual = ops.sum(share * squares, axes) / ops.maximum(ops.sum(share, axes), 1e-6)
    folds = ops.mean(ops.cast(determinant <= 0.0, "float32"), axes)
    return residual * (1.0 + FOLDING * folds)


def better(fixed, moving, first, second, masks: tuple = (None, None)):
    """Of two displacements `[batch, *spatial, rank]`, for each image that of lower `energy`.

    Args:
        fixed: `[batch, *spatial, channels]`.
        moving: likewise.
        first: displacement in voxels, which stays where both are alike.
        second: likewise.
        masks: see `descend`.
    """
    values = []
    for displacement in (first, second):
        weight = _counting(*masks, displacement)
        values.append(energy(fixed, warp(moving, displacement), displacement, weight))
    ends = (-1, *(1,) * (len(fixed.shape) - 1))
    return ops.where(ops.reshape(values[1] >= values[0], ends), first, second)


def finer(control, points: Sequence[int]):
    """Control points of the next level: the old ones and their midpoints, twice as many voxels."""
    twice = upsample_displacement(control, tuple(2 * n for n in ops.shape(control)[1:-1]))
    return twice[(slice(None), *(slice(0, n) for n in points))]


def _best(start, end, at: Callable, fixed):
    """For each image of the batch the control points between start and end of lowest energy."""
    ends = (-1, *(1,) * (len(fixed.shape) - 1))

    def value(control):
        _, displacement, moved, weight = at(control)
        return energy(fixed, moved, displacement, weight)

    best, lowest = start, value(start)
    for share in SHARES:
        control = start + share * (end - start)
        now = value(control)
        # Asked so that what is not a number is not hidden.
        best = ops.where(ops.reshape(now >= lowest, ends), best, control)
        lowest = ops.minimum(now, lowest)
    return best


def _counting(fixed_mask, moving_mask, displacement):
    """Where residuals count, `[batch, *spatial, 1]`; None is everywhere."""
    if moving_mask is None:
        return fixed_mask
    there = warp(moving_mask, displacement)
    return there if fixed_mask is None else fixed_mask * there


def _pyramid(image, mask, levels: int) -> list[tuple]:
    """Pairs of image and mask, coarse to fine; values outside of the mask do not leak into it."""
    if mask is None:
        return [(each, None) for each in reversed(image_pyramid(image, levels))]
    images, masks = image_pyramid(image * mask, levels), image_pyramid(mask, levels)
    coarse = [
        (each / ops.maximum(weight, 1e-3), weight)
        for each, weight in zip(images[1:], masks[1:], strict=True)
    ]
    return [*reversed(coarse), (image, mask)]


def _append(level: dict, field, displacement, moved) -> None:
    level["fields"].append(field)
    level["displacements"].append(displacement)
    level["moved"].append(moved)
