"""What networks of points are made of: spread subsets, neighbourhoods, interpolation.

Clouds are `[batch, n, d]`; a mask `[batch, n]` is positive where a point counts, and clouds of
different sizes are padded under it.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from zoo.ops.arguments import one_of
from zoo.ops.compiling import on_accelerator
from zoo.ops.neighbours import gathered, hidden, nearest_indices

WAYS = ("auto", "host", "loop")
NEAREST = 1e-10  # distance below which a point is the one that it is interpolated from


def farthest_points(points, count: int, mask=None, method: str = "auto"):
    """Indices of points that lie far from each other: each is farthest from those before it.

    The first is point 0, or the first that counts. Where fewer than `count` differ, or count, some
    are repeated. Eldar et al., "The farthest point strategy for progressive image sampling", 1997.

    Args:
        points: float tensor `[batch, n, d]`.
        count: of points to choose.
        mask: `[batch, n]`, or None.
        method: "host" (a loop of numpy, a call back that XLA of TensorFlow cannot make), "loop"
            (in the graph), or "auto": on the host for a CPU, else in the graph.

    Returns:
        int32 tensor `[batch, count]`; carries no gradient.
    """
    one_of("method", method, WAYS)
    points = ops.stop_gradient(ops.cast(points, "float32"))
    usable = ops.ones_like(points[..., 0]) if mask is None else ops.cast(mask > 0, "float32")
    if method == "auto":
        method = "loop" if on_accelerator() else "host"
    if method == "loop":
        return _in_graph(points, usable, count)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        chosen = tf.numpy_function(_on_host, [points, usable, count], tf.int32)
        chosen.set_shape((points.shape[0], count if isinstance(count, int) else None))
        return chosen
    import jax

    shape = jax.ShapeDtypeStruct((points.shape[0], count), np.int32)
    return jax.pure_callback(lambda *both: _on_host(*both, count), shape, points, usable)


def _on_host(points, usable, count) -> np.ndarray:
    points, usable = np.asarray(points), np.asarray(usable)
    chosen = np.empty((len(points), count), np.int32)
    for cloud, counts, row in zip(points, usable, chosen, strict=True):
        # One array for each coordinate, written in place: a tenth of the time of rows.
        axes = [np.ascontiguousarray(axis) for axis in cloud.T]
        nearest = np.where(counts > 0, np.float32(np.inf), np.float32(-1.0))
        squared, part = np.empty_like(nearest), np.empty_like(nearest)
        last = int(np.argmax(counts))
        for number in range(count):
            row[number] = last
            for k, axis in enumerate(axes):
                np.subtract(axis, axis[last], out=part)
                np.multiply(part, part, out=part if k else squared)
                if k:
                    np.add(squared, part, out=squared)
            np.minimum(nearest, squared, out=nearest)
            last = int(nearest.argmax())
    return chosen


def _in_graph(points, usable, count):
    batch = ops.shape(points)[0]
    first = ops.cast(ops.argmax(usable, axis=1), "int32")
    nearest = ops.where(usable > 0, np.float32(np.inf), np.float32(-1.0))
    places = ops.arange(count, dtype="int32")
    chosen = ops.zeros((batch, count), "int32")

    def choose(number, state):
        chosen, nearest, last = state
        chosen = ops.where(places == number, last[:, None], chosen)
        here = gathered(points, last[:, None, None])[:, 0]
        nearest = ops.minimum(nearest, ops.sum(ops.square(points - here), axis=-1))
        return chosen, nearest, ops.cast(ops.argmax(nearest, axis=1), "int32")

    return ops.fori_loop(0, count, choose, (chosen, nearest, first))[0]


def neighbourhoods(queries, points, k: int, mask=None, method: str = "auto"):
    """The k nearest points of every query, or all that there are.

    Args:
        queries: float tensor `[batch, n, d]`.
        points: float tensor `[batch, m, d]`.
        k: neighbours; fewer where the cloud is known to hold fewer.
        mask: `[batch, m]` of the points, or None.
        method: see `zoo.ops.neighbours.nearest_neighbours`.

    Returns:
        `(indices, shares)`: int32 `[batch, n, k]`, nearest first, and float32 `[batch, 1, k]` of 0
        where fewer points count than there are neighbours, else 1. Neither carries a gradient.
    """
    size = points.shape[1]
    if size is None:
        # In a graph for all sizes a cloud may be too small to have k: nobody's neighbours follow.
        nobody = ops.full((ops.shape(points)[0], k, points.shape[-1]), np.float32(np.nan))
        indices = nearest_indices(
            queries, ops.concatenate([hidden(points, mask), nobody], axis=1), k, method
        )
        indices = ops.minimum(indices, ops.shape(points)[1] - 1)
    else:
        k = min(k, size)
        indices = nearest_indices(queries, hidden(points, mask), k, method)
    if mask is None and size is not None:
        return indices, ops.ones((1, 1, k))
    counting = ops.ones_like(points[..., 0]) if mask is None else ops.cast(mask > 0, "float32")
    counting = ops.sum(counting, axis=1)[:, None, None]
    return indices, ops.cast(ops.arange(k, dtype="float32") < counting, "float32")


def interpolated(queries, points, values, k: int = 3, mask=None, method: str = "auto", found=None):
    """Values at queries, from the k nearest points, by weights of one over the distance.

    Exact for constants, and where a query is one of the points.

    Args:
        queries: float tensor `[batch, n, d]`.
        points: float tensor `[batch, m, d]`.
        values: of the points, `[batch, m, c]`.
        k: neighbours.
        mask: `[batch, m]` of the points, or None.
        method: see `zoo.ops.neighbours.nearest_neighbours`.
        found: what `neighbourhoods` has given for these, so that nothing is sought again.

    Returns:
        `[batch, n, c]`.
    """
    index, shares = neighbourhoods(queries, points, k, mask, method) if found is None else found
    offsets = gathered(points, index) - queries[:, :, None]
    # Weights carry no gradient where points coincide, as the root would not be differentiable.
    squared = ops.sum(ops.square(offsets), axis=-1)
    apart = ops.sqrt(ops.maximum(squared, NEAREST**2))
    weights = shares / apart
    weights = weights / ops.maximum(ops.sum(weights, axis=-1, keepdims=True), 1e-30)
    return ops.sum(gathered(values, index) * weights[..., None], axis=2)
