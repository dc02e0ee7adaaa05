"""Inside and outside of a cloud of points: winding numbers, and normals that follow from them.

By Gauss's formula the indicator of a solid is the integral over its surface of

    n(y) . (y - x) / (4 pi |y - x|^3)        (in the plane  n(y) . (y - x) / (2 pi |y - x|^2)),

one inside, zero outside and one half on the surface. With normals its sum over the points of a scan
tells the sign of a distance. Without them, the vectors `area * normal` are what makes the sum one
half at every point: an underdetermined linear system, whose smallest solution is close to them,
wherever the surface bends and however close its sheets are (Lin, Xiao, Shi, Wang, "Surface
Reconstruction from Point Clouds without Normals by Parametrizing the Gauss Formula", ACM
Transactions on Graphics 2022).
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial import cKDTree

SAMPLES = 2_000  # points that stand for all of them in the linear system
STIFFNESS = 1.2  # of the diagonal of the system: more bears more noise
SMOOTH, NOISY = 12, 64  # neighbours of a plane through a point, without and with noise
CALMING = 32  # neighbours of the plane that a noisy point is moved onto
PASSES = 4  # in which noisy points are moved, at most
BALL = 0.32  # height of neighbours, as a share of their distance, from which they are no plane
ROUGH = 0.18  # height of neighbours over such a plane, as a share of their distance: noise
OPPOSED = 0.05  # share of neighbours with opposite normals from which they are not believed
MOST = 300_000  # points whose neighbours are compared; others follow the nearest of these
VOTERS = 6  # samples that speak for a point
PROBED = 5_000  # points by which noise is told
BLOCK = 65_536  # points whose neighbours are held at once
ROUNDS = 30  # in which neighbours agree on their signs


def areas(points: np.ndarray, neighbours: int = 16) -> np.ndarray:
    """The share of the surface (or curve) that each point stands for, by how close others are."""
    dims = points.shape[1]
    count = min(neighbours, len(points) - 1)
    radius = cKDTree(points).query(points, k=count + 1, workers=-1)[0][:, -1]
    return (np.pi * radius**2 if dims == 3 else 2 * radius) / count


def roughness(points: np.ndarray) -> tuple[float, int]:
    """How far points lie from the planes through their neighbours, where that is noise.

    Args:
        points: `[n, d]`.

    Returns:
        The distance, zero for a clean cloud, and how many neighbours tell a plane.
    """
    few = points[np.random.default_rng(0).permutation(len(points))[:PROBED]]
    tree, count = cKDTree(points), min(SMOOTH, len(points))
    distances, near = tree.query(few, k=count, workers=-1)
    _, heights = _planes(points, near)
    if np.median(heights / np.maximum(distances[:, -1], 1e-30)) < ROUGH:
        return 0.0, SMOOTH
    count = min(NOISY, len(points))
    return float(np.median(_planes(points, tree.query(few, k=count, workers=-1)[1])[1])), NOISY


def without_noise(points: np.ndarray) -> tuple[np.ndarray, float, int]:
    """Points that are moved by `smoothed` until no noise is seen, or a few times.

    Args:
        points: `[n, d]`; they are returned themselves where they are clean.

    Returns:
        The points, the noise that is left, and how many neighbours tell a plane.
    """
    noise, neighbours = roughness(points)
    for _ in range(PASSES):
        if not noise:
            break
        points = smoothed(points)
        # What is left of the noise is alike in neighbours: it still takes many of them.
        noise, neighbours = roughness(points)[0], NOISY
    return points, noise, neighbours


def smoothed(points: np.ndarray) -> np.ndarray:
    """Noisy points `[n, d]`, each moved straight onto the plane through its neighbours.

    Where so many points lie so far from the surface that neighbours are a ball and no plane, the
    neighbours are those of a part of the points.
    """
    order = np.random.default_rng(0).permutation(len(points))
    few, support = points[order[:PROBED]], points
    while True:
        tree, count = cKDTree(support), min(CALMING, len(support))
        distances, near = tree.query(few, k=count, workers=-1)
        _, heights = _planes(support, near)
        shape = np.median(heights / np.maximum(distances[:, -1], 1e-30))
        if shape < BALL or len(support) < 16 * CALMING:
            break
        support = points[order[: len(support) // 4]]
    moved = np.empty_like(points)
    for start in range(0, len(points), BLOCK):
        block = points[start : start + BLOCK]
        near = tree.query(block, k=count, workers=-1)[1]
        normals, _ = _planes(support, near)
        apart = block - support[near].mean(axis=1, dtype=np.float64)
        moved[start : start + BLOCK] = block - (apart * normals).sum(1, keepdims=True) * normals
    return moved


class Winding:
    """The winding number of an oriented cloud, from some of its points.

    Args:
        points: `[n, d]`, in two or three dimensions.
        normals: vectors `[n, d]`, outward; a shorter one counts less.
        samples: points that stand for all.
    """

    def __init__(self, points: np.ndarray, normals: np.ndarray, samples: int = SAMPLES):
        few = _some(len(points))
        points, normals = points[few], normals[few]
        self.points, owner = _representatives(points, samples)
        share = areas(points)
        self.vectors = _summed(owner, share[:, None] * normals)
        size = np.bincount(owner, share)
        self.width = np.sqrt(size / np.pi) if points.shape[1] == 3 else size / 2

    def __call__(self, queries: np.ndarray) -> np.ndarray:
        """The winding numbers `[m]` of points `[m, d]`: about one inside and zero outside."""
        dims, results = self.points.shape[1], []
        points, vectors = self.points.astype(np.float32), self.vectors.astype(np.float32)
        blunt = (self.width**2).astype(np.float32)
        lengths, heights = (points**2).sum(axis=1), (points * vectors).sum(axis=1)
        for chunk in np.array_split(queries.astype(np.float32), 1 + len(queries) // 1024):
            # |y - x|^2 and v . (y - x) by products of matrices, an order of magnitude faster.
            squares = lengths - 2 * chunk @ points.T + (chunk**2).sum(axis=1)[:, None]
            np.maximum(squares, blunt, out=squares)
            flux = heights - chunk @ vectors.T
            flux /= squares * np.sqrt(squares) if dims == 3 else squares
            results.append(flux.sum(axis=1) / (4 * np.pi if dims == 3 else 2 * np.pi))
        return np.concatenate(results)


def consistent_normals(
    points: np.ndarray, normals: np.ndarray | None = None, neighbours: int = SMOOTH
) -> tuple[np.ndarray, np.ndarray]:
    """Outward normals of a cloud that has none, or whose normals contradict one another.

    Args:
        points: `[n, d]`.
        normals: `[n, d]` of unit length, or None. They are returned as they came where neighbours
            agree; otherwise only their signs are found.
        neighbours: of the planes that take the place of normals.

    Returns:
        Normals `[n, d]`, and how sure their signs are `[n]`, from 0 to 1.
    """
    tree, count = cKDTree(points), min(neighbours, len(points))
    if normals is not None:
        few = np.random.default_rng(0).permutation(len(points))[:PROBED]
        near = tree.query(points[few], k=min(7, len(points)), workers=-1)[1][:, 1:]
        opposed = np.einsum("nkd,nd->nk", normals[near], normals[few]) < -0.5
        if opposed.mean() <= OPPOSED:
            return normals, np.ones(len(points))
    few = _some(len(points))
    if len(few) < len(points):
        found, trust = consistent_normals(
            points[few], None if normals is None else normals[few], neighbours
        )
        nearest = cKDTree(points[few]).query(points, workers=-1)[1]
        if normals is None:
            return found[nearest], trust[nearest]
        signs = np.sign((normals * found[nearest]).sum(axis=1, keepdims=True))
        return normals * np.where(signs == 0, 1.0, signs), trust[nearest]
    near = tree.query(points, k=count, workers=-1)[1]
    planes = _planes(points, near)[0] if normals is None else normals
    samples, vectors = _surface_elements(points)
    distance, voters = cKDTree(samples).query(points, k=min(VOTERS, len(samples)), workers=-1)
    votes = np.einsum("nkd,nd->nk", vectors[voters], planes)
    # A sample speaks for the points near it whose plane is its own.
    weights = np.abs(votes) * np.exp(-4 * (distance / np.maximum(distance[:, -1:], 1e-30)) ** 2)
    opinion = (weights * votes).sum(axis=1)
    opinion = np.clip(opinion / (np.median(np.abs(opinion)) + 1e-30), -3, 3)
    alike = np.einsum("nkd,nd->nk", planes[near], planes)
    alike = np.abs(alike) * alike
    sign = np.tanh(opinion)
    for _ in range(ROUNDS):
        sign = np.tanh(0.5 * opinion + 3 * (alike * sign[near]).mean(axis=1))
    return planes * np.where(sign < 0, -1.0, 1.0)[:, None], np.abs(sign)


def _surface_elements(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Samples `[k, d]` of a cloud and their vectors `area * normal`, by the Gauss formula."""
    samples, _ = _representatives(points, SAMPLES)
    nearest = cKDTree(samples).query(samples, k=2)[0][:, 1]
    # Where most points coincide, something above zero.
    width = np.full(len(samples), max(np.median(nearest), 1e-6 * np.ptp(samples)))
    kernel = _kernel(samples, samples, width)
    system = sum(part @ part.T for part in kernel).astype(np.float64)
    system[np.diag_indices_from(system)] *= STIFFNESS
    weights = cho_solve(cho_factor(system), np.full(len(samples), 0.5)).astype(np.float32)
    return samples, np.stack([weights @ part for part in kernel], axis=1).astype(np.float64)


def _planes(points: np.ndarray, near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals `[n, d]`, of either sign, of planes through points `near` `[n, k]`.

    Also the root mean square distances `[n]` of those points from their plane.
    """
    normals, heights = np.empty((len(near), points.shape[1])), np.empty(len(near))
    for start in range(0, len(near), BLOCK):
        chunk = slice(start, start + BLOCK)
        around = points[near[chunk]].astype(np.float64)
        around = around - around.mean(axis=1, keepdims=True)
        squares, axes = np.linalg.eigh(np.einsum("nki,nkj->nij", around, around))
        normals[chunk] = axes[..., 0]
        heights[chunk] = np.sqrt(np.maximum(squares[:, 0], 0) / near.shape[1])
    return normals, heights


def _kernel(queries: np.ndarray, points: np.ndarray, width: np.ndarray) -> np.ndarray:
    """`(y - x) / (size of the sphere through y about x)`, blunt within `width`, `[d, m, n]`."""
    apart = (points.T[:, None, :] - queries.T[:, :, None]).astype(np.float32)
    dims = len(apart)
    squares = np.maximum(np.einsum("dmn,dmn->mn", apart, apart), (width**2).astype(np.float32))
    apart /= 4 * np.pi * squares * np.sqrt(squares) if dims == 3 else 2 * np.pi * squares
    return apart


def _some(count: int) -> np.ndarray:
    """Indices of as many points as are looked at one by one, in order."""
    if count <= MOST:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, MOST, replace=False))


def _summed(owner: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.stack([np.bincount(owner, axis) for axis in values.T], axis=1)


def _representatives(points: np.ndarray, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """At most so many points, evenly spread: the means of their shares of a cloud.

    Also which of them each point of the cloud belongs to, `[n]`.
    """
    points = points.astype(np.float64)
    if len(points) <= samples:
        return points, np.arange(len(points))
    low, extent = points.min(axis=0), np.ptp(points, axis=0).max()
    small, large = 0.0, float(extent)
    for _ in range(20):
        middle = (small + large) / 2
        count = len(np.unique(_cells(points, low, middle)))
        small, large = (middle, large) if count > samples else (small, middle)
    owner = np.unique(_cells(points, low, large), return_inverse=True)[1].ravel()
    return _summed(owner, points) / np.bincount(owner)[:, None], owner


def _cells(points: np.ndarray, low: np.ndarray, side: float) -> np.ndarray:
    """Numbers of the cells of a grid that points lie in."""
    indices = ((points - low) / side).astype(np.int64)
    number = np.zeros(len(points), np.int64)
    for axis in indices.T:
        number = number * 2**20 + np.minimum(axis, 2**20 - 1)
    return number
