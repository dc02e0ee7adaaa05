"""Images at another number of voxels, between the same outermost voxel centres."""

from __future__ import annotations

from collections.abc import Sequence

from keras import ops

from zoo.ops.derivatives import spatial_rank


def resized(image, shape: Sequence[int]):
    """An image at another number of voxels; the first and the last of each axis keep their place.

    Interpolated linearly; where voxels become fewer, each is a mean with triangular weights over
    those that it stands for, so that fine detail is not aliased. An axis that keeps its number is
    left as it is.

    Args:
        image: tensor `[batch, *spatial, channels]`; sizes may be unknown in a graph.
        shape: voxels along each spatial axis.

    Returns:
        float32 tensor `[batch, *shape, channels]`.

    Raises:
        ValueError: for a rank other than 2 and 3, or a shape of another one.
    """
    rank = spatial_rank(image, "image")
    if len(shape) != rank:
        raise ValueError(f"shape must have {rank} axes as the image, not {tuple(shape)}.")
    image = ops.cast(image, "float32")
    for axis, size in enumerate(shape, start=1):
        if image.shape[axis] != size:
            image = _along(image, axis, size)
    return image


def _along(image, axis: int, size: int):
    before = ops.shape(image)[axis]
    last = ops.cast(before - 1, "float32")
    step = last / max(size - 1, 1)
    # A single voxel stands in the middle of those that there were.
    centres = ops.arange(size, dtype="float32") * step if size > 1 else ops.reshape(last / 2, (1,))
    where = ops.arange(before, dtype="float32")
    reach = ops.maximum(step, 1.0)
    weights = ops.maximum(1.0 - ops.abs(where[None, :] - centres[:, None]) / reach, 0.0)
    weights = weights / ops.maximum(ops.sum(weights, axis=1, keepdims=True), 1e-12)
    flat = ops.moveaxis(image, axis, -2)
    return ops.moveaxis(ops.matmul(weights, flat), -2, axis)
