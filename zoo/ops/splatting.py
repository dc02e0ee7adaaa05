"""Rasterisation of points onto a grid, the transpose of sampling; density images, dense motion.

Source: Heinrich et al., "Chasing clouds: differentiable volumetric rasterisation of point clouds as
a highly efficient and accurate loss for large-scale deformable 3D registration", ICCV 2023.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops
from scipy.ndimage import distance_transform_edt

from zoo.ops import kernels, sampling
from zoo.ops.arguments import not_negative, one_of, positive, shown, whole_numbers
from zoo.ops.array_arguments import few_enough, real_tensor

# Gain of each squash that is used unless one is given.
GAINS = {"tanh": 0.25, "sigmoid": 1.0, "scaled": 0.2}

# Smallest mass that counts as one; below it lies rounding.
TINY = 1e-12


def splat(values, coordinates, shape: Sequence[int]):
    """Adds the value of every point to the voxels around it, with (bi- or tri-)linear weights.

    The exact transpose of `sample(..., mode="zero")`: for all values f and images
    `<splat(f, p), image> = <f, sample(image, p)>`. What falls on voxels outside of the grid is
    lost. Differentiable with respect to both arguments: the gradient of the values samples the
    gradient of the result, that of the coordinates is the value times the spatial derivative of
    that interpolant (one-sided at a voxel, as in `sample`). Time and memory grow linearly with the
    number of points.

    Args:
        values: tensor `[batch, n, channels]`, any real dtype.
        coordinates: float tensor `[batch, n, rank]`, in voxels, components in the order of the
            axes; voxel centres lie at integers.
        shape: two or three sizes of the grid, each at least 2.

    Returns:
        float32 tensor `[batch, *shape, channels]`.

    Raises:
        ValueError: for a bad shape, or tensors that do not fit it or each other.

    Example:
        >>> from zoo.ops.splatting import splat
        >>> image = splat(np.ones((1, 1, 1)), np.array([[[0.25, 1.0]]]), (2, 2))
        >>> np.asarray(image)[0, ..., 0]
        array([[0.  , 0.75],
               [0.  , 0.25]], dtype=float32)
    """
    shape = check_shape(shape)
    check_points(coordinates, "coordinates", len(shape))
    pairs = list(zip(values.shape, coordinates.shape, strict=False))[:2]
    if len(values.shape) != 3 or any(None not in pair and pair[0] != pair[1] for pair in pairs):
        raise ValueError(
            f"values must be [batch, n, channels] for coordinates {tuple(coordinates.shape)}, "
            f"not {tuple(values.shape)}."
        )
    return _splatter(shape)(ops.cast(values, "float32"), ops.cast(coordinates, "float32"))


def to_voxels(points, shape: Sequence[int]):
    """Voxel coordinates of points in the box [-1, 1] that the voxels of a grid fill.

    `c = ((g + 1) S - 1) / 2` along an axis of S voxels: the outer faces of the grid lie at -1 and
    1, half a voxel beyond the outermost centres.

    Args:
        points: float tensor `[..., rank]`, normalised, components in the order of the axes.
        shape: sizes of the grid; integers, or tensors of them.

    Returns:
        float32 tensor `[..., rank]`, in voxels.
    """
    sizes = ops.stack([ops.cast(size, "float32") for size in shape])
    return _scaler()(ops.cast(points, "float32"), sizes)


def to_normalised(voxels, shape: Sequence[int]):
    """Inverse of `to_voxels`: `g = (2 c + 1) / S - 1`.

    Args:
        voxels: float tensor `[..., rank]`, in voxels.
        shape: sizes of the grid.

    Returns:
        float32 tensor `[..., rank]`, normalised.
    """
    return (2.0 * ops.cast(voxels, "float32") + 1.0) / np.array(shape, "float32") - 1.0


def blur(volume, sigma: float):
    """Convolves with a Gaussian that ends after `ceil(1.5 sigma)` voxels and sums to one.

    Beyond its border the volume continues with its outermost voxel, so constants stay constant.

    Args:
        volume: tensor `[batch, *spatial, channels]` of rank 2 or 3.
        sigma: standard deviation before truncation, in voxels; 0 does not blur.

    Returns:
        float32 tensor of the same shape.

    Raises:
        ValueError: for a negative sigma.
    """
    not_negative("sigma", sigma)
    volume = ops.cast(volume, "float32")
    if sigma == 0:
        return volume
    matrices = [
        # In a graph with free sizes the matrix is part of the graph.
        (_gaussian if isinstance(size, int) else _open_gaussian)(size, float(sigma))
        for size in ops.shape(volume)[1:-1]
    ]
    return _along_axes(volume, matrices)


def density(
    points,
    shape: Sequence[int],
    weights=None,
    sigma: float = 0.7,
    squash: str | None = "tanh",
    gain: float | None = None,
):
    """Density image of a cloud: splat, blur, squash.

    The squash keeps voxels with many points from dominating a comparison. Of the blurred number v
    of points per voxel, with gain a: "tanh" is `tanh(a v)` (a = 1/4 is `2 sigmoid(v / 2) - 1`),
    "sigmoid" is `1 / (1 + exp(-a v))`, one half where nothing is, "scaled" is `tanh(a v) / a`,
    about v where it is small, and None is v itself.

    Args:
        points: float tensor `[batch, n, rank]`, normalised to [-1, 1], see `to_voxels`.
        shape: sizes of the image.
        weights: None or tensor `[batch, n]`, how many points each stands for.
        sigma: of the Gaussian, in voxels, see `blur`.
        squash: "tanh", "sigmoid", "scaled" or None.
        gain: a; when None 0.25, 1 and 0.2 for the three.

    Returns:
        float32 tensor `[batch, *shape, 1]`.

    Raises:
        ValueError: for an unknown squash, a gain that is not positive, a bad shape or sigma, or
            tensors that do not fit.
    """
    gain = check_squash(squash, gain)
    check_points(points, "points", len(shape))
    ones = ops.ones_like(points[..., :1], dtype="float32")
    values = ones if weights is None else _weights(weights, points)[..., None]
    volume = blur(splat(values, to_voxels(points, shape), shape), sigma)
    if squash is None:
        return volume
    if squash == "sigmoid":
        return ops.sigmoid(gain * volume)
    squashed = ops.tanh(gain * volume)
    return squashed / gain if squash == "scaled" else squashed


def normalised_splat(
    values,
    coordinates,
    shape: Sequence[int],
    weights=None,
    sigma: float = 2.0,
    smoothing: float = 2.0,
    floor: float = 1e-3,
):
    """Dense smooth field from values at scattered points, such as their displacements.

    Splats values and ones, blurs both and divides. Where few or no points are near, the field of
    the next coarser grid, on which both are summed over blocks of two voxels and blurred, takes
    over, and so on until one voxel is left: with mass m, ratio r and the coarser field c it is
    `(m r + e c) / (m + e)`, where e is `floor` times the greatest mass. Constants are reproduced
    exactly; no value lies beyond those of the points.

    Args:
        values: tensor `[batch, n, channels]`, any unit.
        coordinates: float tensor `[batch, n, rank]`, in voxels, components in the order of the
            axes.
        shape: sizes of the grid, each at least 2.
        weights: None or tensor `[batch, n]` of non-negative weights of the points.
        sigma: of the Gaussian before the division, in voxels.
        smoothing: of the Gaussian over the result, in voxels.
        floor: e, as a share of the greatest mass in a voxel; positive.

    Returns:
        float32 tensor `[batch, *shape, channels]`, in the unit of the values; zero when no point
        lies in the grid.

    Raises:
        ValueError: for a floor that is not positive, and as `splat` and `blur`.
    """
    positive("floor", floor)
    shape = check_shape(shape)
    values = ops.cast(values, "float32")
    ones = ops.ones_like(values[..., :1])
    mass = ones if weights is None else _weights(weights, coordinates)[..., None]
    both = ops.concatenate([mass * values, mass], axis=-1)
    both = blur(splat(both, coordinates, shape), sigma)
    axes = tuple(range(1, len(shape) + 2))
    enough = floor * ops.max(both[..., -1:], axis=axes, keepdims=True)
    levels = [both]
    while max(levels[-1].shape[1:-1]) > 1:
        halves = [_halving(size) for size in levels[-1].shape[1:-1]]
        levels.append(_along_axes(levels[-1], halves))
    field = levels[-1][..., :-1] / ops.maximum(levels[-1][..., -1:], TINY)
    enough = ops.maximum(enough, TINY)
    for level in reversed(levels[:-1]):
        coarser = _along_axes(field, [_doubling(size) for size in level.shape[1:-1]])
        field = (level[..., :-1] + enough * coarser) / (level[..., -1:] + enough)
    return blur(field, smoothing)


def distance_volume(points, shape: Sequence[int]) -> np.ndarray:
    """Distance of every voxel centre to that of the nearest voxel that holds a point.

    Args:
        points: float array `[batch, n, rank]`, normalised to [-1, 1], see `to_voxels`. Points
            outside count for the nearest voxel of the grid.
        shape: sizes of the volume.

    Returns:
        float32 array `[batch, *shape, 1]`, in the normalised unit.

    Raises:
        ValueError: for a bad shape, or points that are empty, not finite or of another rank.
    """
    shape = check_shape(shape)
    check_points(points, "points", len(shape))
    voxels = np.rint(ops.convert_to_numpy(to_voxels(points, shape))).astype(int)
    voxels = np.clip(voxels, 0, np.array(shape) - 1)
    free = np.ones((len(voxels), *shape), bool)
    for batch, cloud in enumerate(voxels):
        free[(batch, *cloud.T)] = False
    spacing = 2.0 / np.array(shape)
    volumes = [distance_transform_edt(one, sampling=spacing) for one in free]
    return np.stack(volumes).astype("float32")[..., None]


def check_shape(shape: Sequence[int], argument: str = "shape") -> tuple[int, ...]:
    """The shape as a tuple of ints.

    Raises:
        ValueError: unless it holds two or three sizes of at least 2, of an image that is possible.
    """
    sizes = whole_numbers(argument, shape)
    if len(sizes) not in (2, 3) or min(sizes) < 2:
        raise ValueError(
            f"{argument} must hold two or three sizes of at least 2, not {shown(shape)}."
        )
    few_enough(argument, sizes)
    return sizes


def check_points(points, name: str, rank: int | None = None, finite: bool = True) -> None:
    """Raises a ValueError unless points are `[batch, n, rank]`, not empty, and finite if asked for.

    Whether they are finite is looked at only where that is known: not while a graph is traced.
    """
    shape = tuple(real_tensor(name, points).shape)
    ranks = (2, 3) if rank is None else (rank,)
    if len(shape) != 3 or shape[-1] not in ranks:
        wanted = " or ".join(map(str, ranks))
        raise ValueError(f"{name} must have the shape [batch, n, {wanted}], not {shape}.")
    if 0 in shape[:2]:
        raise ValueError(f"{name} must hold at least one point, but its shape is {shape}.")
    if finite and known(points) and not ops.convert_to_numpy(ops.all(ops.isfinite(points))):
        raise ValueError(f"{name} must be finite, but holds NaN or infinity.")


def check_squash(squash: str | None, gain: float | None) -> float | None:
    """The gain to use.

    Raises:
        ValueError: for an unknown squash, or a gain that is not positive.
    """
    one_of("squash", squash, (*GAINS, None))
    positive("gain", gain, optional=True)
    return GAINS.get(squash) if gain is None else float(gain)


def known(tensor) -> bool:
    """True for arrays and tensors that hold numbers, False for those of a graph being traced."""
    if isinstance(tensor, keras.KerasTensor):
        return False
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return not tf.is_symbolic_tensor(tensor)
    if keras.backend.backend() == "jax":
        import jax

        return not isinstance(tensor, jax.core.Tracer)
    return True


def _weights(weights, points):
    """float32 `[batch, n]`, checked against the points it belongs to."""
    weights = ops.cast(weights, "float32")
    shapes = tuple(weights.shape), tuple(points.shape)[:2]
    if len(shapes[0]) != 2 or any(
        None not in pair and pair[0] != pair[1] for pair in zip(*shapes, strict=True)
    ):
        raise ValueError(f"weights must have the shape {shapes[1]}, not {shapes[0]}.")
    if known(weights) and ops.convert_to_numpy(ops.any(weights < 0)):
        raise ValueError("weights must not be negative.")
    return weights


@functools.cache
def _scaler():
    # TensorFlow's own product with a vector of three is ten times slower.
    return kernels.kernel(lambda points, sizes: points * (sizes / 2) + (sizes - 1) / 2)


@functools.lru_cache(maxsize=64)
def _splatter(shape: tuple[int, ...]):
    # The three are the sampling kernels in other roles, which makes this their exact transpose.
    def forward(values, coordinates):
        return _scatter(values, coordinates, shape)

    def to_values(values, coordinates, gradient):
        return sampling._forward(gradient, coordinates, mode="zero", relative=False)

    def to_coordinates(values, coordinates, gradient):
        return sampling._to_positions(gradient, coordinates, values, mode="zero", relative=False)

    return kernels.with_gradient(*map(kernels.kernel, (forward, to_values, to_coordinates)))


def _scatter(values, coordinates, shape):
    batch, channels = ops.shape(values)[0], values.shape[-1]
    # Only its shape is used.
    grid = ops.zeros((batch, *shape, 1))
    axes, base, steps = sampling._axes(grid, coordinates, "zero", False)
    # One scatter of all corners, which stand one after another: XLA then computes each of them in a
    # loop of its own. Side by side, as `[batch, n, corners]`, they cost a branch per element.
    indices, rows = [], []
    for corner in sampling._corners(len(shape)):
        weight = 1.0
        for bit, axis in zip(corner, axes, strict=True):
            weight = weight * axis.weights[bit]
        rows.append(ops.reshape(weight[..., None] * values, [-1, channels]))
        index = base + sum(bit * step for bit, step in zip(corner, steps, strict=True))
        indices.append(ops.reshape(index, [-1]))
    index, rows = ops.concatenate(indices), ops.concatenate(rows)
    result = kernels.add_rows(index, rows, batch * math.prod(shape))
    return ops.reshape(result, (batch, *shape, channels))


def _along_axes(volume, matrices):
    """Applies one matrix `[new size, size]` along each spatial axis.

    The work of a product that the hardware is made for beats that of a few shifted additions, whose
    speed depends on how they happen to be compiled; and its gradient is a product again.
    """
    for axis, matrix in enumerate(matrices, start=1):
        sizes = list(ops.shape(volume))
        before, after = math.prod(sizes[1:axis]), math.prod(sizes[axis + 1 :])
        if isinstance(after, int) and after == 1:
            volume = ops.matmul(ops.reshape(volume, (-1, sizes[axis])), ops.transpose(matrix))
        else:
            volume = ops.reshape(volume, (sizes[0] * before, sizes[axis], after))
            volume = ops.matmul(matrix, volume)
        sizes[axis] = ops.shape(matrix)[0]
        volume = ops.reshape(volume, sizes)
    return volume


def _taps(sigma: float) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.arange(-math.ceil(1.5 * sigma), math.ceil(1.5 * sigma) + 1)
    taps = np.exp(-0.5 * (offsets / sigma) ** 2)
    return offsets, taps / taps.sum()


@functools.lru_cache(maxsize=64)
def _gaussian(size: int, sigma: float) -> np.ndarray:
    offsets, taps = _taps(sigma)
    rows = np.arange(size)[:, None]
    columns = np.clip(rows + offsets, 0, size - 1)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.broadcast_to(rows, columns.shape), columns), taps)
    return matrix.astype("float32")


def _open_gaussian(size, sigma: float):
    """The matrix of `_gaussian` for a size that is a tensor."""
    offsets, taps = _taps(sigma)
    place = ops.arange(size)
    matrix = 0.0
    for offset, tap in zip(offsets.tolist(), taps.tolist(), strict=True):
        columns = ops.clip(place + offset, 0, size - 1)
        matrix = matrix + tap * ops.cast(columns[:, None] == place[None, :], "float32")
    return matrix


@functools.lru_cache(maxsize=64)
def _halving(size: int) -> np.ndarray:
    """Sums of pairs of voxels, the last of which stands alone when the size is odd; then a blur.

    Without the blur two neighbours would share a mass only from the level on whose blocks happen to
    hold both.
    """
    coarse = np.arange((size + 1) // 2)[:, None]
    return _gaussian(len(coarse), 1.0) @ (np.arange(size) // 2 == coarse).astype("float32")


@functools.lru_cache(maxsize=64)
def _doubling(size: int) -> np.ndarray:
    """Linear interpolation back to `size` voxels, constant beyond the outermost coarse centres."""
    count = (size + 1) // 2
    places = np.clip((np.arange(size) - 0.5) / 2, 0, count - 1)
    weights = 1 - np.abs(places[:, None] - np.arange(count))
    return np.maximum(weights, 0).astype("float32")
