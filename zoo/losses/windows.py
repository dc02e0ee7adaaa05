"""Sums over the box around every voxel, one axis after the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from keras import ops

from zoo.ops.compiling import tensorflow_on_cpu

# Up to this length a product with a band matrix beats a convolution in oneDNN: the product costs
# the length of the axis for each voxel, the convolution the window, at a tenth of the throughput.
LONGEST_MATRIX_AXIS = 256


def window_sizes(window: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """One odd size for each axis.

    Raises:
        ValueError: for a number of sizes other than 1 or `rank`.
    """
    sizes = (window,) * rank if isinstance(window, int) else tuple(window)
    if len(sizes) != rank:
        raise ValueError(
            f"window must hold one size or {rank} sizes for {rank}D data, not {sizes}."
        )
    return sizes


def check_window(argument: str, window: int | Sequence[int], least: int) -> int | tuple[int, ...]:
    """The window as an int or a tuple of ints.

    Raises:
        ValueError: for a size that is even or less than `least`.
    """
    sizes = (window,) if isinstance(window, int) else tuple(window)
    if not sizes or any(size < least or size % 2 == 0 for size in sizes):
        raise ValueError(f"{argument} must be odd and at least {least}, not {window}.")
    return window if isinstance(window, int) else sizes


def box_sum(values, sizes: Sequence[int]):
    """Sum over the box centred on every voxel; voxels outside of the array count as zero.

    The work for a voxel does not grow with the volume of the box. Measured under TensorFlow on two
    cores for one array of 64 x 64 x 64 and windows of 9, forward and with gradient: band matrices
    1.4 and 3.0 ms, separable convolutions 4.8 and 9.0, cumulative sums 7.3 and 39, average pooling
    axis by axis 5.2 and 61, over the whole box 75 and 1417; sums of sums are best where XLA
    compiles them (0.6 and 1.5) and worst where it does not (3.3 and 106).

    Args:
        values: float tensor `[batch, *spatial]`.
        sizes: the odd size of the box along each spatial axis, in voxels.

    Returns:
        Tensor of the same shape.
    """
    for axis, size in enumerate(sizes, start=1):
        if size > 1:
            # Elsewhere matrix products may round to TensorFloat-32, too coarse for a variance that
            # is the difference of two sums.
            along = _by_product if tensorflow_on_cpu() else _by_doubling
            values = along(values, size, axis)
    return values


def _by_product(values, size: int, axis: int):
    shape = ops.shape(values)
    length = values.shape[axis]
    if length is None or length > LONGEST_MATRIX_AXIS:
        flat = ops.reshape(values, (-1, shape[axis], _product(shape[axis + 1 :]), 1))
        kernel = ops.ones((size, 1, 1, 1), dtype=values.dtype)
        return ops.reshape(ops.conv(flat, kernel, strides=1, padding="same"), shape)
    index = np.arange(length)
    band = (np.abs(index[:, None] - index) <= size // 2).astype("float32")
    if axis == len(shape) - 1:
        flat = ops.reshape(values, (-1, length))
        return ops.reshape(ops.matmul(flat, band), shape)
    return ops.reshape(
        ops.matmul(band, ops.reshape(values, (-1, length, _product(shape[axis + 1 :])))), shape
    )


def _by_doubling(values, size: int, axis: int):
    """Adds runs of 1, 2, 4, ... voxels, those of the binary digits of the size."""

    def cut(tensor, start: int, drop: int):
        index = [slice(None)] * len(tensor.shape)
        index[axis] = slice(start, -drop if drop else None)
        return tensor[tuple(index)]

    padding = [(0, 0)] * len(values.shape)
    padding[axis] = (size // 2, size // 2)
    runs, run, offset, total = ops.pad(values, padding), 1, 0, None
    while True:
        if size & run:
            piece = cut(runs, offset, size - run - offset)
            total = piece if total is None else total + piece
            offset += run
        if 2 * run > size:
            return total
        runs = cut(runs, 0, run) + cut(runs, run, 0)
        run *= 2


def _product(sizes):
    result = 1
    for size in sizes:
        result = result * size
    return result
