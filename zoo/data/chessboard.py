"""Chessboards of grey levels, and pairs of them with an exactly known displacement."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from zoo.data.fields import (
    Range,
    Seed,
    as_shape,
    inverse_field,
    noise_field,
    positions,
    random_field,
    sample_linear,
)
from zoo.ops.arguments import MOST, between, checked, one_of
from zoo.ops.array_arguments import few_enough

BASES = ("moving", "fixed")


class Chessboard:
    """A chessboard whose even and odd cells each blend grey levels drawn for the corners.

    It is known at every point, not only at voxels: constant within a cell, and from the last voxel
    centre of a cell to the first one of the next it changes linearly. This is what linear
    interpolation of the picture gives, so warping the picture is exact. Outside, the cells of the
    border go on.

    Args:
        shape: voxels along each of two or three axes.
        cells: fewest and most voxels along an edge of a cell; one length is drawn for all axes. The
            last cell of an axis takes what is left over.
        seed: of the lengths and levels.

    Attributes:
        edge: voxels along an edge of a cell.
        levels: grey level of each cell, whole numbers from 0 to 254, `[*cells]`.

    Raises:
        ValueError: for a shape of another rank, or cells below 2 voxels.
    """

    @checked(cells=(0, MOST))
    def __init__(
        self,
        shape: Sequence[int] = (64, 64),
        cells: tuple[int, int] = (6, 9),
        seed: Seed = 0,
    ):
        self.shape = as_shape(shape)
        if not 2 <= cells[0] <= cells[1]:
            raise ValueError(f"cells must be two sizes in order, from 2 on, not {cells}.")
        rng = np.random.default_rng(seed)
        rank = len(self.shape)
        self.edge = int(rng.integers(*cells, endpoint=True))
        corners = rng.integers(0, 255, (2, *(2,) * rank))
        counts = [max(size // self.edge, 1) for size in self.shape]
        cell = np.indices(counts)
        even = cell.sum(axis=0) % 2 == 0
        # A single cell along an axis takes the level of the first corner.
        share = [index / max(count - 1, 1) for index, count in zip(cell, counts, strict=True)]
        levels = np.zeros(counts)
        for corner in itertools.product((0, 1), repeat=rank):
            near = [part if far else 1 - part for part, far in zip(share, corner, strict=True)]
            weight = np.prod(near, axis=0)
            level = np.where(even, corners[0][corner], corners[1][corner])
            # Whole numbers before the sum, as in the published set.
            levels += np.floor(weight * level)
        self.levels = levels

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Intensities from 0 to 254/255, float64 `[*query]`, at `[*query, rank]` in voxels."""
        where = np.empty(points.shape)
        for axis, (size, count) in enumerate(zip(self.shape, self.levels.shape, strict=True)):
            first = np.arange(count) * self.edge
            last = np.append(first[1:] - 1, size - 1)
            ends = np.stack([first, last], axis=1).ravel()
            # Positions counted in cells, which stand still inside a cell.
            where[..., axis] = np.interp(points[..., axis], ends, np.arange(2 * count) // 2)
        return sample_linear(self.levels[..., None], where)[..., 0] / 255


class ChessboardPairs(keras.utils.PyDataset):
    """Batches of chessboards that a random field relates: `fixed(x) = moving(x + u(x))`.

    With `base="moving"` the moving image is an undeformed chessboard and the fixed one its formula
    at `x + u(x)`. The relation holds exactly, at every voxel and for the linear interpolation of
    the moving image too. With `base="fixed"` the fixed image is the undeformed one, the moving one
    is the formula displaced by the drawn field, and `u` the numerical inverse of that. The relation
    then holds up to interpolation, which is about 4 grey levels of 255 on average with the default
    fields, and less well near the border and where the field folds.

    A batch is `({"fixed", "moving"}, displacement)`, float32: the images `[batch, *shape, 1]` with
    intensities from 0 to 254/255, the displacement `[batch, *shape, rank]` in voxels. Each pair
    depends on (seed, epoch, index, its place in the batch) only; `epoch` is 0 until it is set.

    Args:
        shape: voxels of the images along each of two or three axes.
        batch_size: pairs of a batch.
        steps: batches of an epoch.
        kind: of field: "affine", "smooth", "combined" or "noise", see `zoo.data.fields`.
        magnitude: largest component of the smooth part in voxels, or the ends of a range from which
            it is drawn for each pair.
        cells: fewest and most voxels along an edge of a cell; (3, 6) are the dense boards.
        base: which image is the undeformed one, "moving" or "fixed".
        images: how many chessboards there are, used again and again with new fields; None draws a
            new one for each pair.
        noise: largest component of fields of white noise, in voxels.
        still: probability that the field of a pair is white noise, which teaches not to move.
        poison: probability that white noise is added to what deforms an image and not to the
            displacement that is given out. The reference has 0.01; 0 leaves the relation exact.
        affine: options of `zoo.data.fields.random_affine`.
        smooth: options of `zoo.data.fields.smooth_field`.
        seed: of everything drawn.
        **kwargs: `workers`, `use_multiprocessing` and `max_queue_size` of Keras.

    Raises:
        ValueError: for numbers out of range, an unknown kind or base.

    Example:
        >>> from zoo.data.chessboard import ChessboardPairs
        >>> from zoo.ops.sampling import warp
        >>> images, displacement = ChessboardPairs((32, 32), batch_size=4)[0]
        >>> bool(np.allclose(warp(images["moving"], displacement), images["fixed"], atol=1e-4))
        True
    """

    @checked(
        batch_size=(1, 2**20),
        steps=(1, MOST),
        images=(1, MOST),
        cells=(0, MOST),
    )
    def __init__(
        self,
        shape: Sequence[int] = (64, 64),
        batch_size: int = 100,
        steps: int = 10,
        kind: str = "combined",
        magnitude: float | Range = (0.1, 6.0),
        cells: tuple[int, int] = (6, 9),
        base: str = "moving",
        images: int | None = None,
        noise: float = 0.005,
        still: float = 0.001,
        poison: float = 0.0,
        affine: Mapping | None = None,
        smooth: Mapping | None = None,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.shape = as_shape(shape)
        few_enough("batch_size", (batch_size, *self.shape))
        for name, value in (("still", still), ("poison", poison)):
            between(name, value, 0.0, 1.0)
        one_of("base", base, BASES)
        self.batch_size, self.steps, self.images = batch_size, steps, images
        self.cells, self.base, self.seed = cells, base, seed
        self.noise, self.still, self.poison = noise, still, poison
        self.kind = kind
        self.field_options = {"magnitude": magnitude, "affine": affine, "smooth": smooth}
        self.epoch = 0
        # Wrong options show here, not in the thread that makes the first batch.
        tiny = (2,) * len(self.shape)
        Chessboard(tiny, cells)
        random_field(tiny, kind, noise=noise, **self.field_options)

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        made = [self._pair(index, place) for place in range(self.batch_size)]
        fixed, moving, displacement = (np.stack(parts) for parts in zip(*made, strict=True))
        return {"fixed": fixed, "moving": moving}, displacement

    def zero_errors(self) -> dict[str, float]:
        """Errors of the zero field over all batches of this epoch, to relate results to.

        Returns:
            `epe`, mean length of the displacement in voxels; `rms_component`, the mean of its
            length over the root of the rank; `intensity`, mean absolute difference of the images
            in grey levels of 255.
        """
        lengths, differences = [], []
        for index in range(len(self)):
            images, displacement = self[index]
            lengths.append(np.linalg.norm(displacement, axis=-1).mean())
            differences.append(np.abs(images["fixed"] - images["moving"]).mean())
        epe = float(np.mean(lengths))
        return {
            "epe": epe,
            "rms_component": epe / len(self.shape) ** 0.5,
            "intensity": float(np.mean(differences)) * 255,
        }

    def _pair(self, index: int, place: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng((self.seed, self.epoch, index, place))
        number = (index * self.batch_size + place) % (self.images or 1)
        board = Chessboard(
            self.shape, self.cells, rng if self.images is None else (self.seed, number)
        )
        kind = "noise" if rng.random() < self.still else self.kind
        drawn = random_field(self.shape, kind, noise=self.noise, seed=rng, **self.field_options)
        given = (drawn if self.base == "moving" else inverse_field(drawn)).astype(np.float32)
        # Rounded before it is used, so that what is given out is what was done.
        applied = (given if self.base == "moving" else drawn).astype(np.float64)
        if rng.random() < self.poison:
            applied = applied + noise_field(self.shape, self.noise, rng)
        points = positions(self.shape)
        plain, deformed = (
            board(where)[..., None].astype(np.float32) for where in (points, points + applied)
        )
        fixed, moving = (deformed, plain) if self.base == "moving" else (plain, deformed)
        return fixed, moving, given
