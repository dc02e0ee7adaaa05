"""Distances between a reconstructed surface and points of the true one."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from zoo.ops.arguments import checked, positive
from zoo.ops.array_arguments import real_points

# The nnabla reproduction of IGR publishes a table of these distances that is no target: its
# evaluator compares a mesh turned by 90 degrees with the unturned cloud.


def cloud_distances(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Chamfer and Hausdorff distance of two clouds by unsquared Euclidean distances.

    Args:
        first: points `[n, d]`.
        second: points `[m, d]`, in the same unit.

    Returns:
        `chamfer`, the average of the two one-sided means; `hausdorff`, the larger of the two
        one-sided maxima; and the one-sided values `mean_forward`, `max_forward` (first to second)
        and `mean_backward`, `max_backward`.

    Raises:
        ValueError: for an empty cloud.

    Example:
        >>> from zoo.metrics.surface import cloud_distances
        >>> distances = cloud_distances([[0.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [1.0, 2.0]])
        >>> distances["chamfer"], distances["hausdorff"]
        (0.75, 2.0)
    """
    first, second = real_points("first", first, None), real_points("second", second, None)
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"first and second must have as many coordinates, not {first.shape[1]} and "
            f"{second.shape[1]}."
        )
    forward = cKDTree(second).query(first, workers=-1)[0]
    backward = cKDTree(first).query(second, workers=-1)[0]
    return {
        "chamfer": float(forward.mean() + backward.mean()) / 2,
        "hausdorff": float(max(forward.max(), backward.max())),
        "mean_forward": float(forward.mean()),
        "max_forward": float(forward.max()),
        "mean_backward": float(backward.mean()),
        "max_backward": float(backward.max()),
    }


@checked(scale=positive)
def held_out_distances(
    surface_points: np.ndarray, test_points: np.ndarray, centre: np.ndarray, scale: float
) -> dict[str, float]:
    """Chamfer and Hausdorff distance in the frame in which the longest side of the scan is 2.

    The protocol of the nnabla reproduction (25 % of the points held out, as many points sampled on
    the reconstruction) with its two faults removed: both clouds stay in one frame, and the stored
    frame of the input is used instead of each cloud's own bounding box. A perfect surface scores
    the sampling floor, about 0.016 and 0.06 for 9,000 points of the Stanford bunny.

    Args:
        surface_points: `[n, d]` samples of the reconstruction, as many as test points.
        test_points: `[n, d]` points of the true surface.
        centre: centre `[d]` of the scan's bounding box.
        scale: half the longest side of that box.
    """
    distances = cloud_distances((surface_points - centre) / scale, (test_points - centre) / scale)
    return {name: distances[name] for name in ("chamfer", "hausdorff")}


def benchmark_distances(
    surface_points: np.ndarray, truth: np.ndarray, scan: np.ndarray | None = None
) -> dict[str, float]:
    """Distances of the Surface Reconstruction Benchmark, in the units of the scan.

    Protocol of DiGS and its successors: 1,000,000 area-uniform samples of the reconstruction
    against all points of the ground truth, both ways; and, where the noisy scan is given, the
    one-sided distances from its points to the reconstruction.

    Args:
        surface_points: `[n, d]` samples of the reconstruction.
        truth: `[m, d]` points of the true surface.
        scan: `[k, d]` points that the reconstruction was fitted to.
    """
    distances = cloud_distances(surface_points, truth)
    results = {f"benchmark_{name}": distances[name] for name in ("chamfer", "hausdorff")}
    if scan is not None:
        one_sided = cKDTree(surface_points).query(scan, workers=-1)[0]
        results["benchmark_scan_chamfer"] = float(one_sided.mean())
        results["benchmark_scan_hausdorff"] = float(one_sided.max())
    return results


def normal_consistency(
    surface_points: np.ndarray,
    surface_normals: np.ndarray,
    test_points: np.ndarray,
    test_normals: np.ndarray,
) -> float:
    """Mean cosine between the normals of test points and of the nearest surface samples.

    The sign counts: a surface turned inside out scores about -1.

    Args:
        surface_points: `[n, d]`; surface_normals: `[n, d]` unit vectors.
        test_points: `[m, d]`; test_normals: `[m, d]` unit vectors.
    """
    nearest = cKDTree(surface_points).query(test_points, workers=-1)[1]
    return float((surface_normals[nearest] * test_normals).sum(axis=1).mean())
