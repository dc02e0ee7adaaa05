"""Refinement: gradient descent on the displacement of one pair of images."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from zoo.data.pairs import RepeatedBatch
from zoo.layers.bspline import bspline_expand, control_shape
from zoo.layers.pyramid import downsample_displacement, image_pyramid, upsample_displacement
from zoo.ops.sampling import warp


def refine(
    batch: dict,
    displacement,
    spacing: int,
    similarity: Callable,
    penalty: Callable,
    weight: float,
    epochs: int,
    learning_rate: float = 0.1,
    callbacks=None,
    verbose="auto",
    jit_compile: bool = False,
) -> tuple[np.ndarray, keras.callbacks.History]:
    """Improves a displacement for one pair: first on images of half the size, then in full.

    Args:
        batch: `fixed` and `moving`, `[1, *spatial, channels]`, and perhaps their masks.
        displacement: where to start, `[1, *spatial, rank]` in voxels.
        spacing, similarity, penalty, weight: see `Refinement`.
        epochs: steps, half of them on either level.
        learning_rate: of Adam, in voxels; it falls along a cosine to a tenth.
        callbacks, verbose, jit_compile: of Keras; the callbacks see two trainings.

    Returns:
        The displacement, float32, and the history of both levels.
    """
    history = None
    for halvings, steps in ((1, epochs // 2), (0, epochs - epochs // 2)):
        level = {key: image_pyramid(value, 2)[halvings] for key, value in batch.items()}
        start = downsample_displacement(displacement) if halvings else displacement
        model = Refinement(start, spacing, similarity, penalty, weight)
        decay = keras.optimizers.schedules.CosineDecay(learning_rate, max(steps, 1), 0.1)
        model.compile(keras.optimizers.Adam(decay), jit_compile=jit_compile)
        done = model.fit(RepeatedBatch(level), epochs=steps, callbacks=callbacks, verbose=verbose)
        # Only the correction comes from the coarse level, so the start keeps its detail.
        correction = model(level)["displacement"] - start
        if halvings:
            correction = upsample_displacement(correction, displacement.shape[1:-1])
            history = done
        displacement = ops.convert_to_numpy(displacement + correction)
    history.history["loss"] = history.history.get("loss", []) + done.history["loss"]
    history.epoch = list(range(len(history.history["loss"])))
    return displacement, history


class Refinement(keras.Model):
    """A displacement `start + A c` whose weights are the control points `c` of a linear B-spline.

    Called with a batch of one pair, a dict of `fixed` and `moving` `[1, *spatial, channels]`, it
    returns `moved` and `displacement`.

    Args:
        start: displacement `[1, *spatial, rank]` in voxels.
        spacing: voxels between control points.
        similarity: loss of `(fixed, moved, mask)`.
        penalty: loss of a displacement.
        weight: of the penalty.
    """

    def __init__(
        self, start, spacing: int, similarity: Callable, penalty: Callable, weight: float, **kwargs
    ):
        super().__init__(autocast=False, **{**kwargs, "dtype": "float32"})
        self.start, self.spacing = ops.convert_to_tensor(start, "float32"), spacing
        self.similarity, self.penalty, self.weight = similarity, penalty, weight
        points = control_shape(start.shape[1:-1], spacing, order=1)
        self.control = self.add_weight(
            shape=(1, *points, start.shape[-1]), initializer="zeros", name="control"
        )
        self.built = True

    def call(self, inputs):
        shape = self.start.shape[1:-1]
        field = bspline_expand(self.control[:], shape, self.spacing, order=1)
        displacement = self.start + field
        return {"moved": warp(inputs["moving"], displacement), "displacement": displacement}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The similarity inside the masks, if there are any, and the weighted penalty."""
        mask = x["fixed_mask"][..., 0] if "fixed_mask" in x else None
        if "moving_mask" in x:
            inside = ops.stop_gradient(warp(x["moving_mask"], y_pred["displacement"]))[..., 0]
            mask = inside if mask is None else mask * inside
        return self.similarity(x["fixed"], y_pred["moved"], mask) + self.weight * self.penalty(
            y_pred["displacement"]
        )
