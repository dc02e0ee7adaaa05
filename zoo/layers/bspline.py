"""Dense fields from B-spline control points, and the exact adjoint."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from zoo.ops.arguments import checked, one_of
from zoo.ops.array_arguments import tensors
from zoo.ops.compiling import in_float32
from zoo.ops.derivatives import spatial_rank

ORDERS = (1, 3)


def control_shape(shape: Sequence[int], spacing: int | Sequence[int], order: int = 3) -> tuple:
    """Number of control points that cover a grid.

    Control point `k` lies on voxel `k * spacing` (order 1) or `(k - 1) * spacing` (order 3, which
    needs one point more at either end). The last one lies on or beyond the last voxel, so that
    affine fields are represented exactly. At the next coarser level of a pyramid, whose voxel `k`
    is voxel `2 k`, a control point again coincides with every second one.

    Args:
        shape: sizes of the dense grid.
        spacing: voxels between control points, one integer or one per axis.
        order: 1 (linear) or 3 (cubic).

    Returns:
        Tuple of sizes.

    Raises:
        ValueError: for another order or a spacing that is not positive integers.
    """
    spacing = _spacing(spacing, len(shape), order)
    return tuple(
        (size - 2 + step) // step + order for size, step in zip(shape, spacing, strict=True)
    )


def bspline_expand(control, shape: Sequence[int], spacing: int | Sequence[int], order: int = 3):
    """Dense field of a grid of control points.

    One small matrix per axis, so the adjoint (and the gradient) is exact. Values keep their unit.

    Args:
        control: float tensor `[batch, *control_shape(shape, spacing, order), channels]`.
        shape: sizes of the dense grid.
        spacing: voxels between control points, one integer or one per axis.
        order: 1 (linear: the control points are values) or 3 (cubic, twice differentiable).

    Returns:
        float32 tensor `[batch, *shape, channels]`.

    Raises:
        ValueError: for another order, a bad spacing, or a number of control points that does not
            belong to `shape`.
    """
    rank = spatial_rank(control, "control")
    expected, given = control_shape(shape, spacing, order), tuple(control.shape[1:-1])
    if len(expected) != rank or any(
        isinstance(one, int) and other is not None and one != other
        for one, other in zip(expected, given, strict=True)
    ):
        raise ValueError(
            f"control must have {expected} control points for a grid of {tuple(shape)} with "
            f"spacing {spacing} and order {order}, not {given}."
        )
    matrices = _matrices(shape, ops.shape(control)[1:-1], spacing, order)
    return _apply(control, matrices, transpose=False)


def bspline_adjoint(field, spacing: int | Sequence[int], order: int = 3):
    """Adjoint of `bspline_expand`: `<expand(c), f> = <c, adjoint(f)>` for all c and f.

    Args:
        field: float tensor `[batch, *shape, channels]`.
        spacing: voxels between control points, one integer or one per axis.
        order: 1 or 3.

    Returns:
        float32 tensor `[batch, *control_shape(shape, spacing, order), channels]`.

    Raises:
        ValueError: for another order, rank or a bad spacing.
    """
    spatial_rank(field, "field")
    shape = ops.shape(field)[1:-1]
    points = control_shape(shape, spacing, order)
    return _apply(field, _matrices(shape, points, spacing, order), transpose=True)


class _BSpline(keras.layers.Layer):
    @checked(spacing=(1, 4096))
    def __init__(self, spacing: int | Sequence[int] = 4, order: int = 3, **kwargs):
        super().__init__(**in_float32(kwargs))
        whole = isinstance(spacing, int)
        self.spacing = spacing if whole else tuple(spacing)
        self.order = order
        if not whole and len(spacing) not in (2, 3):
            raise ValueError(f"spacing must be one size, or two or three, not {spacing}.")
        _spacing(self.spacing, 1 if whole else len(self.spacing), order)

    def get_config(self):
        return super().get_config() | {"spacing": self.spacing, "order": self.order}


@keras.saving.register_keras_serializable(package="zoo")
class BSplineExpand(_BSpline):
    """Dense field of a grid of control points, see `bspline_expand`.

    Called with `(control, reference)`, where `reference` is any tensor
    `[batch, *spatial, channels]` on the dense grid, such as the image.

    Args:
        spacing: voxels between control points, one integer or one per axis.
        order: 1 (linear) or 3 (cubic).

    Raises:
        ValueError: for another order or a spacing that is not positive integers.

    Example:
        >>> image, control = np.zeros((1, 9, 9, 1)), np.ones((1, 5, 5, 2))
        >>> field = zoo.layers.BSplineExpand(4)((control, image))
        >>> tuple(field.shape), bool(np.allclose(field, 1))  # splines sum to one
        ((1, 9, 9, 2), True)
    """

    def call(self, inputs):
        control, reference = tensors(("control", "reference"), inputs)
        spatial_rank(reference, "reference")
        return bspline_expand(control, ops.shape(reference)[1:-1], self.spacing, self.order)

    def compute_output_shape(self, input_shape):
        control, reference = input_shape
        return (control[0], *reference[1:-1], control[-1])


@keras.saving.register_keras_serializable(package="zoo")
class BSplineAdjoint(_BSpline):
    """Dense field `[batch, *spatial, channels]` to control points, see `bspline_adjoint`.

    Args:
        spacing: voxels between control points, one integer or one per axis.
        order: 1 (linear) or 3 (cubic).

    Raises:
        ValueError: for another order or a spacing that is not positive integers.

    Example:
        >>> random = np.random.default_rng(0)
        >>> control, field = random.normal(size=(1, 5, 5, 2)), random.normal(size=(1, 9, 9, 2))
        >>> expanded = zoo.layers.BSplineExpand(4)((control, field))
        >>> adjoint = zoo.layers.BSplineAdjoint(4)(field)
        >>> bool(np.isclose(np.sum(expanded * field), np.sum(control * adjoint)))
        True
    """

    def call(self, field):
        return bspline_adjoint(field, self.spacing, self.order)

    def compute_output_shape(self, input_shape):
        batch, *shape, channels = input_shape
        steps = _spacing(self.spacing, len(shape), self.order)
        points = (
            None if size is None else control_shape((size,), (step,), self.order)[0]
            for size, step in zip(shape, steps, strict=True)
        )
        return (batch, *points, channels)


def _spacing(spacing, rank: int, order: int) -> tuple[int, ...]:
    one_of("order", order, ORDERS)
    steps = (spacing,) * rank if isinstance(spacing, int) else tuple(spacing)
    if len(steps) != rank or any(not isinstance(step, int) or step < 1 for step in steps):
        raise ValueError(f"spacing must be a positive integer or {rank} of them, not {spacing}.")
    return steps


def _matrices(shape, points, spacing, order: int) -> list:
    """For each axis the values `[size, points]` of all basis functions at all voxels."""
    sizes = list(zip(shape, points, _spacing(spacing, len(shape), order), strict=True))
    if all(isinstance(number, int) for size in sizes for number in size):
        return [_known_matrix(*size, order) for size in sizes]
    return [_matrix(*size, order, ops) for size in sizes]


@functools.lru_cache(maxsize=128)
def _known_matrix(size: int, count: int, step: int, order: int) -> np.ndarray:
    # By NumPy, because units ask for the same ones again and again, op by op.
    return _matrix(size, count, step, order, np)


def _matrix(size, count, step: int, order: int, of):
    voxel = of.arange(size, dtype="float32") / step
    knot = of.arange(count, dtype="float32") - (order - 1) / 2
    distance = of.abs(voxel[:, None] - knot[None, :])
    if order == 1:
        return of.maximum(1.0 - distance, 0.0)
    near = 2.0 / 3.0 - distance**2 + 0.5 * distance**3
    far = of.maximum(2.0 - distance, 0.0) ** 3 / 6.0
    return of.where(distance < 1.0, near, far)


def _apply(tensor, matrices: list, transpose: bool):
    tensor = ops.cast(tensor, "float32")
    letters = "bxyzw"[: len(matrices) + 1] + "c"
    for axis, matrix in enumerate(matrices, start=1):
        old = letters[axis]
        new = letters.replace(old, "n")
        tensor = ops.einsum(
            f"{letters},{old + 'n' if transpose else 'n' + old}->{new}", tensor, matrix
        )
    return tensor
