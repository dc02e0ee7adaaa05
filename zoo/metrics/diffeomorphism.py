"""How much of a grid a displacement turns inside out, exactly for the grid, not by differences."""

from __future__ import annotations

from itertools import product

import numpy as np

from zoo.ops.arguments import checked
from zoo.ops.array_arguments import real_array

SLAB = 2**18  # cells whose corners are looked at together


@checked()
def non_diffeomorphic_volume(displacement, mask=None) -> float:
    """Share of the volume (area) that the map `x + u(x)` of a grid turns inside out.

    A cell between eight neighbouring voxels is divided into five tetrahedra, in either of the two
    ways; a square between four pixels into two triangles. Where such a piece has a negative volume
    after the map, that volume counts, in the mean of both ways (Liu et al., "On finite difference
    Jacobian computation in deformable image registration", arXiv:2212.06060, of which Learn2Reg
    takes it). Central differences overlook folds from voxel to voxel; this does not.

    Args:
        displacement: `[*spatial, rank]`, rank 2 or 3, in voxels, at least two along every axis.
        mask: `[*spatial]`; cells count whose corners are all in it.

    Returns:
        In percent of the volume of the cells that count. A map that folds much may have more
        than 100.

    Raises:
        ValueError: for shapes that do not fit, values that are not finite, or no cell to count.

    Example:
        >>> from zoo.metrics.diffeomorphism import non_diffeomorphic_volume
        >>> mirrored = np.zeros((5, 5, 5, 3))
        >>> mirrored[..., 0] = -2 * np.arange(5)[:, None, None]
        >>> round(non_diffeomorphic_volume(mirrored), 6), non_diffeomorphic_volume(0.2 * mirrored)
        (100.0, 0.0)
    """
    field = real_array("displacement", displacement, booleans=False)
    rank = field.ndim - 1
    if rank not in (2, 3) or field.shape[-1] != rank or min(field.shape[:-1]) < 2:
        raise ValueError(
            "displacement must have the shape [*spatial, rank] of rank 2 or 3 with at least 2 "
            f"voxels along every axis, not {field.shape}."
        )
    shape = field.shape[:-1]
    inside = np.ones(shape, bool)
    if mask is not None:
        mask = real_array("mask", mask)
        if mask.shape != shape:
            raise ValueError(f"mask must have the shape {shape}, not {mask.shape}.")
        inside = mask > 0
    step = max(1, SLAB // int(np.prod(shape[1:])))
    turned, cells = 0.0, 0
    for first in range(0, shape[0] - 1, step):
        part = slice(first, first + step + 1)
        counts = np.ones([size - 1 for size in inside[part].shape], bool)
        for corner in product((0, 1), repeat=rank):
            counts &= _at(inside[part], corner)
        turned += _turned(field[part].astype(float))[counts].sum()
        cells += np.count_nonzero(counts)
    if not cells:
        raise ValueError("mask must hold all corners of at least one cell; it holds none.")
    return float(100.0 * turned / cells)


def _at(array: np.ndarray, corner: tuple[int, ...]) -> np.ndarray:
    """Values at one corner of every cell; further axes stay."""
    sizes = array.shape[: len(corner)]
    return array[tuple(slice(b, n - 1 + b) for b, n in zip(corner, sizes, strict=True))]


def _turned(field: np.ndarray) -> np.ndarray:
    """The volume in each cell that is turned inside out, in the mean of both divisions."""
    rank = field.shape[-1]
    places = {
        corner: np.asarray(corner, float) + _at(field, corner)
        for corner in product((0, 1), repeat=rank)
    }
    pieces = [_corner_piece(places, corner) for corner in places]
    if rank == 3:
        pieces += [_middle_piece(places, parity) for parity in (0, 1)]
    # Differences of the indices cancel between neighbours, so local coordinates do.
    return 0.5 * sum(np.maximum(-piece, 0.0) for piece in pieces)


def _corner_piece(places: dict, corner: tuple[int, ...]) -> np.ndarray:
    """The signed volume between a corner and those along its edges."""
    edges, sign = [], 1
    for axis, bit in enumerate(corner):
        other = tuple(1 - bit if k == axis else b for k, b in enumerate(corner))
        edges.append(places[other] - places[corner])
        sign *= 1 - 2 * bit
    return sign * _volume(edges)


def _middle_piece(places: dict, parity: int) -> np.ndarray:
    """The signed volume of what four such corners leave of the cell."""
    first, *others = [corner for corner in places if sum(corner) % 2 == parity]
    sign = 1 if _volume([np.subtract(other, first) for other in others]) > 0 else -1
    return sign * _volume([places[other] - places[first] for other in others])


def _volume(edges: list[np.ndarray]) -> np.ndarray:
    """Of the triangle or tetrahedron that edges from one corner span."""
    if len(edges) == 2:
        (a, b) = edges
        return (a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]) / 2
    return (edges[0] * np.cross(edges[1], edges[2])).sum(axis=-1) / 6
