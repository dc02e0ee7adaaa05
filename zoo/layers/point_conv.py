"""Layers of networks of points: sampling, grouping, PointConv, cost volumes, upsampling.

Clouds are `[batch, n, dims]` with features `[batch, n, channels]`; `valid` `[batch, n]` is positive
where a point counts. Neighbourhoods may be sought once and given to several layers.

After Wu, Qi and Li, "PointConv", CVPR 2019, and Wu et al., "PointPWC-Net", ECCV 2020.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

from zoo.ops.arguments import checked, one_of
from zoo.ops.compiling import in_float32
from zoo.ops.neighbours import METHODS, gathered
from zoo.ops.point_sets import WAYS, farthest_points, interpolated, neighbourhoods

LEAK = 0.1
WEIGHTS = 16  # of a PointConv, by which it multiplies what it sums


@keras.saving.register_keras_serializable(package="zoo")
class FarthestPointSampling(keras.layers.Layer):
    """Chooses points that lie far from each other, see `zoo.ops.point_sets.farthest_points`.

    Args:
        count: of points to choose.
        method: "auto", "host" or "loop".
    """

    @checked(count=(1, 2**31))
    def __init__(self, count: int = 1024, method: str = "auto", **kwargs):
        super().__init__(**in_float32(kwargs))
        self.count, self.method = count, one_of("method", method, WAYS)

    def call(self, points, valid=None):
        """Chooses from clouds `[batch, n, dims]`.

        Returns:
            `(chosen, indices)`: `[batch, count, dims]`, and int32 `[batch, count]`.
        """
        indices = farthest_points(points, self.count, valid, self.method)
        return gathered(points, indices[..., None])[:, :, 0], indices

    def get_config(self):
        return super().get_config() | {"count": self.count, "method": self.method}


@keras.saving.register_keras_serializable(package="zoo")
class NearestGrouping(keras.layers.Layer):
    """Of every query the nearest points: where they are from there, and their features.

    Args:
        neighbours: of a query, or all points where there are fewer.
        method: search of the neighbours, see `zoo.ops.neighbours.nearest_neighbours`.
    """

    @checked(neighbours=(1, 10**5))
    def __init__(self, neighbours: int = 16, method: str = "auto", **kwargs):
        super().__init__(**in_float32(kwargs))
        self.neighbours, self.method = neighbours, one_of("method", method, METHODS)

    def call(self, queries, points, features=None, valid=None):
        """Groups points `[batch, m, dims]` about queries `[batch, n, dims]`.

        Returns:
            `(offsets, grouped, shares)`: `[batch, n, k, dims]`, features `[batch, n, k, channels]`
            or None, and 0 where there is no neighbour, else 1, `[batch or 1, 1, k]`.
        """
        found = neighbourhoods(queries, points, self.neighbours, valid, self.method)
        grouped = None if features is None else gathered(features, found[0])
        return gathered(points, found[0]) - queries[:, :, None], grouped, found[1]

    def get_config(self):
        return super().get_config() | {"neighbours": self.neighbours, "method": self.method}


@keras.saving.register_keras_serializable(package="zoo")
class InverseDistanceUpsampling(keras.layers.Layer):
    """Values of a coarse cloud at the points of a fine one, weighted by one over the distance.

    Args:
        neighbours: coarse points that a fine one takes from.
        method: search of the neighbours, see `zoo.ops.neighbours.nearest_neighbours`.
    """

    @checked(neighbours=(1, 10**5))
    def __init__(self, neighbours: int = 3, method: str = "auto", **kwargs):
        super().__init__(**in_float32(kwargs))
        self.neighbours, self.method = neighbours, one_of("method", method, METHODS)

    def call(self, fine, coarse, values, valid=None):
        """Values `[batch, m, c]` of coarse points `[batch, m, dims]` at fine ones, `[b, n, c]`."""
        return interpolated(fine, coarse, values, self.neighbours, valid, self.method)

    def get_config(self):
        return super().get_config() | {"neighbours": self.neighbours, "method": self.method}


@keras.saving.register_keras_serializable(package="zoo")
class WeightNet(keras.layers.Layer):
    """The weights of a convolution as a function of the offset: a small perceptron of ReLUs.

    Args:
        filters: weights.
        hidden: units of the layers before.
    """

    @checked(filters=(1, 2**20), hidden=(1, 2**20))
    def __init__(self, filters: int = WEIGHTS, hidden: Sequence[int] = (8, 8), **kwargs):
        super().__init__(**in_float32(kwargs))
        self.filters, self.hidden = filters, tuple(hidden)

    def build(self, offsets_shape):
        self.steps = dense_layers(offsets_shape[-1], (*self.hidden, self.filters))
        self.built = True

    def call(self, offsets):
        """Weights `[..., filters]` at offsets `[..., dims]`."""
        for step in self.steps:
            offsets = ops.relu(step(offsets))
        return offsets

    def get_config(self):
        return super().get_config() | {"filters": self.filters, "hidden": self.hidden}


@keras.saving.register_keras_serializable(package="zoo")
class PointConv(keras.layers.Layer):
    """A convolution over the nearest points, whose kernel is a function of the offset.

    Offsets and features `v_j` of the neighbours are summed with 16 weights each,
    `sum_j v_j w_j^T`, and a dense layer and a leaky ReLU follow. Source: the papers above, without
    densities and without batch normalisation.

    Args:
        filters: of the dense layer.
        neighbours: points that are summed, with the point itself where it is one of them.
        method: search of the neighbours, see `zoo.ops.neighbours.nearest_neighbours`.

    Example:
        >>> random = np.random.default_rng(0)
        >>> points, features = random.uniform(size=(1, 50, 3)), random.uniform(size=(1, 50, 4))
        >>> convolution = zoo.layers.PointConv(filters=8)
        >>> here, there = (convolution(points + shift, features) for shift in (0.0, 10.0))
        >>> tuple(here.shape), bool(np.allclose(here, there, atol=1e-4))  # only offsets count
        ((1, 50, 8), True)
    """

    @checked(filters=(1, 2**20), neighbours=(1, 10**5))
    def __init__(self, filters: int = 64, neighbours: int = 16, method: str = "auto", **kwargs):
        super().__init__(**in_float32(kwargs))
        self.filters, self.neighbours = filters, neighbours
        self.method = one_of("method", method, METHODS)

    def build(self, points_shape, features_shape):
        dims, channels = points_shape[-1], features_shape[-1]
        self.weight_net = WeightNet(WEIGHTS, name="weight_net")
        self.weight_net.build((None, dims))
        (self.linear,) = dense_layers((dims + channels) * WEIGHTS, (self.filters,), "linear")
        self.built = True

    def call(self, points, features, centres=None, valid=None, found=None):
        """Convolves.

        Args:
            points: `[batch, n, dims]`.
            features: `[batch, n, channels]`.
            centres: `[batch, m, dims]`, where the result is wanted; the points themselves if None.
            valid: `[batch, n]`, or None.
            found: what `zoo.ops.point_sets.neighbourhoods` gave for these; further neighbours are
                left out.

        Returns:
            `[batch, m, filters]`.
        """
        centres = points if centres is None else centres
        if found is None:
            found = neighbourhoods(centres, points, self.neighbours, valid, self.method)
        index, shares = (each[..., : self.neighbours] for each in found)
        offsets = gathered(points, index) - centres[:, :, None]
        grouped = ops.concatenate([offsets, gathered(features, index)], axis=-1)
        weights = self.weight_net(offsets) * shares[..., None]
        # `c` before `w`: the index of the weight runs fastest, as in published checkpoints.
        summed = ops.einsum("bnkc,bnkw->bncw", grouped, weights)
        flat = (ops.shape(summed)[0], ops.shape(summed)[1], summed.shape[2] * WEIGHTS)
        return ops.leaky_relu(self.linear(ops.reshape(summed, flat)), LEAK)

    def get_config(self):
        names = ("filters", "neighbours", "method")
        return super().get_config() | {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable(package="zoo")
class CostVolume(keras.layers.Layer):
    """What it costs each point of a cloud to go to where another one has similar features.

    A perceptron compares features and position of a point with those of its nearest points in the
    other cloud; the costs are summed with weights of the offsets, first over these, then over the
    neighbours of the point in its own cloud. Source: PointPWC-Net, equations 3 to 5.

    Args:
        filters: channels of the cost.
        neighbours: in either cloud.
        method: search of the neighbours, see `zoo.ops.neighbours.nearest_neighbours`.
    """

    @checked(filters=(1, 2**20), neighbours=(1, 10**5))
    def __init__(self, filters: int = 64, neighbours: int = 32, method: str = "auto", **kwargs):
        super().__init__(**in_float32(kwargs))
        self.filters, self.neighbours = filters, neighbours
        self.method = one_of("method", method, METHODS)

    def build(self, points_shape, features_shape, other_points_shape, other_features_shape):
        dims = points_shape[-1]
        self.sizes = features_shape[-1], other_features_shape[-1], dims
        self.compare = dense_layers(sum(self.sizes), (self.filters, self.filters), "compare")
        self.across, self.within = (
            WeightNet(self.filters, name=name) for name in ("across", "within")
        )
        self.across.build((None, dims))
        self.within.build((None, dims))
        self.built = True

    def call(
        self,
        points,
        features,
        other_points,
        other_features,
        valid=None,
        other_valid=None,
        found=None,
        across=None,
    ):
        """Costs of the points of the first cloud.

        Args:
            points: `[batch, n, dims]`.
            features: `[batch, n, channels]`.
            other_points: `[batch, m, dims]`, warped towards the first cloud.
            other_features: `[batch, m, channels]`.
            valid: `[batch, n]`, or None.
            other_valid: `[batch, m]`, or None.
            found: neighbourhoods of the points in their own cloud, see `PointConv.call`.
            across: those of the points in the other cloud.

        Returns:
            `[batch, n, filters]`.
        """
        if across is None:
            across = neighbourhoods(points, other_points, self.neighbours, other_valid, self.method)
        index, shares = (each[..., : self.neighbours] for each in across)
        offsets = gathered(other_points, index) - points[:, :, None]
        # The first dense layer, of own features, other features and offset, part by part: nothing
        # is multiplied once for every pair that is the same for all of them.
        first, second = self.compare
        own, other, offset = ops.split(first.kernel, [self.sizes[0], sum(self.sizes[:2])])
        here = ops.matmul(features, own) + first.bias
        there = gathered(ops.matmul(other_features, other), index)
        cost = ops.leaky_relu(here[:, :, None] + there + ops.matmul(offsets, offset), LEAK)
        cost = ops.leaky_relu(second(cost), LEAK)
        cost = ops.sum(self.across(offsets) * shares[..., None] * cost, axis=2)
        if found is None:
            found = neighbourhoods(points, points, self.neighbours, valid, self.method)
        index, shares = (each[..., : self.neighbours] for each in found)
        weights = self.within(gathered(points, index) - points[:, :, None]) * shares[..., None]
        return ops.sum(weights * gathered(cost, index), axis=2)

    def get_config(self):
        names = ("filters", "neighbours", "method")
        return super().get_config() | {name: getattr(self, name) for name in names}


def dense_layers(entering: int, widths: Sequence[int], name: str = "dense", **kwargs) -> list:
    """Dense layers one after the other, built, without activations.

    Args:
        entering: channels of the input.
        widths: units of each layer.
        name: before the number of the layer, if there are several.
        **kwargs: of `keras.layers.Dense`.
    """
    layers = []
    for number, width in enumerate(widths):
        called = name if len(widths) == 1 else f"{name}_{number}"
        layers.append(keras.layers.Dense(width, name=called, dtype="float32", **kwargs))
        layers[-1].build((None, entering))
        entering = width
    return layers
