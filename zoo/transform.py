"""Transforms: what a registration returns, a map of world coordinates with its inverse.

Every transform pulls points of the fixed space to the moving space, as images are resampled, and
moves points of the moving space to the fixed space, as landmarks and meshes travel. Coordinates
are LPS millimetres (world units of the clouds for points); `a @ b` is the map `x -> a(b(x))`, so
`affine @ dense` refines an affine pre-alignment by a deformation on the fixed grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from itertools import product
from pathlib import Path

import numpy as np

from zoo.data.image import Image
from zoo.geometry import Grid, transformed
from zoo.ops.arguments import MOST, checked, not_negative, one_of, shown
from zoo.ops.array_arguments import real_array, real_points

TRANSFORM_SUFFIXES = (".tfm", ".h5")
COMPILED_FROM = 100_000  # points; scipy interpolates fewer, which are not worth a compilation
PADDED = 2**16  # points; compiled kernels take multiples of so many
LEFT_OUT, BOX_MARGIN = 1e-3, 1.15  # share of points at each end of an axis; box over the others
SLAB = 2**19  # voxels of a large grid that are pulled at a time


class Transform:
    """A map from fixed to moving space, with `fixed_grid`, the fixed image's grid, where known."""

    fixed_grid: Grid | None = None

    def pull(self, points) -> np.ndarray:
        """Carries points `[n, rank]` of the fixed space to the moving space.

        Example:
            >>> from zoo.transform import Affine
            >>> shift = Affine(np.eye(2), [3.0, 0.0])
            >>> shift.pull([[1.0, 1.0]])
            array([[4., 1.]])
        """
        raise NotImplementedError

    @checked(iterations=(0, MOST), tolerance=not_negative)
    def move(self, points, iterations: int = 50, tolerance: float | None = None) -> np.ndarray:
        """Carries points `[n, rank]` of the moving space (landmarks, meshes) to the fixed space.

        Unless a transform knows better, this inverts `pull` by iteration, in double precision;
        `inverse_error` tells what is left. First by fixed-point steps; points that these do not
        bring home, because the map stretches or shears much around them, are solved for by Newton
        steps, as many again.

        Where the map folds there is no unique inverse and the iteration may not settle.

        Args:
            points: where.
            iterations: of either kind, at most.
            tolerance: how far from its point the pull of a result may end, in world units; default
                1e-5 of the spacing of `fixed_grid`, and without one 1e-6 of the extent of the
                points and where they are pulled to.

        Example:
            >>> from zoo.transform import Mapped
            >>> bend = Mapped(lambda x: x + 0.5 * np.sin(x), rank=2)
            >>> point = bend.move([[1.0, 2.0]])
            >>> bend.pull(point).round(6)
            array([[1., 2.]])
        """
        points = _points(points, None if self.fixed_grid is None else self.fixed_grid.rank)
        pulled = self.pull(points)
        scale = self._scale(points, pulled)
        tolerance = 1e-5 * scale if tolerance is None else tolerance
        guess = 2 * points - pulled

        def descended(points, guess, direction):
            return self._descended(points, guess, iterations, tolerance, direction)

        guess, open_ = descended(points, guess, lambda _, error: error)
        if open_.any():
            newton = partial(self._newton, half=0.05 * scale)
            guess[open_], _ = descended(points[open_], guess[open_], newton)
        return guess

    def _scale(self, points, pulled) -> float:
        """A length over which `pull` is nearly linear."""
        if self.fixed_grid is not None:
            return float(self.fixed_grid.spacing.min())
        if not len(points):
            return 1.0
        both = np.concatenate([points, pulled])
        rounding = np.finfo(np.float64).eps * np.abs(both).max()
        return max(0.1 * float(np.ptp(both, axis=0).max()), 1e6 * float(rounding), 1e-12)

    def _descended(self, points, guess, iterations: int, tolerance: float, direction: Callable):
        """Guesses that `pull` brings closer to the points, and which of them are not there yet."""
        step = 1.0
        error = points - self.pull(guess)
        size = np.linalg.norm(error, axis=1, keepdims=True)
        for _ in range(iterations):
            if size.max(initial=0.0) < tolerance:
                break
            trial = guess + step * direction(guess, error)
            trial_error = points - self.pull(trial)
            trial_size = np.linalg.norm(trial_error, axis=1, keepdims=True)
            # A point whose residual grew stays where it was and tries a shorter step.
            better = trial_size < size
            step = np.where(better, np.minimum(1.0, 1.2 * step), 0.5 * step)
            guess = np.where(better, trial, guess)
            error = np.where(better, trial_error, error)
            size = np.where(better, trial_size, size)
        return guess, size[:, 0] >= tolerance

    def _newton(self, guess, error, half: float):
        """The step that would end at the point if `pull` were linear."""
        sides = half * np.eye(guess.shape[1])
        columns = [(self.pull(guess + e) - self.pull(guess - e)) / (2 * half) for e in sides]
        jacobian = np.stack(columns, axis=-1)
        # Singular only where the map folds: such a point takes a fixed-point step.
        solvable = np.abs(np.linalg.det(jacobian)) > 1e-6
        jacobian[~solvable] = np.eye(guess.shape[1])
        return np.linalg.solve(jacobian, error[..., None])[..., 0]

    def inverse(self) -> Transform:
        """The transform that pulls where this one moves.

        Example:
            >>> from zoo.transform import Affine
            >>> shift = Affine(np.eye(2), [3.0, 0.0])
            >>> shift.inverse().pull([[4.0, 1.0]])
            array([[1., 1.]])
        """
        return Inverse(self)

    def __matmul__(self, other: Transform) -> Transform:
        """The map `x -> self(other(x))`: `other` pulls first, then this transform.

        Example:
            >>> from zoo.transform import Affine
            >>> twice, shift = Affine(2 * np.eye(2), [0.0, 0.0]), Affine(np.eye(2), [3.0, 0.0])
            >>> (twice @ shift).pull([[1.0, 0.0]])
            array([[8., 0.]])
        """
        if not isinstance(other, Transform):
            raise TypeError(f"other must be a zoo.Transform, not {shown(other)}.")
        return Composed((self, other))

    def inverse_error(self, points) -> np.ndarray:
        """How far `move` is from exact: `|pull(move(points)) - points|` `[n]`, in world units.

        Args:
            points: `[n, rank]` in the moving space.
        """
        points = _points(points, None if self.fixed_grid is None else self.fixed_grid.rank)
        return np.linalg.norm(self.pull(self.move(points)) - points, axis=-1)

    @checked()
    def displacement(self, grid: Grid | None = None) -> np.ndarray:
        """The dense displacement on a grid, in voxels of that grid.

        Args:
            grid: a grid in the fixed space; default `fixed_grid`.

        Returns:
            float32 `[*spatial, rank]`: voxel x of the grid is pulled to index `x + u(x)`.

        Raises:
            ValueError: without a grid.
        """
        return self.sampled(grid).displacement

    @checked()
    def jacobian_determinant(self, grid: Grid | None = None) -> np.ndarray:
        """Local change of volume of `pull` on a grid, not positive where the map folds.

        Args:
            grid: a grid in the fixed space; default `fixed_grid`.

        Returns:
            float32 `[*spatial]`.
        """
        return self.sampled(grid).jacobian_determinant

    def warp(
        self,
        image: Image,
        grid: Grid | None = None,
        order: str = "linear",
        outside: float | None = None,
    ) -> Image:
        """Resamples a moving image on a fixed grid.

        Args:
            image: in the moving space, on any grid.
            grid: the result's; default `fixed_grid`.
            order: "linear" or "nearest" (for labels).
            outside: value where the moving image does not reach; None is the image's smallest
                (air in CT), and 0 for "nearest".

        Raises:
            TypeError: for anything but an image.
            ValueError: without a grid, for an image of another rank, or an unknown order.

        Example:
            >>> from zoo.transform import Affine
            >>> image = zoo.Image.from_array(np.eye(4))
            >>> shift = Affine(np.eye(2), [1.0, 0.0], image.grid)
            >>> bool((shift.warp(image).array[:-1] == image.array[1:]).all())
            True
        """
        if not isinstance(image, Image):
            raise TypeError(
                f"image must be a zoo.Image, not {type(image).__name__}; points are carried by "
                "pull and move."
            )
        return self.sampled(grid, image.grid).warp(image, order, outside)

    @checked()
    def sampled(self, grid: Grid | None = None, source: Grid | None = None) -> Sampled:
        """The transform on a grid, for several of the questions above at the price of one.

        Args:
            grid: in the fixed space; default `fixed_grid`.
            source: the grid of the images to be warped, if any.

        Raises:
            ValueError: without a grid.
        """
        return Sampled(self, self._grid(grid), source)

    def save(self, path: str | Path, grid: Grid | None = None) -> None:
        """Writes the transform; the file appears complete or not at all.

        A field (.nii.gz, .nii, .mha, .mhd, .nrrd) holds the displacement on the fixed grid as ITK,
        ANTs and 3D Slicer read it; the parts of a composed transform are merged. An ITK transform
        (.tfm, .h5) keeps affine parts apart.

        What is no field that is pulled, such as the moves of clouds, becomes one by sampling, which
        costs some of its accuracy: up to 0.1 voxels of the grid on a breathing lung. A saved model
        keeps all of it.

        Args:
            path: where.
            grid: of the field; default `fixed_grid`.

        Raises:
            ValueError: for another suffix, or without a grid where one is needed.

        Example:
            >>> from zoo.transform import Affine
            >>> Affine(np.eye(3), [3.0, 0.0, 0.0]).save("shift.tfm")
            >>> zoo.Transform.load("shift.tfm").pull([[1.0, 1.0, 1.0]])
            array([[4., 1., 1.]])
        """
        from zoo.io.images import VOLUME_SUFFIXES, image_suffix, write_field

        if image_suffix(path) in VOLUME_SUFFIXES:
            write_field(path, self.displacement(grid), self._grid(grid))
            return
        if Path(path).suffix.lower() not in TRANSFORM_SUFFIXES:
            known = ", ".join(VOLUME_SUFFIXES + TRANSFORM_SUFFIXES)
            raise ValueError(
                f"path: cannot write {Path(path).name!r}; the suffix must be one of {known}."
            )
        from zoo.io.transforms import write_transform

        write_transform(path, [part._itk(grid) for part in self._parts()])

    @staticmethod
    def load(path: str | Path) -> Transform:
        """Reads what `save` writes, and affine and field transforms of ITK and ANTs.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: for a file that is no transform.
        """
        from zoo.io.images import VOLUME_SUFFIXES, image_suffix, moves_points, read_field
        from zoo.io.transforms import read_transform

        if image_suffix(path) in VOLUME_SUFFIXES:
            field = Dense(*read_field(path))
            if not moves_points(path):
                return field
            bend = Inverse(field)
            bend.fixed_grid = field.fixed_grid
            return bend
        parts = read_transform(path)
        try:
            parts = [Affine(*v) if kind == "affine" else Dense(*v) for kind, v in parts]
        except ValueError as error:
            raise ValueError(f"path: {Path(path).name!r} is no transform: {error}") from error
        return parts[0] if len(parts) == 1 else Composed(parts)

    def _grid(self, grid: Grid | None) -> Grid:
        grid = grid or self.fixed_grid
        if grid is None:
            raise ValueError("grid: this transform has no grid of its own; give one.")
        return grid

    def _field(self, grid: Grid) -> np.ndarray | None:
        """The displacement on a grid in voxels, where it is known without pulling."""
        return None

    def _parts(self) -> Sequence[Transform]:
        return (self,)

    def _itk(self, grid: Grid | None):
        return "field", (self.displacement(grid), self._grid(grid))


class Sampled:
    """A transform on a grid of the fixed space: pulled once, whatever is then asked of it.

    Large grids are pulled slab by slab, so that nothing of their size is kept in double precision.

    Args:
        transform: what pulls.
        grid: in the fixed space.
        source: the grid of the images that `warp` takes, in the moving space; without it there is
            only the displacement.
    """

    def __init__(self, transform: Transform, grid: Grid, source: Grid | None = None):
        self.transform, self.grid, self.source = transform, grid, source

    @cached_property
    def displacement(self) -> np.ndarray:
        """See `Transform.displacement`."""
        field = self.transform._field(self.grid)
        return self._pulled[0] if field is None else field

    @cached_property
    def jacobian_determinant(self) -> np.ndarray:
        """See `Transform.jacobian_determinant`."""
        from keras import ops

        from zoo.ops.derivatives import jacobian_determinant

        return ops.convert_to_numpy(jacobian_determinant(self.displacement[None]))[0]

    @property
    def inside(self) -> np.ndarray:
        """Where the source reaches, bool `[*spatial]`."""
        return ~self._pulled[2].reshape(self.grid.shape)

    @checked()
    def warp(self, image: Image, order: str = "linear", outside: float | None = None) -> Image:
        """See `Transform.warp`.

        Raises:
            ValueError: for an image that does not lie on the source, or an unknown order.
        """
        if order not in ("linear", "nearest"):
            raise ValueError(f"order must be 'linear' or 'nearest', not {order!r}.")
        if image.rank != self.grid.rank:
            raise ValueError(
                f"image has rank {image.rank}, the fixed grid rank {self.grid.rank}; they must "
                "agree."
            )
        if image.grid != self.source:
            raise ValueError("image must lie on the grid that was given as source.")
        if outside is None:
            outside = 0.0 if order == "nearest" else float(image.array.min())
        _, indices, beyond = self._pulled
        values = _interpolate(image.array, indices, order)
        values[beyond] = outside
        return Image(values.reshape(*self.grid.shape, -1), self.grid, name=image.name)

    @cached_property
    def _pulled(self):
        """The displacement, and `[voxels, rank]` indices into the source and which it lacks.

        The displacement is None where the transform knows it, the others are without a source.
        """
        grid, source = self.grid, self.source
        count = math.prod(grid.shape)
        known = self.transform._field(grid)
        displacement = None if known is not None else np.empty((count, grid.rank), np.float32)
        indices = beyond = None
        if source is not None:
            # What scipy interpolates is left in double precision, as it computes.
            kind = np.float64 if count < COMPILED_FROM else np.float32
            indices, beyond = np.empty((count, grid.rank), kind), np.empty(count, bool)
            last = np.asarray(source.shape) - 0.5
        for part, world in _slabs(grid):
            if known is None:
                pulled = self.transform.pull(world)
                displacement[part] = grid.vectors_to_index(pulled - world)
            else:
                pulled = world + grid.vectors_to_world(known.reshape(-1, grid.rank)[part])
            if source is not None:
                index = source.to_index(pulled)
                indices[part] = index
                beyond[part] = ((index < -0.5) | (index > last)).any(axis=1)
        if displacement is not None:
            displacement = displacement.reshape(*grid.shape, grid.rank)
        return displacement, indices, beyond


class Affine(Transform):
    """`pull(x) = matrix x + offset`, in world units; its inverse is exact.

    Args:
        matrix: `[rank, rank]`.
        offset: `[rank]`.
        fixed_grid: the fixed image's grid, if there is one.

    Raises:
        ValueError: for shapes that do not fit, values that are not finite, or a singular matrix.
    """

    @checked()
    def __init__(self, matrix, offset, fixed_grid: Grid | None = None):
        self.matrix = np.array(real_array("matrix", matrix), dtype=np.float64)
        self.offset = np.array(real_array("offset", offset), dtype=np.float64)
        rank = self.offset.size
        if self.matrix.shape != (rank, rank) or rank not in (2, 3) or self.offset.ndim != 1:
            raise ValueError(
                f"matrix and offset must be [rank, rank] and [rank], rank 2 or 3, not "
                f"{self.matrix.shape} and {self.offset.shape}."
            )
        if not (np.isfinite(self.matrix).all() and np.isfinite(self.offset).all()):
            raise ValueError("matrix and offset must be finite; they hold NaN or infinite values.")
        if not np.linalg.cond(self.matrix) < 1e12:
            raise ValueError("matrix is singular: the transform would have no inverse.")
        self.fixed_grid = fixed_grid

    @classmethod
    @checked(rank=(2, 3))
    def identity(cls, rank: int, fixed_grid: Grid | None = None) -> Affine:
        """The map that leaves every point where it is."""
        return cls(np.eye(rank), np.zeros(rank), fixed_grid)

    def pull(self, points):
        pulled = transformed(_points(points, len(self.offset)), self.matrix)
        pulled += self.offset
        return pulled

    def move(self, points):
        return np.linalg.solve(self.matrix, (_points(points, len(self.offset)) - self.offset).T).T

    def inverse(self) -> Affine:
        matrix = np.linalg.inv(self.matrix)
        return Affine(matrix, -matrix @ self.offset)

    def __matmul__(self, other):
        if isinstance(other, Affine):
            offset = self.matrix @ other.offset + self.offset
            return Affine(self.matrix @ other.matrix, offset, other.fixed_grid)
        return super().__matmul__(other)

    def _itk(self, grid):
        return "affine", (self.matrix, self.offset)

    def __repr__(self):
        return f"Affine(matrix={self.matrix.round(4).tolist()}, offset={self.offset.round(3)})"


class Dense(Transform):
    """A displacement at every voxel of a grid, linear in between and constant beyond its border.

    Args:
        displacement: `[*spatial, rank]` in voxels of the grid.
        grid: its grid, in the fixed space.

    Raises:
        ValueError: for a displacement that does not fit the grid or is not finite.
    """

    @checked()
    def __init__(self, displacement, grid: Grid):
        self.field = _on_grid("displacement", displacement, grid)
        self.fixed_grid = grid

    def pull(self, points):
        points = _points(points, self.fixed_grid.rank)
        shift = _interpolate(self.field, self.fixed_grid.to_index(points), "linear")
        return points + self.fixed_grid.vectors_to_world(shift.astype(np.float64))

    def _field(self, grid):
        return self.field if grid == self.fixed_grid else None


class Velocity(Transform):
    """The flow of a stationary velocity field for unit time: invertible by construction.

    Args:
        velocity: `[*spatial, rank]` in voxels of the grid.
        grid: its grid, in the fixed space.
        steps: of scaling and squaring.

    Raises:
        ValueError: for a velocity that does not fit the grid or is not finite.
    """

    @checked(steps=(0, 32))
    def __init__(self, velocity, grid: Grid, steps: int = 7):
        self.velocity = _on_grid("velocity", velocity, grid)
        self.fixed_grid, self.steps = grid, steps

    @cached_property
    def _forward(self) -> Dense:
        return Dense(self._integrated(self.velocity), self.fixed_grid)

    @cached_property
    def _backward(self) -> Dense:
        return Dense(self._integrated(-self.velocity), self.fixed_grid)

    def _integrated(self, velocity):
        from keras import ops

        from zoo.layers.integration import ScalingAndSquaring

        return ops.convert_to_numpy(ScalingAndSquaring(steps=self.steps)(velocity[None]))[0]

    def pull(self, points):
        return self._forward.pull(points)

    def move(self, points):
        return self._backward.pull(points)

    def inverse(self) -> Velocity:
        return Velocity(-self.velocity, self.fixed_grid, self.steps)

    def _field(self, grid):
        return self._forward._field(grid)


class Composed(Transform):
    """Transforms one after the other: `pull(x) = parts[0].pull(parts[1].pull(...))`."""

    @checked()
    def __init__(self, parts: Sequence[Transform]):
        for part in parts:
            if not isinstance(part, Transform):
                raise TypeError(f"parts must hold transforms, not {shown(part)}.")
        flat = [each for part in parts for each in part._parts()]
        if not flat:
            raise ValueError("parts must hold at least one transform.")
        self.parts = tuple(flat)

    @property
    def fixed_grid(self) -> Grid | None:
        """The grid of the part next to the fixed image; those of other parts lie elsewhere."""
        return self.parts[-1].fixed_grid

    def pull(self, points):
        for part in reversed(self.parts):
            points = part.pull(points)
        return points

    def move(self, points):
        for part in self.parts:
            points = part.move(points)
        return points

    def inverse(self) -> Composed:
        return Composed([part.inverse() for part in reversed(self.parts)])

    def _parts(self):
        return self.parts

    def __repr__(self):
        return f"Composed({', '.join(map(repr, self.parts))})"


class Mapped(Transform):
    """Two functions as a transform, such as a network's; the second may be missing.

    Args:
        pull: takes points `[n, rank]` of the fixed space, float64, to as many of the moving space.
        move: the other way round; None inverts `pull` by iteration.
        fixed_grid: the fixed image's grid, if there is one.
        rank: 2 or 3; default that of the grid.

    Raises:
        ValueError: without a rank, or for one that is not the grid's.
        TypeError: for what cannot be called.
    """

    def __init__(
        self,
        pull: Callable[[np.ndarray], np.ndarray],
        move: Callable[[np.ndarray], np.ndarray] | None = None,
        fixed_grid: Grid | None = None,
        rank: int | None = None,
    ):
        for argument, function in (("pull", pull), ("move", move)):
            if not (callable(function) or (argument == "move" and function is None)):
                raise TypeError(
                    f"{argument} must be a function of points, not {type(function).__name__}."
                )
        if not isinstance(fixed_grid, Grid | None):
            raise TypeError(f"fixed_grid must be a zoo.Grid or None, not {shown(fixed_grid)}.")
        if rank is not None:
            one_of("rank", rank, (2, 3))
        if fixed_grid is not None and rank in (None, fixed_grid.rank):
            rank = fixed_grid.rank
        elif fixed_grid is not None or rank not in (2, 3):
            raise ValueError(f"rank must be 2 or 3, and that of fixed_grid, not {rank}.")
        self.functions, self.fixed_grid, self.rank = (pull, move), fixed_grid, rank

    def pull(self, points):
        return self._applied("pull", self.functions[0], points)

    @checked(iterations=(0, MOST), tolerance=not_negative)
    def move(self, points, iterations: int = 50, tolerance: float | None = None):
        if self.functions[1] is None:
            return super().move(_points(points, self.rank), iterations, tolerance)
        return self._applied("move", self.functions[1], points)

    def _applied(self, name: str, function: Callable, points) -> np.ndarray:
        points = _points(points, self.rank)
        carried = np.asarray(function(points), dtype=np.float64)
        if carried.shape != points.shape:
            raise ValueError(
                f"{name} must return points of the shape {points.shape} that it is given, not "
                f"{carried.shape}."
            )
        return carried


class Inverse(Transform):
    """Another transform the other way round; `inverse_error` tells how far it is from exact."""

    def __init__(self, of: Transform):
        self.of = of

    def pull(self, points):
        return self.of.move(points)

    def move(self, points):
        return self.of.pull(points)

    def inverse(self) -> Transform:
        return self.of


def _slabs(grid: Grid) -> Iterator[tuple[slice, np.ndarray]]:
    """World positions `[n, rank]` of the voxels of a grid, and where they stand among all."""
    layer = math.prod(grid.shape[1:])
    thick = max(SLAB // layer, 1)
    if thick >= grid.shape[0]:
        yield slice(None), grid.coordinates().reshape(-1, grid.rank)
        return
    for first in range(0, grid.shape[0], thick):
        count = min(thick, grid.shape[0] - first)
        start = [first] + [0] * (grid.rank - 1)
        slab = grid.window(start, (count, *grid.shape[1:]))
        part = slice(first * layer, (first + count) * layer)
        yield part, slab.coordinates().reshape(-1, grid.rank)


@checked(lattice=(4, 512), passes=(1, 1000))
def scattered(
    points, vectors, weights=None, lattice: int = 48, passes: int = 3, smallest: float = 0.1
) -> Transform:
    """A smooth transform through vectors that are known at scattered points, such as a flow.

    `move(points)` is close to `points + vectors`, `pull` its inverse. The vectors are split into
    their affine part of least squares and a rest, which becomes a field on a lattice around the
    points, by normalised splats: the first of them smooths, each further one adds what those before
    it left, at a finer scale. Where the map would fold, the field is smoothed until it does not:
    vectors that contradict their neighbours are not followed. Beyond the lattice the affine part
    goes on, and the rest as at the border.

    Args:
        points: `[n, rank]` of the moving space, in world units.
        vectors: `[n, rank]`, where they lead from there.
        weights: `[n]` of the points, not negative; default all the same.
        lattice: nodes along the longest side of the box around the points.
        passes: splats. One averages over four nodes and more; many follow noise as well.
        smallest: the determinant of the Jacobian of the field is nowhere smaller.

    Raises:
        ValueError: for arrays that do not fit, values that are not finite, or numbers out of range.
    """
    points, vectors, weights = _known(points, vectors, weights)
    if not 0 < smallest < 1:
        raise ValueError(f"smallest must be in (0, 1), not {smallest}.")
    matrix, offset = _linear_part(points, points + vectors, weights)
    placed = points @ matrix.T + offset
    rest = points + vectors - placed
    align = Affine(matrix, offset).inverse()
    grid = _lattice_around(placed, lattice)
    # What rounding left of an affine map needs no field.
    if grid is None or np.abs(rest).max() < 1e-9 * np.abs(np.stack([placed, points])).max():
        return align
    field = _splatted(grid, placed, rest, weights, passes)
    # The field leads from moving to fixed space; it is the inverse that pulls.
    bend = Inverse(Dense(_unfolded(field, smallest), grid))
    bend.fixed_grid = grid
    return Composed([align, bend])


def _known(points, vectors, weights) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    points = _points(points, None)
    vectors = real_array("vectors", vectors).astype(np.float64)
    given = np.ones(len(points)) if weights is None else real_array("weights", weights)
    weights = given.astype(np.float64)
    for argument, array, shape in (
        ("vectors", vectors, points.shape),
        ("weights", weights, points.shape[:1]),
    ):
        if array.shape != shape:
            raise ValueError(
                f"{argument} must have the shape {shape}, as points have {points.shape}, not "
                f"{array.shape}."
            )
    if not len(points):
        raise ValueError("points must hold at least one point.")
    for argument, array in (("points", points), ("vectors", vectors), ("weights", weights)):
        if not np.isfinite(array).all():
            raise ValueError(f"{argument} must be finite; they hold NaN or infinite values.")
    if weights.min() < 0 or not weights.any():
        raise ValueError("weights must not be negative, and not all zero.")
    return points, vectors, weights / weights.max()


def _linear_part(points, moved, weights) -> tuple[np.ndarray, np.ndarray]:
    """The affine map of least squares; the identity and a shift where it is undetermined."""
    centres = [np.average(each, axis=0, weights=weights) for each in (points, moved)]
    root = np.sqrt(weights)[:, None]
    before, after = (root * (each - c) for each, c in zip((points, moved), centres, strict=True))
    matrix, _, rank, _ = np.linalg.lstsq(before, after, rcond=None)
    matrix = matrix.T
    if rank < points.shape[1] or not np.linalg.cond(matrix) < 1e3:
        matrix = np.eye(points.shape[1])
    return matrix, centres[1] - matrix @ centres[0]


def _lattice_around(points: np.ndarray, count: int) -> Grid | None:
    """A lattice around all but the outermost points, so many nodes long; None for one place."""
    low, high = np.quantile(points, (LEFT_OUT, 1 - LEFT_OUT), axis=0)
    longest = float((high - low).max())
    if not longest > 0:
        return None
    spacing = BOX_MARGIN * longest / count
    shape = np.ceil((high - low + (BOX_MARGIN - 1) * longest) / spacing - 1e-6).astype(int)
    centred = Grid(tuple(np.maximum(shape, 4)), spacing).centred()
    return Grid(centred.shape, spacing, centred.origin + (low + high) / 2)


def _splatted(grid: Grid, points, vectors, weights, passes: int) -> np.ndarray:
    """A smooth field `[*spatial, rank]` in voxels, which at the points is near the vectors."""
    from keras import ops

    from zoo.ops.splatting import normalised_splat

    places = grid.to_index(points)
    left, field = grid.vectors_to_index(vectors), 0.0
    for number in range(passes):
        scale = max(2.0 * 0.5**number, 0.5)
        batches = (each[None].astype(np.float32) for each in (left, places, weights))
        values, there, shares = batches
        step = normalised_splat(values, there, grid.shape, shares, scale, scale)
        step = ops.convert_to_numpy(step)[0]
        field = field + step
        left = left - _interpolate(step, places, "linear")
    return field


def _unfolded(field: np.ndarray, smallest: float) -> np.ndarray:
    """The field, smoothed around cells with smaller determinants until there are none."""
    from scipy.ndimage import binary_dilation, gaussian_filter

    rank = field.shape[-1]
    for sigma in (1, 1, 1, 2, 2, 2, 4, 4, 8, 8, 16, 16):
        cells = _cell_determinants(field) < smallest
        if not cells.any():
            return field
        nodes = binary_dilation(cells, np.ones((3,) * rank), iterations=sigma)
        # The cell before a node stands for it; dilated, its neighbours count as well.
        nodes = nodes[(slice(1, None),) * rank]
        share = gaussian_filter(nodes.astype(np.float32), sigma)[..., None]
        smooth = gaussian_filter(field, (*[sigma] * rank, 0), mode="nearest")
        field = field + share * (smooth - field)
    while _cell_determinants(field).min() < smallest:
        field = field / 2
    return field


def _cell_determinants(field: np.ndarray) -> np.ndarray:
    """The smallest determinant of `x + field(x)` over the corners of the cells of a lattice.

    In the plane it is the smallest in the whole cell, in space nearly so: derivatives along an axis
    are linear along the others. Differences over two voxels would miss a fold between neighbours.
    The outermost cells lie beyond the lattice, where the border goes on and can fold, too.

    Args:
        field: `[*spatial, rank]` in voxels.

    Returns:
        `[*spatial]`, one more along each axis than nodes.
    """
    rank = field.shape[-1]
    field = np.pad(field, [(1, 1)] * rank + [(0, 0)], mode="edge")
    columns = [np.diff(field, axis=axis) + np.eye(rank)[axis] for axis in range(rank)]
    smallest = np.inf
    for corner in product((0, 1), repeat=rank):
        chosen = []
        for axis, column in enumerate(columns):
            # A cell has the edge along an axis at both ends of the others.
            ends = [
                slice(None) if k == axis else slice(bit, bit - 1 or None)
                for k, bit in enumerate(corner)
            ]
            chosen.append(column[tuple(ends)])
        smallest = np.minimum(smallest, np.linalg.det(np.stack(chosen, axis=-1)))
    return smallest


def _on_grid(argument: str, field, grid: Grid) -> np.ndarray:
    """float32 `[*spatial, rank]`, checked against its grid."""
    field = real_array(argument, field)
    if field.shape != (*grid.shape, grid.rank):
        raise ValueError(
            f"{argument} must have the shape {(*grid.shape, grid.rank)} of the grid, not "
            f"{field.shape}."
        )
    return field.astype(np.float32, copy=False)


def _points(points, rank: int | None) -> np.ndarray:
    """float64 `[n, rank]`; None is a rank of 2 or 3."""
    ranks = (2, 3) if rank is None else (rank,)
    return real_points("points", points, ranks, least=0)


def _interpolate(array: np.ndarray, indices: np.ndarray, order: str) -> np.ndarray:
    """Values `[n, channels]` of an array `[*spatial, channels]` at indices `[n, rank]`."""
    if order == "nearest" and array.dtype == np.float64:
        # Labels that float32 does not hold: their ranks do as well.
        known, ranks = np.unique(array, return_inverse=True)
        ranks = ranks.reshape(array.shape).astype(np.float32)
        return known[np.rint(_interpolate(ranks, indices, order)).astype(int)]
    if len(indices) < COMPILED_FROM:
        from scipy.ndimage import map_coordinates

        degree = {"linear": 1, "nearest": 0}[order]
        channels = np.moveaxis(array, -1, 0)
        values = [map_coordinates(c, indices.T, order=degree, mode="nearest") for c in channels]
        return np.stack(values, axis=-1)
    from keras import ops

    from zoo.ops.sampling import sample

    # Kernels are compiled for every size; a few sizes serve many numbers of points.
    count = len(indices)
    indices = np.pad(indices.astype(np.float32, copy=False), ((0, -count % PADDED), (0, 0)))
    values = sample(array[None], indices[None], order=order)
    return np.array(ops.convert_to_numpy(values)[0, :count])
