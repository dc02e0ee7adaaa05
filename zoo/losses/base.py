"""What the losses share: masks that really mask, checked shapes, reduction in float32."""

from __future__ import annotations

import keras
from keras import ops

from zoo.ops.arguments import checked
from zoo.ops.array_arguments import real_array, real_tensor
from zoo.ops.derivatives import spatial_rank
from zoo.ops.splatting import known


def weighted_mean(values, mask=None):
    """Mean over all axes but the first, `sum(mask values) / sum(mask)`; zero for an empty mask.

    Args:
        values: float tensor `[b, ...]`, finite everywhere.
        mask: None or non-negative weights of the same shape.

    Returns:
        Tensor `[b]`.
    """
    axes = tuple(range(1, len(values.shape)))
    if mask is None:
        return ops.mean(values, axis=axes)
    total = ops.sum(mask, axis=axes)
    return ops.sum(values * mask, axis=axes) / ops.where(total > 0, total, ops.ones_like(total))


def blank(image, mask=None):
    """Zero where the mask is not positive, so that what stands there (even NaN) has no effect."""
    return image if mask is None else ops.where(mask > 0, image, ops.zeros_like(image))


def channels_first(image, mask=None):
    """Moves every channel into the batch, so that windows act on contiguous arrays.

    Args:
        image: tensor `[b, *spatial, c]`.
        mask: None or tensor `[b, *spatial]`.

    Returns:
        `(images, masks)` of shape `[b * c, *spatial]`, or None instead of the masks.
    """
    rank = len(image.shape) - 2
    channels = image.shape[-1]
    shape = ops.shape(image)
    spatial = tuple(shape[1:-1])
    if channels > 1:
        image = ops.transpose(image, (0, rank + 1, *range(1, rank + 1)))
    image = ops.reshape(image, (-1, *spatial))
    if mask is not None:
        mask = ops.repeat(mask, channels, axis=0)
    return image, mask


def per_image(values, channels: int):
    """Mean over the channels of values `[b * c]` in the order of `channels_first`, `[b]`."""
    return ops.mean(ops.reshape(values, (-1, channels)), axis=1)


def real_float(name: str, value):
    """A float32 tensor of an argument.

    Raises:
        ValueError: for what is no array of real numbers, or an empty one.
    """
    if not hasattr(value, "shape"):
        value = real_array(name, value, finite=False)
    if 0 in tuple(real_tensor(name, value).shape):
        raise ValueError(f"{name} must not be empty; its shape is {tuple(value.shape)}.")
    return ops.cast(ops.convert_to_tensor(value), "float32")


def check_same(first, second, names: tuple[str, str] = ("y_true", "y_pred")) -> None:
    """Raises a ValueError where the known sizes of two tensors differ.

    Keras would broadcast them silently.
    """
    shapes = tuple(first.shape), tuple(second.shape)
    same_rank = len(shapes[0]) == len(shapes[1])
    if not same_rank or any(
        None not in sizes and sizes[0] != sizes[1] for sizes in zip(*shapes, strict=True)
    ):
        raise ValueError(
            f"{names[0]} and {names[1]} must have the same shape, not {shapes[0]} and {shapes[1]}."
        )


class MaskedLoss(keras.losses.Loss):
    """Base of the losses of this package: `sample_weight` may be a mask, and it really masks.

    Keras multiplies finished loss values by `sample_weight`; that is too late for a loss that looks
    at neighbourhoods or at statistics of the whole image. Here a `sample_weight` with the axes of
    the data reaches the formula itself. Masked-out places change neither value nor gradient,
    whatever stands there, NaN included. No gradient flows into the mask: a loss must not fall
    because the overlap shrinks.

    All arithmetic is float32, also under a mixed-precision policy.

    A subclass implements `compare(y_true, y_pred, mask) -> [b]`.

    Args:
        reduction: how the values of the batch are combined, as in Keras; the mean by default.
        name: name of the loss.
    """

    #: Axes of the data that carry no position: the mask may leave them out.
    feature_axes = 1

    @checked()
    def __init__(self, reduction: str | None = "sum_over_batch_size", name: str | None = None):
        super().__init__(name=name, reduction=reduction, dtype="float32")

    def __call__(self, y_true, y_pred, sample_weight=None):
        """Loss of a batch.

        Args:
            y_true: the reference.
            y_pred: the prediction, of the same shape `[b, *positions, features]`.
            sample_weight: None; or a mask `[b, *positions]` or `[b, *positions, 1]` of
                non-negative weights (bool allowed); or one factor for each item, `[b]`.

        Returns:
            A float32 scalar, or `[b]` with `reduction=None`.

        Raises:
            ValueError: for shapes that do not fit.
        """
        y_true, y_pred = real_float("y_true", y_true), real_float("y_pred", y_pred)
        self.check(y_true, y_pred)
        mask, factors = self._split(y_pred, sample_weight)
        pack = (y_true,) if mask is None else (y_true, mask)
        return super().__call__(pack, y_pred, factors)

    def call(self, y_true, y_pred):
        mask = y_true[1] if len(y_true) == 2 else None
        return self.compare(y_true[0], y_pred, mask)

    def compare(self, y_true, y_pred, mask):
        """Values `[b]` from float32 tensors and a float32 mask `[b, *positions]` or None."""
        raise NotImplementedError(f"{type(self).__name__} must implement compare.")

    def check(self, y_true, y_pred) -> None:
        """Raises a ValueError for shapes that the loss cannot use."""
        spatial_rank(y_pred, "y_pred")
        check_same(y_true, y_pred)

    def _split(self, y_pred, sample_weight):
        if sample_weight is None:
            return None, None
        weight = real_float("sample_weight", sample_weight)
        if known(weight) and not ops.convert_to_numpy(ops.all(weight >= 0)):
            raise ValueError("sample_weight must not be negative, nor NaN.")
        shape, positions = tuple(weight.shape), tuple(y_pred.shape)[: -self.feature_axes]
        column = len(shape) == 2 and shape[1] == 1 and positions[1:] != (1,)
        if len(shape) == 1 or column:
            if None not in (shape[0], positions[0]) and shape[0] not in (1, positions[0]):
                raise ValueError(
                    f"sample_weight must hold one factor for each of the {positions[0]} items of "
                    f"the batch, not {shape[0]}."
                )
            return None, ops.reshape(weight, (-1,))
        if len(shape) == len(positions) + 1 and shape[-1] == 1:
            weight, shape = ops.squeeze(weight, -1), shape[:-1]
        if len(shape) != len(positions) or any(
            None not in sizes and sizes[0] not in (1, sizes[1])
            for sizes in zip(shape, positions, strict=True)
        ):
            raise ValueError(
                f"sample_weight must be a mask of the shape {positions} (an axis of size 1 may "
                f"follow) or one factor for each item of the batch, not {tuple(weight.shape)}."
            )
        weight = ops.broadcast_to(weight, ops.shape(y_pred)[: -self.feature_axes])
        return ops.stop_gradient(weight), None

    def get_config(self) -> dict:
        return {"reduction": self.reduction, "name": self.name}
