"""Fewer points of a cloud, and deformed copies of clouds to train on.

Lengths are in mm. Whatever is random depends on `seed` only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from zoo.data.fields import Seed
from zoo.ops.arguments import MOST, between, checked, not_negative, positive
from zoo.ops.array_arguments import real_array, real_points


@checked(count=(1, MOST), neighbours=(2, MOST), rivals=(2, MOST), least=(1, MOST))
def density_keypoints(
    points: np.ndarray,
    count: int = 8192,
    neighbours: int = 29,
    rivals: int = 15,
    sharpness: float = 0.7,
    step: float = 0.1,
    least: int | None = None,
    seed: Seed = 0,
) -> np.ndarray:
    """Points whose surroundings are denser than those of their neighbours.

    The score of a point is the mean of `exp(-(sharpness d)^2)` over the distances d to its nearest
    points. One that no rival exceeds is kept; where they are too few, the sharpness grows by a step
    and all is done again. At last `count` of them are drawn. Defaults are those of ChasingClouds
    (github.com/mattiaspaul/ChasingClouds); denser sets have a sharpness of 6, 10 rivals and at
    least 16,384 points in denoised_mt_pcd_reg of the same group.

    Args:
        points: `[n, 3]` in mm.
        count: how many to draw.
        neighbours: points over which the density is taken, the point itself among them.
        rivals: nearest points, itself among them, that must not be denser.
        sharpness: per mm, at first.
        step: by which it grows, per mm.
        least: how many must be left to draw from; by default `count`.
        seed: of the draw.

    Returns:
        int64 `[count]`, indices into `points`.

    Raises:
        ValueError: for fewer points than asked for, or where no sharpness below 100 leaves enough.
    """
    points = _cloud(points, "points")
    least = count if least is None else max(least, count)
    if not 1 <= least <= len(points):
        raise ValueError(f"count and least must lie in 1 to {len(points)} points, not {least}.")
    if not 2 <= rivals <= neighbours <= len(points):
        raise ValueError(
            f"rivals and neighbours must be in order, from 2 to {len(points)}, not {rivals} and "
            f"{neighbours}."
        )
    positive("sharpness", sharpness)
    positive("step", step)
    distances, nearest = cKDTree(points).query(points, neighbours)
    while sharpness < 100:
        score = np.exp(-((sharpness * distances) ** 2)).mean(axis=1)
        best = np.flatnonzero(score[nearest[:, :rivals]].max(axis=1) == score)
        if len(best) >= least:
            return np.random.default_rng(seed).permutation(best)[:count]
        sharpness += step
    raise ValueError(f"points: only {len(best)} of {len(points)} are densest, not {least}.")


@checked()
def farthest_points(points: np.ndarray, count: int, start: int = 0) -> np.ndarray:
    """Spreads a subset evenly: each point is the one farthest from those before it.

    Takes time `n * count`: about a second for 8,192 of 30,000 points.

    Args:
        points: `[n, d]`.
        count: how many, at most n.
        start: index of the first.

    Returns:
        int64 `[count]`, indices into `points` in the order of the choice.

    Raises:
        ValueError: for a count or a start out of range.
    """
    points = _cloud(points, "points", None)
    between("count", count, 1, len(points))
    between("start", start, 0, len(points) - 1)
    columns = np.ascontiguousarray(points.T)
    chosen = np.empty(count, dtype=np.int64)
    nearest = np.full(len(points), np.inf)
    for place in range(count):
        chosen[place] = start
        squared = sum((column - column[start]) ** 2 for column in columns)
        np.minimum(nearest, squared, out=nearest)
        nearest[start] = -1.0  # never again, even among equal points
        start = int(nearest.argmax())
    return chosen


@checked()
def voxel_means(points: np.ndarray, spacing: float, origin: float = 0.0) -> np.ndarray:
    """The mean of the points of each occupied cell of a cubic grid.

    Args:
        points: `[n, d]` in mm.
        spacing: edge of a cell in mm.
        origin: a corner of the grid, along every axis.

    Returns:
        float64 `[cells, d]`, ordered by cell.

    Raises:
        ValueError: for a spacing that is not positive.
    """
    points = _cloud(points, "points", None)
    positive("spacing", spacing)
    cells = np.floor((points - origin) / spacing).astype(np.int64)
    _, cell, count = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    sums = [np.bincount(cell.ravel(), column) for column in points.T]
    return np.stack(sums, axis=-1) / count[:, None]


@checked()
def match_moments(
    moving: np.ndarray, fixed: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scales and shifts a cloud along each axis to the mean and deviation of another one.

    Args:
        moving: `[n, d]`.
        fixed: `[m, d]`.

    Returns:
        `(aligned, scale, shift)`: `[n, d]`, `[d]` and `[d]` with `aligned = moving * scale +
        shift`.

    Raises:
        ValueError: for a moving cloud without extent along an axis.
    """
    moving, fixed = _cloud(moving, "moving", None), _cloud(fixed, "fixed", None)
    deviation = moving.std(axis=0)
    if not deviation.all():
        raise ValueError(f"moving must extend along every axis; its deviations are {deviation}.")
    if fixed.shape[1] != moving.shape[1]:
        raise ValueError(
            f"fixed must have the {moving.shape[1]} coordinates of moving, not {fixed.shape[1]}."
        )
    scale = fixed.std(axis=0) / deviation
    shift = fixed.mean(axis=0) - scale * moving.mean(axis=0)
    return moving * scale + shift, scale, shift


@checked(width=positive)
def gaussian_mean(
    points: np.ndarray, controls: np.ndarray, values: np.ndarray, width: float
) -> np.ndarray:
    """Means of the values at control points, weighted with a Gaussian of their distance.

    Far from all of them it is the value of the nearest one. Needs memory for `n * k` numbers.

    Args:
        points: `[n, d]` in mm, where the means are wanted.
        controls: `[k, d]` in mm.
        values: `[k, c]`.
        width: standard deviation of the Gaussian in mm.

    Returns:
        float64 `[n, c]`.
    """
    points, controls = _cloud(points, "points", None), _cloud(controls, "controls", None)
    values = real_array("values", values)
    if points.shape[1] != controls.shape[1] or values.shape[:-1] != controls.shape[:1]:
        raise ValueError(
            "points, controls and values must be [n, d], [k, d] and [k, c], not "
            f"{points.shape}, {controls.shape} and {values.shape}."
        )
    squared = cdist(points, controls, "sqeuclidean")
    weights = np.exp((squared.min(axis=1, keepdims=True) - squared) / (2 * width**2))
    return weights @ values / weights.sum(axis=1, keepdims=True)


@checked(
    controls=(1, MOST),
    local_shift=not_negative,
    local_width=positive,
    grid=positive,
    global_shift=not_negative,
    global_width=positive,
)
def deform_cloud(
    points: np.ndarray,
    controls: int = 500,
    local_shift: float = 3.0,
    local_width: float = 8.0,
    grid: float = 90.0,
    global_shift: float = 25.0,
    global_width: float = 25.0,
    seed: Seed = 0,
) -> np.ndarray:
    """Deforms a cloud at random, at first locally and then as a whole.

    Control points are shifted at random; others move by the mean of the shifts, weighted with a
    Gaussian of the distance (Nadaraya-Watson). After the augmentation of RobOT (Shen et al.,
    NeurIPS 2021) with the numbers of denoised_mt_pcd_reg (arXiv 2306.14749); Lung250M-4B has a
    local width of 15 mm.

    Args:
        points: `[n, 3]` in mm.
        controls: points of the cloud that are local controls.
        local_shift: largest shift of one along an axis, mm.
        local_width: standard deviation of their Gaussian, mm.
        grid: the global controls are the means of the cloud in cells of this size, mm.
        global_shift: largest shift of one along an axis, mm.
        global_width: standard deviation of their Gaussian, mm.
        seed: of everything drawn.

    Returns:
        float64 `[n, 3]`.
    """
    points, rng = _cloud(points, "points"), np.random.default_rng(seed)
    chosen = points[rng.permutation(len(points))[:controls]]
    shifts = local_shift * rng.uniform(-1, 1, chosen.shape)
    points = points + gaussian_mean(points, chosen, shifts, local_width)
    # A corner far outside, as a grid that spans 1 m about the centre has it.
    chosen = voxel_means(points, grid, origin=-1000.0)
    shifts = global_shift * rng.uniform(-1, 1, chosen.shape)
    return points + gaussian_mean(points, chosen, shifts, global_width)


@checked(count=(1, MOST))
def synthetic_pair(
    first: np.ndarray, second: np.ndarray, count: int = 8192, seed: Seed = 0, **options
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A cloud and a deformed copy of it, with the flow that undoes the deformation.

    One of the two clouds is chosen at random. The two results take disjoint halves of its points,
    so none has an exact partner.

    Args:
        first: `[n, 3]` in mm, such as the fixed cloud of a pair.
        second: `[m, 3]`, such as the moving one.
        count: points of each result; both clouds need twice as many.
        seed: of everything drawn.
        **options: of `deform_cloud`.

    Returns:
        `(fixed, moving, flow)`, float64 `[count, 3]`: `moving` is deformed, and `moving + flow`
        are its points before.

    Raises:
        ValueError: for clouds with fewer than `2 * count` points.
    """
    clouds, rng = (_cloud(first, "first"), _cloud(second, "second")), np.random.default_rng(seed)
    fewest = min(len(cloud) for cloud in clouds)
    if not 1 <= count <= fewest // 2:
        raise ValueError(f"count must be at most half of the {fewest} points, not {count}.")
    cloud = clouds[rng.integers(2)]
    cloud = cloud[rng.permutation(len(cloud))[: 2 * count]]
    deformed = deform_cloud(cloud, seed=rng, **options)
    moving = deformed[:count]
    return cloud[count:], moving, cloud[:count] - moving


@checked(angle=not_negative, scale=not_negative, shift=not_negative)
def jolt_pair(
    fixed: np.ndarray,
    moving: np.ndarray,
    flow: np.ndarray,
    angle: float = 10.0,
    scale: float = 0.1,
    shift: float = 0.5,
    seed: Seed = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotates, stretches and shifts the moving cloud, or with equal chance both clouds.

    The "rigid-one" augmentation of Lung250M-4B. Clouds turn about the origin, so they should be
    centred there.

    Args:
        fixed: `[n, 3]` in mm.
        moving: `[m, 3]` in mm.
        flow: `[m, 3]`, from the moving points to their places in the fixed cloud.
        angle: largest angle about each axis, degrees.
        scale: largest stretch of each axis, as a share.
        shift: largest shift along each axis, mm.
        seed: of everything drawn.

    Returns:
        The new `(fixed, moving, flow)`.
    """
    fixed, moving, flow = _cloud(fixed, "fixed"), _cloud(moving, "moving"), _cloud(flow, "flow")
    rng = np.random.default_rng(seed)
    rotation = Rotation.from_euler("xyz", rng.uniform(-angle, angle, 3), degrees=True)
    stretch, offset = 1 + rng.uniform(-scale, scale, 3), rng.uniform(-shift, shift, 3)
    if flow.shape != moving.shape:
        raise ValueError(f"flow must have the shape of moving, {moving.shape}, not {flow.shape}.")
    target, moved = moving + flow, rotation.apply(moving) * stretch + offset
    if rng.random() < 0.5:
        fixed, target = (rotation.apply(each) * stretch + offset for each in (fixed, target))
    return fixed, moved, target - moved


def _cloud(points, argument: str, dims: Sequence[int] | None = (3,)) -> np.ndarray:
    return real_points(argument, points, dims)
