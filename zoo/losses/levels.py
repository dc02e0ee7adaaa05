"""Losses of an unrolled registration: over the levels of a pyramid and the units of each.

A trace is a list of levels, coarse to fine, each a dict of its `fixed` image
`[batch, *spatial, channels]` and, for every unit, the image `moved` and the `displacements` after
it, `[batch, *spatial, rank]` in voxels of the level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import keras
from keras import ops

from zoo.layers.pyramid import downsample_displacement, image_pyramid
from zoo.losses.labels import Dice, one_hot
from zoo.losses.smoothness import EndpointError
from zoo.losses.tables import both_masks
from zoo.ops.arguments import checked, not_negative
from zoo.ops.sampling import warp


class LevelLosses:
    """Means of losses over the levels and units of a trace.

    Args:
        trace: see above.
        fixed_mask: None or `[batch, *spatial, 1]` at full resolution.
        moving_mask: likewise; it counts where the displacement of a unit pulls from.
        weights: of the levels, coarse to fine; None weights all alike.
        temperature: of the units, see `unit_weights`; None sees the last unit alone.
    """

    def __init__(
        self,
        trace: Sequence[dict],
        fixed_mask=None,
        moving_mask=None,
        weights: Sequence[float] | None = None,
        temperature=None,
    ):
        self.trace, self.temperature = trace, temperature
        self.weights = weights or (1.0,) * len(trace)
        self._masks = [
            [None] * len(trace) if mask is None else image_pyramid(mask, len(trace))
            for mask in (fixed_mask, moving_mask)
        ]

    def displacement(self, known):
        """Root mean square of the components of the error, in voxels of the full resolution.

        Args:
            known: the true displacement at full resolution, `[batch, *spatial, rank]`.
        """
        levels = [known]
        for _ in self.trace[1:]:
            levels.append(downsample_displacement(levels[-1]))
        error, root = EndpointError(), math.sqrt(known.shape[-1])
        masks = [both_masks(mask) for mask in self._masks[0]]
        return self.mean(
            lambda level, k, t: 2**k / root * error(levels[k], level["displacements"][t], masks[k])
        )

    def similarity(self, loss: Callable, channels: int | None = None):
        """The loss between the images, inside of the masks.

        Args:
            loss: of `(fixed, moved, mask)`.
            channels: how many of the images are compared; None compares all.
        """
        return self.mean(
            lambda level, k, t: loss(
                level["fixed"][..., :channels],
                level["moved"][t][..., :channels],
                both_masks(*(masks[k] for masks in self._masks), level["displacements"][t]),
            )
        )

    def smoothness(self, penalty: Callable):
        """The penalty of the displacements, in voxels of their level."""
        return self.mean(lambda level, k, t: penalty(level["displacements"][t]))

    def mean(self, measure: Callable):
        """Weighted mean of `measure(level, halvings, unit)` over levels and units."""
        total = 0.0
        pairs = zip(self.trace[::-1], self.weights[::-1], strict=True)
        for k, (level, weight) in enumerate(pairs):
            count = len(level["displacements"])
            if self.temperature is None:
                value = measure(level, k, -1)
            else:
                shares = unit_weights(count, self.temperature)
                values = ops.stack([measure(level, k, t) for t in range(count)])
                value = ops.sum(shares * values) / ops.sum(shares)
            total = total + weight * value
        return total / sum(self.weights)


def label_loss(x: dict, displacement, labels: Sequence[int] | None):
    """One minus Dice of labels that a displacement moves, at full resolution.

    Args:
        x: a batch with `fixed_labels` and `moving_labels`, `[batch, *spatial, 1]`.
        displacement: `[batch, *spatial, rank]` in voxels.
        labels: the values that count.

    Raises:
        ValueError: without any.
    """
    if labels is None:
        raise ValueError("labels must name the label values that count to learn from them.")
    fixed, moving = (
        one_hot(ops.cast(x[f"{side}_labels"], "int32"), labels) for side in ("fixed", "moving")
    )
    return Dice(background=True)(fixed, warp(moving, displacement))


def unit_weights(units: int, temperature):
    """`exp(-(units - 1 - t) T)` of each unit t, `[units]`: 0 weights all alike, 2 the last."""
    return ops.exp(-ops.arange(units - 1, -1, -1, dtype="float32") * temperature)


class Temperature(keras.callbacks.Callback):
    """Raises the temperature of `unit_loss="exponential"` with the steps of the optimiser.

    All units count alike at first and the last most in the end (Vishnevskiy et al.,
    arXiv:1906.05528).

    Args:
        start: temperature of the first step.
        increment: added after every step.
        maximum: where it stays.
    """

    @checked(start=not_negative, increment=not_negative, maximum=not_negative)
    def __init__(self, start: float = 0.0, increment: float = 1e-4, maximum: float = 2.0):
        super().__init__()
        self.start, self.increment, self.maximum = start, increment, maximum

    def on_train_begin(self, logs=None):
        if getattr(self.model, "temperature", None) is None:
            raise ValueError("Temperature needs a model with unit_loss='exponential'.")

    def on_train_batch_begin(self, batch, logs=None):
        # Counted by the optimiser, so that resumed training goes on where it stopped.
        steps = float(ops.convert_to_numpy(self.model.optimizer.iterations))
        self.model.temperature.assign(min(self.start + self.increment * steps, self.maximum))
