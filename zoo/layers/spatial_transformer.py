"""Pulls images back along a displacement or an affine map."""

from __future__ import annotations

import keras
from keras import ops

from zoo.ops.arguments import checked, one_of
from zoo.ops.array_arguments import tensors
from zoo.ops.compiling import in_float32
from zoo.ops.sampling import MODES, ORDERS, identity_coordinates, sample, warp


@keras.saving.register_keras_serializable(package="zoo")
class SpatialTransformer(keras.layers.Layer):
    """Moves an image: `moved(x) = moving(x + u(x))`, or `moving(A x + t)` for an affine map.

    Called with a pair `(moving, transform)`:

    - `moving`: `[batch, *spatial, channels]` of rank 2 or 3;
    - `transform`: either a displacement `[batch, *grid, rank]` in voxels of the moving image, or
      affine matrices `[batch, rank, rank + 1]` with `A` and `t` side by side, which carry voxels
      of the result to voxels of the moving image. Components are in the order of the array axes.

    Returns the moved image `[batch, *grid, channels]`, where an affine map keeps the grid of the
    moving image. It is differentiable with respect to both. Always computed in float32, also
    under a mixed-precision policy: half precision cannot tell neighbouring voxels apart.

    Args:
        order: "linear" or "nearest" (labels).
        mode: outside of the moving image, "border" repeats its edge and "zero" is zero.

    Raises:
        ValueError: for an unknown order or mode, and when called with ranks, components or batches
            that do not fit.

    Example:
        >>> ramp = np.arange(4.0).reshape(1, 4, 1, 1)
        >>> along = np.zeros((1, 4, 1, 2)) + [1.0, 0.0]
        >>> moved = zoo.layers.SpatialTransformer()((ramp, along))
        >>> np.ravel(moved)
        array([1., 2., 3., 3.], dtype=float32)
    """

    @checked()
    def __init__(self, order: str = "linear", mode: str = "border", **kwargs):
        super().__init__(**in_float32(kwargs))
        self.order, self.mode = one_of("order", order, ORDERS), one_of("mode", mode, MODES)

    def build(self, input_shape):
        self._output(input_shape)
        self.built = True

    def call(self, inputs):
        moving, transform = tensors(("moving", "displacement or matrices"), inputs)
        self._output((tuple(moving.shape), tuple(transform.shape)))
        if len(transform.shape) != 3:
            return warp(moving, transform, self.order, self.mode)
        matrix = ops.cast(transform, "float32")
        grid = identity_coordinates(ops.shape(moving)[1:-1])
        rank = matrix.shape[1]
        offset = ops.reshape(matrix[..., -1], [-1] + [1] * rank + [rank])
        linear = ops.matmul(
            ops.reshape(grid, [1, -1, rank]), ops.transpose(matrix[..., :-1], [0, 2, 1])
        )
        coordinates = ops.reshape(linear, [-1, *ops.shape(grid)]) + offset
        return sample(moving, coordinates, self.order, self.mode)

    def compute_output_shape(self, input_shape):
        return self._output(input_shape)

    def _output(self, input_shape) -> tuple:
        if len(input_shape) != 2 or not all(isinstance(one, list | tuple) for one in input_shape):
            raise ValueError(
                f"{self.name} must be called with (moving, transform), not with shapes "
                f"{input_shape}."
            )
        moving, transform = (tuple(shape) for shape in input_shape)
        rank = len(moving) - 2
        if rank not in (2, 3):
            raise ValueError(
                "moving must be [batch, *spatial, channels] with 2 or 3 spatial axes, "
                f"not {moving}."
            )
        if 0 in moving[1:]:
            raise ValueError(f"moving must not be empty; its shape is {moving}.")
        affine = len(transform) == 3
        if affine and transform[1:] != (rank, rank + 1):
            raise ValueError(
                f"affine matrices must be [batch, {rank}, {rank + 1}] for an image of rank "
                f"{rank}, not {transform}."
            )
        if not affine and (len(transform) != rank + 2 or transform[-1] != rank):
            raise ValueError(
                f"displacement must be [batch, {rank} spatial axes, {rank}] for an image of rank "
                f"{rank}, not {transform}."
            )
        if len({moving[0], transform[0]} - {None}) > 1:
            raise ValueError(
                f"moving and its {'affine matrices' if affine else 'displacement'} must have the "
                f"same batch size, but their shapes are {moving} and {transform}."
            )
        if affine:
            return moving
        return (*transform[:-1], moving[-1])

    def get_config(self):
        return super().get_config() | {"order": self.order, "mode": self.mode}
