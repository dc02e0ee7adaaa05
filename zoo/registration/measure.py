"""What a registration is worth, by all that its pair brings."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy.spatial import cKDTree

from zoo.data.image import Image
from zoo.data.pair import Pair
from zoo.metrics import registration as metrics
from zoo.transform import Affine, Sampled, Transform


def measure(transform: Transform, pair: Pair) -> dict[str, float]:
    """How good a transform is, by all that the pair brings; `initial_...` is before registration.

    Args:
        transform: from fixed to moving space.
        pair: images or clouds.

    Returns:
        With landmarks `tre_mm`, `median_tre_mm` (fixed landmarks pulled, against the moving ones),
        and in the plane `median_rtre`, the median as a share of the fixed image's diagonal; with
        labels `dice` (mean over labels) and `hd95_mm`; for images `folds_percent`,
        `sd_log_jacobian` (of positive determinants) and `ncc`; for clouds `chamfer`.
    """
    return Measured(transform, pair).results()


def warped_labels(transform: Transform, pair: Pair) -> np.ndarray:
    """The moving labels on the fixed grid, int32 `[*spatial]`, nearest neighbour."""
    return Measured(transform, pair).moved_labels


class Measured:
    """What a transform makes of a pair, each quantity computed once, when it is first asked for.

    Args:
        transform: from fixed to moving space.
        pair: images or clouds; it has to have what is asked about.
    """

    def __init__(self, transform: Transform, pair: Pair):
        self.transform, self.pair = transform, pair

    def results(self) -> dict[str, float]:
        """The numbers of `measure`."""
        return dict(self._results)

    @cached_property
    def _results(self) -> dict[str, float]:
        measures = [_landmark_errors] if self.pair.fixed_landmarks is not None else []
        measures.append(_overlap_and_likeness if self.pair.is_images else _chamfer)
        results = {
            prefix + name: value
            for found in measures
            for prefix, each in (("initial_", self.initial), ("", self))
            for name, value in found(each).items()
        }
        if self.pair.is_images:
            determinant, mask = self.jacobian_determinant, self.pair.fixed_mask
            results["folds_percent"] = metrics.fold_percentage(determinant, mask)
            results["sd_log_jacobian"] = metrics.sd_log_jacobian(
                determinant, mask, definition="positive"
            )
        return results

    @cached_property
    def initial(self) -> Measured:
        """The pair before registration."""
        return _Unmoved(self.pair)

    # Points

    @cached_property
    def pulled_landmarks(self) -> np.ndarray:
        """The fixed landmarks in the moving space, `[n, rank]`."""
        return self.transform.pull(self.pair.fixed_landmarks)

    @cached_property
    def moved_points(self) -> np.ndarray:
        """The moving cloud in the fixed space, `[n, rank]`."""
        return self.transform.move(self.pair.moving.points)

    @cached_property
    def nearest(self) -> tuple[np.ndarray, np.ndarray]:
        """Distances from the moved to the nearest fixed points, and from the fixed to the moved."""
        fixed, points = self.pair.fixed.points, self.moved_points
        onto = self.initial.fixed_tree.query(points, workers=-1)[0]
        return onto, cKDTree(points).query(fixed, workers=-1)[0]

    @cached_property
    def fixed_tree(self) -> cKDTree:
        """Of the points of the fixed cloud."""
        return cKDTree(self.pair.fixed.points)

    # Images

    @cached_property
    def sampled(self) -> Sampled:
        """The transform on the fixed grid."""
        return self.transform.sampled(self.pair.fixed.grid, self.pair.moving.grid)

    @property
    def displacement(self) -> np.ndarray:
        """float32 `[*spatial, rank]` in voxels of the fixed grid."""
        return self.sampled.displacement

    @property
    def jacobian_determinant(self) -> np.ndarray:
        """float32 `[*spatial]` on the fixed grid."""
        return self.sampled.jacobian_determinant

    @property
    def inside(self) -> np.ndarray:
        """Where the moving image reaches on the fixed grid, bool `[*spatial]`."""
        return self.sampled.inside

    @cached_property
    def moved(self) -> Image:
        """The moving image on the fixed grid."""
        return self.sampled.warp(self.pair.moving)

    @cached_property
    def moved_labels(self) -> np.ndarray:
        """The moving labels on the fixed grid, int32 `[*spatial]`, nearest neighbour."""
        labels = self.pair.moving_labels
        moved = self.sampled.warp(Image(labels, self.pair.moving.grid), order="nearest")
        return np.rint(moved.array[..., 0]).astype(np.int32)


class _Unmoved(Measured):
    """A pair before registration; nothing is resampled where both images have one grid."""

    def __init__(self, pair: Pair):
        grid = pair.fixed.grid if pair.is_images else None
        super().__init__(Affine.identity(pair.rank, grid), pair)
        self.at_once = pair.is_images and pair.fixed.grid == pair.moving.grid

    @property
    def initial(self):
        return self

    @property
    def inside(self):
        return np.ones(self.pair.fixed.shape, bool) if self.at_once else super().inside

    @cached_property
    def moved(self):
        return self.pair.moving if self.at_once else super().moved

    @cached_property
    def moved_labels(self):
        return self.pair.moving_labels if self.at_once else super().moved_labels


def _landmark_errors(measured: Measured) -> dict[str, float]:
    pair = measured.pair
    error = metrics.target_registration_error(pair.moving_landmarks, measured.pulled_landmarks)
    results = {"tre_mm": error["mean_mm"], "median_tre_mm": error["median_mm"]}
    if pair.is_images and pair.rank == 2:
        diagonal = float(np.linalg.norm(pair.fixed.grid.extent))
        results["median_rtre"] = error["median_mm"] / diagonal
    return results


def _overlap_and_likeness(measured: Measured) -> dict[str, float]:
    pair, results = measured.pair, {}
    if pair.fixed_labels is not None and pair.moving_labels is not None:
        labels, spacing = (pair.fixed_labels, measured.moved_labels), pair.fixed.grid.spacing
        results["dice"] = metrics.dice_scores(*labels)["mean"]
        results["hd95_mm"] = metrics.hausdorff95(*labels, spacing)["mean"]
    return results | {"ncc": _ncc(measured)}


def _ncc(measured: Measured) -> float:
    """Correlation of grey values where the moving image reaches, within the fixed mask."""
    pair, inside = measured.pair, measured.inside
    if pair.fixed_mask is not None:
        inside = inside & (np.asarray(pair.fixed_mask) > 0)
    images = pair.fixed.grey(), measured.moved.grey()
    first, second = (image.array[..., 0][inside].astype(np.float64) for image in images)
    if not first.size:
        return 0.0
    # In place, as the arrays may be large.
    for values in (first, second):
        values -= values.mean()
    sizes = float(first @ first) * float(second @ second)
    return float(np.clip(first @ second / np.sqrt(sizes), -1, 1)) if sizes else 0.0


def _chamfer(measured: Measured) -> dict[str, float]:
    onto, back = measured.nearest
    return {"chamfer": float(onto.mean() + back.mean()) / 2}
