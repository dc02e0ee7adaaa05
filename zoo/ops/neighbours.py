"""Nearest neighbours of points: a KD-tree on the host, or blocks of distances on the device."""

from __future__ import annotations

import functools
from collections.abc import Callable

import keras
import numpy as np
from keras import ops
from scipy.spatial import cKDTree

from zoo.ops import kernels
from zoo.ops.arguments import one_of
from zoo.ops.compiling import on_accelerator
from zoo.ops.gradients import norm

METHODS = ("auto", "tree", "blocks")
BLOCK = 1024
DENSE = 2**23  # products of two tables that are formed at once


def nearest_neighbours(queries, points, k: int = 1, method: str = "auto"):
    """Distances to the k nearest points, and which they are.

    The indices carry no gradient; the distances are computed again from the gathered points, so
    their gradients with respect to queries and points are exact. No array of queries x points x
    dimensions is formed: the tree needs memory for the result, the blocks 1024 x points.

    Args:
        queries: float array or tensor `[n, d]`.
        points: float array or tensor `[m, d]`.
        k: neighbours per query, at most m.
        method: "tree" (scipy's KD-tree on all cores), "blocks" (brute force with `top_k`), or
            "auto": the tree on a CPU, blocks on an accelerator.

    Returns:
        `(distances, indices)`: float32 and int32 tensors `[n, k]`, nearest first.

    Raises:
        ValueError: for an unknown method, shapes that do not fit, or a k outside 1 .. m.
    """
    one_of("method", method, METHODS)
    queries, points = ops.cast(queries, "float32"), ops.cast(points, "float32")
    if len(queries.shape) != 2 or len(points.shape) != 2 or queries.shape[1] != points.shape[1]:
        raise ValueError(
            "queries and points must have the shapes [n, d] and [m, d], not "
            f"{tuple(queries.shape)} and {tuple(points.shape)}."
        )
    count = points.shape[0]
    if k < 1 or (count is not None and k > count):
        raise ValueError(f"k must lie between 1 and the {count} points, not {k}.")
    indices = _search(method)(ops.stop_gradient(queries), ops.stop_gradient(points), k)
    distances = norm(ops.expand_dims(queries, 1) - ops.take(points, indices, axis=0))
    return distances, indices


def nearest_indices(queries, points, k: int = 1, method: str = "auto"):
    """Which points are the k nearest ones, for a batch of clouds; carries no gradient.

    A point that holds NaN is nobody's neighbour, so that clouds may be padded; where less than k
    are left, the last indices mean nothing.

    Works inside compiled functions. There the tree is a call back to the host, which TensorFlow's
    XLA (`jit_compile=True`) cannot make; its graphs and JAX's `jit` can.

    Args:
        queries: float array or tensor `[batch, n, d]`.
        points: float array or tensor `[batch, m, d]`.
        k: neighbours per query, at most m.
        method: "tree", "blocks" or "auto", see `nearest_neighbours`.

    Returns:
        int32 tensor `[batch, n, k]`, nearest first.

    Raises:
        ValueError: for an unknown method, shapes that do not fit, or a k outside 1 .. m.
    """
    one_of("method", method, METHODS)
    queries, points = ops.cast(queries, "float32"), ops.cast(points, "float32")
    shapes = tuple(queries.shape), tuple(points.shape)
    if (
        any(len(shape) != 3 for shape in shapes)
        or shapes[0][2] != shapes[1][2]
        or (None not in (shapes[0][0], shapes[1][0]) and shapes[0][0] != shapes[1][0])
    ):
        raise ValueError(
            "queries and points must have the shapes [batch, n, d] and [batch, m, d], not "
            f"{shapes[0]} and {shapes[1]}."
        )
    count = shapes[1][1]
    if k < 1 or (count is not None and k > count):
        raise ValueError(f"k must lie between 1 and the {count} points, not {k}.")
    queries, points = ops.stop_gradient(queries), ops.stop_gradient(points)
    search = _search(method)
    if search is _tree:
        return _tree(queries, points, k)
    return _all_blocks(k)(queries, points)


def _search(method):
    if method == "auto":
        method = "blocks" if on_accelerator() else "tree"
    return _tree if method == "tree" else _blocks


def _tree(queries, points, k):
    def search_one(queries, points):
        usable = np.flatnonzero(np.isfinite(points).all(axis=1))
        if not len(usable):
            return np.zeros((len(queries), k), np.int32)
        # An unbalanced tree is built five times faster and searched as fast.
        tree = cKDTree(points[usable], balanced_tree=False)
        found = tree.query(np.nan_to_num(queries), k=k, workers=-1)[1]
        # What is missing comes back as one too many.
        found = usable[np.minimum(found, len(usable) - 1)]
        return np.asarray(found, dtype=np.int32).reshape(-1, k)

    def search(queries, points):
        queries, points = np.asarray(queries), np.asarray(points)
        if queries.ndim == 2:
            return search_one(queries, points)
        return np.stack([search_one(*pair) for pair in zip(queries, points, strict=True)])

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        indices = tf.numpy_function(search, [queries, points], tf.int32)
        indices.set_shape((*queries.shape[:-1], k))
        return indices
    import jax

    shape = jax.ShapeDtypeStruct((*queries.shape[:-1], k), np.int32)
    return jax.pure_callback(search, shape, queries, points)


def _blocks(queries, points, k):
    usable = ops.all(ops.isfinite(points), axis=1)
    points = ops.where(usable[:, None], points, 0.0)
    # Products of centred coordinates; uncentred ones would cancel far from the origin.
    centre = ops.sum(points, axis=0) / ops.maximum(ops.sum(ops.cast(usable, "float32")), 1.0)
    queries, points = queries - centre, points - centre
    lengths = ops.where(usable, ops.sum(ops.square(points), axis=1), np.inf)

    def search(block):
        closeness = 2.0 * ops.matmul(block, ops.transpose(points)) - lengths
        return ops.cast(ops.top_k(closeness, k)[1], "int32")

    count = ops.shape(queries)[0]
    blocks = (count + BLOCK - 1) // BLOCK  # ONNX rounds quotients towards zero
    padded = ops.pad(queries, ((0, blocks * BLOCK - count), (0, 0)))
    found = ops.map(search, ops.reshape(padded, (blocks, BLOCK, queries.shape[1])))
    return ops.reshape(found, (blocks * BLOCK, k))[:count]


@functools.cache
def _all_blocks(k: int) -> Callable:
    """The search in every item of a batch, traced once for the many that a network makes."""
    return kernels.shared_graph(
        lambda queries, points: ops.map(lambda pair: _blocks(*pair, k), (queries, points))
    )


def nearest_both_ways(first, second):
    """Of every row of either table the nearest row of the other one; carries no gradient.

    Rows are points, perhaps with features behind their coordinates, of any number of components.
    The products of all pairs are formed at once where they are few, and else block by block. A row
    that holds NaN is nobody's neighbour. It works in compiled functions of any kind.

    Args:
        first: float tensor `[batch, n, d]`.
        second: float tensor `[batch, m, d]`.

    Returns:
        int32 tensors `[batch, n]` into second and `[batch, m]` into first.
    """
    first, second = (ops.stop_gradient(ops.cast(each, "float32")) for each in (first, second))
    sizes = first.shape[1], second.shape[1]
    if None not in sizes and sizes[0] * sizes[1] > DENSE:
        there = nearest_indices(first, second, 1, "blocks")[..., 0]
        return there, nearest_indices(second, first, 1, "blocks")[..., 0]
    usable = [ops.all(ops.isfinite(each), axis=-1, keepdims=True) for each in (first, second)]
    first, second = (
        ops.where(ok, each, 0.0) for ok, each in zip(usable, (first, second), strict=True)
    )
    # Products of centred coordinates; uncentred ones would cancel far from the origin.
    centre = ops.mean(second, axis=1, keepdims=True)
    first, second = first - centre, second - centre
    products = -2.0 * ops.matmul(first, ops.swapaxes(second, 1, 2))
    lengths = [
        ops.where(ok, ops.sum(ops.square(each), axis=-1, keepdims=True), np.inf)
        for ok, each in zip(usable, (first, second), strict=True)
    ]
    there = ops.argmin(products + ops.swapaxes(lengths[1], 1, 2), axis=2)
    back = ops.argmin(products + lengths[0], axis=1)
    return ops.cast(there, "int32"), ops.cast(back, "int32")


def hidden(points, weights):
    """The cloud with NaN at points of weight zero, which the search then passes over."""
    if weights is None:
        return points
    return ops.where(weights[..., None] > 0, points, np.float32(np.nan))


def gathered(values, index):
    """Rows `[b, n, k, c]` of values `[b, m, c]` at indices `[b, n, k]`."""
    batch, count = ops.shape(values)[:2]
    first = ops.reshape(ops.arange(batch, dtype="int32") * count, (-1, 1, 1))
    return kernels.take_rows(ops.reshape(values, (-1, values.shape[-1])), index + first)
