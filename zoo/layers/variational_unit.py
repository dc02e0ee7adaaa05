"""The step of a variational registration network, and filters that make it plain descent."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from zoo.layers.activations import PiecewiseLinear, RadialBasis
from zoo.layers.bspline import bspline_adjoint
from zoo.layers.fields_of_experts import FieldsOfExperts
from zoo.ops.compiling import in_float32
from zoo.ops.derivatives import spatial_gradient

ACTIVATIONS = {"linear": PiecewiseLinear, "rbf": RadialBasis}


class VariationalUnit(keras.layers.Layer):
    """One step `u <- u - |tau| P (data + smoothness) + |beta| (u - previous)`.

    Called with `(control, previous, moved, fixed)`: the displacement on the control points now and
    one step before, `[batch, *control, rank]` in voxels of this level, the image that it moves and
    the fixed image, `[batch, *spatial, channels]`. Returns the next control points. With a fifth
    argument, the `spatial_gradient` of the fixed image, the force acts along the mean of both
    gradients, which reaches further while the images are apart; a sixth, `[batch, *spatial, 1]`,
    says how much each voxel counts.

    Args:
        data: gradient of the energy of a residual.
        smoothness: gradient of the energy of a displacement.
        spacing: voxels between control points.
        step: first `tau`; None draws it from 0 to 0.1, as the authors do.
        momentum: first `beta`; None is a step without.
        damping: what is added to the diagonal, relative to its mean; None is a step without `P`.
    """

    def __init__(
        self,
        data: FieldsOfExperts,
        smoothness: FieldsOfExperts,
        spacing: int,
        step: float | None,
        momentum: float | None,
        damping: float | None,
        **kwargs,
    ):
        super().__init__(**in_float32(kwargs))
        self.data, self.smoothness, self.spacing = data, smoothness, spacing
        self.step = self._scalar("step", step)
        self.momentum = None if momentum is None else self._scalar("momentum", momentum)
        self.damping = None if damping is None else self._scalar("damping", damping)

    def _scalar(self, name: str, value: float | None):
        initial = keras.initializers.RandomUniform(0.0, 0.1)
        if value is not None:
            initial = keras.initializers.Constant(value)
        return self.add_weight(name=name, shape=(), initializer=initial)

    def build(self, control_shape, previous_shape, moved_shape, fixed_shape):
        for experts, shape in ((self.data, moved_shape), (self.smoothness, control_shape)):
            if not experts.built:
                experts.build(shape)
        self.built = True

    def call(self, control, previous, moved, fixed, fixed_gradient=None, weight=None):
        gradient, residual = spatial_gradient(moved), moved - fixed
        if fixed_gradient is not None:
            gradient = (gradient + fixed_gradient) / 2.0
        if weight is not None:
            gradient, residual = weight[..., None] * gradient, weight * residual
        force = ops.sum(self.data(residual)[..., None] * gradient, axis=-2)
        force = bspline_adjoint(force, self.spacing, order=1)
        smooth = self.smoothness(control)
        if self.damping is None:
            update = force + smooth
        else:
            rank = control.shape[-1]
            squares = ops.sum(ops.square(gradient), axis=(-2, -1))[..., None] / rank
            diagonal = bspline_adjoint(squares, self.spacing, order=1)
            typical = ops.mean(diagonal, axis=tuple(range(1, rank + 2)), keepdims=True)
            damped = diagonal + ops.abs(self.damping) * typical
            # Where the image is constant there is no force, and no reason to divide by zero.
            update = (force + typical * smooth) / ops.maximum(damped, 1e-8)
        # A step beyond half the spacing could fold the map, and an unrolled descent diverge.
        longest = self.spacing / 2.0
        new = control - ops.clip(ops.abs(self.step) * update, -longest, longest)
        if self.momentum is not None:
            new = new + ops.abs(self.momentum) * (control - previous)
        return new


def descent_filters(differences: bool):
    """An initialiser of filters with which fields of experts give a classical descent.

    Args:
        differences: the first filters, one for each axis, are forward differences; otherwise, one
            for each channel, impulses. The others are drawn as in DIRV-Net.
    """

    def initializer(shape, dtype=None):
        *taps, channels, filters = shape
        rank = len(taps)
        spread = (rank / filters / math.prod(taps)) ** (1 / rank)
        first = rank if differences else channels
        kernel = np.zeros(shape, "float32")
        middle = tuple((size - 1) // 2 for size in taps)
        for number in range(first):
            if not differences:
                kernel[(*middle, number, number)] = 1.0
                continue
            after = list(middle)
            after[number] += 1
            kernel[(*middle, slice(None), number)] = -1.0
            kernel[(*after, slice(None), number)] = 1.0
        others = np.arange(filters) >= first
        return kernel + others * keras.initializers.RandomNormal(0.0, spread)(shape, dtype)

    return initializer


def unrolled_units(
    *,
    dims: int,
    channels: int,
    features: int,
    levels: int,
    units: int,
    share_units: int,
    share_levels: bool,
    spacing: int,
    step: float | None,
    momentum: float | None,
    damping: float | None,
    smoothness: float,
    data_kernel: int,
    smoothness_kernel: int,
    data_limits: Sequence[float],
    smoothness_limits: Sequence[float],
    **experts,
) -> list[list[VariationalUnit]]:
    """The units of each level, coarse to fine; those that share are the same object.

    Args:
        dims, ..., smoothness_limits: see `zoo.models.dirvnet.DIRVNet`.
        **experts: further arguments of it, for the fields of experts.
    """
    made: list[list[VariationalUnit]] = []
    if damping is not None:
        # Differences of `dims` components to two neighbours each: else steps overshoot.
        damping += 4 * dims * smoothness
    experts |= {"dims": dims, "smoothness": smoothness, "copied": channels + features}
    for level in range(levels):
        if level and share_levels:
            made.append(made[0])
            continue
        made.append([])
        for number in range(units):
            if number % share_units:
                made[-1].append(made[-1][-1])
                continue
            # The first step of a level has no step before it.
            alone = number == 0 and (share_units == 1 or units == 1)
            made[-1].append(
                VariationalUnit(
                    _experts(True, data_kernel, data_limits, **experts),
                    _experts(False, smoothness_kernel, smoothness_limits, **experts),
                    spacing,
                    step,
                    None if alone else momentum,
                    damping,
                    name=f"level{level}_unit{number}",
                )
            )
    return made


def _experts(
    data: bool,
    size: int,
    limits: Sequence[float],
    *,
    dims: int,
    copied: int,
    filters: int,
    smoothness: float,
    start: str,
    activation: str,
    knots: int,
    extrapolation: str,
    padding: str,
    zero_mean: bool,
    unit_norm: bool,
    **_,
) -> FieldsOfExperts:
    # The first filters copy the residual, or take differences of the displacement.
    slopes = np.zeros(filters)
    slopes[: copied if data else dims] = 1.0 if data else smoothness
    descent = start == "descent"
    functions = ACTIVATIONS[activation](
        knots,
        limits,
        "linear" if descent else keras.initializers.TruncatedNormal(stddev=0.01),
        slope=tuple(np.tile(slopes, 1 if data else dims).tolist()),
        extrapolation=extrapolation,
    )
    return FieldsOfExperts(
        filters,
        size,
        functions,
        descent_filters(not data) if descent else "normal",
        padding,
        zero_mean=zero_mean and not data,
        unit_norm=unit_norm,
        separate=not data,
        name="data" if data else "smoothness",
    )
