"""Voxels without a measurement: recognised, and left out by a mask."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from zoo.data.image import Image
from zoo.data.pair import Pair

SPIKE = 0.005  # share of the voxels that one value must have to be padding
GAP = 0.25  # between it and all others, as a share of their range
AIR = 0.1  # share of the others that lie in the lowest tenth of that range
FACE = 0.5  # share of a face that must hold something for what lies beyond it to be padding


def without_padding(pair: Pair) -> Pair:
    """The pair with its padding left out by the masks, and with values that do no harm there.

    Args:
        pair: of images.

    Returns:
        The pair itself where neither image is padded.
    """
    changes = {}
    for side in ("fixed", "moving"):
        image, mask = getattr(pair, side), getattr(pair, f"{side}_mask")
        padding = padding_of(image)
        if padding is None:
            continue
        if mask is not None and not (mask & ~padding).any():
            continue
        array = image.array.copy()
        array[padding] = array[~padding].min(axis=0)
        changes[side] = Image(array, image.grid, image.name)
        changes[f"{side}_mask"] = ~padding if mask is None else mask & ~padding
    return replace(pair, **changes) if changes else pair


def padding_of(image: Image) -> np.ndarray | None:
    """Where an image holds padding instead of measurements, bool `[*spatial]`; None if nowhere.

    Padding is what has the lowest value of the image and either

    * lies beyond a plane that is full of other values, as when a crop was enlarged; or
    * is far below all other values, among which there is air besides: -2000 or -3024 outside of
      the circle that a CT reconstructs.

    A black background is none: its border is the outline of what is seen.
    """
    lowest = (image.array == image.array.min(axis=tuple(range(image.rank)))).all(axis=-1)
    if not SPIKE <= lowest.mean() < 1:
        return None
    if _stands_apart(image.array[lowest], image.array[~lowest]):
        return lowest
    beyond = _beyond_full_faces(lowest)
    return beyond if beyond.any() else None


def _stands_apart(padding: np.ndarray, others: np.ndarray) -> bool:
    lowest, others = float(padding.max()), others.mean(axis=-1)
    low, high = np.percentile(others, (0.1, 99))
    if not high > low or low - lowest < GAP * (high - low):
        return False
    return bool((others < low + 0.1 * (high - low)).mean() >= AIR)


def _beyond_full_faces(lowest: np.ndarray) -> np.ndarray:
    """The voxels beyond those faces of the box of all other voxels that are cut through."""
    beyond = np.zeros_like(lowest)
    box = []
    for axis in range(lowest.ndim):
        others = tuple(k for k in range(lowest.ndim) if k != axis)
        held = np.flatnonzero(~lowest.all(axis=others))
        box.append(slice(held[0], held[-1] + 1))
    for axis in range(lowest.ndim):
        first, last = box[axis].start, box[axis].stop - 1
        for face, outside in ((first, slice(0, first)), (last, slice(last + 1, None))):
            place = tuple(face if k == axis else box[k] for k in range(lowest.ndim))
            if (~lowest[place]).mean() >= FACE:
                beyond[(slice(None),) * axis + (outside,)] = True
    return beyond
