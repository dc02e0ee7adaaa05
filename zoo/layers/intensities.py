"""Intensities of two images, made comparable before they are registered."""

from __future__ import annotations

from keras import ops

from zoo.ops.arguments import one_of
from zoo.ops.splatting import blur

INTENSITIES = ("pair", "image", "standard", "local", "none")
NEIGHBOURHOOD = 3.0  # standard deviation, in voxels


def comparable(fixed, moving, mode: str) -> tuple:
    """Both images by one rule.

    Args:
        fixed: tensor `[batch, *spatial, channels]`.
        moving: likewise.
        mode: "pair" maps the common range of both images to 0..1, "image" that of each,
            "standard" and "local" subtract the mean of each and divide by its standard deviation;
            "none". For "local", `locally_normalised` follows, on every level of a pyramid.

    Returns:
        The two images.

    Raises:
        ValueError: for an unknown mode.
    """
    one_of("mode", mode, INTENSITIES)
    images, axes = (fixed, moving), tuple(range(1, len(fixed.shape)))
    if mode == "none":
        return images
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


def locally_normalised(image):
    """Deviation from the mean around each voxel, over the standard deviation there.

    Args:
        image: tensor `[batch, *spatial, channels]`.
    """
    deviation = image - blur(image, NEIGHBOURHOOD)
    variance = blur(ops.square(deviation), NEIGHBOURHOOD)
    axes = tuple(range(1, len(image.shape)))
    # Noise of flat regions must not count like structure.
    floor = 0.1 * ops.mean(variance, axis=axes, keepdims=True) + 1e-8
    return deviation / ops.sqrt(variance + floor)
