"""How good a registration is: landmarks, labels and the regularity of the field, in numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from zoo.ops.arguments import MOST, checked, one_of, positive
from zoo.ops.array_arguments import real_array

SDLOGJ_DEFINITIONS = ("clipped", "positive")


def _distances(first, second, names: tuple[str, str]) -> np.ndarray:
    first, second = (
        real_array(name, points).astype(float)
        for name, points in zip(names, (first, second), strict=True)
    )
    if first.shape != second.shape or first.ndim < 2 or first.shape[-1] not in (2, 3):
        raise ValueError(
            f"{names[0]} and {names[1]} must have the same shape [..., 2 or 3], not "
            f"{first.shape} and {second.shape}."
        )
    if first.size == 0:
        raise ValueError(f"{names[0]} must hold at least one point.")
    return np.linalg.norm(first - second, axis=-1)


def _summary(values: np.ndarray, unit: str = "") -> dict[str, float]:
    numbers = {
        "mean": values.mean(),
        "median": np.median(values),
        "std": values.std(),
        "p95": np.percentile(values, 95),
        "max": values.max(),
    }
    return {name + unit: float(number) for name, number in numbers.items()}


def target_registration_error(fixed, moved) -> dict[str, float]:
    """Distances between fixed landmarks and moving landmarks carried to the fixed space.

    Args:
        fixed: landmarks `[n, 2 or 3]` in world units, mm for medical data.
        moved: their counterparts `[n, 2 or 3]`, moved, in the same unit.

    Returns:
        `mean_mm`, `median_mm`, `std_mm` (of the population), `p95_mm` (95th percentile, linear
        interpolation) and `max_mm`.

    Raises:
        ValueError: for no points or shapes that differ.

    Example:
        >>> from zoo.metrics.registration import target_registration_error
        >>> errors = target_registration_error([[0, 0, 0], [1, 1, 1]], [[3, 4, 0], [1, 1, 1]])
        >>> errors["mean_mm"], errors["max_mm"]
        (2.5, 5.0)
    """
    return _summary(_distances(fixed, moved, ("fixed", "moved")), "_mm")


@checked()
def relative_tre(fixed, moved, image_diagonal: float, initial=None) -> dict[str, float]:
    """Landmark errors as a share of the image diagonal, as in the ANHIR challenge.

    rTRE of a landmark is its distance over the diagonal `sqrt(w^2 + h^2)` of the fixed image
    (Borovec et al., IEEE TMI 39, 2020).

    Args:
        fixed: landmarks `[n, 2 or 3]`.
        moved: their counterparts, moved.
        image_diagonal: length of the diagonal, in the unit of the landmarks.
        initial: the counterparts before registration, for the robustness.

    Returns:
        `mean`, `median`, `std`, `p95` and `max` of rTRE; with `initial` also `robustness`, the
        share of landmarks that are nearer than before.

    Raises:
        ValueError: for no points, shapes that differ or a diagonal that is not positive.
    """
    positive("image_diagonal", image_diagonal)
    distances = _distances(fixed, moved, ("fixed", "moved"))
    results = _summary(distances / image_diagonal)
    if initial is not None:
        before = _distances(fixed, initial, ("fixed", "initial"))
        results["robustness"] = float((distances < before).mean())
    return results


def summarise_relative_tre(pairs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The table of ANHIR from the results of `relative_tre` for every pair.

    A pair for which a method has no result must enter with its initial errors and robustness 0.

    Args:
        pairs: results of `relative_tre`, those with `robustness` all or none.

    Returns:
        `average_median` (AMrTRE), `median_median` (MMrTRE), `average_mean` (AArTRE),
        `average_max` (AMxrTRE), `median_max` (MMxrTRE) and, where known, `average_robustness` and
        `robust_share`, the share of pairs with a robustness above one half.

    Raises:
        ValueError: for no pairs.
    """
    if not pairs:
        raise ValueError("pairs must hold the result of at least one pair.")
    columns = {name: np.array([pair[name] for pair in pairs]) for name in pairs[0]}
    results = {
        "average_median": columns["median"].mean(),
        "median_median": np.median(columns["median"]),
        "average_mean": columns["mean"].mean(),
        "average_max": columns["max"].mean(),
        "median_max": np.median(columns["max"]),
    }
    if "robustness" in columns:
        results["average_robustness"] = columns["robustness"].mean()
        results["robust_share"] = (columns["robustness"] > 0.5).mean()
    return {name: float(value) for name, value in results.items()}


def _label_pair(fixed, moved, labels) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Integer arrays without a channel axis, and the labels that both contain."""
    arrays = []
    for name, array in (("fixed_labels", fixed), ("moved_labels", moved)):
        array = real_array(name, array)
        if array.dtype.kind not in "iub":
            raise TypeError(f"{name} must be integers, not {array.dtype}.")
        if not array.size:
            raise ValueError(f"{name} must not be empty; its shape is {array.shape}.")
        arrays.append(array.astype(int) if array.dtype.kind == "b" else array)
    fixed, moved = arrays
    if fixed.shape != moved.shape:
        raise ValueError(
            "fixed_labels and moved_labels must have the same shape, not "
            f"{fixed.shape} and {moved.shape}."
        )
    present = np.intersect1d(fixed, moved)
    wanted = present[present != 0] if labels is None else [x for x in labels if x in present]
    return fixed, moved, [int(label) for label in wanted]


def _per_label(values: dict[int, float]) -> dict:
    mean = float(np.mean(list(values.values()))) if values else float("nan")
    return {"mean": mean, "labels": values}


@checked()
def dice_scores(fixed_labels, moved_labels, labels: Sequence[int] | None = None) -> dict:
    """Dice overlap `2 |A and B| / (|A| + |B|)` of every label.

    Labels absent from either image are left out, as Learn2Reg does. Warp label images by nearest
    neighbour for this.

    Args:
        fixed_labels: integer array.
        moved_labels: integer array of the same shape.
        labels: the labels to compare; by default all but 0.

    Returns:
        `mean` over the compared labels (NaN without any) and `labels`, `{label: Dice}`.

    Raises:
        TypeError: for arrays that are not integers.
        ValueError: for shapes that differ.

    Example:
        >>> from zoo.metrics.registration import dice_scores
        >>> dice_scores(np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1]))
        {'mean': 0.8, 'labels': {1: 0.8}}
    """
    fixed, moved, labels = _label_pair(fixed_labels, moved_labels, labels)
    scores = {}
    for label in labels:
        first, second = fixed == label, moved == label
        overlap = np.count_nonzero(first & second)
        both = np.count_nonzero(first) + np.count_nonzero(second)
        scores[label] = float(2.0 * overlap / both)
    return _per_label(scores)


@checked(spacing=positive)
def hausdorff95(
    fixed_labels,
    moved_labels,
    spacing: Sequence[float],
    labels: Sequence[int] | None = None,
) -> dict:
    """95th percentile of the distances between the borders of every label.

    The border of a label are its voxels with a face neighbour outside of it (the image border
    counts as outside). The larger of the two one-sided percentiles is taken, each over border
    voxels, not weighted with surface area. Labels absent from either image are left out.

    Args:
        fixed_labels: integer array `[*spatial]`.
        moved_labels: integer array of the same shape.
        spacing: voxel size along each axis in mm. Learn2Reg evaluates with ones, that is in voxels.
        labels: the labels to compare; by default all but 0.

    Returns:
        `mean` over the compared labels (NaN without any) and `labels`, `{label: distance in mm}`.

    Raises:
        TypeError: for arrays that are not integers.
        ValueError: for shapes that differ or a spacing that does not fit.

    Example:
        >>> from zoo.metrics.registration import hausdorff95
        >>> one, other = np.zeros((9, 9), int), np.zeros((9, 9), int)
        >>> one[2, 4] = other[7, 4] = 1
        >>> hausdorff95(one, other, spacing=(2.0, 1.0))["mean"]
        10.0
    """
    fixed, moved, labels = _label_pair(fixed_labels, moved_labels, labels)
    if len(spacing) != fixed.ndim:
        raise ValueError(f"spacing must hold {fixed.ndim} positive sizes, not {spacing}.")
    distances = {}
    for label in labels:
        both = (fixed == label) | (moved == label)
        # Nothing outside of the common bounding box takes part in a border or a distance.
        (box,) = ndimage.find_objects(both.astype(np.uint8))
        borders = []
        for image in (fixed, moved):
            shape = np.pad(image[box] == label, 1)
            borders.append(shape & ~ndimage.binary_erosion(shape))
        one_sided = [
            np.percentile(ndimage.distance_transform_edt(~to, sampling=spacing)[of], 95)
            for of, to in (borders, borders[::-1])
        ]
        distances[label] = float(max(one_sided))
    return _per_label(distances)


def _selected(determinant, mask, border: int, name: str = "determinant") -> np.ndarray:
    determinant = real_array(name, determinant, finite=False, booleans=False).astype(float)
    if not determinant.ndim:
        raise ValueError(f"{name} must be an array, not a single number.")
    if mask is not None:
        mask = real_array("mask", mask)
        if mask.shape != determinant.shape:
            raise ValueError(
                f"mask must have the shape of {name}, {determinant.shape}, not {mask.shape}."
            )
    inner = (slice(border, -border or None),) * determinant.ndim
    values = determinant[inner].ravel() if mask is None else determinant[inner][mask[inner] > 0]
    if values.size == 0:
        raise ValueError(
            f"{name} must have voxels inside of the mask and of border={border}, "
            f"but none of its shape {determinant.shape} is left."
        )
    bad = values.size - np.count_nonzero(np.isfinite(values))
    if bad:
        # NaN is neither above nor below zero: it would pass for a field without folds.
        raise ValueError(
            f"{name} must be finite; {bad} of {values.size} values are NaN or infinite."
        )
    return values


@checked(border=(0, MOST))
def fold_percentage(determinant, mask=None, border: int = 0) -> float:
    """Percentage of voxels whose Jacobian determinant is zero or negative.

    Args:
        determinant: `det D(x + u(x))`, `[*spatial]`, unitless.
        mask: voxels to count, of the same shape.
        border: voxels to leave out along every face.

    Raises:
        ValueError: for a mask of another shape, no voxel left, or values that are not finite.

    Example:
        >>> from zoo.metrics.registration import fold_percentage
        >>> fold_percentage([[1.0, -0.5], [0.5, 2.0]])
        25.0
    """
    return float(100.0 * (_selected(determinant, mask, border) <= 0).mean())


@checked(border=(0, MOST))
def sd_log_jacobian(determinant, mask=None, definition: str = "clipped", border: int = 0) -> float:
    """Standard deviation of the logarithm of the Jacobian determinant (SDlogJ); 0 for affine maps.

    Two definitions are in use, and their values cannot be compared:

    - "clipped": `std log clip(det + 3, 1e-9, 1e9)`. That is what the evaluation script of
      Learn2Reg does (its 3 is added to the whole determinant, identity included), after dropping
      a border of 2 voxels. Folds are hardly penalised, and values are about a quarter of the
      other's.
    - "positive": `std log det` over the voxels with a positive determinant; folded voxels are left
      to `fold_percentage`.

    Args:
        determinant: `det D(x + u(x))`, `[*spatial]`, unitless.
        mask: voxels to use, of the same shape.
        definition: "clipped" or "positive".
        border: voxels to leave out along every face; 2 for Learn2Reg.

    Returns:
        The standard deviation of the population; NaN if "positive" has no voxel to use.

    Raises:
        ValueError: for an unknown definition, a mask of another shape, no voxel left, or values
            that are not finite.

    Example:
        >>> from zoo.metrics.registration import sd_log_jacobian
        >>> sd_log_jacobian(np.full((4, 4), 2.0))
        0.0
        >>> sd_log_jacobian([1.0, np.e**2], definition="positive")
        1.0
    """
    one_of("definition", definition, SDLOGJ_DEFINITIONS)
    values = _selected(determinant, mask, border)
    if definition == "clipped":
        return float(np.log(np.clip(values + 3.0, 1e-9, 1e9)).std())
    values = values[values > 0]
    return float(np.log(values).std()) if values.size else float("nan")


@checked(spacing=positive)
def endpoint_error(u, v, mask=None, spacing: Sequence[float] | None = None) -> dict[str, float]:
    """Lengths of the difference of two displacement fields.

    Args:
        u: field `[..., 2 or 3]` in voxels.
        v: field of the same shape.
        mask: voxels to use, `[...]`.
        spacing: voxel size along each axis; with it the result has its unit, else voxels.

    Returns:
        `mean`, `median`, `std`, `p95` and `max`.

    Raises:
        ValueError: for shapes that differ, a mask of another shape or without a voxel, or a spacing
            that does not fit.
    """
    u, v = real_array("u", u), real_array("v", v)
    if u.ndim < 2 or u.shape[-1] not in (2, 3):
        raise ValueError(f"u must have the shape [..., 2 or 3], not {u.shape}.")
    if u.shape != v.shape:
        raise ValueError(f"u and v must have the same shape, not {u.shape} and {v.shape}.")
    scale = np.ones(np.shape(u)[-1]) if spacing is None else np.asarray(spacing, float)
    if scale.shape != np.shape(u)[-1:]:
        raise ValueError(f"spacing must hold {np.shape(u)[-1]} sizes, not {spacing}.")
    lengths = _distances(np.asarray(u, float) * scale, np.asarray(v, float) * scale, ("u", "v"))
    return _summary(lengths.ravel() if mask is None else _selected(lengths, mask, 0, "u"))
