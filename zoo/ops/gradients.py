"""Derivatives of a network with respect to its input, on every supported backend."""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import ops


def norm(vectors, axis: int = -1):
    """Euclidean length whose gradient at the zero vector is zero instead of NaN.

    Args:
        vectors: float tensor `[..., d]`.
        axis: the axis that holds the components.

    Returns:
        Tensor of lengths with `axis` removed.
    """
    squared = ops.sum(ops.square(vectors), axis=axis)
    # Both branches of `where` are differentiated, so the root must stay finite in the unused one.
    # Compared with zero, because a NaN must stay one.
    zero = squared == 0
    root = ops.sqrt(ops.where(zero, ops.ones_like(squared), squared))
    return ops.where(zero, ops.zeros_like(squared), root)


def value_and_gradient(function: Callable, points):
    """Value of a scalar field and its gradient with respect to the points.

    Reverse mode: for a field with one output it costs about one more forward pass, half of what
    propagating the Jacobian forward costs. The result can be differentiated again with respect to
    the weights that `function` uses, which is what an eikonal loss needs.

    Args:
        function: maps points `[n, d]` to values `[n]` or `[n, 1]`, each value depending on its own
            point only.
        points: float tensor `[n, d]`.

    Returns:
        `(values, gradients)`: the function's own result and a tensor `[n, d]`. The gradient is
        zero where the values do not depend on the points.

    Raises:
        NotImplementedError: on a Keras backend other than TensorFlow and JAX.

    Example:
        >>> from keras import ops
        >>> from zoo.ops.gradients import value_and_gradient
        >>> points = ops.convert_to_tensor([[1.0, 2.0], [3.0, 0.0]])
        >>> values, slopes = value_and_gradient(lambda x: ops.sum(x**2, axis=-1), points)
        >>> np.asarray(values), np.asarray(slopes)
        (array([5., 9.], dtype=float32), array([[2., 4.],
               [6., 0.]], dtype=float32))
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        points = tf.convert_to_tensor(points)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(points)
            values = function(points)
        return values, tape.gradient(
            values, points, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
    if backend == "jax":
        import jax

        values, pull_back = jax.vjp(function, points)
        (gradients,) = pull_back(ops.ones_like(values))
        return values, gradients
    raise NotImplementedError(
        f"value_and_gradient runs on the Keras backends 'tensorflow' and 'jax', not on {backend!r}."
    )
