"""Where the voxels of an image lie in the world.

The world is ITK's: left-posterior-superior millimetres, `world = origin + direction @ (spacing *
index)`. Array axis i is ITK axis i, so indices, spacings and displacement components are never
reversed. SimpleITK hands out and takes arrays with the axes in reverse; `from_itk` and `to_itk`
are the only place that knows of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from zoo.ops.array_arguments import real_array

LONGEST = 2**31 - 1  # voxels of an axis
FURTHEST = 1e30  # of single precision, in which models compute, with room for products
PRODUCT = 2**14  # vectors that a matrix is multiplied with at a time


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular grid of voxel centres in the plane or in space.

    Attributes:
        shape: voxels along each axis, two or three whole numbers.
        spacing: float64 `[rank]`, distance between voxel centres in mm; a number means all axes;
            default 1.
        origin: float64 `[rank]`, centre of the first voxel in mm; default 0.
        direction: float64 `[rank, rank]`, whose columns are the unit vectors of the axes; they may
            be reflected or, as under a tilted gantry, not orthogonal. Default the identity.

    Raises:
        ValueError: for a rank other than 2 or 3, an axis without voxels, a spacing that is not
            positive, a direction that is singular or has columns of other than unit length, sizes
            that do not match, or values that are not finite.

    Example:
        >>> grid = zoo.Grid((4, 4), spacing=2.0, origin=(10.0, 20.0))
        >>> grid.to_world([1, 0])
        array([12., 20.])
        >>> grid.to_index([12.0, 20.0])
        array([1., 0.])
    """

    shape: tuple[int, ...]
    spacing: np.ndarray | Sequence[float] | float = 1.0
    origin: np.ndarray | Sequence[float] | float = 0.0
    direction: np.ndarray | Sequence[Sequence[float]] | None = None

    def __post_init__(self):
        sizes = _reals("shape", self.shape).reshape(-1)
        if len(sizes) not in (2, 3):
            raise ValueError(f"shape must have 2 or 3 axes, not {len(sizes)}: {self.shape}.")
        if not ((sizes >= 1) & (sizes <= LONGEST) & (sizes == np.rint(sizes))).all():
            raise ValueError(
                f"shape must hold whole numbers of at least 1 and at most {LONGEST}, not "
                f"{self.shape}."
            )
        shape = tuple(int(size) for size in sizes)
        rank = len(shape)
        spacing = _vector(self.spacing, rank, "spacing")
        if not ((spacing > 1 / FURTHEST) & (spacing < FURTHEST)).all():
            raise ValueError(f"spacing must be positive, below {FURTHEST:g}, not {spacing}.")
        direction = np.eye(rank) if self.direction is None else self.direction
        direction = np.array(_reals("direction", direction))
        if direction.size == rank * rank:
            direction = direction.reshape(rank, rank)
        if direction.shape != (rank, rank):
            raise ValueError(
                f"direction must have the shape {(rank, rank)}, not {direction.shape}."
            )
        if not np.isfinite(direction).all():
            raise ValueError("direction must be finite; it holds NaN or infinite values.")
        lengths = np.linalg.norm(direction, axis=0)
        if abs(np.linalg.det(direction)) < 0.01 * lengths.prod() or not lengths.all():
            raise ValueError(
                "direction is singular: its columns, the axes of the image in the world, are "
                f"linearly dependent (determinant {np.linalg.det(direction):.3g})."
            )
        if np.abs(lengths - 1).max() > 0.01:
            raise ValueError(
                f"direction must have columns of length 1, not {lengths}; lengths belong into "
                "spacing."
            )
        object.__setattr__(self, "shape", shape)
        for name, value in (
            ("spacing", spacing),
            ("origin", _vector(self.origin, rank, "origin")),
            ("direction", direction),
        ):
            value.setflags(write=False)
            object.__setattr__(self, name, value)

    def __eq__(self, other):
        if not isinstance(other, Grid):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self):
        return hash(self._key())

    def _key(self):
        arrays = (self.spacing, self.origin, self.direction.reshape(-1))
        return (self.shape, *(tuple(array.tolist()) for array in arrays))

    @property
    def rank(self) -> int:
        """2 for pictures, 3 for volumes."""
        return len(self.shape)

    @property
    def extent(self) -> np.ndarray:
        """Lengths `[rank]` of the sides of the grid in mm, voxels counted with their full width."""
        return np.asarray(self.shape) * self.spacing

    @property
    def centre(self) -> np.ndarray:
        """The middle of the grid `[rank]` in the world."""
        return self.to_world((np.asarray(self.shape) - 1) / 2)

    @property
    def matrix(self) -> np.ndarray:
        """float64 `[rank + 1, rank + 1]`: homogeneous map from indices to the world."""
        matrix = np.eye(self.rank + 1)
        matrix[:-1, :-1] = self.direction * self.spacing
        matrix[:-1, -1] = self.origin
        return matrix

    # Between indices and the world

    def to_world(self, indices) -> np.ndarray:
        """World points, float64 `[..., rank]`, of (fractional) indices `[..., rank]`.

        Raises:
            ValueError: if the last axis is not the rank.
        """
        return self.vectors_to_world(indices, "indices") + self.origin

    def to_index(self, points) -> np.ndarray:
        """Fractional indices, float64 `[..., rank]`, of world points `[..., rank]`.

        Raises:
            ValueError: if the last axis is not the rank.
        """
        return self.vectors_to_index(self._coordinates_of(points, "points") - self.origin)

    def vectors_to_world(self, displacement, argument: str = "displacement") -> np.ndarray:
        """Vectors in mm, float64 `[..., rank]`, of vectors in voxels: turned and scaled, not moved.

        Raises:
            ValueError: if the last axis is not the rank.
        """
        vectors = self._coordinates_of(displacement, argument)
        return transformed(vectors, self.direction * self.spacing)

    def vectors_to_index(self, vectors) -> np.ndarray:
        """Vectors in voxels, float64 `[..., rank]`, of vectors in mm.

        Raises:
            ValueError: if the last axis is not the rank.
        """
        vectors = self._coordinates_of(vectors, "vectors")
        return transformed(vectors, np.linalg.inv(self.direction * self.spacing))

    def coordinates(self) -> np.ndarray:
        """World positions of all voxels, float64 `[*shape, rank]`: 8 x rank bytes a voxel."""
        position = np.empty((*self.shape, self.rank))
        steps = self.direction * self.spacing
        for component, start in enumerate(self.origin):
            along = np.full((1,) * self.rank, start)
            # Axes of the array that are axes of the world cost no sum over all voxels.
            for axis in np.flatnonzero(steps[component]):
                sides = [self.shape[axis] if k == axis else 1 for k in range(self.rank)]
                along = along + np.arange(self.shape[axis]).reshape(sides) * steps[component, axis]
            position[..., component] = along
        return position

    def index_map(self, other: Grid) -> tuple[np.ndarray, np.ndarray]:
        """The map from indices of this grid to indices of another.

        Returns:
            `(matrix [rank, rank], offset [rank])` with `index_there = matrix @ index_here +
            offset`, both float64.
        """
        _check_grid("other", other)
        self._check_rank(other)
        both = np.linalg.solve(other.matrix, self.matrix)
        return both[:-1, :-1], both[:-1, -1]

    # Other grids

    def resampled(
        self,
        spacing: Sequence[float] | float | None = None,
        shape: Sequence[int] | None = None,
    ) -> Grid:
        """A grid of another resolution over the same region, with the same centre.

        Args:
            spacing: in mm; the shape is rounded up, so that the whole region stays covered.
            shape: voxels along each axis; the spacing follows.

        Raises:
            ValueError: unless exactly one of the two is given, or for values that are no grid.
        """
        if (spacing is None) == (shape is None):
            raise ValueError("resampled needs either spacing or shape.")
        if shape is None:
            spacing = _vector(spacing, self.rank, "spacing")
            if not (spacing > 0).all():
                raise ValueError(f"spacing must be positive, not {spacing}.")
            # The margin keeps 10 / 0.1 from becoming 101 voxels.
            shape = np.maximum(np.ceil(self.extent / spacing - 1e-6), 1).astype(int)
        else:
            shape = _reals("shape", shape)
            if shape.shape != (self.rank,) or (shape < 1).any() or (shape % 1 != 0).any():
                raise ValueError(
                    f"shape must hold {self.rank} whole numbers from 1 on, not {shape}."
                )
            shape = shape.astype(int)
            spacing = self.extent / shape
        return self._about_centre(self.centre, shape, spacing)

    def downsampled(self, factor: Sequence[int] | int) -> Grid:
        """The grid whose voxels are blocks of `factor` voxels along each axis.

        The first coarse voxel has its centre in the middle of the first block, half a coarse less
        half a fine voxel further in. A last block that is not full counts as one.

        Args:
            factor: whole number of at least 1, for all axes or one for each.

        Raises:
            ValueError: for other factors.
        """
        factors = _vector(factor, self.rank, "factor")
        if (factors < 1).any() or (factors != np.round(factors)).any():
            raise ValueError(f"factor must hold whole numbers of at least 1, not {factor}.")
        shape = np.ceil(np.asarray(self.shape) / factors).astype(int)
        origin = self.to_world((factors - 1) / 2)
        return Grid(tuple(shape), self.spacing * factors, origin, self.direction)

    def window(self, start: Sequence[int], shape: Sequence[int]) -> Grid:
        """A part of this grid, or a larger one, that begins at index `start` (which may be < 0)."""
        return Grid(tuple(shape), self.spacing, self.to_world(start), self.direction)

    def centred(self) -> Grid:
        """The same grid, moved so that its middle is the origin of the world."""
        return self._about_centre(np.zeros(self.rank), self.shape, self.spacing)

    def _about_centre(self, centre, shape, spacing) -> Grid:
        half = (np.asarray(shape) - 1) / 2
        return Grid(
            tuple(shape), spacing, centre - self.direction @ (spacing * half), self.direction
        )

    # Questions

    def contains(self, points) -> np.ndarray:
        """Which world points `[..., rank]` lie in a voxel: bool `[...]`, borders included."""
        index = self.to_index(points)
        slack = 1e-6  # voxels
        upper = np.asarray(self.shape) - 0.5 + slack
        return ((index >= -0.5 - slack) & (index <= upper)).all(axis=-1)

    def corners(self) -> np.ndarray:
        """Outer corners of the outermost voxels in the world, float64 `[2 ** rank, rank]`."""
        ends = [(-0.5, size - 0.5) for size in self.shape]
        return self.to_world(np.array(list(product(*ends))))

    def overlaps(self, other: Grid) -> bool:
        """Whether the two grids share a region of the world (touching is not sharing).

        Exact for grids turned against each other: two convex bodies are apart if and only if some
        face normal, or in space some normal to an edge of each, separates them.

        Raises:
            ValueError: for grids of different rank.
        """
        _check_grid("other", other)
        self._check_rank(other)
        normals = [np.linalg.inv(grid.direction) for grid in (self, other)]
        axes = np.concatenate(normals)
        if self.rank == 3:
            edges = product(self.direction.T, other.direction.T)
            axes = np.concatenate([axes, [np.cross(one, two) for one, two in edges]])
        lengths = np.linalg.norm(axes, axis=1)
        axes = axes[lengths > 1e-9] / lengths[lengths > 1e-9, None]
        here, there = self.corners() @ axes.T, other.corners() @ axes.T
        depth = np.minimum(here.max(axis=0), there.max(axis=0)) - np.maximum(
            here.min(axis=0), there.min(axis=0)
        )
        return bool(depth.min() > 1e-6 * min(self.spacing.min(), other.spacing.min()))

    def close_to(self, other: Grid, tolerance: float = 1e-3) -> bool:
        """Whether both have the same shape and no voxel is displaced by more than `tolerance`.

        Args:
            other: the grid to compare with.
            tolerance: in units of the smallest spacing; files that store single precision differ
                by far less than the default.
        """
        _check_grid("other", other)
        if self.shape != other.shape:
            return False
        apart = np.abs(self.corners() - other.corners()).max()
        return bool(apart <= tolerance * self.spacing.min())

    def _check_rank(self, other: Grid):
        if other.rank != self.rank:
            raise ValueError(f"other has {other.rank} axes; this grid has {self.rank}.")

    def _coordinates_of(self, values, argument: str) -> np.ndarray:
        array = _reals(argument, values)
        if array.ndim == 0 or array.shape[-1] != self.rank:
            raise ValueError(
                f"{argument} must have the shape [..., {self.rank}] on a grid of {self.rank} axes, "
                f"not {array.shape}."
            )
        return array


def transformed(vectors: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The products of a matrix `[rank, rank]` with vectors `[..., rank]`."""
    columns = np.ascontiguousarray(matrix.T)
    flat = vectors.reshape(-1, len(matrix))
    result = np.empty(flat.shape, np.result_type(vectors, matrix))
    # In parts too small for BLAS to share among threads, which wait for one another where others
    # keep the cores busy: up to thirty times slower.
    for first in range(0, len(flat), PRODUCT):
        part = slice(first, first + PRODUCT)
        np.matmul(flat[part], columns, out=result[part])
    return result.reshape(vectors.shape)


def flip_ras_lps(points) -> np.ndarray:
    """Right-anterior-superior coordinates as left-posterior-superior ones, and back.

    Args:
        points: `[..., 3]`, or `[..., 2]` in an axial plane.

    Returns:
        float64 of the same shape, with the first two components negated.

    Raises:
        ValueError: if the last axis is neither 2 nor 3.
    """
    array = np.array(_reals("points", points))
    if array.ndim == 0 or array.shape[-1] not in (2, 3):
        raise ValueError(f"points must have the shape [..., 3] or [..., 2], not {array.shape}.")
    array[..., :2] *= -1
    return array


def from_itk(array: np.ndarray, rank: int | None = None) -> np.ndarray:
    """An array of SimpleITK, or a picture in rows and columns, with its axes in our order.

    Args:
        array: `[z, y, x, ...]` or `[y, x, ...]`.
        rank: number of spatial axes; those that follow (channels) stay. None means all axes.

    Returns:
        A view `[x, y, z, ...]` or `[x, y, ...]`.
    """
    rank = array.ndim if rank is None else rank
    return array.transpose(*reversed(range(rank)), *range(rank, array.ndim))


def to_itk(array: np.ndarray, rank: int | None = None) -> np.ndarray:
    """The inverse of `from_itk`: a view `[z, y, x, ...]` of an array `[x, y, z, ...]`."""
    return from_itk(array, rank)


def _check_grid(argument: str, value) -> None:
    if not isinstance(value, Grid):
        raise TypeError(f"{argument} must be a zoo.Grid, not {type(value).__name__}.")


def _reals(argument: str, values) -> np.ndarray:
    """float64; NaN and infinity are for the caller to judge."""
    return real_array(argument, values, finite=False, booleans=False).astype(np.float64, copy=False)


def _vector(values, rank: int, argument: str) -> np.ndarray:
    vector = np.array(_reals(argument, values))
    if vector.ndim == 0:
        vector = np.full(rank, float(vector))
    if vector.shape != (rank,):
        raise ValueError(f"{argument} must hold {rank} numbers, not {values}.")
    if not np.isfinite(vector).all():
        raise ValueError(f"{argument} must be finite, not {values}.")
    return vector
