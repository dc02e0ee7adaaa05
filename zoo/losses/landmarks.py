"""Distance of corresponding points as a loss."""

from __future__ import annotations

import keras
from keras import ops

from zoo.losses.base import MaskedLoss, blank, check_same, weighted_mean
from zoo.ops.arguments import checked
from zoo.ops.gradients import norm


@keras.saving.register_keras_serializable(package="zoo.losses")
class LandmarkError(MaskedLoss):
    """Mean Euclidean distance of corresponding landmarks, in their own (world) unit.

    `sum_k w_k |y_pred_k - y_true_k| / sum_k w_k`, or of the squares. The gradient of a distance of
    zero is zero.

    Landmarks are `[b, n, rank]`; `sample_weight` may hold a weight for each, `[b, n]` or
    `[b, n, 1]`, with 0 for the padding of sets of different sizes, whatever stands there.

    Args:
        squared: average the squared distances instead.
        reduction, name: as in Keras.

    Raises:
        ValueError: when called with shapes that differ or are not `[b, n, 2 or 3]`.
    """

    @checked()
    def __init__(
        self,
        squared: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "landmark_error",
    ):
        super().__init__(reduction, name)
        self.squared = bool(squared)

    def check(self, y_true, y_pred) -> None:
        if len(y_pred.shape) != 3 or y_pred.shape[-1] not in (2, 3):
            raise ValueError(
                f"y_pred must have the shape [batch, n, 2 or 3], not {tuple(y_pred.shape)}."
            )
        check_same(y_true, y_pred)

    def compare(self, y_true, y_pred, mask):
        weights = None if mask is None else mask[..., None]
        difference = blank(y_pred, weights) - blank(y_true, weights)
        if self.squared:
            return weighted_mean(ops.sum(ops.square(difference), axis=-1), mask)
        return weighted_mean(norm(difference), mask)

    def get_config(self) -> dict:
        return super().get_config() | {"squared": self.squared}
