"""The few backend calls behind hand-written kernels: compilation, gradients, gather, scatter."""

from __future__ import annotations

import contextlib
import math
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence

import keras

from zoo.ops.compiling import on_accelerator, replicas

SIZES = 64  # for which a kernel keeps its graphs, some 3 MiB each
SMALL = 2**22  # values in all arguments up to which XLA does not repay what it takes to compile


def _unsupported() -> NotImplementedError:
    return NotImplementedError(
        "Kernels run on the Keras backends 'tensorflow' and 'jax', not on "
        f"{keras.backend.backend()!r}."
    )


def kernel(function: Callable, parameters: Sequence[int] = ()) -> Callable:
    """Compiles a function of tensors with XLA, also inside a graph that is not compiled.

    One loop over the result replaces one pass over memory per operation, which makes gathers and
    scatters about ten times faster on a CPU. Convolutions do not belong in here: oneDNN's are
    faster. XLA compiles anew for each combination of shapes, so create a kernel once per module.

    Outside of a graph, TensorFlow runs small tensors on a CPU through one plain graph that serves
    all their sizes: a quarter of a second for each kernel would not be earned back.

    Args:
        function: maps tensors to one tensor, reads no variables and keeps no state. All sizes
            but that of the last axis may be unknown to it.
        parameters: positions of arguments of which all sizes are known.

    Returns:
        A function of the same signature.
    """
    return _compiled(function, True, parameters)


def shared_graph(function: Callable) -> Callable:
    """Compiles a function of tensors that many models share, so that none traces it again.

    TensorFlow keeps a part of every graph that calls a kernel for good. Models that are made by
    the dozen, and train with `run_eagerly`, call their kernels from a shared graph instead.

    Args:
        function: maps tensors to tensors, reads no variables and keeps no state. All sizes
            but that of the last axis may be unknown to it.

    Returns:
        A function of the same signature.
    """
    return _compiled(function, False)


def forget() -> None:
    """Drops the graphs of all sizes that kernels were called with; they are traced anew."""
    for traced in list(_all_traced):
        traced.forget()


_all_traced: weakref.WeakSet[_Traced] = weakref.WeakSet()
_tracing = threading.local()  # `plain` while a graph of plain operations is traced


@contextlib.contextmanager
def plainly(plain: bool = True) -> Iterator[None]:
    """Whether the kernels within are operations of the graph around them, without XLA."""
    before = getattr(_tracing, "plain", False)
    _tracing.plain = plain
    try:
        yield
    finally:
        _tracing.plain = before


class _Traced:
    """A function that TensorFlow traces for each size, but once for all that are small."""

    def __init__(self, function: Callable, xla: bool, parameters: Sequence[int] = ()):
        self.function, self.xla, self.parameters = function, xla, parameters
        self.forget()
        _all_traced.add(self)

    def __call__(self, *tensors):
        if getattr(_tracing, "plain", False):
            return self.function(*tensors)
        import tensorflow as tf

        tensors = [tf.convert_to_tensor(tensor) for tensor in tensors]
        plain = self._repays_no_compilation(tensors)
        shapes = [tuple(tensor.shape) if tensor.shape.rank else () for tensor in tensors]
        if plain:
            for number in {*range(len(shapes))} - {*self.parameters}:
                shapes[number] = (None,) * (len(shapes[number]) - 1) + shapes[number][-1:]
        known = plain, *((shape, t.dtype) for shape, t in zip(shapes, tensors, strict=True))
        if known not in self.graphs:
            if len(self.graphs) == SIZES:
                self.forget()
            self.graphs[known] = self._graph(*known)
        return self.graphs[known](*tensors)

    def forget(self) -> None:
        self.graphs: dict[tuple, Callable] = {}

    @staticmethod
    def _repays_no_compilation(tensors) -> bool:
        import tensorflow as tf

        if on_accelerator():
            return False
        # Replicas on one processor wait for each other in the code that XLA makes.
        if replicas() > 1:
            return True
        if not tf.executing_eagerly():
            return False
        return sum(math.prod(tensor.shape) for tensor in tensors) <= SMALL

    def _graph(self, plain: bool, *arguments: tuple) -> Callable:
        """The graph of arguments of some shapes and types."""
        import tensorflow as tf

        def function(*tensors):
            with plainly(plain):
                return self.function(*tensors)

        specs = [tf.TensorSpec(*each) for each in arguments]
        xla = self.xla and not plain
        graph = tf.function(function, jit_compile=xla or None, autograph=False)
        # Concrete, because TensorFlow warns of functions that are traced for many sizes.
        return graph.get_concrete_function(*specs)


def _compiled(function: Callable, xla: bool, parameters: Sequence[int] = ()) -> Callable:
    if keras.backend.backend() == "tensorflow":
        return _Traced(function, xla, parameters)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    raise _unsupported()


def with_gradient(
    forward: Callable, *backward: Callable, parameters: Sequence[int] = ()
) -> Callable:
    """Gives a function its own gradient.

    Separate functions, because a graph drops those whose result nobody asks for.

    Args:
        forward: maps n tensors to one tensor.
        *backward: n functions, one per argument; each maps the n tensors and the gradient of the
            result to the gradient of its argument.
        parameters: positions of arguments of which all sizes are known, as in `kernel`.

    Returns:
        A differentiable function of n tensors.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.custom_gradient
        def function(*tensors):
            plain = getattr(_tracing, "plain", False)

            def pull_back(gradient):
                with plainly(plain):
                    return tuple(part(*tensors, gradient) for part in backward)

            # Otherwise a tape records the inside of `forward` as well, for nothing.
            return forward(*map(tf.stop_gradient, tensors)), pull_back

        # TensorFlow keeps every trace of a custom gradient for good, with the graph around it. So
        # it has a graph of its own, traced once for each combination of shapes.
        return _Traced(function, False, parameters)
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
