"""The scores of the Learn2Reg challenge, of displacements in its convention.

A displacement is `[X, Y, Z, 3]` in voxels, such as `zoo.io.learn2reg` reads and writes it: voxel x
of the fixed image is found at index `x + u(x)` of the moving one. Landmarks are indices too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from zoo.metrics.diffeomorphism import non_diffeomorphic_volume
from zoo.metrics.registration import hausdorff95, sd_log_jacobian
from zoo.ops.arguments import checked, positive
from zoo.ops.array_arguments import real_array, real_points

BORDER = 2  # voxels that its script leaves out of the Jacobian, along every face
# Which quantile over the cases is its measure of robustness, for each score.
QUANTILES = {"tre_mm": 0.7, "sd_log_jacobian": 0.7, "dice": 0.3, "hd95": 0.3}


@checked(spacing=positive)
def learn2reg_scores(
    displacement,
    fixed_landmarks=None,
    moving_landmarks=None,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    fixed_labels=None,
    moving_labels=None,
    labels: Sequence[int] | None = None,
    mask=None,
) -> dict[str, float]:
    """The scores of one pair, as the evaluation script of Learn2Reg computes them.

    The only exception is `hd95`: percentiles are over voxels of the border, see
    `zoo.metrics.registration.hausdorff95`, while the script weighs them by their area.

    Args:
        displacement: `[X, Y, Z, 3]` in voxels, see above.
        fixed_landmarks: indices `[n, 3]`, or None; fractional ones are fine.
        moving_landmarks: their counterparts.
        spacing: of the moving image in mm, for the landmarks.
        fixed_labels: integers `[X, Y, Z]`, or None.
        moving_labels: integers on the grid of the moving image, which need not be of one size.
        labels: those that count; by default all but 0 of the fixed image. A label that either image
            lacks does not, one that is lost on the way does.
        mask: `[X, Y, Z]`, where the Jacobian counts.

    Returns:
        With landmarks `tre_mm`, their mean distance (the displacement is interpolated by cubic
        splines); with labels `dice`, and `hd95` in voxels, means over labels; always
        `sd_log_jacobian` ("clipped", without two voxels of border) and `ndv_percent`, see
        `non_diffeomorphic_volume`.

    Raises:
        TypeError: for labels that are not integers.
        ValueError: for shapes that do not fit, or one of two companions alone.
    """
    field = real_array("displacement", displacement, booleans=False).astype(float)
    if field.ndim != 4 or field.shape[-1] != 3 or min(field.shape[:-1]) <= 2 * BORDER:
        raise ValueError(
            f"displacement must have the shape [X, Y, Z, 3] with more than {2 * BORDER} voxels "
            f"along every axis, not {field.shape}."
        )
    if len(spacing) != 3:
        raise ValueError(f"spacing must hold 3 sizes, not {spacing}.")
    scores = {}
    for one, other, names in (
        (fixed_landmarks, moving_landmarks, "landmarks"),
        (fixed_labels, moving_labels, "labels"),
    ):
        if (one is None) != (other is None):
            raise ValueError(f"fixed_{names} and moving_{names} must be given both or neither.")
    if fixed_landmarks is not None:
        scores["tre_mm"] = _landmark_error(field, fixed_landmarks, moving_landmarks, spacing)
    if fixed_labels is not None:
        scores |= _overlap(field, fixed_labels, moving_labels, labels)
    scores["sd_log_jacobian"] = sd_log_jacobian(_determinant(field), mask, border=BORDER)
    scores["ndv_percent"] = non_diffeomorphic_volume(field, mask)
    return scores


@checked()
def learn2reg_summary(cases: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Scores over all pairs of a task.

    Args:
        cases: results of `learn2reg_scores`, with the same scores each.

    Returns:
        Of every score `mean` and `std` (of the population); and where the script has one `30`, its
        measure of robustness, such as TRE30: the 70 % quantile of `tre_mm` and `sd_log_jacobian`,
        the 30 % quantile of `dice` and (low although low is good) of `hd95`.

    Raises:
        ValueError: for no cases, or scores that differ.
    """
    if not len(cases):
        raise ValueError("cases must hold the scores of at least one pair.")
    names = set(cases[0])
    for number, case in enumerate(cases):
        if set(case) != names:
            raise ValueError(
                f"cases must have the same scores: those of case 0 are {sorted(names)}, of case "
                f"{number} {sorted(case)}."
            )
    found = {}
    for name in cases[0]:
        values = np.array([case[name] for case in cases], float)
        found[name] = {"mean": float(values.mean()), "std": float(values.std())}
        if name in QUANTILES:
            found[name]["30"] = float(np.quantile(values, QUANTILES[name]))
    return found


def _landmark_error(field, fixed, moving, spacing) -> float:
    fixed = real_points("fixed_landmarks", fixed, (3,))
    moving = real_points("moving_landmarks", moving, (3,))
    if fixed.shape != moving.shape:
        raise ValueError(
            "fixed_landmarks and moving_landmarks must be as many, not "
            f"{len(fixed)} and {len(moving)}."
        )
    shift = [ndimage.map_coordinates(field[..., axis], fixed.T) for axis in range(3)]
    missed = (fixed + np.stack(shift, axis=-1) - moving) * np.asarray(spacing, float)
    return float(np.linalg.norm(missed, axis=1).mean())


def _overlap(field, fixed, moving, labels) -> dict[str, float]:
    fixed, moving = real_array("fixed_labels", fixed), real_array("moving_labels", moving)
    for name, array in (("fixed_labels", fixed), ("moving_labels", moving)):
        if array.dtype.kind not in "iu":
            raise TypeError(f"{name} must be integers, not {array.dtype}.")
    if fixed.shape != field.shape[:-1] or moving.ndim != 3:
        raise ValueError(
            f"fixed_labels must have the shape {field.shape[:-1]} of the displacement and "
            f"moving_labels three axes, not {fixed.shape} and {moving.shape}."
        )
    places = np.indices(fixed.shape) + np.moveaxis(field, -1, 0)
    moved = ndimage.map_coordinates(moving, places, order=0)
    present = np.intersect1d(fixed, moving)
    wanted = present[present != 0] if labels is None else [x for x in labels if x in present]
    overlaps, distances = [], []
    for label in wanted:
        one, other = fixed == label, moved == label
        both = np.count_nonzero(one) + np.count_nonzero(other)
        overlaps.append(2.0 * np.count_nonzero(one & other) / both)
        far = np.inf  # of a label that is lost on the way
        if other.any():
            far = hausdorff95(one.astype(int), other.astype(int), (1.0, 1.0, 1.0))["mean"]
        distances.append(far)
    if not overlaps:
        return {"dice": float("nan"), "hd95": float("nan")}
    return {"dice": float(np.mean(overlaps)), "hd95": float(np.mean(distances))}


def _determinant(field: np.ndarray) -> np.ndarray:
    """By central differences, which at the border, where they are one-sided, nobody looks at."""
    columns = [np.gradient(field, axis=axis) for axis in range(3)]
    return np.linalg.det(np.stack(columns, axis=-1) + np.eye(3))
