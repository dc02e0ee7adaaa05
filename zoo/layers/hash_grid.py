"""Multi-resolution hash grid: what a small network sees of a point, in place of its coordinates."""

from __future__ import annotations

import itertools

import keras
import numpy as np
from keras import ops

from zoo.ops.arguments import checked, positive
from zoo.ops.compiling import in_float32
from zoo.ops.kernels import kernel, take_rows

# Of Teschner et al. 2003, as int32, whose products wrap round.
PRIMES = np.array([1, 2654435761, 805459861], np.uint32).view(np.int32)


@keras.saving.register_keras_serializable(package="zoo")
class HashGrid(keras.layers.Layer):
    """Features of points, interpolated in grids of several resolutions, and their derivatives.

    Every level is a grid over the cube `[-box, box]^d` with a vector at each node; a point gets the
    multilinear interpolations of all levels side by side. The coarse grids are stored as they are;
    where a level has more nodes than `entries`, nodes share vectors by a hash of their indices, and
    the network behind learns to tell them apart (Mueller et al., "Instant Neural Graphics
    Primitives", SIGGRAPH 2022, arXiv:2201.05989).

    Args:
        dims: 2 or 3, the components of a point.
        levels: number of grids.
        coarsest: cells along a side of the first grid.
        finest: of the last one; those between grow by a constant factor.
        entries: vectors that a level stores at most, a power of two.
        features: components of a vector.
        box: half side of the cube; outside of it the border goes on.

    Raises:
        ValueError: for sizes out of range, or `entries` that are no power of two.
    """

    @checked(
        dims=(2, 3),
        levels=(1, 32),
        coarsest=(1, 2**14),
        finest=(1, 2**14),
        entries=(16, 2**24),
        features=(1, 64),
        box=positive,
    )
    def __init__(
        self,
        dims: int = 3,
        levels: int = 8,
        coarsest: int = 8,
        finest: int = 192,
        entries: int = 2**16,
        features: int = 2,
        box: float = 1.2,
        **kwargs,
    ):
        super().__init__(**in_float32(kwargs))
        if entries & (entries - 1):
            raise ValueError(f"entries must be a power of two, not {entries}.")
        if finest < coarsest:
            raise ValueError(f"finest must be at least coarsest={coarsest}, not {finest}.")
        self.dims, self.levels, self.coarsest, self.finest = dims, levels, coarsest, finest
        self.entries, self.features, self.box = entries, features, box
        cells = np.round(np.geomspace(coarsest, finest, levels)).astype(np.int64)
        nodes = (cells + 1) ** dims
        self.hashed = nodes > entries
        sizes = np.where(self.hashed, entries, nodes)
        self.cells = cells
        self.starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        self.size = int(sizes.sum())
        self.outputs = levels * features
        # Gathers are an order of magnitude faster in XLA, which in training compiles whole steps.
        self._interpolate = kernel(lambda table, points: self._look_up(table, points, False)[0])
        self.corners = np.array(list(itertools.product((0, 1), repeat=dims)), np.int32)

    def build(self, input_shape=None):
        tiny = keras.initializers.RandomUniform(-1e-4, 1e-4)
        self.table = self.add_weight(
            shape=(self.size, self.features), initializer=tiny, name="table"
        )
        self.open = self.add_weight(
            shape=(self.levels,), initializer="ones", trainable=False, name="open"
        )
        self.built = True

    def limit(self, detail: float) -> None:
        """Closes the levels whose cells are smaller than what there is to see.

        Args:
            detail: side of the smallest cells that are used, in units of the coordinates. The
                coarsest level always is.
        """
        wide = 2 * self.box / self.cells >= positive("detail", detail)
        wide[0] = True
        self.open.assign(wide.astype(np.float32))

    def call(self, inputs):
        """Features `[n, levels * features]` of points `[n, dims]`."""
        return self._interpolate(self.table[...], inputs) * self._openings()

    def _openings(self):
        return ops.repeat(self.open[...], self.features)

    def trace(self, points):
        """Features of points, and how they change along the axes.

        Args:
            points: `[n, dims]`.

        Returns:
            `[n, levels * features]`, and `[n, dims, levels * features]`.
        """
        features, turns = self._look_up(self.table[...], points, True)
        openings = self._openings()
        return features * openings, turns * openings

    def _look_up(self, table, points, derivatives: bool):
        cells = self.cells.astype(np.float32)[:, None]
        places = (ops.clip(points, -self.box, self.box) / self.box + 1.0)[:, None, :] * (cells / 2)
        lower = ops.clip(ops.floor(places), 0.0, cells - 1.0)
        inner = places - lower
        nodes = ops.cast(lower, "int32")[:, :, None, :] + self.corners  # [n, levels, corners, d]
        vectors = take_rows(table, self._indices(nodes))
        far = self.corners.astype(bool)
        inner = inner[:, :, None, :]
        parts = ops.where(far, inner, 1.0 - inner)  # [n, levels, corners, d]
        features = ops.sum(ops.prod(parts, axis=-1, keepdims=True) * vectors, axis=2)
        features = ops.reshape(features, (-1, self.outputs))
        if not derivatives:
            return features, None
        signs = 2.0 * self.corners.astype(np.float32) - 1.0
        turns = []
        for axis in range(self.dims):
            others = [parts[..., each] for each in range(self.dims) if each != axis]
            weight = signs[:, axis] * (others[0] if self.dims == 2 else others[0] * others[1])
            turn = ops.sum(weight[..., None] * vectors, axis=2) * (cells / (2 * self.box))
            turns.append(ops.reshape(turn, (-1, self.outputs)))
        return features, ops.stack(turns, axis=1)

    def _indices(self, nodes):
        """Where the vectors of nodes `[..., levels, corners, dims]` are stored."""
        axes = [nodes[..., axis] for axis in range(self.dims)]
        plain, mixed, stride = 0, 0, np.ones(self.levels, np.int64)
        for axis, prime in zip(axes, PRIMES, strict=False):
            plain = plain + axis * stride.astype(np.int32)[:, None]
            mixed = ops.bitwise_xor(mixed, axis * prime) if axis is not axes[0] else axis
            stride = np.where(self.hashed, 0, stride * (self.cells + 1))
        mixed = ops.bitwise_and(mixed, self.entries - 1)
        chosen = ops.where(self.hashed[:, None], mixed, plain)
        return chosen + self.starts.astype(np.int32)[:, None]

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.outputs)

    def get_config(self):
        names = "dims levels coarsest finest entries features box"
        return super().get_config() | {name: getattr(self, name) for name in names.split()}
