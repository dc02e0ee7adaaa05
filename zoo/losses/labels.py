"""Overlap of segmentations as a loss."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from zoo.losses.base import MaskedLoss
from zoo.ops.arguments import between, checked, label_values
from zoo.ops.array_arguments import real_array, real_tensor

MOST_LABELS = 2**16  # each of which gets a channel


def one_hot(labels, values: int | Sequence[int]):
    """Integer labels as one channel for each label, ready to be warped linearly.

    Args:
        labels: integer tensor `[..., 1]` or `[...]`; a last axis of size 1 is taken as the channel.
        values: the number of labels, then counted from 0; or the label values themselves, in the
            order of the channels. Labels that are not listed get no channel.

    Returns:
        float32 tensor `[..., len(values)]`.

    Raises:
        TypeError: for labels that are not integers.
        ValueError: for no or repeated values.
    """
    labels = labels if hasattr(labels, "shape") else real_array("labels", labels)
    labels = ops.convert_to_tensor(real_tensor("labels", labels))
    if not keras.backend.is_int_dtype(labels.dtype):
        raise TypeError(
            f"labels must be integers, not {keras.backend.standardize_dtype(labels.dtype)}."
        )
    if not isinstance(values, Sequence | np.ndarray):
        values = np.arange(between("values", values, 1, MOST_LABELS))
    else:
        values = np.array(label_values("values", values))
    if values.ndim != 1 or len(values) == 0 or len(np.unique(values)) != len(values):
        raise ValueError(f"values must be a positive number or distinct labels, not {values}.")
    if not len(labels.shape):
        raise ValueError("labels must be an array, not a single number.")
    if labels.shape[-1] == 1 and len(labels.shape) > 1:
        labels = ops.squeeze(labels, -1)
    channels = ops.convert_to_tensor(values, dtype=labels.dtype)
    return ops.cast(ops.equal(labels[..., None], channels), "float32")


@keras.saving.register_keras_serializable(package="zoo.losses")
class Dice(MaskedLoss):
    """One minus the mean soft Dice overlap of the labels.

    `1 - mean_l 2 sum_x m a_l b_l / (sum_x m a_l + sum_x m b_l)`

    over the labels present in the image pair (Milletari et al., V-Net, arXiv:1606.04797, with plain
    sums in the denominator). Labels that neither map contains are left out of the mean; a pair
    without any label gives 0. From 0 to 1, unitless.

    Maps are one-hot or probabilities, `[b, *spatial, labels]`; integer labels become such maps
    through `one_hot`. Masks go into `sample_weight`, see `MaskedLoss`.

    Args:
        background: count the first channel too.
        reduction, name: as in Keras.

    Raises:
        ValueError: when called with shapes that differ, are neither 2D nor 3D, or leave no channel
            besides the background.

    Example:
        >>> fixed, moved = np.array([[0, 1, 1, 1]]), np.array([[0, 0, 1, 1]])
        >>> maps = [zoo.losses.one_hot(labels[None], 2) for labels in (fixed, moved)]
        >>> round(float(zoo.losses.Dice()(*maps)), 4)  # 1 - 2 * 2 / (3 + 2)
        0.2
    """

    @checked()
    def __init__(
        self,
        background: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "dice",
    ):
        super().__init__(reduction, name)
        self.background = bool(background)

    def check(self, y_true, y_pred) -> None:
        super().check(y_true, y_pred)
        if y_pred.shape[-1] < 2 - self.background:
            raise ValueError(
                "y_pred must have a channel besides the background, not the shape "
                f"{tuple(y_pred.shape)}; for maps of one structure pass background=True."
            )

    def compare(self, y_true, y_pred, mask):
        axes = tuple(range(1, len(y_pred.shape) - 1))
        if not self.background:
            y_true, y_pred = y_true[..., 1:], y_pred[..., 1:]
        if mask is not None:
            weights = mask[..., None]
            zero = ops.zeros_like(y_pred)
            y_true, y_pred = (ops.where(weights > 0, maps, zero) for maps in (y_true, y_pred))
            shared = ops.sum(weights * y_true * y_pred, axis=axes)
            total = ops.sum(weights * (y_true + y_pred), axis=axes)
        else:
            shared = ops.sum(y_true * y_pred, axis=axes)
            total = ops.sum(y_true + y_pred, axis=axes)
        present = total > 0
        overlap = 2.0 * shared / ops.where(present, total, ops.ones_like(total))
        present = ops.cast(present, "float32")
        count = ops.sum(present, axis=1)
        return ops.sum(present * (1.0 - overlap), axis=1) / ops.maximum(count, 1.0)

    def get_config(self) -> dict:
        return super().get_config() | {"background": self.background}
