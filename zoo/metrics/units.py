"""The unit of every metric that an evaluation returns, by the task of the method."""

from __future__ import annotations

from zoo.ops.arguments import checked, one_of

# A metric before registration has the unit of the one after.
BEFORE = "initial_"

UNITS = {
    "registration": {
        "epe": "voxels",
        "rms_component": "voxels",
        "intensity": "of 255",
        "folds_percent": "%",
        "dice": "1",
        "hd95_mm": "mm",
        "sd_log_jacobian": "1",
        "ncc": "1",
        "tre_mm": "mm",
        "median_tre_mm": "mm",
        "worst_tre_mm": "mm",
        "median_rtre": "1",
        "chamfer": "world units",
        "error": "world units",
        "path_length": "world units",
        "path_energy": "squared world units",
        "seconds": "s",
    },
    "surface": {
        "chamfer": "longest side = 2",
        "hausdorff": "longest side = 2",
        "benchmark_chamfer": "of the scan",
        "benchmark_hausdorff": "of the scan",
        "benchmark_scan_chamfer": "of the scan",
        "benchmark_scan_hausdorff": "of the scan",
        "normal_consistency": "cosine",
        "surface_residual": "longest side = 2",
        "distance_error_near": "longest side = 2",
        "distance_error_box": "longest side = 2",
        "eikonal_residual": "1",
    },
}


@checked()
def unit_of(metric: str, task: str) -> str:
    """The unit of a metric.

    Args:
        metric: its name, perhaps with `initial_` for the value before registration.
        task: of the method, as in its entry: "registration" or "surface".

    Raises:
        ValueError: for a task or a metric that is not in the table.
    """
    units = UNITS[one_of("task", task, UNITS)]
    return units[one_of("metric", metric.removeprefix(BEFORE), units)]
