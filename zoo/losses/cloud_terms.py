"""What draws one cloud to another while it is registered: terms with a state, searched anew.

A term is made of `(fixed, weights, spacing)`: the points that are to be met, the weights of the
points that move, and the typical distance of fixed points from their nearest neighbour. Before
every step `search(moved)` looks, on the host, where the moving cloud is now; `select(points)` are
those that have to be moved for the loss, and `(moved) -> value` is the loss of them, which a graph
differentiates. Losses without a state are in `zoo.losses.clouds`.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops
from scipy.spatial import cKDTree

from zoo.ops.compiling import in_float32
from zoo.ops.sampling import sample
from zoo.ops.splatting import density, distance_volume, to_voxels

NEAR = 2.0  # spacings within which a point always counts fully
SHARP = 0.1  # spacings below which distances are not told apart
NEARBY = 24  # points that tell the direction of the curve or surface that they lie on
ALONG = 0.1  # share of the way along it that counts
LEAF = 24  # points that are searched one by one: of trees of 100,000 the fastest to build and use


def search_tree(points: np.ndarray) -> cKDTree:
    """A tree that is built for a few searches: much faster than scipy's default, and as exact.

    Args:
        points: float array `[n, rank]`.
    """
    return cKDTree(points, leafsize=LEAF, balanced_tree=False, compact_nodes=False)


def across_structures(points: np.ndarray, tree: cKDTree, along: float = ALONG) -> np.ndarray:
    """What of a way to a point leads across the curve or surface that it lies on.

    Args:
        points: `[n, rank]`.
        tree: of these points.
        along: share of the way along it that is left at least.

    Returns:
        Symmetric matrices `[n, rank, rank]`: the inverse of the covariance of the points nearby,
        relative to its largest eigenvalue.
    """
    _, near = tree.query(points, k=min(NEARBY, tree.n), workers=-1)
    nearby = points[near] - points[near].mean(axis=1, keepdims=True)
    values, axes = np.linalg.eigh(np.einsum("nki,nkj->nij", nearby, nearby))
    ways = np.clip(values[:, :1] / np.maximum(values, 1e-30), along, 1.0)
    return np.einsum("nik,nk,njk->nij", axes, ways, axes).astype(np.float32)


class CloudTerm(keras.layers.Layer):
    """Base of the terms: `search` on the host, then `select` and the call in the graph.

    Args:
        fixed: the points that are to be met, float32 `[n, rank]`.
        weights: of the moving points, `[m]`.
        spacing: typical distance of fixed points from their nearest neighbour.

    Attributes:
        noise: weight that holds how far apart the clouds are, squared, in spacings, at most 1; by
            that much a smoothness may count less.
    """

    def __init__(self, fixed: np.ndarray, weights: np.ndarray, spacing: float, **kwargs):
        super().__init__(autocast=False, **in_float32(kwargs))
        self.fixed, self.spacing = fixed, spacing
        self.point_weights = np.asarray(weights, dtype=np.float64)
        self.noise = self.constant(1.0, "noise")
        self.built = True

    def constant(self, value, name: str):
        """A weight that the loss reads but that is not trained."""
        value = np.asarray(value, dtype=np.float32)
        weight = self.add_weight(shape=value.shape, initializer="zeros", trainable=False, name=name)
        weight.assign(value)
        return weight

    def search(self, moved: np.ndarray, tree: cKDTree | None = None) -> None:
        """Looks where the moving cloud is now; of use to terms that need to know.

        Args:
            moved: the moving points, float32 `[m, rank]`.
            tree: `search_tree(moved)` where there is one already.
        """

    def select(self, points):
        """Those of the moving points `[1, m, rank]` that the loss depends on, `[1, k, rank]`."""
        return points

    def call(self, moved):
        """The loss of the selected points after they have been moved, a scalar."""
        raise NotImplementedError(f"{type(self).__name__} does not define call.")


class NearestPoints(CloudTerm):
    """Squared distances to the nearest points, in both directions, in units of the spacing.

    Who is nearest is searched before every step. With that given, the sum over both directions is,
    but for a constant, one square for each moving point: its distance to the weighted mean of all
    points that it is paired with. Robust weights `1 / (1 + d^2 / s^2)^2` are those of the
    Geman-McClure penalty (iteratively reweighted least squares). Their s is never less than two
    spacings, or points that are still on their way would be given up once half of the cloud has
    arrived. Where points are known to have partners, a given `scale` tells these from neighbours.

    The median distance tells the noise of the points. Where it is less than the spacing, the weight
    of the smoothness (`noise`) shrinks with its square: clouds that fit exactly may bend space
    freely.

    Args:
        fixed, weights, spacing: see `CloudTerm`.
        points: so many of each cloud, newly drawn, look for their nearest point among all of the
            other one; None for all. Both clouds must be in random order.
        reach: distance at which a point counts half as much in the sum of squares, as a multiple
            of the median distance at the time; None counts all alike.
        neighbours: so many nearest points draw a point, to their mean.
        scale: the distance s of the robust weights, in spacings, instead of what `reach` makes.
        across: `[n, rank, rank]` of `across_structures`: pairs are then drawn by it, and not along
            the structure that a fixed point lies on, where it is no partner but one of many.
        seed: of the draws.
        tree: `search_tree(fixed)` where there is one already.
    """

    def __init__(
        self,
        fixed: np.ndarray,
        weights: np.ndarray,
        spacing: float,
        points: int | None = None,
        reach: float | None = None,
        neighbours: int = 1,
        scale: float | None = None,
        across: np.ndarray | None = None,
        seed: int | Sequence[int] = 0,
        tree: cKDTree | None = None,
        **kwargs,
    ):
        super().__init__(fixed, weights, spacing, **kwargs)
        self.points, self.reach, self.neighbours, self.scale = points, reach, neighbours, scale
        self.rng, self.across = np.random.default_rng(seed), across
        self.tree = search_tree(fixed) if tree is None else tree
        count, most = len(weights), np.inf if points is None else points
        # Those that are drawn, and those that the drawn fixed points find.
        self.rows = int(min(count, min(count, most) + min(len(fixed), most) * neighbours))
        self.row = self.add_weight(
            shape=(self.rows,), initializer="zeros", dtype="int32", trainable=False, name="row"
        )
        self.goal = self.constant(np.zeros((1, self.rows, fixed.shape[1])), "goal")
        self.share = self.constant(np.zeros((1, self.rows, 1)), "share")
        self.rest = self.constant(0.0, "rest")

    def search(self, moved, tree=None):
        count = len(moved)
        chosen, asking = (self._draw(n) for n in (count, len(self.fixed)))
        queries, targets = moved[chosen], self.fixed[asking]
        there, to_fixed = self._nearest(self.tree, queries)
        back, to_moving = self._nearest(search_tree(moved) if tree is None else tree, targets)
        both = self._shares(there, np.broadcast_to(self.point_weights[chosen, None], there.shape))
        over = self._shares(back, self.point_weights[to_moving])
        # The sum of weights, and of weighted points, that each moving point is paired with.
        share, goal = np.zeros(count), np.zeros((count, moved.shape[1]))
        share[chosen] = both.sum(axis=1)
        share += np.bincount(to_moving.ravel(), over.ravel(), count)
        for axis in range(moved.shape[1]):
            goal[chosen, axis] = (both * self.fixed[to_fixed, axis]).sum(axis=1)
            pulled = over * targets[:, None, axis]
            goal[:, axis] += np.bincount(to_moving.ravel(), pulled.ravel(), count)
        goal /= np.maximum(share, 1e-30)[:, None]
        squares = (both * there**2).sum() + (over * back**2).sum()
        rest = squares - (share * ((moved - goal) ** 2).sum(axis=1)).sum()
        if self.across is not None:
            goal = moved + self._pull(moved, chosen, both, to_fixed, asking, over, to_moving, share)
        unit = self.spacing**2
        apart = (np.median(there[:, 0]) + np.median(back[:, 0])) / (2 * self.spacing)
        self.noise.assign(np.clip(apart, SHARP, 1.0) ** 2)
        self.rest.assign(rest / unit)
        rows, used = np.arange(count), count
        if self.rows < count:
            # The other points have no share in the loss; nor have the rows that are left.
            found = np.flatnonzero(share)
            rows, used = np.zeros(self.rows, int), len(found)
            rows[:used] = found
        shares = share[rows]
        shares[used:] = 0.0
        self.row.assign(rows)
        self.goal.assign(goal[None, rows])
        self.share.assign(shares[None, :, None] / unit)

    def _pull(self, moved, chosen, both, to_fixed, asking, over, to_moving, share) -> np.ndarray:
        """The mean way of each moving point to those it is paired with, across their structures."""
        there = self.fixed[to_fixed] - moved[chosen][:, None]
        there = np.einsum("nkij,nkj,nk->ni", self.across[to_fixed], there, both)
        back = self.fixed[asking][:, None] - moved[to_moving]
        back = np.einsum("nij,nkj,nk->nki", self.across[asking], back, over)
        pull = np.zeros_like(moved, dtype=np.float64)
        pull[chosen] = there
        for axis in range(moved.shape[1]):
            pull[:, axis] += np.bincount(to_moving.ravel(), back[..., axis].ravel(), len(moved))
        return pull / np.maximum(share, 1e-30)[:, None]

    def select(self, points):
        return points if self.rows == len(self.point_weights) else ops.take(points, self.row, 1)

    def _draw(self, count: int) -> np.ndarray | slice:
        if self.points is None or self.points >= count:
            return slice(None)
        # A block of the points, which are in random order: as good as a draw, and in one piece.
        start = int(self.rng.integers(count))
        return np.arange(start, start + self.points) % count

    def _nearest(self, tree: cKDTree, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        k = min(self.neighbours, tree.n)
        distances, index = tree.query(queries, k=k, workers=-1)
        return distances.reshape(-1, k), index.reshape(-1, k)

    def _shares(self, distances: np.ndarray, weights: np.ndarray) -> np.ndarray:
        shares = weights / weights.sum()
        if self.scale is not None:
            scale = self.scale * self.spacing
        elif self.reach is not None:
            scale = max(self.reach * np.median(distances), NEAR * self.spacing)
        else:
            return shares
        return shares / (1 + (distances / scale) ** 2) ** 2

    def call(self, moved):
        return ops.sum(self.share * ops.square(moved - self.goal)) + self.rest


class DensityImages(CloudTerm):
    """Difference of density images (Heinrich et al., ICCV 2023), relative to those of the target.

    Clouds are normalised to [-1, 1].

    Args:
        fixed, weights, spacing: see `CloudTerm`.
        rasters: voxels of the image along each axis, for each image.
        sigma, squash, gain: see `zoo.ops.splatting.density`.
        power: 1 for the mean absolute difference, 2 for the mean square.
    """

    def __init__(
        self,
        fixed: np.ndarray,
        weights: np.ndarray,
        spacing: float,
        rasters: Sequence[int] = (96,),
        sigma: float = 1.2,
        squash: str | None = "tanh",
        gain: float | None = 0.5,
        power: int = 2,
        **kwargs,
    ):
        super().__init__(fixed, weights, spacing, **kwargs)
        self.power, self.options = power, {"sigma": sigma, "squash": squash, "gain": gain}
        # As many points in both clouds, so that the images can become equal.
        mass = self.point_weights * (len(fixed) / self.point_weights.sum())
        self.mass = mass[None].astype(np.float32)
        self.targets = [
            self.constant(density(fixed[None], [size] * fixed.shape[1], **self.options), "target")
            for size in rasters
        ]

    def call(self, moved):
        total = 0.0
        for target in self.targets:
            shape = target.shape[1:-1]
            image = density(moved, shape, ops.convert_to_tensor(self.mass), **self.options)
            off = ops.abs(image - target)
            mean = ops.mean(off if self.power == 1 else ops.square(off))
            # Relative to the image that is to be met, most of which is empty.
            total = total + mean / ops.mean(ops.abs(target) ** self.power)
        return total / len(self.targets)


class DistanceVolumes(CloudTerm):
    """Mean distance of the moving points from the fixed cloud, in spacings, by a transform of it.

    Clouds are normalised to [-1, 1].

    Args:
        fixed, weights, spacing: see `CloudTerm`.
        rasters: voxels of the volume along each axis, for each volume.
    """

    def __init__(
        self,
        fixed: np.ndarray,
        weights: np.ndarray,
        spacing: float,
        rasters: Sequence[int] = (96,),
        **kwargs,
    ):
        super().__init__(fixed, weights, spacing, **kwargs)
        shares = self.point_weights / self.point_weights.sum()
        self.shares = shares[None, :, None].astype(np.float32)
        self.volumes = [
            self.constant(distance_volume(fixed[None], [size] * fixed.shape[1]), "volume")
            for size in rasters
        ]

    def call(self, moved):
        total = 0.0
        for volume in self.volumes:
            distance = sample(volume[...], to_voxels(moved, volume.shape[1:-1]))
            total = total + ops.sum(self.shares * distance)
        return total / (len(self.volumes) * self.spacing)
