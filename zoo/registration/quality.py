"""What a registration says about itself: numbers that need no truth, and doubts in words.

Nobody who registers a scan knows the true map. What can be known is whether the two became more
alike, whether the map folds, whether it can be inverted, and how much of either side has a
counterpart on the other one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial import cKDTree

from zoo.losses import MutualInformation
from zoo.registration.measure import Measured
from zoo.registration.trust import folds

PROBES = 2000  # points, drawn with a seed, that suffice for shares and percentiles
FOLDED = 0.5  # per cent
NOT_INVERTED = 0.5  # voxels, or spacings of the cloud
FAR = 3.0  # spacings: further away a point has no counterpart
ALONE = 20.0  # per cent of the points
REACHED = 50.0  # per cent of the fixed voxels
STEP = 0.25  # voxels or spacings, of the differences that tell folds of clouds

OF_TWO_MODALITIES = ("mi", "mind")

# By which a similarity may be worse without a word: what resampling alone costs.
TOLERANCE = 1e-3


class Quality:
    """The quality of a registration, by what the pair itself shows.

    Args:
        measured: a transform and its pair.
        similarity: of the method, see `zoo.losses.tables.SIMILARITIES`: images of two modalities
            are compared by their mutual information, others by their correlation.
        known: doubts that the method has already, see `zoo.registration.Registration.doubts`.

    Attributes:
        numbers: `inverse_error`, the 95th percentile of the distances by which points miss
            themselves when they are moved and pulled back, in voxels of the fixed image or in
            spacings of the fixed cloud; `alone_percent`, the share of the points of both clouds
            further than three spacings from the other cloud, or of the fixed voxels that the
            moving image does not reach; for clouds `folds_percent`, of the moving points.
        doubts: reasons not to trust the result, a sentence each; none for most results.
    """

    def __init__(self, measured: Measured, similarity: str = "ncc", known: Sequence[str] = ()):
        self.measured, self.similarity = measured, similarity
        self.numbers = self._of_images() if measured.pair.is_images else self._of_clouds()
        self.doubts = [*known, *self._found()]

    def _of_images(self) -> dict[str, float]:
        pair, inside = self.measured.pair, self.measured.inside
        if pair.fixed_mask is not None:
            inside = inside[np.asarray(pair.fixed_mask) > 0]
        grid = pair.fixed.grid
        index = np.random.default_rng(0).uniform(0, 1, (PROBES, pair.rank)) * (
            np.array(grid.shape) - 1
        )
        # Points that have been pulled lie where `move` has to find them again.
        points = grid.to_world(index)
        back = self.measured.transform.move(self.measured.transform.pull(points))
        missed = np.linalg.norm((back - points) / _unit(grid.spacing), axis=-1)
        return {
            "inverse_error": float(np.percentile(missed, 95)),
            "alone_percent": 100.0 * float(1 - np.mean(inside)) if np.size(inside) else 100.0,
        }

    def _of_clouds(self) -> dict[str, float]:
        measured, pair = self.measured, self.measured.pair
        draw = np.random.default_rng(0).permutation(len(pair.moving.points))[:PROBES]
        points, unit = pair.moving.points[draw], cloud_spacing(pair.fixed.points)
        moved = measured.moved_points[draw]
        missed = np.linalg.norm(measured.transform.pull(moved) - points, axis=-1) / unit
        onto, back = measured.nearest
        alone = [np.mean(distances > FAR * unit) for distances in (onto, back)]
        return {
            "inverse_error": float(np.percentile(missed, 95)),
            "alone_percent": 100.0 * float(max(alone)),
            "folds_percent": folds(measured.transform.pull, moved, STEP * unit),
        }

    def _found(self):
        numbers = self.measured.results() | self.numbers
        if self.measured.pair.is_images:
            unit, what = "voxels", "fixed voxels are not reached by the moving image"
            before, after = self._unlike(numbers)
            if not after <= before + TOLERANCE:
                measure = "information" if self.similarity in OF_TWO_MODALITIES else "correlation"
                yield (
                    f"the images are less alike than before: their {measure} was {-before:.4g} "
                    f"and is {-after:.4g}"
                )
        else:
            unit, what = "spacings", "points lie far from the other cloud"
            if not numbers["chamfer"] <= numbers["initial_chamfer"]:
                yield (
                    f"the clouds are further apart than before: {numbers['initial_chamfer']:.4g} "
                    f"before and {numbers['chamfer']:.4g} after"
                )
        if not numbers["folds_percent"] <= FOLDED:
            yield f"the map folds at {numbers['folds_percent']:.2g} % of the points"
        if not numbers["inverse_error"] <= NOT_INVERTED:
            yield (
                f"its inverse is not exact: one point in twenty is off by more than "
                f"{numbers['inverse_error']:.2g} {unit}"
            )
        if not numbers["alone_percent"] <= (REACHED if unit == "voxels" else ALONE):
            yield f"{numbers['alone_percent']:.0f} % of the {what}"

    def _unlike(self, numbers: dict[str, float]) -> tuple[float, float]:
        """How unlike the images are, before and after."""
        if self.similarity not in OF_TWO_MODALITIES:
            return -numbers["initial_ncc"], -numbers["ncc"]
        measured, pair = self.measured, self.measured.pair
        inside = measured.inside & measured.initial.inside
        if pair.fixed_mask is not None:
            inside = inside & (np.asarray(pair.fixed_mask) > 0)
        sides = (each.moved.array[None] for each in (measured.initial, measured))
        loss, mask = MutualInformation(), inside[None].astype(np.float32)
        before, after = (float(loss(pair.fixed.array[None], each, mask)) for each in sides)
        return before, after


def cloud_spacing(points: np.ndarray) -> float:
    """The median distance of points `[n, rank]` from their nearest neighbour, of some of them."""
    few = points[np.random.default_rng(0).permutation(len(points))[:PROBES]]
    return float(np.median(cKDTree(points).query(few, k=2, workers=-1)[0][:, 1]))


def _unit(spacing) -> float:
    return float(np.prod(spacing) ** (1 / len(spacing)))
