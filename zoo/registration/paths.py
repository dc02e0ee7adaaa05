"""Shapes on their way: resampled by arc length, and how long and how laborious the way is."""

from __future__ import annotations

import numpy as np

from zoo.ops.arguments import at_least
from zoo.ops.array_arguments import real_array


def path_lengths(path: np.ndarray) -> np.ndarray:
    """The root mean square way of the points in each step, `[steps]`, in world units.

    Args:
        path: positions at equal times, `[steps + 1, n, dims]`.
    """
    path = _checked(path)
    return np.sqrt((np.diff(path, axis=0) ** 2).sum(axis=-1).mean(axis=-1))


def path_length(path: np.ndarray) -> float:
    """The length of a path in the space of shapes, `sum of h |f|`, in world units.

    It never exceeds the root of twice the energy, and equals it at constant speed. As a measure of
    how unlike two shapes are it is not symmetric.

    Args:
        path: positions at equal times, `[steps + 1, n, dims]`.
    """
    return float(path_lengths(path).sum())


def path_energy(path: np.ndarray) -> float:
    """Half the mean squared speed over unit time, in squared world units.

    Args:
        path: positions at equal times, `[steps + 1, n, dims]`.
    """
    lengths = path_lengths(path)
    return 0.5 * len(lengths) * float((lengths**2).sum())


def resampled(path: np.ndarray, count: int) -> np.ndarray:
    """Shapes at equal distances along a path, which then moves at constant speed.

    Args:
        path: positions, `[steps + 1, n, dims]`.
        count: of shapes, at least 2; the first and the last are those of the path.

    Returns:
        float64 `[count, n, dims]`, interpolated linearly between the shapes of the path.
    """
    path = _checked(path)
    at_least("count", count, 2)
    along = np.concatenate([[0.0], np.cumsum(path_lengths(path))])
    if not along[-1] > 0:
        return np.repeat(path[:1], count, axis=0)
    wanted = np.linspace(0.0, along[-1], count)
    index = np.clip(np.searchsorted(along, wanted, side="right") - 1, 0, len(path) - 2)
    step = along[index + 1] - along[index]
    share = ((wanted - along[index]) / np.where(step > 0, step, 1.0))[:, None, None]
    shapes = (1 - share) * path[index] + share * path[index + 1]
    shapes[0], shapes[-1] = path[0], path[-1]
    return shapes


def _checked(path) -> np.ndarray:
    path = real_array("path", path).astype(np.float64)
    if path.ndim != 3 or len(path) < 2 or path.shape[2] not in (2, 3):
        raise ValueError(f"path must have the shape [steps + 1, n, dims], not {path.shape}.")
    return path
