"""Convolutions over the edges of graphs of nearest points, and the descriptors of a graph network.

After Wang et al., "Dynamic graph CNN for learning on point clouds", TOG 2019, arXiv:1801.07829.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

from zoo.layers.point_conv import dense_layers
from zoo.ops.arguments import checked, one_of
from zoo.ops.compiling import in_float32
from zoo.ops.neighbours import METHODS, gathered
from zoo.ops.point_sets import neighbourhoods

LEAK = 0.2
NORMALISATIONS = ("batch", "layer", "none")
NOTHING = -1e9  # below everything that a neighbour contributes


@keras.saving.register_keras_serializable(package="zoo")
class EdgeConv(keras.layers.Layer):
    """Features of edges `[x_j - x_i, x_i]` through dense layers, and their maximum at each point.

    The dense layers have no biases; a normalisation and a leaky ReLU of slope 0.2 follow each.

    Args:
        filters: of the dense layers.
        neighbours: of a point, itself included.
        normalisation: "batch" as in the paper, "layer", or "none".
        method: search of the neighbours, see `zoo.ops.neighbours.nearest_neighbours`.

    Example:
        >>> features = np.random.default_rng(0).uniform(size=(1, 50, 3))
        >>> convolution = zoo.layers.EdgeConv(filters=(8,), neighbours=5)
        >>> result, turned = convolution(features), convolution(features[:, ::-1])
        >>> tuple(result.shape), bool(np.allclose(result, turned[:, ::-1], atol=1e-6))  # no order
        ((1, 50, 8), True)
    """

    @checked(filters=(1, 2**20), neighbours=(1, 10**5))
    def __init__(
        self,
        filters: Sequence[int] = (64, 64),
        neighbours: int = 20,
        normalisation: str = "batch",
        method: str = "auto",
        **kwargs,
    ):
        super().__init__(**in_float32(kwargs))
        self.filters, self.neighbours = tuple(filters), neighbours
        self.normalisation = one_of("normalisation", normalisation, NORMALISATIONS)
        self.method = one_of("method", method, METHODS)

    def build(self, features_shape):
        self.channels = features_shape[-1]
        self.steps = dense_layers(2 * self.channels, self.filters, use_bias=False)
        self.norms = []
        kinds = {
            "batch": keras.layers.BatchNormalization,
            "layer": keras.layers.LayerNormalization,
        }
        for number, width in enumerate(self.filters):
            if self.normalisation != "none":
                norm = kinds[self.normalisation](
                    epsilon=1e-5, name=f"norm_{number}", dtype="float32"
                )
                norm.build((None, None, None, width))
                self.norms.append(norm)
        self.built = True

    def call(self, features, found=None, training=False):
        """Convolves.

        Args:
            features: `[batch, n, channels]`, in whose space neighbours are sought.
            found: neighbourhoods of the points in another space, see
                `zoo.ops.point_sets.neighbourhoods`; None to seek them.
            training: normalise by the batch instead of what was seen so far.

        Returns:
            `[batch, n, filters[-1]]`.
        """
        if found is None:
            found = neighbourhoods(features, features, self.neighbours, None, self.method)
        index, shares = (each[..., : self.neighbours] for each in found)
        # `[x_j - x_i, x_i] [A, B] = x_j A + x_i (B - A)`: once for every point, not every edge.
        along, here = ops.split(self.steps[0].kernel, [self.channels])
        edges = gathered(ops.matmul(features, along), index)
        edges = edges + ops.matmul(features, here - along)[:, :, None]
        for number, step in enumerate(self.steps):
            edges = step(edges) if number else edges
            if self.normalisation == "batch":
                edges = self.norms[number](edges, training=training)
            elif self.normalisation == "layer":
                edges = self.norms[number](edges)
            edges = ops.leaky_relu(edges, LEAK)
        return ops.max(ops.where(shares[..., None] > 0, edges, NOTHING), axis=2)

    def get_config(self):
        names = ("filters", "neighbours", "normalisation", "method")
        return super().get_config() | {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable(package="zoo")
class GraphDescriptors(keras.layers.Layer):
    """Descriptors of points: three convolutions on one graph, all of which two dense layers see.

    The "lean" network of Heinrich et al., "Chasing clouds", ICCV 2023: 60,560 parameters for 67
    channels.

    Args:
        descriptors: channels of the result.
        width: filters of the convolutions.
        neighbours: in the graph.
        normalisation: see `EdgeConv`.
    """

    @checked(descriptors=(1, 2**16), width=(1, 2**16), neighbours=(1, 10**5))
    def __init__(
        self,
        descriptors: int = 16,
        width: int = 64,
        neighbours: int = 20,
        normalisation: str = "batch",
        **kwargs,
    ):
        super().__init__(**in_float32(kwargs))
        self.descriptors, self.width, self.neighbours = descriptors, width, neighbours
        self.normalisation = normalisation

    def build(self, features_shape):
        w, entering, self.convs = self.width, features_shape[-1], []
        for number, filters in enumerate(((w, w), (w, w), (w,))):
            conv = EdgeConv(filters, self.neighbours, self.normalisation, name=f"conv_{number}")
            conv.build((None, None, entering))
            self.convs.append(conv)
            entering = w
        self.hidden, self.last = dense_layers(3 * w, (2 * w, self.descriptors))
        self.built = True

    def call(self, features, found, training=False):
        """Descriptors `[batch, n, descriptors]` of features `[batch, n, channels]`.

        Args:
            features: of the points.
            found: their neighbourhoods, see `zoo.ops.point_sets.neighbourhoods`.
            training: see `EdgeConv.call`.
        """
        seen = []
        for conv in self.convs:
            features = conv(features, found=found, training=training)
            seen.append(features)
        return self.last(ops.relu(self.hidden(ops.concatenate(seen, axis=-1))))

    def get_config(self):
        names = ("descriptors", "width", "neighbours", "normalisation")
        return super().get_config() | {name: getattr(self, name) for name in names}
