"""A graph network for clouds: descriptors of points, soft matches, and a splat that smooths them.

Every point gets a descriptor from the graph of its nearest points. Then, pass by pass, each moving
point looks among the fixed points that are nearest to where it is by now for those that are like
it; their weighted mean, by likeness and nearness, says where it should go, and how much that counts
is how sure it is. Fixed points look among the moving ones likewise. These votes are splatted on a
lattice, smoothed there, and read at the points.

The descriptors are those of the graph network of Heinrich et al., "Chasing clouds: differentiable
volumetric rasterisation of point clouds as a highly efficient and accurate loss for large-scale
deformable 3D registration", ICCV 2023, after Wang et al., TOG 2019. How that network makes
displacements of them was never published: the embedding before and the matches, votes and passes
after them are a design of the zoo's own, in the spirit of the paper's splatting.
"""

from __future__ import annotations

import keras
from keras import ops

from zoo.layers.edge_conv import GraphDescriptors
from zoo.layers.point_conv import LEAK, dense_layers
from zoo.ops.arguments import checked
from zoo.ops.compiling import in_float32
from zoo.ops.neighbours import gathered
from zoo.ops.point_sets import neighbourhoods
from zoo.ops.sampling import sample
from zoo.ops.splatting import normalised_splat, to_voxels
from zoo.registration.flow_network import FlowNetwork

LIKENESS = 0.2  # weight of the products of descriptors, before anything is learned
NEARNESS = 0.3  # weight of squared distances, in spacings, before anything is learned
FINEST = 3.0  # width in spacings, below which votes are not smoothed
NOTHING = -1e9  # what is no candidate
EXTENT = 2.0  # root mean square radii from the centre to the border of the lattice


@keras.saving.register_keras_serializable(package="zoo")
class MatchingNet(keras.layers.Layer):
    """The network itself, in the frame of its coordinates.

    Args:
        dims: 2 or 3.
        embedding: channels that are made of the coordinates before the graph.
        width, descriptors, neighbours, normalisation: see `GraphDescriptors`.
        candidates: fixed points that a moving one chooses from, in every pass.
        lattice: points along each axis, on which votes are smoothed.
        blurs: standard deviations of the smoothing, one after the other, in lattice spacings.
        passes: with each of them.
        search: of neighbours, see `zoo.ops.neighbours.nearest_neighbours`.
    """

    @checked(embedding=(1, 2**16), candidates=(1, 10**5), lattice=(4, 256), passes=(1, 1000))
    def __init__(
        self,
        dims: int = 3,
        embedding: int = 64,
        width: int = 64,
        descriptors: int = 16,
        neighbours: int = 20,
        normalisation: str = "batch",
        candidates: int = 8,
        lattice: int = 48,
        blurs: tuple = (9.0, 6.0, 4.0, 3.0, 2.0, 1.5),
        passes: int = 3,
        search: str = "auto",
        **kwargs,
    ):
        super().__init__(**in_float32(kwargs))
        self.dims, self.embedding, self.width = dims, embedding, width
        self.descriptors, self.neighbours = descriptors, neighbours
        self.normalisation, self.candidates = normalisation, candidates
        self.lattice, self.passes, self.search = lattice, passes, search
        if not len(blurs) or not min(blurs) > 0:
            raise ValueError(f"blurs must be positive numbers, not {blurs!r}.")
        self.blurs = tuple(map(float, blurs))

    def build(self, input_shape=None):
        self.embed = dense_layers(self.dims, (self.embedding, self.embedding), "embed")
        self.describe = GraphDescriptors(
            self.descriptors, self.width, self.neighbours, self.normalisation, name="describe"
        )
        self.describe.build((None, None, self.embedding + self.dims))
        # What the shape of both clouds tells of the motion before anything is matched.
        self.expect = dense_layers(3 * self.descriptors + self.dims, (self.width,), "expect")
        self.expect += dense_layers(
            self.width, (self.dims,), "expected", kernel_initializer="zeros"
        )
        # How much likeness and nearness count at each blur, as logarithms.
        self.sharpness = self.add_weight(
            shape=(len(self.blurs), 2), initializer="zeros", name="sharpness"
        )
        self.built = True

    def call(self, moving, fixed, moving_valid=None, fixed_valid=None, training=False):
        """The flow of the moving cloud.

        Args:
            moving: `[b, m, dims]`.
            fixed: `[b, n, dims]`.
            moving_valid, fixed_valid: `[b, m]` and `[b, n]`, or None.
            training: see `EdgeConv.call`.

        Returns:
            Dict of `flows`, `[b, m, dims]` after the passes with each blur, the last ones first,
            and at the end what was expected; and of `chosen`, None for each: all points.
        """
        own, spacing = self._described(moving, moving_valid, training)
        other, _ = self._described(fixed, fixed_valid, training)
        certain = (
            ops.ones_like(moving[..., :1]) if moving_valid is None else moving_valid[..., None]
        )
        expected = self._expected(moving, own, other)
        flow = self._smoothed(moving, moving, expected, certain, max(self.blurs))
        flows = [flow]
        for number, deviation in enumerate(self.blurs):
            weights = ops.exp(self.sharpness[number])
            # Sparse points do not tell of a motion that is finer than they are.
            width = deviation * 2 * EXTENT / self.lattice
            told = ops.cast(width >= FINEST * spacing, "float32")[:, :, None] if number else 1.0
            for _ in range(self.passes):
                here, there = (moving + flow, own, moving_valid), (fixed, other, fixed_valid)
                ahead, sure, _ = self._matched(here, there, spacing, weights)
                # Fixed points vote where the moving points are that they take for their own.
                back, trusted, place = self._matched(there, here, spacing, weights, moving)
                parts = (
                    ops.concatenate(both, axis=1)
                    for both in ((moving, place), (ahead, -back), (sure, trusted))
                )
                flow = flow + told * self._smoothed(moving, *parts, deviation)
            flows.append(flow)
        return {"flows": flows[::-1], "chosen": [None] * len(flows)}

    def _matched(self, here, there, spacing, weights, values=None) -> tuple:
        """Which way points should go to meet those of the other cloud that are like them, and near.

        Args:
            here: their positions, descriptors, and which of them count or None.
            there: those of the other cloud.
            spacing: of the moving cloud, `[b, 1]`.
            weights: of likeness and nearness.
            values: of the points there, or None.

        Returns:
            The way, `[b, n, dims]`, how sure it is, `[b, n, 1]`, and the mean of the values there.
        """
        (points, own, counting), (others, theirs, valid) = here, there
        index, shares = neighbourhoods(points, others, self.candidates, valid, self.search)
        offsets = gathered(others, index) - points[:, :, None]
        likeness = ops.sum(own[:, :, None] * gathered(theirs, index), axis=-1)
        # In units of the spacing a nearest point is about one unit away.
        far = ops.sum(ops.square(offsets), axis=-1) / ops.square(spacing)[:, :, None]
        logits = weights[0] * LIKENESS * likeness - weights[1] * NEARNESS * far
        share = ops.softmax(ops.where(shares > 0, logits, NOTHING), axis=-1)[..., None]
        sure = ops.sum(ops.square(share), axis=2)
        sure = sure if counting is None else sure * counting[..., None]
        mean = None if values is None else ops.sum(share * gathered(values, index), axis=2)
        return ops.sum(share * offsets, axis=2), sure, mean

    def _expected(self, points, own, other):
        """The motion of each point by its place and the largest descriptors of both clouds."""
        seen = [points, own]
        for cloud in (own, other):
            most = ops.max(cloud, axis=1, keepdims=True)
            seen.append(ops.broadcast_to(most, ops.shape(own)))
        hidden = ops.leaky_relu(self.expect[0](ops.concatenate(seen, axis=-1)), LEAK)
        return self.expect[1](hidden)

    def _described(self, points, mask, training) -> tuple:
        """Descriptors of length one times the root of their number, and the typical spacing."""
        features = points
        for layer in self.embed:
            features = ops.leaky_relu(layer(features), LEAK)
        found = neighbourhoods(points, points, self.neighbours, mask, self.search)
        features = ops.concatenate([features, points], axis=-1)
        features = self.describe(features, found=found, training=training)
        length = ops.sqrt(ops.mean(ops.square(features), axis=-1, keepdims=True) + 1e-6)
        second = min(1, found[0].shape[-1] - 1)
        nearest = gathered(points, found[0][..., second : second + 1])[:, :, 0] - points
        counting = 1.0 if mask is None else mask
        squared = counting * ops.sum(ops.square(nearest), axis=-1)
        total = ops.sum(counting * ops.ones_like(squared), axis=1, keepdims=True)
        spacing = ops.sqrt(ops.sum(squared, axis=1, keepdims=True) / ops.maximum(total, 1.0))
        features = features / length
        features = features if mask is None else features * mask[..., None]
        return features, ops.maximum(spacing, 1e-6)

    def _smoothed(self, points, places, votes, sure, deviation: float):
        """The mean of the votes around each point, weighted by how sure they are."""
        shape = (self.lattice,) * self.dims
        places = to_voxels(places / EXTENT, shape)
        field = normalised_splat(votes, places, shape, sure[..., 0], deviation, 0.0)
        return sample(field, to_voxels(points / EXTENT, shape))

    def get_config(self):
        names = (
            "dims embedding width descriptors neighbours normalisation candidates lattice blurs "
            "passes search"
        )
        return super().get_config() | {name: getattr(self, name) for name in names.split()}


class DGCNN(FlowNetwork):
    """Registers clouds in one pass of a graph network, which is trained on many pairs.

    See `zoo.registration.flow_network.FlowNetwork` for what training minimises, and the module for
    what is the paper's and what the zoo's own.

    Args:
        dims: 2 or 3.
        embedding, width, descriptors, neighbours, normalisation: see `MatchingNet`.
        candidates, lattice, blurs, passes: likewise.
        points, draws, frame, data, teacher, search, seed: see `FlowNetwork`.

    Raises:
        ValueError: for arguments out of range.
    """

    def __init__(
        self,
        dims: int = 3,
        embedding: int = 32,
        width: int = 32,
        descriptors: int = 16,
        neighbours: int = 20,
        normalisation: str = "layer",
        candidates: int = 8,
        lattice: int = 48,
        blurs: tuple = (9.0, 6.0, 4.0, 3.0, 2.0, 1.5),
        passes: int = 3,
        points: int = 8192,
        draws: int = 4,
        frame: str = "moments",
        data: str = "chamfer",
        teacher: float | None = None,
        search: str = "auto",
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(dims, points, draws, frame, data, teacher, search, seed, **kwargs)
        own = {
            "embedding": embedding,
            "width": width,
            "descriptors": descriptors,
            "neighbours": neighbours,
            "normalisation": normalisation,
            "candidates": candidates,
            "lattice": lattice,
            "blurs": tuple(blurs),
            "passes": passes,
        }
        self.network = MatchingNet(dims, **own, search=search, name="network")
        self.network.build()
        self.ready()

    def get_config(self):
        names = (
            "embedding width descriptors neighbours normalisation candidates lattice blurs passes"
        )
        return super().get_config() | {name: getattr(self.network, name) for name in names.split()}

    @classmethod
    def example(cls):
        example = super().example()
        small = {"embedding": 4, "width": 4, "descriptors": 4, "neighbours": 4}
        example["config"] |= small | {"candidates": 8, "lattice": 8, "blurs": (1.0,), "passes": 1}
        return example
