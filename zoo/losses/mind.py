"""Self-similarity descriptors, for images of different modalities."""

from __future__ import annotations

from itertools import combinations, product

import keras
from keras import ops

from zoo.losses.base import MaskedLoss, blank, channels_first, per_image, weighted_mean
from zoo.losses.windows import box_sum
from zoo.ops.arguments import checked

# Bounds of the local variance estimate relative to its mean over the image, as in the paper's code.
LOWEST, HIGHEST = 1e-3, 1e3


@keras.saving.register_keras_serializable(package="zoo.losses")
class MIND(MaskedLoss):
    """Mean squared difference of modality-independent neighbourhood descriptors (MIND-SSC).

    A descriptor compares patches around the neighbours `x + d e_i` of a voxel with each other, not
    with the patch around x: for every pair (p, q) of neighbours on different axes, `4` in 2D and
    `12` in 3D,

    `D_pq(x) = mean over the patch of (I(x + p) - I(x + q))^2`

    `M_pq(x) = exp(-(D_pq - min D) / v)`, where v is the mean of `D - min D` at x, kept within
    0.001 and 1000 times its mean over the image. The loss is the mean of `(M_a - M_b)^2` over
    voxels and pairs, from 0 to 1, unitless; neither gain (of either sign) nor offset changes it
    (Heinrich et al., MICCAI 2013, "Towards realtime multimodal fusion for image-guided
    interventions using self-similarities"). Differences that reach out of the image or of the mask
    do not enter a patch; a voxel without any complete difference left is not counted.

    Channels are compared one by one and averaged. Memory is about 10 arrays of the size of the
    image for each pair, gradient included.

    Images are `[b, *spatial, c]`; masks go into `sample_weight`, see `MaskedLoss`.

    Args:
        radius: the patch is `2 radius + 1` voxels wide; at least 0.
        dilation: distance d of the neighbours in voxels; at least 1.
        reduction, name: as in Keras.

    Raises:
        ValueError: for a radius or a dilation out of range, and when called with shapes that
            differ, are neither 2D nor 3D, or have an axis no longer than `dilation`.

    Example:
        >>> image = np.random.default_rng(0).uniform(size=(1, 16, 16, 1))
        >>> loss = zoo.losses.MIND()
        >>> round(float(loss(image, 1 - 3 * image)), 6), float(loss(image, image[:, ::-1])) > 0.01
        (0.0, True)
    """

    @checked(radius=(0, 1000), dilation=(1, 10_000))
    def __init__(
        self,
        radius: int = 2,
        dilation: int = 2,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "mind",
    ):
        super().__init__(reduction, name)
        self.radius, self.dilation = int(radius), int(dilation)

    def check(self, y_true, y_pred) -> None:
        super().check(y_true, y_pred)
        if any(size is not None and size <= self.dilation for size in y_pred.shape[1:-1]):
            raise ValueError(
                f"y_pred must be longer than dilation={self.dilation} along every spatial axis, "
                f"not of the shape {tuple(y_pred.shape)}."
            )

    def compare(self, y_true, y_pred, mask):
        channels = y_pred.shape[-1]
        true, weights = channels_first(y_true, mask)
        pred, _ = channels_first(y_pred)
        present = ops.ones_like(true[:1]) if weights is None else weights
        pair_weights = self._stack(self._pairs(present, lambda p, q: p * q))
        sizes = (2 * self.radius + 1,) * (len(true.shape) - 1)
        counts = self._unstack(box_sum(pair_weights, sizes), present)
        usable = ops.cast(ops.min(counts, axis=0) > 0, "float32") * present
        usable = ops.broadcast_to(usable, ops.shape(true))
        scales = 1.0 / ops.where(counts > 0, counts, ops.ones_like(counts))

        first, second = (
            self._descriptors(blank(image, weights), pair_weights, scales, sizes, usable)
            for image in (true, pred)
        )
        return per_image(
            weighted_mean(ops.mean(ops.square(first - second), axis=0), usable), channels
        )

    def _descriptors(self, image, pair_weights, scales, sizes, usable):
        """Descriptors `[pairs, b, *spatial]` of images `[b, *spatial]`."""
        squares = ops.stack(self._pairs(image, lambda p, q: ops.square(p - q)))
        weighted = squares * self._unstack(pair_weights, scales[0])
        distances = self._unstack(box_sum(self._stack(weighted), sizes), image) * scales
        distances = distances - ops.min(distances, axis=0, keepdims=True)
        spread = ops.mean(distances, axis=0)
        typical = ops.reshape(weighted_mean(spread, usable), (-1,) + (1,) * (len(image.shape) - 1))
        spread = ops.clip(spread, LOWEST * typical, HIGHEST * typical)
        return ops.exp(-distances / ops.where(spread > 0, spread, ops.ones_like(spread)))

    def _pairs(self, image, combine) -> list:
        """`combine(I(x + p), I(x + q))` for every pair of neighbours, zero outside of the image."""
        reach, rank = self.dilation, len(image.shape) - 1
        padded = ops.pad(image, [(0, 0)] + [(reach, reach)] * rank)
        inside = [slice(None)] + [slice(reach, -reach)] * rank
        neighbours = {}
        for axis in range(1, rank + 1):
            for sign, span in ((-1, slice(None, -2 * reach)), (1, slice(2 * reach, None))):
                index = list(inside)
                index[axis] = span
                neighbours[axis, sign] = padded[tuple(index)]
        return [
            combine(neighbours[first, one], neighbours[second, other])
            for first, second in combinations(range(1, rank + 1), 2)
            for one, other in product((-1, 1), repeat=2)
        ]

    def _stack(self, pairs):
        """List or tensor `[pairs, b, *spatial]` as one batch for the window sums."""
        stacked = ops.stack(pairs) if isinstance(pairs, list) else pairs
        return ops.reshape(stacked, (-1, *ops.shape(stacked)[2:]))

    def _unstack(self, stacked, like):
        """Inverse of `_stack`, for a batch as large as that of `like`."""
        shape = ops.shape(like)
        return ops.reshape(stacked, (-1, *shape))

    def get_config(self) -> dict:
        return super().get_config() | {"radius": self.radius, "dilation": self.dilation}
