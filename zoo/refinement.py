"""Refinement: gradient descent on the displacement of one pair of images."""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import ops

from zoo.layers.bspline import bspline_expand, control_shape
from zoo.ops.sampling import warp


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
        super().__init__(**kwargs)
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
        """The similarity inside the fixed mask, if there is one, and the weighted penalty."""
        mask = x["fixed_mask"][..., 0] if "fixed_mask" in x else None
        return self.similarity(x["fixed"], y_pred["moved"], mask) + self.weight * self.penalty(
            y_pred["displacement"]
        )
