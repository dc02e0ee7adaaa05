"""Where a model keeps its coordinates: float32 weights inside, float64 numbers outside.

float32 is coarse far from the origin, so a position is kept as its value and the remainder. These
are functions over weights that the model itself adds, in its own order, since weight files are
positional.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from keras import ops


def stored(model, name: str, shape: Sequence[int], initializer="zeros", trainable: bool = False):
    """Adds a float32 weight to a model, whatever its precision."""
    return model.add_weight(
        shape=shape, initializer=initializer, dtype="float32", trainable=trainable, name=name
    )


def exact(variable) -> np.ndarray:
    """The weight in double precision."""
    return ops.convert_to_numpy(variable).astype(np.float64)


def position(variable) -> np.ndarray:
    """The position `[rank]` that a weight `[2, rank]` keeps as value and remainder."""
    return exact(variable).sum(axis=0)


def set_position(variable, value: np.ndarray) -> None:
    """Keeps a position `[rank]` as value and remainder."""
    near = np.asarray(value).astype(np.float32)
    variable.assign(np.stack([near, (value - near).astype(np.float32)]))
