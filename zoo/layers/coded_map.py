"""Maps of coordinates that a code steers: `x + f(x, z(x))`, there and back, exact Jacobians."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from zoo.layers.coordinate_mlp import CoordinateMLP
from zoo.ops.arguments import checked, one_of
from zoo.ops.compiling import in_float32
from zoo.ops.sampling import sample, sample_few, sample_with_slopes

CHUNK = 16_384  # points at a time
NETWORK = "width depth activation frequency first_frequency features features_scale conditioning"


@keras.saving.register_keras_serializable(package="zoo")
class CodedMap(keras.layers.Layer):
    """Carries points of the box [-1, 1]^dims; how is told by a code of two parts.

    The field `f` is a `CoordinateMLP` of the point and of its code `z(x) = [z_global, z_local(x)]`,
    where the local part is interpolated linearly in a grid that spans the box, and goes on outside
    as at its border. A new map is the identity.

    After the decoder of NePhi (Tian et al., ECCV 2024, arXiv:2309.07322), which the defaults are.

    Args:
        dims: 2 or 3.
        global_codes, local_codes: components of the two parts.
        width, depth, activation, frequency, first_frequency, features, features_scale,
            conditioning: see `CoordinateMLP`.

    Raises:
        ValueError: for arguments out of range.
    """

    @checked(global_codes=(1, 2**12), local_codes=(1, 2**12))
    def __init__(
        self,
        dims: int = 3,
        global_codes: int = 32,
        local_codes: int = 32,
        width: int = 128,
        depth: int = 3,
        activation: str = "sin",
        frequency: float = 30.0,
        first_frequency: float | None = 1.0,
        features: int = 128,
        features_scale: float = 1.0,
        conditioning: str = "modulation",
        **kwargs,
    ):
        super().__init__(**in_float32(kwargs))
        self.dims = one_of("dims", dims, (2, 3))
        self.global_codes, self.local_codes = global_codes, local_codes
        self.network = CoordinateMLP(
            width=width,
            depth=depth,
            skips=(),
            outputs=dims,
            activation=activation,
            initialisation="siren" if activation == "sin" else "he",
            beta=10.0,
            frequency=frequency,
            first_frequency=first_frequency,
            features=features,
            features_scale=features_scale,
            codes=global_codes + local_codes,
            conditioning=conditioning,
            zero_start=True,
            name="network",
        )

    def build(self, input_shape=None):
        self.network.build((None, self.dims))
        self.built = True

    def call(self, points, codes):
        """Where points end.

        Args:
            points: `[batch, n, dims]` in the box, or `[1, n, dims]` for points that all items of
                the batch share, which is cheaper.
            codes: `(global, local)`: `[batch, global_codes]` and `[batch, *cells, local_codes]`.

        Returns:
            Tensor `[batch, n, dims]`.
        """
        vector, grid = codes
        local = values_at(grid, points)
        return points + self.network(points, [vector[:, None], local])

    def trace(self, points, tangents, codes):
        """Where points end, and directions that travel with them: `D(map) tangent`, exactly.

        Args:
            points, codes: see `call`.
            tangents: `[batch or 1, n, k, dims]`.

        Returns:
            Tensors `[batch, n, dims]` and `[batch, n, k, dims]`.
        """
        vector, grid = codes
        local, slopes = sample_with_slopes(grid, _of_each(grid, points))
        # From cells to the coordinates of the box.
        changes = ops.matmul(tangents, slopes * half_sides(grid)[:, None])
        field, turned = self.network.trace(
            points, tangents, [vector[:, None], local], [None, changes]
        )
        return points + field, tangents + turned

    def compute_output_shape(self, input_shape, *_):
        return tuple(input_shape)

    def get_config(self):
        own = {name: getattr(self, name) for name in ("dims", "global_codes", "local_codes")}
        network = {name: getattr(self.network, name) for name in NETWORK.split()}
        return super().get_config() | own | network


@keras.saving.register_keras_serializable(package="zoo")
class TwoWayMaps(keras.layers.Layer):
    """Two chains of `CodedMap`, one from the fixed to the moving image, the other back.

    Their weights are their own, their codes common. Of several steps the first one stands next to
    the moving image: `forward = map_1 o map_2 ...`, and `backward` undoes them one by one.

    Args:
        dims: 2 or 3.
        steps: maps of each chain.
        **options: of `CodedMap`.

    Raises:
        ValueError: for arguments out of range.
    """

    @checked(steps=(1, 8))
    def __init__(self, dims: int = 3, steps: int = 1, **options):
        own = {name: options.pop(name) for name in ("name", "trainable") if name in options}
        super().__init__(**own, **in_float32({"dtype": options.pop("dtype", None)}))
        self.dims, self.steps = one_of("dims", dims, (2, 3)), steps
        self.forwards, self.backwards = (
            [CodedMap(dims, name=f"{way}_{step}", **options) for step in range(steps)]
            for way in ("forward", "backward")
        )

    def build(self, input_shape=None):
        for each in (*self.forwards, *self.backwards):
            each.build()
        self.built = True

    def way(self, back: bool, codes: Sequence[tuple]) -> list[tuple]:
        """The maps of one chain with their codes, in the order in which points meet them."""
        maps = self.backwards if back else self.forwards
        pairs = list(zip(maps[: len(codes)], codes, strict=True))
        return pairs if back else pairs[::-1]

    def call(self, points, codes, back=False):
        """Where points end.

        Args:
            points: `[batch or 1, n, dims]`, see `CodedMap`.
            codes: of each step `(global, local)`; fewer than steps leave out the last ones.
            back: whether from the moving to the fixed image.

        Returns:
            Tensor `[batch, n, dims]`.
        """
        for each, code in self.way(back, codes):
            points = each(points, code)
        return points

    def trace(self, points, tangents, codes, back=False):
        """Where points end, with directions `[batch or 1, n, k, dims]` that travel with them."""
        for each, code in self.way(back, codes):
            points, tangents = each.trace(points, tangents, code)
        return points, tangents

    def dense(self, codes, shape: Sequence):
        """`forward` at all voxels of a grid, chunk by chunk, without gradients.

        Memory beside the results is that of 16,384 points, whatever the size of the grid.

        Args:
            codes: see `call`.
            shape: voxels along each axis, which may be unknown in a graph.

        Returns:
            Places in the box and the displacement in voxels, `[batch, *shape, dims]` each.
        """
        known = all(isinstance(size, int) for size in shape)
        sizes = [size if known else ops.cast(size, "int32") for size in shape]
        count = int(np.prod(shape)) if known else ops.prod(ops.stack(sizes))
        chunk = min(CHUNK, count) if known else CHUNK
        half = ops.stack([ops.cast(ops.maximum(n - 1, 1), "float32") / 2.0 for n in sizes])

        def carried(number):
            # The last chunk repeats the last voxel.
            left = ops.minimum(number * chunk + ops.arange(chunk, dtype="int32"), count - 1)
            index = []
            for size in reversed(sizes):
                index.insert(0, ops.cast(left % size, "float32"))
                left = left // size
            points = ops.stack(index, axis=-1)[None] / half - 1.0
            ends = self(points, codes)
            return ends, (ends - points) * half

        # Of no negative number: ONNX rounds quotients towards zero.
        batch, chunks = ops.shape(codes[0][0])[0], (count + chunk - 1) // chunk
        found = ops.map(carried, ops.arange(chunks, dtype="int32"))
        return tuple(
            ops.stop_gradient(
                ops.reshape(
                    ops.reshape(ops.moveaxis(each, 1, 0), (batch, -1, self.dims))[:, :count],
                    (batch, *shape, self.dims),
                )
            )
            for each in found
        )

    def compute_output_shape(self, input_shape, *_):
        return tuple(input_shape)

    def get_config(self):
        options = self.forwards[0].get_config()
        return options | super().get_config() | {"steps": self.steps}


def half_sides(array):
    """Half the distance `[rank]` between the first and the last voxel of each axis."""
    sizes = ops.shape(array)[1:-1]
    return ops.stack([(ops.cast(size, "float32") - 1.0) / 2.0 for size in sizes])


def voxels_at(places, image):
    """Positions in voxels of an image at places in the box."""
    return (places + 1.0) * half_sides(image)


def values_at(image, places):
    """Values `[batch, n, channels]` at places in the box `[batch or 1, n, dims]`."""
    # With a kernel of its own only where that repays.
    few = places.shape[1] is not None and places.shape[1] <= CHUNK
    return (sample_few if few else sample)(image, _of_each(image, places))


def _of_each(image, places):
    """Positions in voxels for every item of a batch of images."""
    index = voxels_at(places, image)
    return ops.broadcast_to(index, (ops.shape(image)[0], *ops.shape(places)[1:]))
