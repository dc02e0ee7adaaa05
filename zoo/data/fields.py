"""Random displacement fields with known properties, in two and three dimensions.

Every field is a displacement `u` `[*shape, rank]`, float64, in voxels, its components in the order
of the axes: `x -> x + u(x)`, with voxel centres at integers. A `seed` is a number, a sequence of
numbers, or a `numpy.random.Generator`, which then advances.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from inspect import signature

import numpy as np
from scipy import ndimage

from zoo.ops.arguments import MOST, checked, not_negative, one_of, shown, whole_numbers
from zoo.ops.array_arguments import few_enough, real_array

KINDS = ("affine", "smooth", "combined", "noise")

Range = Sequence[float]
Seed = int | Sequence[int] | np.random.Generator


@checked()
def random_field(
    shape: Sequence[int],
    kind: str = "combined",
    magnitude: float | Range = (0.1, 6.0),
    affine: Mapping | None = None,
    smooth: Mapping | None = None,
    noise: float = 0.005,
    seed: Seed = 0,
) -> np.ndarray:
    """A field of one kind.

    Args:
        shape: voxels along each of two or three axes.
        kind: "affine" is the inverse of a map of `random_affine`; "smooth" is `smooth_field`;
            "combined" the sum of the two; "noise" is `noise_field`.
        magnitude: largest component of the smooth part in voxels, or the ends of a range from which
            it is drawn.
        affine: options of `random_affine`.
        smooth: options of `smooth_field`.
        noise: largest component of "noise" in voxels.
        seed: of everything drawn.

    Returns:
        Displacement `[*shape, rank]` in voxels.

    Raises:
        ValueError: for an unknown kind, or numbers out of range.
    """
    shape, rng = as_shape(shape), np.random.default_rng(seed)
    one_of("kind", kind, KINDS)
    not_negative("noise", noise)
    if kind == "noise":
        return noise_field(shape, noise, rng)
    field = np.zeros((*shape, len(shape)))
    if kind != "smooth":
        drawn = random_affine(shape, seed=rng, **_options("affine", affine, random_affine))
        field += affine_field(shape, *inverse_affine(*drawn))
    if kind != "affine":
        largest = rng.uniform(*_range(magnitude, "magnitude", least=0))
        field += smooth_field(shape, largest, seed=rng, **_options("smooth", smooth, smooth_field))
    return field


@checked()
def random_affine(
    shape: Sequence[int],
    translations: float | Range = (-2.0, 2.0),
    rotations: float | Range = (-1.5, 1.5),
    shears: float | Range = (-0.04, 0.04),
    scales: float | Range | Sequence[Range] = ((0.98, 1.04), (0.96, 1.02)),
    origin: float | Range = (-2.0, 2.0),
    seed: Seed = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """An affine map about a point near the centre of a grid.

    Its linear part is the product of a rotation, a shear and a scaling, in random order. Everything
    is drawn uniformly from a range, or given as one number.

    Args:
        shape: voxels of the grid.
        translations: along each axis, in voxels.
        rotations: in the plane of each two axes, in degrees.
        shears: of each axis along each other one, as a ratio.
        scales: of each axis, as a ratio; of several ranges one is chosen for all axes.
        origin: of the fixed point from the centre of the grid, along each axis, in voxels.
        seed: of everything drawn.

    Returns:
        `(matrix, offset)` `[rank, rank]` and `[rank]`: the map `x -> matrix x + offset` of
        positions in voxels.

    Raises:
        ValueError: for a range that is none, or scales below 0.01.
    """
    shape, rng = as_shape(shape), np.random.default_rng(seed)
    rank = len(shape)
    if isinstance(scales, Sequence) and not len(scales):
        raise ValueError("scales must be a number, a range or several ranges, not empty.")
    alternatives = scales if np.ndim(scales) == 2 else [scales]
    # Not near zero, where there is no inverse.
    intervals = [_range(each, "scales", least=0.01) for each in alternatives]
    chosen = intervals[rng.integers(len(intervals))]
    rotation, shear = np.eye(rank), np.eye(rank)
    planes = list(itertools.combinations(range(rank), 2))
    turns = np.deg2rad(_draw(rng, rotations, "rotations", len(planes)))
    for (i, j), turn in zip(planes, turns, strict=True):
        plane = np.eye(rank)
        plane[[i, j], [i, j]] = np.cos(turn)
        plane[i, j], plane[j, i] = -np.sin(turn), np.sin(turn)
        rotation = rotation @ plane
    shear[~np.eye(rank, dtype=bool)] = _draw(rng, shears, "shears", rank * (rank - 1))
    scaling = np.diag(rng.uniform(*chosen, rank))
    matrix = np.linalg.multi_dot([(rotation, shear, scaling)[k] for k in rng.permutation(3)])
    centre = (np.array(shape) - 1) / 2 + _draw(rng, origin, "origin", rank)
    return matrix, centre - matrix @ centre + _draw(rng, translations, "translations", rank)


def inverse_affine(matrix: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inverse `(matrix, offset)` of the map `x -> matrix x + offset`."""
    inverse = np.linalg.inv(matrix)
    return inverse, -inverse @ offset


def affine_field(shape: Sequence[int], matrix: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """The displacement `[*shape, rank]` of the map `x -> matrix x + offset`, in voxels."""
    return positions(shape) @ (np.asarray(matrix) - np.eye(len(offset))).T + offset


@checked(knots=(0, 512))
def smooth_field(
    shape: Sequence[int],
    magnitude: float = 3.0,
    knots: tuple[int, int] = (30, 34),
    kernels: Sequence[tuple[int, float]] = ((9, 3.0), (5, 2.0)),
    margin: int = 5,
    seed: Seed = 0,
) -> np.ndarray:
    """A smooth non-rigid field: blurred noise on a coarse grid, linearly interpolated.

    Its details are as wide a part of the image whatever the shape is, and the magnitude is in
    voxels, so smaller images are deformed more strongly. Neighbours differ by up to about 0.12 of
    the magnitude on 64^2 (0.18 at worst) and on 64^3, and by 0.2 on 32^3: where magnitude times
    that nears 1, fields fold.

    Args:
        shape: voxels along each axis.
        magnitude: the largest absolute component, in voxels.
        knots: fewest and most points of the coarse grid along an axis; drawn for each axis.
        kernels: size, which is odd, and standard deviation of the Gaussians, in coarse points.
        margin: voxels that are cut off all around, where the noise fades.
        seed: of everything drawn.

    Returns:
        Displacement `[*shape, rank]` in voxels.

    Raises:
        ValueError: for a negative magnitude or margin, fewer than two knots, or an even kernel.
    """
    shape, rng = as_shape(shape), np.random.default_rng(seed)
    rank = len(shape)
    not_negative("magnitude", magnitude)
    if not 2 <= knots[0] <= knots[1]:
        raise ValueError(f"knots must be two numbers in order, from 2 on, not {knots}.")
    field = rng.uniform(-1, 1, (*rng.integers(*knots, rank, endpoint=True), rank))
    not_negative("margin", margin)
    if not kernels:
        raise ValueError("kernels must hold at least one size and deviation.")
    for size, deviation in kernels:
        if size < 1 or size % 2 == 0 or deviation <= 0:
            raise ValueError(f"kernels must be odd sizes with positive deviations, not {kernels}.")
        kernel = np.exp(-0.5 * ((np.arange(size) - size // 2) / deviation) ** 2)
        for axis in range(rank):
            field = ndimage.correlate1d(field, kernel / kernel.sum(), axis, mode="constant")
    for axis, size in enumerate(shape):
        # The first and the last knot lie on the first and the last voxel before the cut.
        last = field.shape[axis] - 1
        where = (np.arange(size) + margin) * last / max(size + 2 * margin - 1, 1)
        weights = np.maximum(1 - np.abs(where[:, None] - np.arange(last + 1)), 0)
        field = np.moveaxis(np.tensordot(weights, field, (1, axis)), 0, axis)
    return field * (magnitude / np.abs(field).max())


@checked(magnitude=not_negative)
def noise_field(shape: Sequence[int], magnitude: float = 0.005, seed: Seed = 0) -> np.ndarray:
    """Normal white noise `[*shape, rank]` whose largest absolute component is `magnitude` voxels.

    Displacements too small to see teach a model to leave alone what is aligned.
    """
    field = np.random.default_rng(seed).standard_normal((*as_shape(shape), len(shape)))
    return field * (magnitude / np.abs(field).max())


@checked(steps=(0, MOST), tolerance=not_negative)
def inverse_field(
    displacement: np.ndarray, steps: int = 100, tolerance: float = 1e-4
) -> np.ndarray:
    """The inverse `v` of a displacement `u`: the solution of `v(x) = -u(x + v(x))`.

    By fixed-point iteration, which does not converge where `u` folds. `u` is interpolated linearly
    and goes on outside with the values at the border, so near it `v` depends on what is not known.

    Args:
        displacement: `[*spatial, rank]` in voxels.
        steps: at most so many iterations.
        tolerance: they end when no component changes by more, in voxels.

    Returns:
        Displacement `[*spatial, rank]` in voxels, float64.
    """
    displacement = real_array("displacement", displacement)
    if displacement.ndim not in (3, 4) or displacement.shape[-1] != displacement.ndim - 1:
        raise ValueError(
            f"displacement must have the shape [*spatial, rank], not {displacement.shape}."
        )
    if not displacement.size:
        raise ValueError(f"displacement must not be empty; its shape is {displacement.shape}.")
    points = positions(displacement.shape[:-1])
    inverse = -displacement.astype(np.float64)
    for _ in range(steps):
        before, inverse = inverse, -sample_linear(displacement, points + inverse)
        if np.abs(inverse - before).max() <= tolerance:
            break
    return inverse


def sample_linear(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Channels of `values` `[*spatial, channels]` at `points` `[*query, rank]` in voxels.

    Multilinear with the border values outside, as `zoo.ops.sampling.sample`, but in float64.
    """
    where, options = np.moveaxis(points, -1, 0), {"order": 1, "mode": "nearest"}
    channels = np.moveaxis(values, -1, 0)
    sampled = [ndimage.map_coordinates(each, where, np.float64, **options) for each in channels]
    return np.stack(sampled, axis=-1)


def positions(shape: Sequence[int]) -> np.ndarray:
    """Positions of the voxels of a grid, float64 `[*shape, rank]`."""
    return np.moveaxis(np.indices(tuple(shape), dtype=np.float64), 0, -1)


def as_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape as a tuple of two or three positive integers; others raise a ValueError."""
    sizes = whole_numbers("shape", shape)
    if len(sizes) not in (2, 3) or min(sizes) < 1:
        raise ValueError(f"shape must be two or three positive sizes, not {shown(shape)}.")
    few_enough("shape", sizes)
    return sizes


def _options(argument: str, given: Mapping | None, function: Callable) -> dict:
    """Options for a function, of which `shape` and `seed` are known."""
    known = [name for name in signature(function).parameters if name not in ("shape", "seed")]
    unknown = [name for name in given or () if name not in known]
    if unknown:
        raise ValueError(f"{argument} has unknown options {shown(unknown)}, not of {known}.")
    return dict(given or {})


def _draw(rng: np.random.Generator, given, name: str, count: int) -> np.ndarray:
    return rng.uniform(*_range(given, name), count)


def _range(given, name: str, least: float = -np.inf) -> tuple[float, float]:
    # One number stands for both ends.
    ends = np.atleast_1d(real_array(name, given).astype(np.float64))
    if ends.shape not in ((1,), (2,)) or not least <= ends[0] <= ends[-1] < np.inf:
        limit = f", from {least:g} on" if least > -np.inf else ""
        raise ValueError(f"{name} must be a number or two in order{limit}, not {shown(given)}.")
    return float(ends[0]), float(ends[-1])
