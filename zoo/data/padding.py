"""Voxels without a measurement: recognised, and left out by a mask."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from zoo.data.image import Image
from zoo.data.pair import Pair

SPIKE = 0.005  # share of the voxels that one value must have to be padding
GAP = 0.25  # between it and all others, as a share of their range
ROOM = 16  # voxels, of which sizes become multiples
AIR = 0.2  # share of the others that lie in the lowest tenth of that range


def with_room(arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], tuple]:
    """Images cut close to an organ, with room around them: sizes are rounded up to a few.

    What lies around gets the lowest value of an image, its background; masks leave it out.

    Args:
        arrays: images and masks `[batch, *spatial, channels]`, all of one size.

    Returns:
        The larger arrays, and the index that cuts what was there out of a result of that size.
    """
    sizes = next(iter(arrays.values())).shape[1:-1]
    more = [-size % ROOM for size in sizes]
    width = [(0, 0), *((extra // 2, extra - extra // 2) for extra in more), (0, 0)]
    inner = (low + np.arange(size) for (low, _), size in zip(width[1:-1], sizes, strict=True))
    around = {key: 0.0 if key.endswith("mask") else each.min() for key, each in arrays.items()}
    large = {key: np.pad(each, width, constant_values=around[key]) for key, each in arrays.items()}
    return large, (slice(None), *np.ix_(*inner))


def without_padding(pair: Pair) -> Pair:
    """The pair with its padding left out by the masks, and with values that do no harm there.

    What the masks leave out, padding or not, is brought into the range of what they keep, so that
    percentiles and blurs are of measurements.

    Args:
        pair: of images.

    Returns:
        The pair itself where neither image is padded nor masked.
    """
    changes = {}
    for side in ("fixed", "moving"):
        image, mask = getattr(pair, side), getattr(pair, f"{side}_mask")
        padding = padding_of(image)
        if padding is not None:
            inside = ~padding if mask is None else mask & ~padding
            # A mask of nothing but padding is the user's, who may know better.
            mask = inside if inside.any() else mask
        if mask is None:
            continue
        kept = image.array[mask]
        array = np.clip(image.array, kept.min(axis=0), kept.max(axis=0))
        if np.ptp(array) == 0:
            continue
        changes[side] = Image(array, image.grid, image.name)
        changes[f"{side}_mask"] = mask
    return replace(pair, **changes) if changes else pair


def padding_of(image: Image) -> np.ndarray | None:
    """Where an image holds padding instead of measurements, bool `[*spatial]`; None if nowhere.

    Padding is one value, far from all others, among which there is air besides: -2000 or -3024
    outside of the circle that a CT reconstructs, below everything; or, in most corners of the
    image, the largest number of a scanner, or the 0 of a program that did not know of air. A black
    background is none: its border is the outline of what is seen.
    """
    spatial = tuple(range(image.rank))
    for value, side in (
        (image.array.min(axis=spatial), -1),
        (image.array.max(axis=spatial), 1),
        (np.zeros(image.channels, image.array.dtype), 0),
    ):
        there = (image.array == value).all(axis=-1)
        if not SPIKE <= there.mean() < 1:
            continue
        if side >= 0 and there[np.ix_(*[(0, -1)] * image.rank)].mean() < 0.5:
            continue
        others = image.array[~there].mean(axis=-1)
        low, high = np.percentile(others, (0.1, 99 if side < 0 else 99.9))
        # How far the value lies below, above or, as 0 in Hounsfield units, within the others.
        apart = {-1: low - value.max(), 1: value.min() - high, 0: -low}[side]
        air = (others < low + 0.1 * (high - low)).mean()
        if apart >= GAP * (high - low) > 0 and air >= AIR:
            return there
    return None
