"""Mutual information of two images by Parzen windows."""

from __future__ import annotations

import functools

import keras
from keras import ops

from zoo.losses.base import MaskedLoss, blank, channels_first, per_image
from zoo.ops import kernels
from zoo.ops.arguments import MOST, at_least, checked, one_of

WINDOWS = ("bspline", "gaussian")
# Bins left free at either end, so that no window reaches past the histogram.
MARGIN = 2
# Voxels whose window weights exist at the same time; 8,192 x 32 float32 fit a second-level cache.
CHUNK = 8192


@keras.saving.register_keras_serializable(package="zoo.losses")
class MutualInformation(MaskedLoss):
    """Minus the mutual information of the intensities, in nats.

    `-sum_ij p_ij log(p_ij / (p_i p_j))`, where p is the joint histogram into which every voxel
    enters with the product of two Parzen windows (Wells et al., Medical Image Analysis 1, 1996;
    Mattes et al., IEEE TMI 22, 2003, uses the cubic B-spline). The intensity range of each image
    covers the bins but two at either end. Constant images give 0. Channels are compared one by one
    and averaged.

    The gradient recomputes the windows, so memory is that of the images plus a few blocks of
    8,192 x `bins`, whatever the number of voxels.

    Images are `[b, *spatial, c]`; masks go into `sample_weight`, see `MaskedLoss`.

    Args:
        bins: bins for each image, at least 6.
        window: "bspline" (cubic) or "gaussian".
        sigma: standard deviation of the Gaussian in bins, at least 0.5; the B-spline has
            `sqrt(1/3)`.
        value_range: `(lowest, highest)` intensity of both images, beyond which intensities are
            clipped; by default that of each image inside of its mask, as a constant.
        samples: number of voxels drawn for the estimate (with replacement, the same ones in
            every call), or None for all. 100,000 suffice for an affine registration.
        seed: seed of the draw.
        reduction, name: as in Keras.

    Raises:
        ValueError: for an unknown window, too few bins or samples, too small a sigma, an empty
            range, and when called with shapes that differ or are neither 2D nor 3D.

    Example:
        >>> image = np.random.default_rng(0).uniform(size=(1, 32, 32, 1))
        >>> loss = zoo.losses.MutualInformation()
        >>> float(loss(image, 1 - image)) < -1, float(loss(image, image[:, ::-1])) > -0.5
        (True, True)
    """

    @checked(bins=(2 * MARGIN + 2, 4096), samples=(1, MOST))
    def __init__(
        self,
        bins: int = 32,
        window: str = "bspline",
        sigma: float = 0.6,
        value_range: tuple[float, float] | None = None,
        samples: int | None = None,
        seed: int = 0,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "mutual_information",
    ):
        super().__init__(reduction, name)
        one_of("window", window, WINDOWS)
        at_least("sigma", sigma, 0.5)  # of a bin, or neighbours do not overlap
        if value_range is not None and not value_range[0] < value_range[1]:
            raise ValueError(f"value_range must be (lowest, highest), not {value_range}.")
        self.bins, self.window, self.sigma = int(bins), window, float(sigma)
        self.value_range = None if value_range is None else tuple(map(float, value_range))
        self.samples, self.seed = samples, int(seed)

    def compare(self, y_true, y_pred, mask):
        channels = y_pred.shape[-1]
        true, weights = channels_first(y_true, mask)
        pred, _ = channels_first(y_pred)
        columns = ops.shape(ops.reshape(true[0], (-1,)))[0]
        true, pred = (ops.reshape(image, (-1, columns)) for image in (true, pred))
        if weights is not None:
            weights = ops.reshape(weights, (-1, columns))
        # Ranges come from all voxels, so that they do not depend on the draw.
        ranges = [self._range(image, weights) for image in (true, pred)]
        if self.samples is not None:
            draw = keras.random.uniform((self.samples,), seed=self.seed)
            index = ops.cast(draw * ops.cast(columns, "float32"), "int32")
            index = ops.minimum(index, columns - 1)
            true, pred = (ops.take(image, index, axis=1) for image in (true, pred))
            weights = None if weights is None else ops.take(weights, index, axis=1)
        true, pred = (
            self._positions(blank(image, weights), limits)
            for image, limits in zip((true, pred), ranges, strict=True)
        )
        weights = ops.ones_like(true) if weights is None else weights
        joint = _histogram(self.bins, self.window, self.sigma)(true, pred, weights)
        return -per_image(_information(joint), channels)

    def _range(self, image, weights):
        if self.value_range is not None:
            return self.value_range
        lowest = highest = image
        if weights is not None:
            lowest = ops.where(weights > 0, image, float("inf"))
            highest = ops.where(weights > 0, image, float("-inf"))
        lowest, highest = ops.min(lowest, axis=1), ops.max(highest, axis=1)
        return ops.stop_gradient(lowest[:, None]), ops.stop_gradient(highest[:, None])

    def _positions(self, image, limits):
        """Intensities in units of bins; bin k is centred on k."""
        lowest, highest = limits
        if self.value_range is not None:
            extent = highest - lowest
        else:
            # Constant images, and masks without a voxel, whose range is infinite.
            usable = ops.logical_and(highest > lowest, ops.isfinite(highest - lowest))
            extent = ops.where(usable, highest - lowest, ops.ones_like(highest))
            lowest = ops.where(ops.isfinite(lowest), lowest, ops.zeros_like(lowest))
        relative = ops.clip((image - lowest) / extent, 0.0, 1.0)
        return MARGIN + relative * (self.bins - 1 - 2 * MARGIN)

    def get_config(self) -> dict:
        arguments = ("bins", "window", "sigma", "value_range", "samples", "seed")
        return super().get_config() | {name: getattr(self, name) for name in arguments}


@functools.cache
def _histogram(bins: int, window: str, sigma: float):
    """Joint histograms `[b, bins, bins]` of positions `[b, n]`, true along the first axis."""

    def parzen(positions):
        return _parzen(positions, bins, window, sigma)

    def forward(true, pred, weights):
        def add(total, block):
            first, second, weight = block[0], block[1], block[2]
            first = parzen(first)[0] * weight[..., None]
            return total + ops.matmul(ops.swapaxes(first, 1, 2), parzen(second)[0]), None

        zero = ops.zeros((ops.shape(true)[0], bins, bins), dtype="float32")
        return ops.scan(add, zero, _blocks(ops.stack([true, pred, weights])))[0]

    def to_true(true, pred, weights, upstream):
        def differentiate(block):
            first, second, weight = block[0], block[1], block[2]
            felt = ops.matmul(parzen(second)[0], ops.swapaxes(upstream, 1, 2))
            return weight * ops.sum(felt * parzen(first)[1], axis=-1)

        slopes = ops.map(differentiate, _blocks(ops.stack([true, pred, weights])))
        return _join(slopes)[:, : ops.shape(true)[1]]

    def to_pred(true, pred, weights, upstream):
        return to_true(pred, true, weights, ops.swapaxes(upstream, 1, 2))

    def to_weights(true, pred, weights, upstream):
        return ops.zeros_like(weights)

    return kernels.with_gradient(forward, to_true, to_pred, to_weights)


def _parzen(positions, bins: int, window: str, sigma: float):
    """Window weights and their derivative with respect to the position, `[b, n, bins]`."""
    offset = positions[..., None] - ops.arange(bins, dtype="float32")
    if window == "gaussian":
        weights = ops.exp(ops.square(offset) * (-0.5 / sigma**2))
        return weights, offset * weights * (-1.0 / sigma**2)
    distance = ops.abs(offset)
    outer, inner = ops.relu(2.0 - distance), ops.relu(1.0 - distance)
    outer_square, inner_square = ops.square(outer), ops.square(inner)
    weights = (outer * outer_square - 4.0 * inner * inner_square) / 6.0
    return weights, ops.sign(offset) * (2.0 * inner_square - 0.5 * outer_square)


def _information(joint):
    """Mutual information `[b]` in nats of unnormalised joint histograms `[b, i, j]`."""
    total = ops.sum(joint, axis=(1, 2), keepdims=True)
    joint = joint / ops.where(total > 0, total, ops.ones_like(total))
    product = ops.sum(joint, axis=2, keepdims=True) * ops.sum(joint, axis=1, keepdims=True)
    # An underflowing product implies a joint probability that does not matter either.
    filled = ops.logical_and(joint > 1e-20, product > 1e-30)
    ones = ops.ones_like(joint)
    ratio = ops.where(filled, joint, ones) / ops.where(filled, product, ones)
    return ops.sum(ops.where(filled, joint, 0.0) * ops.log(ratio), axis=(1, 2))


def _blocks(arrays):
    """`[3, b, n]` padded with zeros and cut into `[k, 3, b, chunk]`.

    One array and not three: `ops.scan` refuses several whose length is unknown when traced.
    """
    columns = arrays.shape[2]
    chunk = CHUNK if columns is None else min(CHUNK, columns)
    three, batch, size = ops.shape(arrays)
    padding = (chunk - size % chunk) % chunk
    padded = ops.pad(arrays, [[0, 0], [0, 0], [0, padding]])
    cut = ops.reshape(padded, (three, batch, (size + padding) // chunk, chunk))
    return ops.transpose(cut, (2, 0, 1, 3))


def _join(blocks):
    """Inverse of `_blocks`, without the cut: `[k, b, chunk]` to `[b, k * chunk]`."""
    shape = ops.shape(blocks)
    return ops.reshape(ops.swapaxes(blocks, 0, 1), (shape[1], shape[0] * shape[2]))
