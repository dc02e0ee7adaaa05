"""Whether a deformation of clouds may be believed: what points say that were not fitted.

A smooth map can always be bent until the points of one cloud lie on those of the other. Only
points that had no say in it tell whether it is right, and even these come closer by chance: where
nearest points are mere neighbours, a cloud that shrinks comes closer to the other one, and who
follows its neighbours to the nearest points ends near these as well. So besides either many of them
have to meet a point, which neighbours do not, or the clouds have to be alike as distributions, by
the maximum mean discrepancy (Gretton et al., JMLR 2012), which no shrinking lowers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from zoo.losses.cloud_terms import search_tree

MET = 0.3  # spacings within which two points have met; of neighbours at random 2 % do in space
SHARP = 0.1  # spacings below which distances are not told apart
MEETING = 0.09  # share of the points that chance does not bring to meet: it brought 0.06 at most
ALIKE = 0.02  # by how much sparse clouds must be less unlike, what chance makes of a few points
WIDTH = 2.0  # spacings, of the kernel that compares distributions
COMPARED = 1500  # points of each cloud that suffice to compare distributions
SURE = 3.0  # standard errors
EXACT = 0.5  # share of points that meet, from which on clouds are taken for the same points
RESOLVED = 2.4  # spacings that clouds are apart at first, whose nearest points tell the motion
DENSE = 16_000  # points, from which on clouds are taken for resolved: on a road many meet by chance
PAIRINGS = ("resolved", "neighbours", "partners", "exact")
"""Of clouds much denser than they are apart, nearest points tell the motion; of others they are
mere neighbours, partners in good part, or mostly."""
FOLDED = 5.0  # percent of the points, above which a displacement is not kept
FOLDS = 0.5  # percent that are reported
STEP = 0.1  # of the differences that tell folds, in spacings
FOLD_POINTS = 2000  # that suffice to find folds


@dataclass(frozen=True)
class Apart:
    """How far the watched points are from the other cloud, in spacings.

    Attributes:
        distances: of each to the nearest point, `[n]`, always of the same points.
        unlike: discrepancy of the two clouds as distributions, squared, relative to the fixed one.
    """

    distances: np.ndarray
    unlike: float

    @property
    def met(self) -> float:
        """The share of the points that lie on one of the other cloud."""
        return float((self.distances < MET).mean())

    @property
    def median(self) -> float:
        """The median distance."""
        return float(np.median(self.distances))

    def closer(self, before: Apart) -> float:
        """What the logarithms of the distances have lost since, in the mean."""
        return float(np.mean(self._lost(before)))

    def supported(self, before: Apart) -> bool:
        """Whether the points have come closer, and not by chance."""
        lost, count = self._lost(before), len(self.distances)
        if lost.mean() <= SURE * lost.std() / np.sqrt(count):
            return False
        margin = 0.0 if before.median >= RESOLVED else ALIKE
        return self.met > MEETING or self.unlike < before.unlike - margin

    def _lost(self, before: Apart) -> np.ndarray:
        logarithms = [np.log(np.hypot(each.distances, SHARP)) for each in (before, self)]
        return logarithms[0] - logarithms[1]


class Watch:
    """The points of two clouds that are held out, and how far they are from the other cloud.

    Args:
        fixed: `[n, dims]`.
        kept: how many of the first fixed and of the first moving points are fitted.
        spacing: typical distance of fixed points from their nearest neighbour.
        tree: `search_tree` of the fixed points that are fitted.
    """

    def __init__(self, fixed: np.ndarray, kept: Sequence[int], spacing: float, tree: cKDTree):
        self.kept, self.spacing, self.tree = kept, spacing, tree
        self.held, self.few = fixed[kept[0] :], fixed[: kept[0]][:COMPARED]
        nearest = search_tree(self.few).query(self.few, k=2)[0][:, 1]
        self.width = WIDTH * max(float(np.median(nearest)), spacing)
        self.own = self._within(self.few)

    def apart(self, moving: np.ndarray) -> Apart:
        """Both directions, with the moving cloud `[m, dims]` where it is now."""
        fitted, there = moving[: self.kept[1]], moving[self.kept[1] :]
        found = [
            self.tree.query(there, workers=-1)[0],
            search_tree(fitted).query(self.held, workers=-1)[0],
        ]
        few = fitted[:COMPARED]
        # What has been fitted to each other is alike anyhow.
        across = self._kernel(there[:COMPARED], self.few).mean()
        across += self._kernel(self.held[:COMPARED], few).mean()
        unlike = (self.own + self._within(few) - across) / self.own
        return Apart(np.concatenate(found) / self.spacing, float(unlike))

    def _kernel(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.exp(-cdist(first, second, "sqeuclidean") / (2 * self.width**2))

    def _within(self, points: np.ndarray) -> float:
        """The mean kernel of different points of one cloud."""
        count = len(points)
        return float(self._kernel(points, points).sum() - count) / (count * (count - 1))


def typical_spacing(points: np.ndarray, tree: cKDTree, extent: float) -> float:
    """The median distance of some points of a cloud from the nearest other one.

    Args:
        points: `[n, dims]`.
        tree: of the whole cloud.
        extent: of the cloud, which tells the spacing where most points have a twin.
    """
    spacing = float(np.median(tree.query(points, k=2, workers=-1)[0][:, 1]))
    return spacing if spacing > 0 else extent / tree.n ** (1 / tree.m)


def watched(fixed: np.ndarray, kept: Sequence[int]) -> Watch:
    """A watch over clouds whose last points are held out.

    Args:
        fixed: `[n, dims]`.
        kept: see `Watch`.
    """
    tree = search_tree(fixed[: kept[0]])
    spacing = typical_spacing(fixed[: kept[0]][:COMPARED], tree, float(np.ptp(fixed, axis=0).max()))
    return Watch(fixed, kept, spacing, tree)


class Judge:
    """Keeps what is supported of a registration in stages, and says what is doubtful.

    Args:
        watch: the points that are held out; None where there are none, and all is kept.
        moving: `[m, dims]`, before the first stage.

    Attributes:
        first: how far the watched points were before the first stage; None without any.
        last: how far they are after the stages that were kept.
    """

    def __init__(self, watch: Watch | None, moving: np.ndarray):
        self.watch = watch
        self.first = self.last = None if watch is None else watch.apart(moving)
        self.folded = 0.0

    def keeps(self, move: Callable, moving: np.ndarray, moved: np.ndarray) -> bool:
        """Whether a stage makes nothing worse: neither the distances nor by folds.

        Args:
            move: the map of the stage.
            moving: `[m, dims]`, before the stage.
            moved: the same points after it.
        """
        if self.watch is None:
            return True
        now = self.watch.apart(moved)
        step = STEP * self.watch.spacing
        folded = max(self.folded, folds(move, moving, step))
        if folded > FOLDED or (now.closer(self.last) < 0 and now.met <= self.last.met):
            return False
        self.last, self.folded = now, folded
        return True

    @property
    def pairing(self) -> str:
        """What the nearest points are by now, one of `PAIRINGS`."""
        if self.watch is None or self.first.median >= RESOLVED or max(self.watch.kept) > DENSE:
            return "resolved"
        if self.last.met >= EXACT:
            return "exact"
        return "partners" if self.last.met > MEETING else "neighbours"

    @property
    def supported(self) -> bool:
        """Whether what was kept has brought the watched points closer than by chance."""
        return self.watch is None or self.last.supported(self.first)

    def doubts(self, unit: float, linear: bool) -> list[str]:
        """What is doubtful about the result, a clause each.

        Args:
            unit: of the clouds in world units.
            linear: whether the deformation was given up.
        """
        if self.watch is None or self.first.met >= EXACT:
            return []
        count, spacing = len(self.first.distances), self.watch.spacing * unit
        if linear:
            return [
                f"the clouds do not support a deformation: of {count} points that were not fitted, "
                f"{100 * self.last.met:.0f} % meet a point of the other cloud (nearest points are "
                f"neighbours, not partners, at a spacing of {spacing:.3g}); the result is the "
                "linear map alone"
            ]
        found = []
        if self.last.met < EXACT and self.pairing != "resolved":
            found.append(
                f"the clouds share few points: of {count} that were not fitted, "
                f"{100 * self.last.met:.0f} % meet a point of the other cloud; elsewhere nearest "
                f"points are neighbours, not partners, and errors up to the spacing of "
                f"{spacing:.3g} must be expected"
            )
        if self.folded > FOLDS:
            found.append(f"the deformation folds at {self.folded:.1f} % of the points")
        return found


def folds(move: Callable, points: np.ndarray, step: float) -> float:
    """The percentage of points where a map turns space inside out.

    Args:
        move: from points `[n, dims]` to points, orientation kept at large.
        points: `[m, dims]`, of which at most the first 2,000 are asked.
        step: of the differences.
    """
    some = points[:FOLD_POINTS]
    sides = [move(some + e) - move(some - e) for e in step * np.eye(points.shape[1], dtype="f4")]
    return 100 * float((np.linalg.det(np.stack(sides, axis=-1)) <= 0).mean())
