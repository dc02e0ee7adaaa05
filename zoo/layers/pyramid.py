"""Pyramids of images and displacements.

Voxel `k` of a coarse level lies exactly on voxel `2 k` of the next finer one, for images and
displacements alike. A level of `n` voxels is followed by one of `(n + 1) // 2`, so sizes are free.
A displacement of one coarse voxel is one of two fine voxels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from zoo.layers.integration import check_displacement
from zoo.ops import kernels
from zoo.ops.arguments import at_least, between, checked, not_negative
from zoo.ops.array_arguments import real_tensor, tensors
from zoo.ops.compiling import in_float32
from zoo.ops.derivatives import spatial_rank


def downsample(image, sigma: float = 1.0):
    """Blurs with a Gaussian and keeps every second voxel, the first one included.

    Beyond its border the image is mirrored at the last voxel, so constants stay constant.

    Args:
        image: float tensor `[batch, *spatial, channels]` of rank 2 or 3.
        sigma: standard deviation of the Gaussian in voxels of `image`; 0 does not blur. One voxel
            leaves 1.4 % of the highest frequency.

    Returns:
        float32 tensor `[batch, *((size + 1) // 2), channels]`.

    Raises:
        ValueError: for another rank or a negative sigma.
    """
    return _blurred_half(image, sigma, odd=False)


def downsample_displacement(displacement, sigma: float = 1.0):
    """Displacement on the grid of the next coarser level, in voxels of that level.

    Beyond its border the displacement is continued by point reflection, so linear displacements
    keep their value everywhere.

    Args:
        displacement: float tensor `[batch, *spatial, rank]`, in voxels.
        sigma: standard deviation of the Gaussian in voxels of the finer level; 0 does not blur.

    Returns:
        float32 tensor `[batch, *((size + 1) // 2), rank]`, half as large.

    Raises:
        ValueError: for a shape that is not that of a displacement or a negative sigma.
    """
    check_displacement(displacement.shape, "displacement")
    return 0.5 * _blurred_half(displacement, sigma, odd=True)


def upsample_displacement(displacement, shape: Sequence[int]):
    """Displacement on the grid of the next finer level, in voxels of that level.

    Linear between the coarse voxels, and linearly continued by half a coarse voxel when the finer
    size is even: linear displacements keep their value everywhere.

    Args:
        displacement: float tensor `[batch, *spatial, rank]`, in voxels.
        shape: sizes of the finer level; each is twice the coarser one, or one less.

    Returns:
        float32 tensor `[batch, *shape, rank]`, twice as large.

    Raises:
        ValueError: for a shape that is not that of a displacement, or sizes that do not fit.
    """
    check_displacement(displacement.shape, "displacement")
    coarse = tuple(displacement.shape[1:-1])
    if len(shape) != len(coarse) or any(
        isinstance(fine, int) and size is not None and (fine + 1) // 2 != size
        for fine, size in zip(shape, coarse, strict=True)
    ):
        raise ValueError(
            f"shape must be twice {coarse}, or one less along an axis, not {tuple(shape)}."
        )
    field = _kernel(_doubled, len(coarse))(ops.cast(displacement, "float32"))
    return field[(slice(None), *(slice(0, size) for size in shape))]


def image_pyramid(image, levels: int, sigma: float = 1.0) -> list:
    """The image and its coarser versions.

    Args:
        image: float tensor `[batch, *spatial, channels]` of rank 2 or 3.
        levels: number of levels, the image itself included.
        sigma: see `downsample`.

    Returns:
        List of `levels` float32 tensors, the finest first.

    Raises:
        ValueError: for less than one level or another rank.
    """
    between("levels", levels, 1, 32)
    pyramid = [ops.cast(real_tensor("image", image), "float32")]
    for _ in range(levels - 1):
        pyramid.append(downsample(pyramid[-1], sigma))
    return pyramid


@keras.saving.register_keras_serializable(package="zoo")
class ImagePyramid(keras.layers.Layer):
    """The image `[batch, *spatial, channels]` and its coarser versions, the finest first.

    Args:
        levels: number of levels, the image itself included.
        sigma: standard deviation of the Gaussian before each halving, in voxels.

    Raises:
        ValueError: for less than one level, a negative sigma, or an image of another rank.
    """

    @checked(levels=(1, 32), sigma=(0, 100))
    def __init__(self, levels: int = 3, sigma: float = 1.0, **kwargs):
        super().__init__(**in_float32(kwargs))
        self.levels, self.sigma = at_least("levels", levels, 1), not_negative("sigma", sigma)

    def call(self, image):
        return image_pyramid(image, self.levels, self.sigma)

    def compute_output_shape(self, input_shape):
        shapes = [tuple(input_shape)]
        for _ in range(self.levels - 1):
            batch, *sizes, channels = shapes[-1]
            halves = (None if size is None else (size + 1) // 2 for size in sizes)
            shapes.append((batch, *halves, channels))
        return shapes

    def get_config(self):
        return super().get_config() | {"levels": self.levels, "sigma": self.sigma}


@keras.saving.register_keras_serializable(package="zoo")
class UpsampleDisplacement(keras.layers.Layer):
    """Carries a displacement to the next finer level, see `upsample_displacement`.

    Called with `(displacement, reference)`, where `reference` is any tensor
    `[batch, *spatial, channels]` on the finer grid, such as the image of that level.
    """

    @checked()
    def __init__(self, **kwargs):
        super().__init__(**in_float32(kwargs))

    def call(self, inputs):
        displacement, reference = tensors(("displacement", "reference"), inputs)
        spatial_rank(reference, "reference")
        return upsample_displacement(displacement, ops.shape(reference)[1:-1])

    def compute_output_shape(self, input_shape):
        displacement, reference = input_shape
        return (displacement[0], *reference[1:-1], displacement[-1])


def _blurred_half(field, sigma: float, odd: bool):
    rank = len(real_tensor("image", field).shape) - 2
    if rank not in (2, 3):
        raise ValueError(
            "image must be [batch, *spatial, channels] with 2 or 3 spatial axes, "
            f"not {tuple(field.shape)}."
        )
    not_negative("sigma", sigma)
    return _kernel(_half, rank, float(sigma), odd)(ops.cast(field, "float32"))


@functools.lru_cache(maxsize=64)
def _kernel(function, *arguments):
    # Strided slices op by op take a hundred times as long.
    return kernels.kernel(lambda field: function(field, *arguments))


def _half(field, rank: int, sigma: float, odd: bool):
    radius = math.ceil(3.0 * sigma)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(sigma, 1e-6)) ** 2)
    taps = [float(tap) for tap in taps / taps.sum()]
    for axis in range(1, rank + 1):
        size = ops.shape(field)[axis]
        extended = _extended(field, axis, radius, odd)
        # Only the voxels that stay are computed.
        field = sum(
            tap * _part(extended, axis, start, start + size, 2) for start, tap in enumerate(taps)
        )
    return field


def _doubled(field, rank: int):
    """Midpoints between the voxels and after the last one, along every axis; values doubled."""
    field = 2.0 * field
    for axis in range(1, rank + 1):
        last = _part(field, axis, -1, None)
        # The voxel before the last, or the only one; the size may be a tensor.
        index = ops.maximum(ops.shape(field)[axis] - 2, 0)
        beyond = 2.0 * last - ops.take(field, ops.reshape(index, [1]), axis=axis)
        following = ops.concatenate([_part(field, axis, 1, None), beyond], axis=axis)
        both = ops.stack([field, 0.5 * (field + following)], axis=axis + 1)
        sizes = list(ops.shape(field))
        sizes[axis] = 2 * sizes[axis]
        field = ops.reshape(both, sizes)
    return field


def _extended(field, axis: int, radius: int, odd: bool):
    """Continues by `radius` voxels at both ends: mirrored at the last voxel, or through it."""
    if radius > 0 and field.shape[axis] is None:
        return _extended_openly(field, axis, radius, odd)
    while radius > 0:
        size = field.shape[axis]
        first, last = _part(field, axis, None, 1), _part(field, axis, -1, None)
        if size == 1:
            return ops.repeat(field, 2 * radius + 1, axis=axis)
        # A small image is mirrored several times over.
        step = min(radius, size - 1)
        before = ops.flip(_part(field, axis, 1, step + 1), axis=axis)
        after = ops.flip(_part(field, axis, -step - 1, -1), axis=axis)
        if odd:
            before, after = 2.0 * first - before, 2.0 * last - after
        field = ops.concatenate([before, field, after], axis=axis)
        radius -= step
    return field


def _extended_openly(field, axis: int, radius: int, odd: bool):
    """The same where the size is only known when the graph runs: by index."""
    size = ops.shape(field)[axis]
    period = ops.maximum(2 * (size - 1), 1)
    index = ops.arange(-radius, size + radius)
    turns = ops.floor_divide(index, period)
    place = index - turns * period
    back = place >= size
    values = ops.take(field, ops.where(back, period - place, place), axis=axis)
    if not odd:
        return values
    along = [1] * len(field.shape)
    along[axis] = -1
    first, last = _part(field, axis, None, 1), _part(field, axis, -1, None)
    values = ops.where(ops.reshape(back, along), 2.0 * last - values, values)
    return values + 2.0 * ops.cast(ops.reshape(turns, along), "float32") * (last - first)


def _part(field, axis: int, start, stop, step=None):
    return field[(slice(None),) * axis + (slice(start, stop, step),)]
