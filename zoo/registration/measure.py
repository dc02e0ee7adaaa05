"""What a registration is worth, by all that its pair brings."""

from __future__ import annotations

import numpy as np

from zoo.data.image import Image
from zoo.data.pair import Pair
from zoo.metrics import registration as metrics
from zoo.metrics.surface import cloud_distances
from zoo.transform import Affine, Transform


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
    results = {}
    if pair.fixed_landmarks is not None:
        pulled = transform.pull(pair.fixed_landmarks)
        for prefix, points in (("initial_", pair.fixed_landmarks), ("", pulled)):
            error = metrics.target_registration_error(pair.moving_landmarks, points)
            results[f"{prefix}tre_mm"] = error["mean_mm"]
            results[f"{prefix}median_tre_mm"] = error["median_mm"]
            if pair.is_images and pair.rank == 2:
                diagonal = float(np.linalg.norm(pair.fixed.grid.extent))
                results[f"{prefix}median_rtre"] = error["median_mm"] / diagonal
    if not pair.is_images:
        moved = transform.move(pair.moving.points)
        for prefix, points in (("initial_", pair.moving.points), ("", moved)):
            distances = cloud_distances(points, pair.fixed.points)
            results[f"{prefix}chamfer"] = distances["chamfer"]
        return results
    grid = pair.fixed.grid
    unmoved = Affine.identity(pair.rank, grid)
    for prefix, each in (("initial_", unmoved), ("", transform)):
        if pair.fixed_labels is not None and pair.moving_labels is not None:
            moved = warped_labels(each, pair)
            results[f"{prefix}dice"] = metrics.dice_scores(pair.fixed_labels, moved)["mean"]
            results[f"{prefix}hd95_mm"] = metrics.hausdorff95(
                pair.fixed_labels, moved, grid.spacing
            )["mean"]
        results[f"{prefix}ncc"] = _ncc(each, pair)
    determinant = transform.jacobian_determinant(grid)
    results["folds_percent"] = metrics.fold_percentage(determinant, pair.fixed_mask)
    results["sd_log_jacobian"] = metrics.sd_log_jacobian(
        determinant, pair.fixed_mask, definition="positive"
    )
    return results


def warped_labels(transform: Transform, pair: Pair) -> np.ndarray:
    """The moving labels on the fixed grid, int32 `[*spatial]`, nearest neighbour."""
    labels = Image(pair.moving_labels[..., None].astype(np.float32), pair.moving.grid)
    moved = transform.warp(labels, pair.fixed.grid, order="nearest")
    return np.rint(moved.array[..., 0]).astype(np.int32)


def _ncc(transform: Transform, pair: Pair) -> float:
    """Correlation of grey values where the moving image reaches, within the fixed mask."""
    grid = pair.fixed.grid
    everywhere = Image(np.ones((*pair.moving.shape, 1), np.float32), pair.moving.grid)
    inside = transform.warp(everywhere, grid, outside=0.0).array > 0.5
    if pair.fixed_mask is not None:
        inside &= np.asarray(pair.fixed_mask)[..., None] > 0
    moved = transform.warp(pair.moving.grey(), grid).array
    values = np.stack([pair.fixed.grey().array[inside], moved[inside]]).astype(np.float64)
    return float(np.corrcoef(values)[0, 1]) if values.size and values.std(axis=1).all() else 0.0
