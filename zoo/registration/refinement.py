"""Refinement: gradient descent on the displacement of one pair of images."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from zoo.data.pairs import RepeatedBatch
from zoo.layers.bspline import bspline_expand, control_shape
from zoo.layers.pyramid import downsample_displacement, image_pyramid, upsample_displacement
from zoo.losses.tables import both_masks
from zoo.ops.compiling import in_float32
from zoo.ops.sampling import warp
from zoo.ops.training import Released
from zoo.registration.fitting import Training, half_cosine


def refine(
    training: Training,
    batch: dict,
    displacement,
    spacing: int,
    similarity: Callable,
    penalty: Callable,
    weight: float,
    epochs: int,
    learning_rate: float = 0.1,
    jit_compile: bool = False,
) -> np.ndarray:
    """Improves a displacement for one pair: first on images of half the size, then in full.

    Args:
        training: which gets a stage for either level; it must have been entered.
        batch: `fixed` and `moving`, `[1, *spatial, channels]`, and perhaps their masks.
        displacement: where to start, `[1, *spatial, rank]` in voxels.
        spacing, similarity, penalty, weight: see `Refinement`.
        epochs: steps, half of them on either level.
        learning_rate: of Adam, in voxels; it falls along a cosine to a tenth.
        jit_compile: of Keras.

    Returns:
        The displacement, float32.
    """
    for halvings, steps in ((1, epochs // 2), (0, epochs - epochs // 2)):
        if not steps:
            continue
        level = {key: image_pyramid(value, 2)[halvings] for key, value in batch.items()}
        start = downsample_displacement(displacement) if halvings else displacement
        model = Refinement(start, spacing, similarity, penalty, weight)
        model.compile(keras.optimizers.Adam(learning_rate), jit_compile=jit_compile)
        training.stage(model, RepeatedBatch(level), steps, decay=half_cosine(0.1), kept=False)
        # Only the correction comes from the coarse level, so the start keeps its detail.
        correction = model(level)["displacement"] - start
        if halvings:
            correction = upsample_displacement(correction, displacement.shape[1:-1])
        displacement = ops.convert_to_numpy(displacement + correction)
    return displacement


class Refinement(Released):
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
        super().__init__(autocast=False, **in_float32(kwargs))
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
        found = y_pred["displacement"]
        mask = both_masks(x.get("fixed_mask"), x.get("moving_mask"), found)
        return self.similarity(x["fixed"], y_pred["moved"], mask) + self.weight * self.penalty(
            found
        )
