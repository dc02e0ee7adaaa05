"""The few backend calls behind hand-written kernels: compilation, gradients, gather, scatter."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import keras

SIZES = 64  # for which a kernel keeps its graphs, some 3 MiB each


def _unsupported() -> NotImplementedError:
    return NotImplementedError(
        "Kernels run on the Keras backends 'tensorflow' and 'jax', not on "
        f"{keras.backend.backend()!r}."
    )


def kernel(function: Callable) -> Callable:
    """Compiles a function of tensors with XLA, also inside a graph that is not compiled.

    One loop over the result replaces one pass over memory per operation, which makes gathers and
    scatters about ten times faster on a CPU. Convolutions do not belong in here: oneDNN's are
    faster. Traced once for each combination of shapes, so create a kernel once per module.

    Args:
        function: maps tensors to one tensor, reads no variables and keeps no state.

    Returns:
        A function of the same signature.
    """
    return _compiled(function, xla=True)


def shared_graph(function: Callable) -> Callable:
    """Compiles a function of tensors that many models share, so that none traces it again.

    TensorFlow keeps a part of every graph that calls a kernel for good. Models that are made by
    the dozen, and train with `run_eagerly`, call their kernels from a shared graph instead.

    Args:
        function: maps tensors to tensors, reads no variables and keeps no state.

    Returns:
        A function of the same signature.
    """
    return _compiled(function, xla=False)


def forget() -> None:
    """Drops the graphs of all sizes that kernels were called with; they are traced anew."""
    for traced in list(_all_traced):
        traced.forget()


_all_traced: weakref.WeakSet[_Traced] = weakref.WeakSet()


class _Traced:
    """A function that TensorFlow traces for each size, and anew once there are too many."""

    def __init__(self, function: Callable, xla: bool = False):
        self.function, self.xla = function, xla
        self.forget()
        _all_traced.add(self)

    def __call__(self, *tensors):
        result = self.graph(*tensors)
        if self.graph.experimental_get_tracing_count() > SIZES:
            self.forget()
        return result

    def forget(self) -> None:
        import tensorflow as tf

        self.graph = tf.function(self.function, jit_compile=self.xla or None, autograph=False)


def _compiled(function: Callable, xla: bool) -> Callable:
    if keras.backend.backend() == "tensorflow":
        return _Traced(function, xla)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    raise _unsupported()


def with_gradient(forward: Callable, *backward: Callable) -> Callable:
    """Gives a function its own gradient.

    Separate functions, because a graph drops those whose result nobody asks for.

    Args:
        forward: maps n tensors to one tensor.
        *backward: n functions, one per argument; each maps the n tensors and the gradient of the
            result to the gradient of its argument.

    Returns:
        A differentiable function of n tensors.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.custom_gradient
        def function(*tensors):
            def pull_back(gradient):
                return tuple(part(*tensors, gradient) for part in backward)

            # Otherwise a tape records the inside of `forward` as well, for nothing.
            return forward(*map(tf.stop_gradient, tensors)), pull_back

        # TensorFlow keeps every trace of a custom gradient for good, with the graph around it. So
        # it has a graph of its own, traced once for each combination of shapes.
        return _Traced(function)
    if keras.backend.backend() == "jax":
        import jax

        function = jax.custom_vjp(forward)
        function.defvjp(
            lambda *tensors: (forward(*tensors), tensors),
            lambda tensors, gradient: tuple(part(*tensors, gradient) for part in backward),
        )
        return function
    raise _unsupported()


def take_rows(values, index):
    """Rows `values[index]` of a tensor `[n, ...]`; every index must lie in `0 .. n - 1`."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.gather(values, index)
    if keras.backend.backend() == "jax":
        return values.at[index].get(mode="promise_in_bounds")
    raise _unsupported()


def add_rows(index, rows, size):
    """Tensor `[size, c]` of zeros to which `rows` `[n, c]` are added at `index` `[n]`."""
    # Numbers are scattered faster than rows that hold one each.
    single = rows.shape[-1] == 1
    rows = rows[:, 0] if single else rows
    shape = (size, *rows.shape[1:])
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        result = tf.scatter_nd(index[:, None], rows, shape)
    elif keras.backend.backend() == "jax":
        import jax.numpy as jnp

        result = jnp.zeros(shape, rows.dtype).at[index].add(rows, mode="promise_in_bounds")
    else:
        raise _unsupported()
    return result[:, None] if single else result
