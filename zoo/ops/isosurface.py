"""Zero level set of a function on a grid, evaluated only where the surface can be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from zoo.ops.arguments import at_least

BLOCK = 2  # cells along a side of the smallest block that is kept or left out as a whole
COARSE = 16  # the same for the first, complete grid
SLAB = 64  # cells that marching cubes sees at once along the first axis


class NoSurface(ValueError):
    """The function has no zero inside the box."""


def zero_level_set(
    function: Callable[[np.ndarray], np.ndarray],
    low: np.ndarray,
    high: np.ndarray,
    resolution: int,
    sparse: bool = True,
    margin: float = 1.5,
) -> tuple[np.ndarray, np.ndarray]:
    """Marching cubes over a box without visiting the empty part of it.

    A block of cells is refined when `|f(centre)| <= margin * slope * half diagonal`, with the
    steepest slope seen on the coarse grid (at least 1, that of a distance). For a function no
    steeper than `margin * slope` the mesh is that of the full grid. Memory follows the surface,
    resolution^2, but for one slab of the grid (64 layers) that marching cubes works on.

    Args:
        function: maps float64 points `[n, 3]` to values `[n]`, negative inside.
        low: lower corner `[3]` of the box.
        high: upper corner `[3]`.
        resolution: cells along the longest side of the box; the others have equal spacing.
        sparse: False evaluates every grid point.
        margin: safety factor on the slope.

    Returns:
        Vertices `[v, 3]` and faces `[f, 3]`, facing outward.

    Raises:
        ValueError: for a resolution below 2.
        NoSurface: if the function does not change sign in the box.
    """
    at_least("resolution", resolution, 2)
    low, high = np.asarray(low, float), np.asarray(high, float)
    spacing = (high - low).max() / resolution
    cells = np.maximum(np.ceil((high - low) / spacing - 1e-6).astype(int), 1)

    def evaluate(indices):
        return np.asarray(function(low + spacing * indices), dtype=np.float32)

    blocks = _blocks_near_surface(evaluate, cells, spacing, margin) if sparse else _all(cells)
    parts = []
    for start in range(0, cells[0], SLAB):
        in_slab = blocks[(blocks[:, 0] >= start) & (blocks[:, 0] < start + SLAB)]
        part = _march(evaluate, in_slab, start, cells) if len(in_slab) else None
        if part is not None:
            parts.append(part)
    if not parts:
        raise _no_surface(low, high)
    vertices, faces = _join(parts)
    return low + spacing * vertices, faces


def zero_level_curve(
    function: Callable[[np.ndarray], np.ndarray],
    low: np.ndarray,
    high: np.ndarray,
    resolution: int,
) -> list[np.ndarray]:
    """The planar counterpart of `zero_level_set`, on the full grid.

    Args:
        function: maps points `[n, 2]` to values `[n]`, negative inside.
        low: lower corner `[2]` of the box.
        high: upper corner `[2]`.
        resolution: cells along the longest side.

    Returns:
        Polylines `[k, 2]` with the inside on their left; closed ones repeat their first point.

    Raises:
        NoSurface: if the function does not change sign in the box.
    """
    from skimage.measure import find_contours

    low, high = np.asarray(low, float), np.asarray(high, float)
    spacing = (high - low).max() / resolution
    shape = np.ceil((high - low) / spacing - 1e-6).astype(int) + 1
    nodes = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).reshape(-1, 2)
    values = np.asarray(function(low + spacing * nodes)).reshape(shape)
    curves = find_contours(values, 0.0)
    if not curves:
        raise _no_surface(low, high)
    return [low + spacing * curve for curve in curves]


def _no_surface(low, high) -> NoSurface:
    return NoSurface(
        "The zero level set is empty: the function has one sign at every point of the grid from "
        f"{low.tolist()} to {high.tolist()}. Train the model first, or enlarge the box."
    )


def _all(cells) -> np.ndarray:
    corners = np.meshgrid(*(np.arange(0, n, BLOCK) for n in cells), indexing="ij")
    return np.stack(corners, axis=-1).reshape(-1, 3)


def _blocks_near_surface(evaluate, cells, spacing, margin) -> np.ndarray:
    """Lower corners `[b, 3]` (in cells) of the smallest blocks that may hold the surface."""
    counts = -(-cells // COARSE)
    corners = COARSE * np.stack(np.meshgrid(*map(np.arange, counts), indexing="ij"), axis=-1)
    size = COARSE
    values = evaluate(corners.reshape(-1, 3) + size / 2)
    volume = values.reshape(counts)
    slopes = [np.abs(np.diff(volume, axis=axis)).max(initial=0.0) for axis in range(3)]
    slope = margin * max(1.0, max(slopes) / (size * spacing))
    corners = corners.reshape(-1, 3)
    while True:
        corners = corners[np.abs(values) <= slope * np.sqrt(3) / 2 * size * spacing]
        if size == BLOCK:
            return corners
        size //= 2
        octants = size * np.stack(np.meshgrid(*[[0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)
        corners = (corners[:, None] + octants).reshape(-1, 3)
        corners = corners[(corners < cells).all(axis=1)]
        values = evaluate(corners + size / 2)


def _march(evaluate, blocks, start, cells):
    """Marching cubes on the cells of `blocks`, all in the slab that begins at `start`."""
    from skimage.measure import marching_cubes

    layers = min(SLAB, cells[0] - start)
    shape = (layers + 1, cells[1] + 1, cells[2] + 1)
    needed = np.zeros(shape, dtype=bool)
    # skimage visits a cell when the mask holds at its upper corner.
    active = np.zeros(shape, dtype=bool)
    for offset in np.ndindex(*[BLOCK + 1] * 3):
        nodes = blocks + np.array(offset) - (start, 0, 0)
        nodes = nodes[(nodes < shape).all(axis=1)]
        needed[tuple(nodes.T)] = True
        if min(offset) > 0:
            active[tuple(nodes.T)] = True
    indices = np.argwhere(needed)
    volume = np.ones(shape, dtype=np.float32)
    values = evaluate(indices + (start, 0, 0))
    volume[needed] = values
    if not (values.min() < 0 < values.max()):
        return None
    try:
        vertices, faces, _, _ = marching_cubes(volume, 0.0, mask=active)
    except (ValueError, RuntimeError) as error:
        if "surface" in str(error).lower():
            return None
        raise
    return vertices.astype(float) + (start, 0, 0), faces


def _join(parts) -> tuple[np.ndarray, np.ndarray]:
    """Concatenates the slabs and merges the vertices on their common layers."""
    offsets = np.cumsum([0] + [len(vertices) for vertices, _ in parts[:-1]])
    vertices = np.concatenate([vertices for vertices, _ in parts])
    shifted = zip(parts, offsets, strict=True)
    faces = np.concatenate([faces + offset for (_, faces), offset in shifted])
    # Both slabs interpolate the same two values, so equal vertices agree but for rounding.
    _, first, inverse = np.unique(
        np.round(vertices * 1e4).astype(np.int64), axis=0, return_index=True, return_inverse=True
    )
    faces = inverse.reshape(-1)[faces]
    proper = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2])
    proper &= faces[:, 0] != faces[:, 2]
    return vertices[first], faces[proper]
