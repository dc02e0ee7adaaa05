"""Penalties on displacement fields, and the distance of a field from a known one.

A penalty needs no reference. It is called with the field alone, `Diffusion()(field)`, or as Keras
calls it, `Diffusion()(anything, field)`, where the first argument is ignored and may be None.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import keras
from keras import ops

from zoo.losses.base import MaskedLoss, blank, check_same, real_float, weighted_mean
from zoo.ops.arguments import checked, not_negative
from zoo.ops.derivatives import spatial_rank
from zoo.ops.gradients import norm


def _check_field(argument: str, field) -> None:
    rank = spatial_rank(field, argument, "rank")
    if field.shape[-1] != rank:
        raise ValueError(
            f"{argument} must have one component for each of its {rank} spatial axes, not the "
            f"shape {tuple(field.shape)}."
        )


def _check_spacing(spacing: Sequence[float] | None) -> tuple[float, ...] | None:
    if spacing is None:
        return None
    if len(spacing) not in (2, 3) or any(size <= 0 for size in spacing):
        raise ValueError(f"spacing must hold 2 or 3 positive sizes, not {spacing}.")
    return spacing


def _world(field, spacing: tuple[float, ...] | None):
    """The field in the unit of the spacing, and the spacing along each axis."""
    rank = field.shape[-1]
    if spacing is None:
        return field, (1.0,) * rank
    if len(spacing) != rank:
        raise ValueError(f"spacing must hold {rank} sizes for a {rank}D field, not {spacing}.")
    return field * ops.convert_to_tensor(spacing, dtype="float32"), spacing


def _part(tensor, spans: dict[int, slice]):
    return tensor[tuple(spans.get(axis, slice(None)) for axis in range(len(tensor.shape)))]


LOW, HIGH, INNER = slice(None, -1), slice(1, None), slice(1, -1)


class FieldPenalty(MaskedLoss):
    """Base of the penalties: a field `[b, *spatial, rank]` in voxels, and no reference.

    A mask in `sample_weight` (`[b, *spatial]`) keeps the differences whose voxels all lie inside;
    their weight is the product of the weights of those voxels.

    Args:
        spacing: voxel size along each axis, in any unit; with it, displacements and derivatives
            are those of that unit. By default both are those of voxels.
        reduction, name: as in Keras.
    """

    @checked()
    def __init__(
        self,
        spacing: Sequence[float] | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
    ):
        super().__init__(reduction, name)
        self.spacing = _check_spacing(spacing)

    def __call__(self, y_true, y_pred=None, sample_weight=None):
        """Penalty of a field, given alone or, as Keras does, after an ignored reference."""
        field = y_true if y_pred is None else y_pred
        field = real_float("y_true" if y_pred is None else "y_pred", field)
        return super().__call__(field, field, sample_weight)

    def check(self, y_true, y_pred) -> None:
        _check_field("y_pred", y_pred)

    def compare(self, y_true, y_pred, mask):
        field = blank(y_pred, None if mask is None else mask[..., None])
        return self.penalise(*_world(field, self.spacing), mask)

    def penalise(self, field, spacing: tuple[float, ...], mask):
        """Values `[b]` of a field in the unit of the spacing."""
        raise NotImplementedError(f"{type(self).__name__} must implement penalise.")

    def get_config(self) -> dict:
        return super().get_config() | {"spacing": self.spacing}


@keras.saving.register_keras_serializable(package="zoo.losses")
class Diffusion(FieldPenalty):
    """Sum over axes and components of the mean squared first derivative.

    `sum_i mean_x |(u(x + e_i) - u(x)) / h_i|^2`, unitless, the mean taken over the differences that
    exist; zero for translations. Axes of one voxel contribute nothing.

    Args:
        spacing: voxel size h along each axis, see `FieldPenalty`.
        reduction, name: as in Keras.

    Raises:
        ValueError: for a spacing that is not positive, and when called with a field that is not
            `[b, *spatial, rank]`, rank 2 or 3, or does not fit the spacing.

    Example:
        >>> x = np.arange(8.0)[:, None, None] * np.ones((1, 8, 1))
        >>> stretch = np.concatenate([0.5 * x, 0 * x], axis=-1)[None]
        >>> float(zoo.losses.Diffusion()(None, stretch))
        0.25
    """

    @checked()
    def __init__(
        self,
        spacing: Sequence[float] | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "diffusion",
    ):
        super().__init__(spacing, reduction, name)

    def penalise(self, field, spacing, mask):
        total = ops.zeros(ops.shape(field)[:1], dtype="float32")
        for axis, size in enumerate(spacing, start=1):
            if field.shape[axis] == 1:
                continue
            slope = (_part(field, {axis: HIGH}) - _part(field, {axis: LOW})) / size
            weights = None if mask is None else _part(mask, {axis: HIGH}) * _part(mask, {axis: LOW})
            total = total + weighted_mean(ops.sum(ops.square(slope), axis=-1), weights)
        return total


@keras.saving.register_keras_serializable(package="zoo.losses")
class Bending(FieldPenalty):
    """Bending energy: sum over components of the mean squared second derivatives.

    `sum_i mean |u_ii|^2 + 2 sum_{i<j} mean |u_ij|^2`, in voxels^-2 squared displacement, that is
    1 / unit^2 (Rueckert et al., IEEE TMI 18, 1999). `u_ii` is the second central difference, `u_ij`
    the mixed difference over a cell of 2 x 2 voxels; both vanish for affine fields. Axes too short
    for a difference contribute nothing.

    Args:
        spacing: voxel size along each axis, see `FieldPenalty`.
        reduction, name: as in Keras.

    Raises:
        ValueError: as `Diffusion`.

    Example:
        >>> x = np.arange(8.0)[:, None, None] * np.ones((1, 8, 1))
        >>> fields = [np.concatenate([along, 0 * x], axis=-1)[None] for along in (x, x**2)]
        >>> [float(zoo.losses.Bending()(None, field)) for field in fields]
        [0.0, 4.0]
    """

    @checked()
    def __init__(
        self,
        spacing: Sequence[float] | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "bending",
    ):
        super().__init__(spacing, reduction, name)

    def penalise(self, field, spacing, mask):
        total = ops.zeros(ops.shape(field)[:1], dtype="float32")

        def mean_square(curvature, parts):
            weights = None
            if mask is not None:
                weights = 1.0
                for part in parts:
                    weights = weights * _part(mask, part)
            return weighted_mean(ops.sum(ops.square(curvature), axis=-1), weights)

        for axis, size in enumerate(spacing, start=1):
            if field.shape[axis] is not None and field.shape[axis] < 3:
                continue
            parts = [{axis: slice(2, None)}, {axis: INNER}, {axis: slice(None, -2)}]
            after, centre, before = (_part(field, part) for part in parts)
            total = total + mean_square((after - 2.0 * centre + before) / size**2, parts)
        for first, second in combinations(range(1, len(spacing) + 1), 2):
            if 1 in (field.shape[first], field.shape[second]):
                continue
            parts = [{first: one, second: two} for one in (LOW, HIGH) for two in (LOW, HIGH)]
            low_low, low_high, high_low, high_high = (_part(field, part) for part in parts)
            mixed = (high_high - high_low) - (low_high - low_low)
            mixed = mixed / (spacing[first - 1] * spacing[second - 1])
            total = total + 2.0 * mean_square(mixed, parts)
        return total


@keras.saving.register_keras_serializable(package="zoo.losses")
class TotalVariation(FieldPenalty):
    """Mean length of the first derivative, which lets a field jump along an edge (sliding organs).

    Isotropic: `mean_x sqrt(sum_{i,c} (d_i u_c)^2 + e^2) - e`, all axes and components coupled
    (Vishnevskiy et al., IEEE TMI 36, 2017); otherwise `mean_x sum_{i,c}` of the same root of each
    derivative alone. Forward differences, zero after the last voxel and at the border of the mask.
    Unitless; zero for translations.

    Args:
        isotropic: couple axes and components.
        epsilon: e, rounds the root off at zero; 0 gives the exact length with gradient 0 at 0.
        spacing: voxel size along each axis, see `FieldPenalty`.
        reduction, name: as in Keras.

    Raises:
        ValueError: for a negative epsilon, and as `Diffusion`.
    """

    @checked()
    def __init__(
        self,
        isotropic: bool = True,
        epsilon: float = 1e-3,
        spacing: Sequence[float] | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "total_variation",
    ):
        super().__init__(spacing, reduction, name)
        not_negative("epsilon", epsilon)
        self.isotropic, self.epsilon = bool(isotropic), float(epsilon)

    def penalise(self, field, spacing, mask):
        slopes = []
        for axis, size in enumerate(spacing, start=1):
            slope = (_part(field, {axis: HIGH}) - _part(field, {axis: LOW})) / size
            if mask is not None:
                inside = (_part(mask, {axis: HIGH}) > 0) & (_part(mask, {axis: LOW}) > 0)
                slope = ops.where(inside[..., None], slope, ops.zeros_like(slope))
            after = [(0, 0)] * len(field.shape)
            after[axis] = (0, 1)
            slopes.append(ops.pad(slope, after))
        slopes = ops.stack(slopes, axis=-1)
        if self.isotropic:
            lengths = self._length(ops.sum(ops.square(slopes), axis=(-2, -1)))
        else:
            lengths = ops.sum(self._length(ops.square(slopes)), axis=(-2, -1))
        return weighted_mean(lengths, mask)

    def _length(self, squares):
        if self.epsilon:
            return ops.sqrt(squares + self.epsilon**2) - self.epsilon
        # Both branches of `where` are differentiated, so the root must stay finite in the other.
        root = ops.sqrt(ops.where(squares > 0, squares, ops.ones_like(squares)))
        return ops.where(squares > 0, root, ops.zeros_like(squares))

    def get_config(self) -> dict:
        return super().get_config() | {"isotropic": self.isotropic, "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="zoo.losses")
class EndpointError(MaskedLoss):
    """Mean length of the difference of two fields, in voxels or, with `spacing`, in its unit.

    `sum_x m(x) |y_pred(x) - y_true(x)| / sum_x m(x)`; the gradient at a difference of zero is zero.
    Fields are `[b, *spatial, rank]` in voxels; masks go into `sample_weight`, see `MaskedLoss`.

    Args:
        spacing: voxel size along each axis.
        reduction, name: as in Keras.

    Raises:
        ValueError: for a spacing that is not positive, and when called with shapes that differ or
            are no fields.
    """

    @checked()
    def __init__(
        self,
        spacing: Sequence[float] | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "endpoint_error",
    ):
        super().__init__(reduction, name)
        self.spacing = _check_spacing(spacing)

    def check(self, y_true, y_pred) -> None:
        _check_field("y_pred", y_pred)
        check_same(y_true, y_pred)

    def compare(self, y_true, y_pred, mask):
        weights = None if mask is None else mask[..., None]
        difference = blank(y_pred, weights) - blank(y_true, weights)
        return weighted_mean(norm(_world(difference, self.spacing)[0]), mask)

    def get_config(self) -> dict:
        return super().get_config() | {"spacing": self.spacing}
