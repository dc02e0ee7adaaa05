"""Metrics of a registration for `compile(metrics=...)`; averages over the images seen so far."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

from zoo.ops.arguments import checked, positive
from zoo.ops.gradients import norm


class _PairMean(keras.metrics.Mean):
    """Mean over all pairs of one value for each, in float32 whatever the policy."""

    @checked()
    def __init__(self, name: str):
        super().__init__(name=name, dtype="float32")

    def _add(self, values, weights=None):
        super().update_state(values, sample_weight=weights)

    def get_config(self) -> dict:
        return {"name": self.name}


def _floats(*tensors):
    return tuple(ops.cast(ops.convert_to_tensor(tensor), "float32") for tensor in tensors)


def _weighted_mean(values, weights):
    """Mean `[b]` of values `[b, ...]` under a mask, and a weight `[b]`: 0 for an empty mask."""
    axes = tuple(range(1, len(values.shape)))
    if weights is None:
        return ops.mean(values, axis=axes), None
    (weights,) = _floats(weights)
    if len(weights.shape) == len(values.shape) + 1:
        weights = ops.squeeze(weights, -1)
    if len(weights.shape) != len(values.shape):
        raise ValueError(
            f"sample_weight must be a mask of the shape {tuple(values.shape)}, "
            f"not {tuple(weights.shape)}."
        )
    weights = ops.broadcast_to(weights, ops.shape(values))
    total = ops.sum(weights, axis=axes)
    values = ops.where(weights > 0, values, ops.zeros_like(values))
    mean = ops.sum(values * weights, axis=axes) / ops.where(total > 0, total, ops.ones_like(total))
    return mean, ops.cast(total > 0, "float32")


@keras.saving.register_keras_serializable(package="zoo.metrics")
class Dice(_PairMean):
    """Mean Dice overlap of label maps, from 0 to 1.

    Maps are one-hot or probabilities, `[b, *spatial, labels]`, of which the largest channel counts.
    For every pair the mean over the labels that both images contain; pairs without such a label are
    left out. Masks `[b, *spatial]` go into `sample_weight`.

    Args:
        background: count the first channel too.
        name: name of the metric.
    """

    @checked()
    def __init__(self, background: bool = False, name: str = "dice"):
        super().__init__(name)
        self.background = bool(background)

    def update_state(self, y_true, y_pred, sample_weight=None):
        labels = y_pred.shape[-1]
        axes = tuple(range(1, len(y_pred.shape) - 1))
        true, pred = (
            ops.one_hot(ops.argmax(maps, axis=-1), labels, dtype="float32")
            for maps in _floats(y_true, y_pred)
        )
        if sample_weight is not None:
            (mask,) = _floats(sample_weight)
            mask = mask[..., None] if len(mask.shape) < len(true.shape) else mask
            inside = ops.cast(mask > 0, "float32")
            true, pred = true * inside, pred * inside
        if not self.background:
            true, pred = true[..., 1:], pred[..., 1:]
        sizes = ops.sum(true, axis=axes), ops.sum(pred, axis=axes)
        present = ops.cast((sizes[0] > 0) & (sizes[1] > 0), "float32")
        scores = 2.0 * ops.sum(true * pred, axis=axes) / ops.maximum(sizes[0] + sizes[1], 1.0)
        count = ops.sum(present, axis=1)
        score = ops.sum(scores * present, axis=1) / ops.maximum(count, 1.0)
        self._add(score, ops.cast(count > 0, "float32"))

    def get_config(self) -> dict:
        return super().get_config() | {"background": self.background}


@keras.saving.register_keras_serializable(package="zoo.metrics")
class EndpointError(_PairMean):
    """Mean length of the difference of two fields `[b, *spatial, rank]` in voxels.

    Args:
        spacing: voxel size along each axis; with it the result has its unit.
        name: name of the metric.
    """

    @checked(spacing=positive)
    def __init__(self, spacing: Sequence[float] | None = None, name: str = "endpoint_error"):
        super().__init__(name)
        if spacing is not None and len(spacing) not in (2, 3):
            raise ValueError(f"spacing must hold 2 or 3 sizes, not {spacing}.")
        self.spacing = spacing

    def update_state(self, y_true, y_pred, sample_weight=None):
        true, pred = _floats(y_true, y_pred)
        difference = pred - true
        if self.spacing is not None:
            difference = difference * ops.convert_to_tensor(self.spacing, dtype="float32")
        self._add(*_weighted_mean(norm(difference), sample_weight))

    def get_config(self) -> dict:
        return super().get_config() | {"spacing": self.spacing}


@keras.saving.register_keras_serializable(package="zoo.metrics")
class TargetRegistrationError(_PairMean):
    """Mean distance of landmarks `[b, n, rank]` in their own unit, mm for medical data.

    `sample_weight` may hold a weight for each landmark, `[b, n]`, 0 for padding.

    Args:
        name: name of the metric.
    """

    def __init__(self, name: str = "tre_mm"):
        super().__init__(name)

    def update_state(self, y_true, y_pred, sample_weight=None):
        true, pred = _floats(y_true, y_pred)
        self._add(*_weighted_mean(norm(pred - true), sample_weight))


@keras.saving.register_keras_serializable(package="zoo.metrics")
class FoldPercentage(_PairMean):
    """Percentage of voxels where a field `[b, *spatial, rank]` (voxels) folds, `det <= 0`.

    `y_true` is ignored. Masks `[b, *spatial]` go into `sample_weight`.

    Args:
        name: name of the metric.
    """

    def __init__(self, name: str = "folds_percent"):
        super().__init__(name)

    def update_state(self, y_true, y_pred, sample_weight=None):
        from zoo.ops.derivatives import jacobian_determinant

        (field,) = _floats(y_pred)
        determinant = jacobian_determinant(field)
        # A field of NaN has no folds that could be counted; the mean says so.
        folded = ops.where(
            ops.isfinite(determinant), ops.cast(determinant <= 0, "float32"), float("nan")
        )
        self._add(*_weighted_mean(100.0 * folded, sample_weight))
