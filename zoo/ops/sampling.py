"""Sampling of images at free positions, with its own gradient; warping and composition."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from keras import ops

from zoo.ops import kernels
from zoo.ops.arguments import one_of
from zoo.ops.array_arguments import real_tensor
from zoo.ops.compiling import on_accelerator
from zoo.ops.derivatives import spatial_rank

ORDERS = ("linear", "nearest")
MODES = ("border", "zero")

# Up to here the channels are scattered one by one on a CPU, above it all together.
FEW_CHANNELS = 4


def identity_coordinates(shape: Sequence[int]):
    """Positions of the voxels of a grid.

    Args:
        shape: sizes of the spatial axes, `rank` integers.

    Returns:
        float32 tensor `[*shape, rank]`, in voxels, components in the order of the axes.
    """
    axes = [ops.arange(size, dtype="float32") for size in shape]
    return ops.stack(ops.meshgrid(*axes, indexing="ij"), axis=-1)


def sample(image, coordinates, order: str = "linear", mode: str = "border"):
    """Values of an image at positions between its voxels.

    Computed in float32 and differentiable with respect to both arguments. The derivative with
    respect to a coordinate is one-sided at a voxel (towards larger coordinates, or into the image
    at its last voxel) and zero where the result does not change with it: outside of the image,
    and everywhere for `order="nearest"`.

    The backward pass to the image takes, on a CPU, temporary memory of up to `2 ** (rank + 1)`
    times the image. In a graph it is left out when nobody asks for it.

    Args:
        image: tensor `[batch, *spatial, channels]` of rank 2 or 3, any real dtype.
        coordinates: float tensor `[batch, *query, rank]`, in voxels of `image`, components in the
            order of its axes; voxel centres lie at integers. Where it is NaN, so is the result of
            `order="linear"`.
        order: "linear" or "nearest".
        mode: what lies outside: "border" repeats the nearest voxel of the edge, "zero" is zero from
            one voxel beyond the edge on, with linear interpolation in between.

    Returns:
        float32 tensor `[batch, *query, channels]`.

    Raises:
        ValueError: for an unknown order or mode, or ranks or batches that do not fit.

    Example:
        >>> from zoo.ops.sampling import sample
        >>> ramp = 10 * np.arange(3.0).reshape(1, 3, 1, 1)
        >>> np.ravel(sample(ramp, np.array([[[0.5, 0.0], [1.25, 0.0], [7.0, 0.0]]])))
        array([ 5. , 12.5, 20. ], dtype=float32)
    """
    rank = _check(image, coordinates, "coordinates", order, mode)
    if len(coordinates.shape) < 3:
        raise ValueError(
            f"coordinates must be [batch, *query, {rank}], not {tuple(coordinates.shape)}."
        )
    return _sampler(order, mode, False)(
        ops.cast(image, "float32"), ops.cast(coordinates, "float32")
    )


def warp(image, displacement, order: str = "linear", mode: str = "border"):
    """Pulls an image back along a displacement: `moved(x) = image(x + displacement(x))`.

    The same as `sample` at the displaced voxel positions, which it never stores.

    Args:
        image: tensor `[batch, *spatial, channels]` of rank 2 or 3, any real dtype.
        displacement: float tensor `[batch, *grid, rank]`, in voxels of `image`, whose voxel `x` is
            the voxel `x` of the grid. The grid may be smaller or larger than the image.
        order: "linear" or "nearest".
        mode: "border" or "zero", see `sample`.

    Returns:
        float32 tensor `[batch, *grid, channels]`.

    Raises:
        ValueError: for an unknown order or mode, or ranks or batches that do not fit.

    Example:
        >>> from zoo.ops.sampling import warp
        >>> ramp = np.arange(4.0).reshape(1, 4, 1, 1)
        >>> np.ravel(warp(ramp, np.zeros((1, 4, 1, 2)) + [1.0, 0.0]))  # moved(x) = image(x + 1)
        array([1., 2., 3., 3.], dtype=float32)
    """
    rank = _check(image, displacement, "displacement", order, mode)
    if len(displacement.shape) != rank + 2:
        raise ValueError(
            f"displacement must be [batch, {rank} spatial axes, {rank}] for an image of rank "
            f"{rank}, not {tuple(displacement.shape)}."
        )
    return _sampler(order, mode, True)(
        ops.cast(image, "float32"), ops.cast(displacement, "float32")
    )


def compose(first, second):
    """Displacement of two maps after each other: `x -> x + second(x) -> first`.

    With `F(x) = x + first(x)` and `S(x) = x + second(x)` the result is that of `F(S(x))`:
    `second(x) + first(x + second(x))`. An image that is pulled back along `first`, and the moved
    image along `second`, is pulled back along `compose(first, second)`. Outside of its grid
    `first` continues with the value at the border.

    Args:
        first: float tensor `[batch, *spatial, rank]`, in voxels.
        second: float tensor `[batch, *grid, rank]`, in voxels of the same size.

    Returns:
        float32 tensor `[batch, *grid, rank]`.

    Raises:
        ValueError: when ranks or batches do not fit.
    """
    rank = len(first.shape) - 2
    if first.shape[-1] != rank:
        raise ValueError(
            f"first must be [batch, *spatial, rank] with one component per spatial axis, "
            f"not {tuple(first.shape)}."
        )
    return ops.cast(second, "float32") + warp(first, second)


def sample_few(image, coordinates):
    """What `sample` computes, linearly and with borders, by operations of the graph around it.

    For up to some ten thousand coordinates, for which a kernel of their own does not repay the time
    that it takes to compile. It may be differentiated again, and more often; see
    `sample_with_slopes` for its memory.

    Args:
        image, coordinates: see `sample`.

    Returns:
        float32 tensor `[batch, *query, channels]`.

    Raises:
        ValueError: for ranks or batches that do not fit.
    """
    _check(image, coordinates, "coordinates", "linear", "border")
    image, coordinates = (ops.cast(each, "float32") for each in (image, coordinates))
    return _forward(image, coordinates, mode="border", relative=False)


def sample_with_slopes(image, coordinates):
    """Values of an image between its voxels, and their exact derivatives by the coordinates.

    Unlike `sample`, whose gradient is its own, both results may be differentiated further, with
    respect to both arguments: what a loss of derivatives needs. It keeps all corners of the cells
    in memory, `2 ** rank` times what it returns, so it is meant for a few thousand coordinates.

    Args:
        image: float tensor `[batch, *spatial, channels]` of rank 2 or 3.
        coordinates: float tensor `[batch, *query, rank]`, in voxels of `image`, as in `sample`;
            the nearest voxel of the edge is repeated outside.

    Returns:
        `(values, slopes)`, float32 `[batch, *query, channels]` and `[batch, *query, rank,
        channels]`. Slopes are one-sided at a voxel, and zero outside.

    Raises:
        ValueError: for ranks or batches that do not fit.
    """
    _check(image, coordinates, "coordinates", "linear", "border")
    image, coordinates = (ops.cast(each, "float32") for each in (image, coordinates))
    axes, base, steps = _axes(image, coordinates, "border", False)
    corners = _gather(image, base, steps)
    weights = [tuple(weight[..., None] for weight in axis.weights) for axis in axes]
    slopes = []
    for number, axis in enumerate(axes):
        changed = list(weights)
        changed[number] = tuple(slope[..., None] for slope in axis.slopes)
        slopes.append(_blend(corners, changed))
    return _blend(corners, weights), ops.stack(slopes, axis=-2)


def _check(image, positions, name: str, order: str, mode: str) -> int:
    one_of("order", order, ORDERS)
    one_of("mode", mode, MODES)
    rank = spatial_rank(image, "image")
    if real_tensor(name, positions).shape[-1] != rank:
        raise ValueError(
            f"{name} must have {rank} components for an image of rank {rank}, not "
            f"{positions.shape[-1]} (shape {tuple(positions.shape)})."
        )
    batches = image.shape[0], positions.shape[0]
    if None not in batches and batches[0] != batches[1]:
        raise ValueError(
            f"image and {name} must have the same batch size, not {batches[0]} and {batches[1]}."
        )
    if any(size == 0 for size in image.shape[1:]):
        raise ValueError(f"image must not be empty, but its shape is {tuple(image.shape)}.")
    return rank


class _Axis(NamedTuple):
    """Where the samples lie along one axis: `value = weights[0] * low + weights[1] * high`."""

    index: object  # int32, the lower of the two voxels
    weights: tuple
    slopes: tuple  # derivatives of the weights with respect to the coordinate


def _positions(values, relative: bool) -> list:
    """Splits `[batch, *query, rank]` into one tensor per component, absolute."""
    parts = []
    for axis in range(values.shape[-1]):
        part = values[..., axis]
        if relative:
            shape = [1] * len(part.shape)
            shape[axis + 1] = -1
            size = ops.shape(part)[axis + 1]
            part = part + ops.reshape(ops.arange(size, dtype="float32"), shape)
        parts.append(part)
    return parts


def _axis(position, size, mode: str) -> _Axis:
    # Sizes may be tensors: a graph with free sizes is traced once for all of them.
    last = ops.cast(size - 1, "float32")
    inside = ops.logical_and(position >= 0, position <= last)
    clipped = ops.clip(position, 0.0, last)
    floor = ops.floor(ops.minimum(clipped, ops.maximum(last - 1.0, 0.0)))
    # A NaN converts to anything; the index has to stay inside all the same.
    index = ops.clip(ops.cast(floor, "int32"), 0, size - 1)
    if mode == "border":
        fraction = clipped - floor
        slope = ops.cast(inside, "float32")
        return _Axis(index, (1.0 - fraction, fraction), (-slope, slope))
    offset = position - floor
    # An axis of one voxel has no higher neighbour.
    exists = ops.minimum(last, 1.0)
    low, high = 1.0 - ops.abs(offset), 1.0 - ops.abs(offset - 1.0)
    weights = ops.maximum(low, 0.0), ops.maximum(high, 0.0) * exists
    slopes = (
        ops.where(low > 0, ops.where(offset < 0, 1.0, -1.0), 0.0),
        ops.where(high > 0, ops.where(offset < 1, 1.0, -1.0), 0.0) * exists,
    )
    return _Axis(index, weights, slopes)


def _axes(image, values, mode: str, relative: bool) -> tuple[list[_Axis], object, list]:
    """The axes, the flat index of the lowest corner, and how far the corners lie from it."""
    sizes = ops.shape(image)[1:-1]
    parts = _positions(values, relative)
    axes = [_axis(part, size, mode) for part, size in zip(parts, sizes, strict=True)]
    strides = [math.prod(sizes[number + 1 :]) for number in range(len(sizes))]
    base = _batch_index(values)
    for axis, size in zip(axes, sizes, strict=True):
        base = base * size + axis.index
    # The higher neighbour of the only voxel is that voxel, with weight zero.
    steps = [step * ops.minimum(size - 1, 1) for step, size in zip(strides, sizes, strict=True)]
    return axes, base, steps


def _batch_index(values):
    """Index of the batch, `[batch, 1, ..., 1]` for values `[batch, *query, rank]`."""
    return ops.reshape(ops.arange(ops.shape(values)[0]), [-1] + [1] * (len(values.shape) - 2))


def _corners(rank: int) -> list[tuple[int, ...]]:
    return list(itertools.product((0, 1), repeat=rank))


def _gather(image, index, steps) -> dict:
    """Values at the corners of the cells, by corner; `index` keeps its shape, channels follow."""
    flat = ops.reshape(image, [-1, image.shape[-1]])
    return {
        corner: kernels.take_rows(
            flat, index + sum(bit * step for bit, step in zip(corner, steps, strict=True))
        )
        for corner in _corners(len(steps))
    }


def _blend(values: dict, weights: list[tuple]):
    """Interpolates along the last axis first, until one value is left."""
    for axis in reversed(range(len(weights))):
        low, high = weights[axis]
        values = {
            corner: low * values[(*corner, 0)] + high * values[(*corner, 1)]
            for corner in _corners(axis)
        }
    return values[()]


def _forward(image, values, *, mode: str, relative: bool):
    axes, base, steps = _axes(image, values, mode, relative)
    weights = [tuple(weight[..., None] for weight in axis.weights) for axis in axes]
    return _blend(_gather(image, base, steps), weights)


def _to_positions(image, values, gradient, *, mode: str, relative: bool):
    axes, base, steps = _axes(image, values, mode, relative)
    rank = len(axes)
    # All components are computed side by side, with constants that select the slopes of the
    # component's own axis and the weights of the others. The compiler unrolls that innermost axis
    # and gathers each corner once; a stack of three results gathers it three times.
    own = np.eye(rank, dtype="float32")[..., None]
    weights = [
        tuple(
            (1.0 - own[number]) * weight[..., None, None] + own[number] * slope[..., None, None]
            for weight, slope in zip(axis.weights, axis.slopes, strict=True)
        )
        for number, axis in enumerate(axes)
    ]
    index = ops.broadcast_to(base[..., None], ops.shape(values))
    derivative = _blend(_gather(image, index, steps), weights)
    return ops.sum(derivative * gradient[..., None, :], axis=-1)


def _to_image(image, values, gradient, *, mode: str, relative: bool):
    rank, channels, shape = len(image.shape) - 2, image.shape[-1], ops.shape(image)
    voxels = math.prod(shape[:-1])
    axes, base, steps = _axes(image, values, mode, relative)
    flat = ops.reshape(base, [-1])
    weights = {corner: 1.0 for corner in _corners(rank)}
    for corner in weights:
        for bit, axis in zip(corner, axes, strict=True):
            weights[corner] = weights[corner] * axis.weights[bit]
    if on_accelerator() or channels > FEW_CHANNELS:
        result = 0.0
        for corner, weight in weights.items():
            index = flat + sum(bit * step for bit, step in zip(corner, steps, strict=True))
            rows = ops.reshape(weight[..., None] * gradient, [-1, channels])
            result = result + kernels.add_rows(index, rows, voxels)
        return ops.reshape(result, shape)
    # A scatter is one sequential loop: write the corners of a cell as one row, then add the rows'
    # parts shifted to where they belong, in parallel. Five times faster than 2^rank scatters.
    results = []
    for channel in range(channels):
        rows = [weight * gradient[..., channel] for weight in weights.values()]
        rows = ops.reshape(ops.stack(rows, axis=-1), [-1, 2**rank])
        cells = ops.reshape(kernels.add_rows(flat, rows, voxels), [*shape[:-1], 2**rank])
        result = 0.0
        for number, corner in enumerate(weights):
            part = ops.pad(cells[..., number], [(0, 0), *((bit, 0) for bit in corner)])
            result = result + part[(slice(None), *(slice(0, size) for size in shape[1:-1]))]
        results.append(result)
    return ops.stack(results, axis=-1)


def _nearest(image, values, mode: str, relative: bool):
    sizes = ops.shape(image)[1:-1]
    base, inside = _batch_index(values), True
    for part, size in zip(_positions(values, relative), sizes, strict=True):
        rounded = ops.floor(part + 0.5)
        last = ops.cast(size - 1, "float32")
        index = ops.clip(ops.cast(ops.clip(rounded, 0.0, last), "int32"), 0, size - 1)
        base = base * size + index
        inside = ops.logical_and(inside, ops.logical_and(rounded >= 0, rounded <= last))
    weight = ops.cast(inside, "float32")[..., None] if mode == "zero" else 1.0
    return base, weight


def _nearest_forward(image, values, *, mode: str, relative: bool):
    base, weight = _nearest(image, values, mode, relative)
    return weight * kernels.take_rows(ops.reshape(image, [-1, image.shape[-1]]), base)


def _nearest_to_image(image, values, gradient, *, mode: str, relative: bool):
    base, weight = _nearest(image, values, mode, relative)
    shape = ops.shape(image)
    rows = ops.reshape(weight * gradient, [-1, image.shape[-1]])
    result = kernels.add_rows(ops.reshape(base, [-1]), rows, math.prod(shape[:-1]))
    return ops.reshape(result, shape)


def _nearest_to_positions(image, values, gradient, **_):
    return ops.zeros_like(values)


@functools.cache
def _sampler(order: str, mode: str, relative: bool):
    parts = (
        (_forward, _to_image, _to_positions)
        if order == "linear"
        else (_nearest_forward, _nearest_to_image, _nearest_to_positions)
    )
    return kernels.with_gradient(
        *(kernels.kernel(functools.partial(part, mode=mode, relative=relative)) for part in parts)
    )
