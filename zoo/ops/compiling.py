"""Compiles a function of a layer once and runs it over any number of points in chunks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import keras
import numpy as np

from zoo.ops.arguments import shown


def tensorflow_on_cpu() -> bool:
    """True under the TensorFlow backend when no GPU is there."""
    return keras.backend.backend() == "tensorflow" and not on_accelerator()


@functools.cache
def on_accelerator() -> bool:
    """True where the backend runs on a GPU or TPU."""
    return any(not device.startswith("cpu") for device in keras.distribution.list_devices())


def require_float32() -> None:
    """Checks that Keras makes float32 of numbers, in which everything here is written.

    Raises:
        ValueError: for another `keras.config.floatx()`.
    """
    if (found := keras.config.floatx()) != "float32":
        raise ValueError(
            f"keras.config.floatx() is {found!r}, and the zoo computes in float32: call "
            "keras.config.set_floatx('float32') before a model is made or used."
        )


def in_float32(kwargs: dict) -> dict:
    """What Keras is told of a layer or model that computes in float32 under any policy.

    Args:
        kwargs: of the constructor. A `dtype` among them is float32, in any form that Keras knows or
            writes into a configuration, or None.

    Returns:
        The same with `dtype="float32"`.

    Raises:
        ValueError: for another `dtype`.
    """
    given = kwargs.get("dtype")
    if given is not None and not _is_float32(given):
        raise ValueError(
            f"dtype must be 'float32' or None, not {shown(given)}: coordinates need its digits."
        )
    return {**kwargs, "dtype": "float32"}


def _is_float32(given) -> bool:
    if isinstance(given, dict):
        # Not made into an object: what a file names need not be a policy.
        policy = given.get("class_name"), given.get("config")
        return policy == ("DTypePolicy", {"name": "float32"})
    if isinstance(given, keras.DTypePolicy):
        return given.name == "float32"
    try:
        return keras.backend.standardize_dtype(given) == "float32"
    except (TypeError, ValueError):
        return False


def replicas() -> int:
    """How many copies of a model are trained at once, under a strategy of TensorFlow; else 1."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def compiled(function: Callable, layer: keras.layers.Layer) -> Callable:
    """Compiles `function(points)`, which calls `layer`, for repeated use outside of `fit`.

    The layer's current weights are used at every call, on either backend.

    Args:
        function: maps a float32 tensor `[n, d]` to a tensor or a tuple of tensors.
        layer: a built layer or model whose variables the function reads.

    Returns:
        A function of the same signature.
    """
    if keras.backend.backend() == "tensorflow":
        return _traced(function)
    # A model has more variables once it is compiled.
    run = compiled_for(function, lambda: layer.variables)
    return lambda points: run([variable.value for variable in layer.variables], points)


def compiled_for(function: Callable, variables: Callable[[], Sequence]) -> Callable:
    """Compiles `function(points)` once for whatever values the variables that it reads will have.

    Args:
        function: maps a float32 tensor `[n, d]` to a tensor or a tuple of tensors.
        variables: gives those of Keras that it reads.

    Returns:
        A function of the values of the variables, a list, and of points.
    """

    def run(values, points):
        with keras.StatelessScope(state_mapping=list(zip(variables(), values, strict=True))):
            return function(points)

    return _traced(run)


def _traced(function: Callable) -> Callable:
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, reduce_retracing=True, autograph=False)
    import jax

    return jax.jit(function)


def in_chunks(function: Callable, points: np.ndarray, chunk: int = 16_384) -> list[np.ndarray]:
    """Applies a compiled function to `points` piece by piece, so that memory stays bounded.

    The last piece is padded to a power of two, which bounds the number of compilations.

    Args:
        function: maps `[n, d]` to a tuple of arrays whose first axis is n.
        points: array `[n, d]`.
        chunk: points at a time.

    Returns:
        The concatenated results as numpy arrays, one for each of the function's results.
    """
    points = np.asarray(points, dtype=np.float32)
    pieces = []
    for start in range(0, max(len(points), 1), chunk):
        piece = points[start : start + chunk]
        size = min(chunk, max(256, 1 << max(len(piece) - 1, 0).bit_length()))
        padded = np.pad(piece, ((0, size - len(piece)), (0, 0)))
        results = function(keras.ops.convert_to_tensor(padded))
        pieces.append([keras.ops.convert_to_numpy(result)[: len(piece)] for result in results])
    return [np.concatenate(result) for result in zip(*pieces, strict=True)]
