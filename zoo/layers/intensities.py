"""Intensities of two images, made comparable before they are registered."""

from __future__ import annotations

import math

from keras import ops

from zoo.ops.arguments import one_of, positive
from zoo.ops.derivatives import spatial_rank
from zoo.ops.splatting import blur

INTENSITIES = ("robust", "pair", "image", "standard", "local", "none")
# Standard deviation of the surroundings of a voxel, in voxels, for the modes that
# `locally_normalised` follows on every level of a pyramid. A voxel of the plane has fewer others
# around it, and wants a wider circle to be told from them.
NEIGHBOURHOODS = {("robust", 2): 5.0, ("robust", 3): 3.0, ("local", 2): 3.0, ("local", 3): 3.0}
PERCENTILES = (1.0, 99.0)  # of the foreground, which "robust" maps to 0..1
SAMPLED = 65_536  # values at most from which percentiles are taken


def comparable(fixed, moving, mode: str, masks: tuple = (None, None)) -> tuple:
    """Both images by one rule.

    Args:
        fixed: tensor `[batch, *spatial, channels]`.
        moving: likewise.
        mode: "robust" maps two percentiles of the foreground of each image to 0..1 and clips;
            "pair" maps the common range of both images to 0..1, "image" that of each,
            "standard" and "local" subtract the mean of each and divide by its standard deviation;
            "none". For "robust" and "local", `locally_normalised` follows, on every level of a
            pyramid.
        masks: which voxels of either image "robust" takes into account: tensors
            `[batch, *spatial, 1]`, or None for all.

    Returns:
        The two images.

    Raises:
        ValueError: for an unknown mode.
    """
    one_of("mode", mode, INTENSITIES)
    images, axes = (fixed, moving), tuple(range(1, len(fixed.shape)))
    if mode == "none":
        return images
    if mode == "robust":
        ranges = [foreground_range(*each) for each in zip(images, masks, strict=True)]
        return tuple(
            ops.clip((image - low) / ops.maximum(high - low, 1e-30), 0.0, 1.0)
            for image, (low, high) in zip(images, ranges, strict=True)
        )
    if mode in ("standard", "local"):
        return tuple(
            (image - ops.mean(image, axes, keepdims=True))
            / ops.maximum(ops.std(image, axes, keepdims=True), 1e-8)
            for image in images
        )
    low = [ops.min(image, axes, keepdims=True) for image in images]
    high = [ops.max(image, axes, keepdims=True) for image in images]
    if mode == "pair":
        low, high = [ops.minimum(*low)] * 2, [ops.maximum(*high)] * 2
    return tuple(
        (image - least) / ops.maximum(most - least, 1e-8)
        for image, least, most in zip(images, low, high, strict=True)
    )


def foreground_range(image, mask=None) -> tuple:
    """Two percentiles of the values above the lowest one, which is taken for the background.

    The lowest value of padding, of air that a scanner has clipped or of a black background may
    fill most of an image, and says nothing about what it shows. Where nothing but two values is
    left, the range is the whole one.

    Args:
        image: tensor `[batch, *spatial, channels]`.
        mask: which voxels count, `[batch, *spatial, 1]`; None counts all.

    Returns:
        The low and the high end, `[batch, 1, ..., 1]`.
    """
    shape = ops.shape(image)
    if mask is not None:
        # What does not count becomes background.
        inside = ops.broadcast_to(mask > 0.5, shape)
        least = ops.min(ops.where(inside, image, float("inf")), tuple(range(1, len(shape))), True)
        image = ops.where(inside, image, least)
    size = math.prod(shape[1:])
    values = ops.reshape(image, (-1, size))
    # An odd step meets all rows and columns of sizes that are powers of two.
    step = size // SAMPLED // 2 * 2 + 1
    if not isinstance(size, int) or step > 1:
        # By index, since a slice with a step that the graph computes has no known rank.
        values = ops.take(values, ops.arange(0, size, step), axis=1)
    values = ops.sort(values, axis=1)
    count = ops.shape(values)[1]
    lowest = values[:, :1]
    background = ops.sum(ops.cast(values <= lowest, "int32"), axis=1, keepdims=True)
    rest = ops.cast(count - 1 - background, "float32")
    low, high = (
        ops.take_along_axis(
            values,
            ops.minimum(background + ops.cast(share / 100.0 * rest, "int32"), count - 1),
            axis=1,
        )
        for share in PERCENTILES
    )
    # Two values in all, or a foreground that is one value but for its border.
    low = ops.where(high > low, low, lowest)
    high = ops.where(high > low, high, values[:, -1:])
    ends = (-1, *(1,) * (len(shape) - 1))
    return ops.reshape(low, ends), ops.reshape(high, ends)


def locally_normalised(image, mask=None, deviation: float = 3.0):
    """Deviation from the mean around each voxel, over the standard deviation there.

    Args:
        image: tensor `[batch, *spatial, channels]`.
        mask: how much each voxel counts in the means around it, `[batch, *spatial, 1]`.
        deviation: standard deviation of the Gaussian that says what lies around, in voxels.
    """
    spatial_rank(image, "image")
    positive("deviation", deviation)
    if mask is None:

        def around(values):
            return blur(values, deviation)

    else:
        weight = ops.maximum(blur(mask, deviation), 1e-6)

        def around(values):
            return blur(mask * values, deviation) / weight

    difference = image - around(image)
    if mask is not None:
        # What does not count has the mean of its surroundings, and no edge where it begins.
        difference = mask * difference
    variance = around(ops.square(difference))
    axes = tuple(range(1, len(image.shape)))
    # Noise of flat regions must not count like structure.
    floor = 0.1 * ops.mean(variance, axis=axes, keepdims=True) + 1e-8
    return difference / ops.sqrt(variance + floor)
