"""Displacements from stationary velocities, and the composition of displacements."""

from __future__ import annotations

import keras

from zoo.ops.arguments import checked
from zoo.ops.array_arguments import real_tensor, tensors
from zoo.ops.compiling import in_float32
from zoo.ops.sampling import compose


def check_displacement(shape, name: str) -> None:
    """Raises ValueError unless the shape is `[batch, *spatial, rank]` of rank 2 or 3."""
    rank = len(shape) - 2
    if rank not in (2, 3) or shape[-1] != rank:
        raise ValueError(
            f"{name} must be [batch, *spatial, rank] with 2 or 3 spatial axes and one component "
            f"for each, not {tuple(shape)}."
        )
    if 0 in tuple(shape):
        raise ValueError(f"{name} must not be empty; its shape is {tuple(shape)}.")


@keras.saving.register_keras_serializable(package="zoo")
class ScalingAndSquaring(keras.layers.Layer):
    """Integrates a stationary velocity over unit time: `exp(v)`, a displacement.

    The velocity is divided by `2 ** steps` and the small displacement composed with itself `steps`
    times (Arsigny et al., MICCAI 2006). Beyond the border the velocity continues with its value
    there. The error falls with `2 ** -steps` until the interpolation's own, about the second
    derivative of the displacement, remains. A backward pass keeps one field per step and
    recomputes the rest.

    Maps a velocity `[batch, *spatial, rank]`, in voxels per unit of time, to a float32
    displacement of the same shape, in voxels. `call(velocity, inverse=True)` integrates `-v`, the
    displacement of the inverse map.

    Args:
        steps: number of squarings.

    Raises:
        ValueError: for a negative number of steps or a velocity of another shape.

    Example:
        >>> velocity = np.zeros((1, 8, 8, 2)) + [0.5, -0.25]
        >>> exponential = zoo.layers.ScalingAndSquaring()
        >>> bool(np.allclose(exponential(velocity), velocity))  # the same everywhere: a translation
        True
    """

    @checked(steps=(0, 32))
    def __init__(self, steps: int = 7, **kwargs):
        super().__init__(**in_float32(kwargs))
        self.steps = steps

    def build(self, input_shape):
        check_displacement(input_shape, "velocity")
        self.built = True

    def call(self, velocity, inverse: bool = False):
        real_tensor("velocity", velocity)
        check_displacement(velocity.shape, "velocity")
        displacement = velocity * ((-1.0 if inverse else 1.0) / 2**self.steps)
        for _ in range(self.steps):
            displacement = compose(displacement, displacement)
        return displacement

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config() | {"steps": self.steps}


@keras.saving.register_keras_serializable(package="zoo")
class Compose(keras.layers.Layer):
    """Displacement of two maps after each other, `second(x) + first(x + second(x))`.

    Called with `(first, second)`, two displacements `[batch, *spatial, rank]` in voxels; the order
    is that of `zoo.ops.sampling.compose`: an image pulled back along `first`, and the result along
    `second`, is pulled back along what this returns. float32.

    Raises:
        ValueError: when called with shapes that do not fit.

    Example:
        >>> one, other = np.zeros((1, 8, 8, 2)) + [1.0, 0.0], np.zeros((1, 8, 8, 2)) + [0.0, 2.0]
        >>> bool(np.allclose(zoo.layers.Compose()((one, other)), one + other))
        True
    """

    @checked()
    def __init__(self, **kwargs):
        super().__init__(**in_float32(kwargs))

    def build(self, input_shape):
        if len(input_shape) != 2:
            raise ValueError(f"{self.name} must be called with (first, second), two displacements.")
        self._check(input_shape)
        self.built = True

    def call(self, inputs):
        first, second = tensors(("first", "second"), inputs)
        self._check((first.shape, second.shape))
        return compose(first, second)

    def _check(self, shapes):
        for shape, name in zip(shapes, ("first", "second"), strict=True):
            check_displacement(shape, name)
        first, second = (tuple(shape) for shape in shapes)
        batches = {first[0], second[0]} - {None}
        if len(first) != len(second) or len(batches) > 1:
            raise ValueError(
                "first and second must have the same rank and batch size, but their shapes are "
                f"{first} and {second}."
            )

    def compute_output_shape(self, input_shape):
        return tuple(input_shape[1])
