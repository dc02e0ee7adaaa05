"""How unlike two images are, for images of one modality: squares and correlation.

`MutualInformation` and `MIND`, which compare images of different modalities, have their own files.
Every loss is least where the images agree, and 0 there (`LNCC` nearly so), except for mutual
information, which is as negative as the images are rich.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

from zoo.losses.base import MaskedLoss, blank, channels_first, per_image, weighted_mean
from zoo.losses.windows import box_sum, check_window, window_sizes
from zoo.ops.arguments import checked, positive

# Below this share of the mean square, a variance in float32 is rounding: the image is constant.
CONSTANT = 1e-10


def _centre(image, mask):
    """Image minus its mean, zero outside of the mask, and its variance `[b]`.

    The variance is exactly zero for an image that is constant but for rounding.
    """
    shape = (-1,) + (1,) * (len(image.shape) - 1)
    mean_square = weighted_mean(ops.square(image), mask)
    centred = blank(image - ops.reshape(weighted_mean(image, mask), shape), mask)
    variance = weighted_mean(ops.square(centred), mask)
    varies = variance > CONSTANT * mean_square
    centred = ops.where(ops.reshape(varies, shape), centred, ops.zeros_like(centred))
    return centred, ops.where(varies, variance, ops.zeros_like(variance))


@keras.saving.register_keras_serializable(package="zoo.losses")
class MeanSquaredError(MaskedLoss):
    """Mean over voxels and channels of the squared difference, in squared units of intensity.

    `sum_x m(x) mean_c (y_pred_c(x) - y_true_c(x))^2 / sum_x m(x)`

    Images are `[b, *spatial, c]`; masks go into `sample_weight`, see `MaskedLoss`.

    Args:
        reduction, name: as in Keras.

    Raises:
        ValueError: when called with shapes that differ or are neither 2D nor 3D.
    """

    @checked()
    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "mean_squared_error",
    ):
        super().__init__(reduction, name)

    def compare(self, y_true, y_pred, mask):
        weights = None if mask is None else mask[..., None]
        difference = blank(y_pred, weights) - blank(y_true, weights)
        return weighted_mean(ops.mean(ops.square(difference), axis=-1), mask)


@keras.saving.register_keras_serializable(package="zoo.losses")
class NCC(MaskedLoss):
    """One minus the correlation coefficient of the whole images.

    `1 - cov(a, b) / sqrt(var(a) var(b))`, from 0 (equal up to gain > 0 and offset) over 1
    (unrelated or constant) to 2 (inverted contrast); with `squared`, `1 - ncc^2`, from 0 to 1,
    which inverted contrast does not change. Unitless. Channels are compared one by one and
    averaged.

    Images are `[b, *spatial, c]`; masks go into `sample_weight`, see `MaskedLoss`.

    Args:
        squared: take the square of the coefficient.
        reduction, name: as in Keras.

    Raises:
        ValueError: when called with shapes that differ or are neither 2D nor 3D.

    Example:
        >>> image = np.random.default_rng(0).uniform(size=(1, 16, 16, 1))
        >>> loss = zoo.losses.NCC()
        >>> round(float(loss(image, 3 * image + 1)), 4), round(float(loss(image, -image)), 4)
        (0.0, 2.0)
    """

    @checked()
    def __init__(
        self,
        squared: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "ncc",
    ):
        super().__init__(reduction, name)
        self.squared = bool(squared)

    def compare(self, y_true, y_pred, mask):
        channels = y_pred.shape[-1]
        true, weights = channels_first(y_true, mask)
        pred, _ = channels_first(y_pred)
        true, true_variance = _centre(blank(true, weights), weights)
        pred, pred_variance = _centre(blank(pred, weights), weights)
        covariance = weighted_mean(true * pred, weights)
        # Roots of each factor: their product may leave the range of float32.
        both = ops.logical_and(true_variance > 0, pred_variance > 0)
        ones = ops.ones_like(covariance)
        deviations = ops.sqrt(ops.where(both, true_variance, ones))
        deviations = deviations * ops.sqrt(ops.where(both, pred_variance, ones))
        coefficient = ops.where(both, covariance / deviations, ops.zeros_like(covariance))
        if self.squared:
            coefficient = ops.square(coefficient)
        return 1.0 - per_image(coefficient, channels)

    def get_config(self) -> dict:
        return super().get_config() | {"squared": self.squared}


@keras.saving.register_keras_serializable(package="zoo.losses")
class LNCC(MaskedLoss):
    """One minus the mean squared correlation in the window around every voxel.

    With window means `E` over the voxels of the mask, `cov = E[ab] - E[a]E[b]` and
    `var(a) = E[a^2] - E[a]^2`:

    `1 - mean_x cov^2 / ((var(a) + e A) (var(b) + e B))`

    where A and B are the variances of the whole images, so that the value does not depend on gains
    and offsets (Avants et al., Medical Image Analysis 12, 2008; the training loss of VoxelMorph,
    Balakrishnan et al., arXiv:1809.05231, is this minus one). From 0 to 1, unitless. Unlike
    VoxelMorph, windows end at the border of the image and of the mask instead of counting zeros
    there. Equal images give nearly 0, by as much as e weighs in their flat regions.
    Channels are compared one by one and averaged. Peak memory is about 40 arrays of the size
    of the image, gradient included.

    Images are `[b, *spatial, c]`; masks go into `sample_weight`, see `MaskedLoss`.

    Args:
        window: odd edge of the window in voxels, at least 3; or one for each axis.
        epsilon: e, how much of the global variance a window needs before it counts; the larger it
            is, the less noise in flat regions matters.
        squared: False for the signed coefficient, `1 - mean cov / sqrt(...)`, from 0 to 2, which
            inverted contrast does change.
        reduction, name: as in Keras.

    Raises:
        ValueError: for a window that is even or too small, for epsilon <= 0, and when called with
            shapes that differ or are neither 2D nor 3D.

    Example:
        >>> image = np.random.default_rng(0).uniform(size=(1, 16, 16, 1))
        >>> loss = zoo.losses.LNCC(window=5)
        >>> round(float(loss(image, 1 - 3 * image)), 3)  # neither gain, its sign, nor offset
        0.0
    """

    @checked(window=(3, 9999))
    def __init__(
        self,
        window: int | Sequence[int] = 9,
        epsilon: float = 1e-4,
        squared: bool = True,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "lncc",
    ):
        super().__init__(reduction, name)
        positive("epsilon", epsilon)
        self.window = check_window("window", window, 3)
        self.epsilon, self.squared = float(epsilon), bool(squared)

    def compare(self, y_true, y_pred, mask):
        channels, rank = y_pred.shape[-1], len(y_pred.shape) - 2
        sizes = window_sizes(self.window, rank)
        true, weights = channels_first(y_true, mask)
        pred, _ = channels_first(y_pred)
        true, true_variance = _centre(blank(true, weights), weights)
        pred, pred_variance = _centre(blank(pred, weights), weights)

        count = box_sum(ops.ones_like(true[:1]) if weights is None else weights, sizes)
        scale = 1.0 / ops.where(count > 0, count, ops.ones_like(count))

        def window_mean(values):
            return box_sum(values if weights is None else weights * values, sizes) * scale

        # One box sum for each term: stacked, the gradient would also be propagated into the terms
        # of the reference, which nobody asks for.
        true_mean, true_spread = self._moments(true, true_variance, window_mean)
        pred_mean, pred_spread = self._moments(pred, pred_variance, window_mean)
        covariance = window_mean(true * pred) - true_mean * pred_mean
        if self.squared:
            values = (covariance / true_spread) * (covariance / pred_spread)
        else:
            values = covariance / (ops.sqrt(true_spread) * ops.sqrt(pred_spread))
        return 1.0 - per_image(weighted_mean(values, weights), channels)

    def _moments(self, image, variance, window_mean):
        mean = window_mean(image)
        spread = ops.maximum(window_mean(ops.square(image)) - ops.square(mean), 0.0)
        # A constant image has no variance at all; any floor will do, its covariance is zero.
        floor = ops.where(variance > 0, self.epsilon * variance, ops.ones_like(variance))
        return mean, spread + ops.reshape(floor, (-1,) + (1,) * (len(image.shape) - 1))

    def get_config(self) -> dict:
        arguments = ("window", "epsilon", "squared")
        return super().get_config() | {name: getattr(self, name) for name in arguments}
